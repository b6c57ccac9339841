"""What data planes may be asked for: DesiredPorts valid by default, and random states of a small world.

The world has few services, addresses and endpoints, so that from one state to the next frontends move between services,
pools grow and shrink around powers of two, and services share their cluster IP and their endpoints.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Final

from hypothesis import strategies as st

from proxy.desired import Desired, DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, IPV4, PROTOCOLS, Endpoint, Family, PortKey, Protocol
from tests.model_builders import make_endpoint, make_key

Ports = dict[PortKey, DesiredPort]

_NODE: Final = DesiredNode()
_SIZES: Final = (0, 0, 1, 1, 2, 2, 3, 4, 5, 8, 9)
_VIPS: Final[Mapping[Family, tuple[str, ...]]] = {
    "IPv4": ("10.96.0.1", "10.96.0.2"),
    "IPv6": ("fd00:10:96::1", "fd00:10:96::2"),
}
_OUTER: Final[Mapping[Family, tuple[str, ...]]] = {
    "IPv4": ("203.0.113.1", "203.0.113.2", "10.96.0.1"),  # the last one is another's cluster IP
    "IPv6": ("2001:db8::1", "2001:db8::2", "fd00:10:96::1"),
}
_RANGES: Final[Mapping[Family, tuple[tuple[str, ...], ...]]] = {
    "IPv4": (
        (),
        (),
        ("10.0.0.0/8", "10.1.0.0/16"),
        ("192.0.2.0/24", "192.0.3.0/24", "240.0.0.0/4"),
    ),
    "IPv6": ((), (), ("fd00::/16",), ("2001:db8::/33", "2001:db8:8000::/33", "ff00::/8")),
}
_HOSTS: Final[Mapping[Family, tuple[str, ...]]] = {
    "IPv4": tuple([f"10.244.1.{number}" for number in range(1, 13)]),
    "IPv6": tuple([f"[fd00:10:244:1::{number}]" for number in range(1, 13)]),
}
_KEYS: Final = tuple(
    [
        make_key(f"default/{service}", f"p{port}", protocol=protocol, family=family)
        for service in ("api", "web", "db")
        for port in (53, 80)
        for protocol in PROTOCOLS
        for family in FAMILIES
    ]
)


def make_desired(
    service: str = "default/web",
    *endpoints: Endpoint | str,
    port_name: str = "",
    protocol: Protocol = "TCP",
    cluster_ip: str | None = "10.96.0.10",
    port: int = 80,
    family: Family = IPV4,
    is_any_usable: bool | None = None,
    internal_local: bool = False,
    external_local: bool = False,
    outer: tuple[Frontend, ...] = (),
    source_ranges: tuple[str, ...] = (),
    allows_own_vips: bool = False,
    affinity_timeout_s: int | None = None,
) -> DesiredPort:
    """Make the port of the service written `namespace/name`, with all its endpoints in the pool of its cluster IP.

    An endpoint may be given by its address alone. The cluster IP's family counts, `family` where there is none.
    `outer` are further frontends, those for the world outside.
    """
    if cluster_ip is not None and ":" in cluster_ip:
        family = "IPv6"
    pool = tuple([make_endpoint(e) if isinstance(e, str) else e for e in endpoints])
    inner = () if cluster_ip is None else (Frontend("ClusterIP", cluster_ip, port),)
    here = tuple([endpoint for endpoint in pool if endpoint.is_local])
    return DesiredPort(
        key=make_key(service, port_name, protocol=protocol, family=family),
        frontends=(*inner, *outer),
        cluster=None if internal_local and not outer else pool,
        local=here
        if outer and (internal_local or external_local)
        else pool
        if internal_local
        else None,
        reachable=pool,
        is_any_usable=bool(pool) if is_any_usable is None else is_any_usable,
        internal_local=internal_local,
        external_local=external_local,
        source_ranges=source_ranges,
        allows_own_vips=allows_own_vips,
        affinity_timeout_s=affinity_timeout_s,
    )


def whole(ports: Mapping[PortKey, DesiredPort], node: DesiredNode | None = None) -> Desired:
    """Return what backends are told of these ServicePorts."""
    return Desired(ports, node or _NODE)


def desired_state(*ports: DesiredPort) -> Ports:
    return {port.key: port for port in ports}


def addresses(first: int, count: int) -> list[str]:
    """Return that many IPv4 endpoints, numbered from `first` on."""
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(first, first + count)]


def many_services(count: int, *, endpoints: int = 2) -> Ports:
    """Return that many services with endpoints of their own."""
    return desired_state(
        *[
            make_desired(
                f"default/s{number}",
                *addresses((10 << 16) + number * endpoints, endpoints),
                cluster_ip=f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
            )
            for number in range(1, count + 1)
        ]
    )


def random_state(rng: random.Random) -> Ports:
    """Return a state of the small world. An address two services ask for is the first one's, as it is claimed."""
    claimed: set[tuple[object, ...]] = set()
    ports: list[DesiredPort] = []
    for key in rng.sample(_KEYS, rng.randint(0, 14)):
        name, family = key
        frontends = [
            frontend
            for frontend in _frontends(rng, key, int(name.port[1:]))
            if (claim := (family, name.protocol, frontend.address, frontend.port)) not in claimed
            and not claimed.add(claim)  # type: ignore[func-returns-value] # that it returns nothing is the point
        ]
        ports.append(_random_port(rng, key, tuple(frontends)))
    return desired_state(*ports)


def _frontends(rng: random.Random, key: PortKey, port: int) -> Iterable[Frontend]:
    yield Frontend("ClusterIP", rng.choice(_VIPS[key.family]), port)
    if rng.random() < 0.5:
        return
    if rng.random() < 0.5:
        yield Frontend("NodePort", None, rng.choice([30001, 30002]))
    if rng.random() < 0.5:
        yield Frontend("ExternalIP", rng.choice(_OUTER[key.family]), port)
    if rng.random() < 0.5:
        yield Frontend("LoadBalancer", rng.choice(_OUTER[key.family]), port)


def _random_port(rng: random.Random, key: PortKey, frontends: tuple[Frontend, ...]) -> DesiredPort:
    endpoints = tuple(_pool(rng, key.family))
    here = tuple([endpoint for endpoint in endpoints if endpoint.is_local])
    is_external = len(frontends) > 1
    internal_local, external_local = rng.random() < 0.2, is_external and rng.random() < 0.5
    uses_cluster = not internal_local or is_external
    ranges = rng.choice(_RANGES[key.family]) if is_external else ()
    cluster = endpoints if rng.random() < 0.8 else endpoints[:1]  # hints of topology narrow it
    return DesiredPort(
        key=key,
        frontends=frontends,
        cluster=cluster if uses_cluster else None,
        local=here if internal_local or external_local else None,
        reachable=tuple(dict.fromkeys([*(cluster if uses_cluster else ()), *here])),
        is_any_usable=bool(endpoints) or rng.random() < 0.3,
        internal_local=internal_local,
        external_local=external_local,
        source_ranges=ranges,
        allows_own_vips=bool(ranges) and rng.random() < 0.5,
        affinity_timeout_s=rng.choice([None, None, None, 10, 60]),
    )


def _pool(rng: random.Random, family: Family) -> Iterable[Endpoint]:
    for host in rng.sample(_HOSTS[family], rng.choice(_SIZES)):
        yield make_endpoint(f"{host}:8080", is_local=host[-1] in "13579]" and rng.random() < 0.9)


seeds: Final = st.integers(0, 2**32 - 1)


def random_states(seed: int, count: int) -> list[Ports]:
    """Return states that follow one another."""
    rng = random.Random(seed)
    return [random_state(rng) for _ in range(count)]
