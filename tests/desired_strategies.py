"""What data planes may be asked for: DesiredPorts valid by default, and random states of a small world.

The world has few services, addresses and endpoints, so that from one state to the next frontends move between services,
pools grow and shrink around powers of two, and services share their cluster IP and their endpoints.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Final

from hypothesis import strategies as st

from proxy.desired import DesiredPort, Frontend
from proxy.model import FAMILIES, IPV4, PROTOCOLS, Endpoint, Family, PortKey, Protocol
from tests.model_builders import make_endpoint, make_key

Desired = dict[PortKey, DesiredPort]

_SIZES: Final = (0, 0, 1, 1, 2, 2, 3, 4, 5, 8, 9)
_VIPS: Final[Mapping[Family, tuple[str, ...]]] = {
    "IPv4": ("10.96.0.1", "10.96.0.2"),
    "IPv6": ("fd00:10:96::1", "fd00:10:96::2"),
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
) -> DesiredPort:
    """Make the port of the service written `namespace/name`, with all its endpoints in the pool of its cluster IP.

    An endpoint may be given by its address alone. The cluster IP's family counts, `family` where there is none.
    """
    if cluster_ip is not None and ":" in cluster_ip:
        family = "IPv6"
    pool = tuple([make_endpoint(e) if isinstance(e, str) else e for e in endpoints])
    return DesiredPort(
        key=make_key(service, port_name, protocol=protocol, family=family),
        frontends=() if cluster_ip is None else (Frontend("ClusterIP", cluster_ip, port),),
        cluster=None if internal_local else pool,
        local=pool if internal_local else None,
        reachable=pool,
        is_any_usable=bool(pool) if is_any_usable is None else is_any_usable,
        internal_local=internal_local,
    )


def desired_state(*ports: DesiredPort) -> Desired:
    return {port.key: port for port in ports}


def addresses(first: int, count: int) -> list[str]:
    """Return that many IPv4 endpoints, numbered from `first` on."""
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(first, first + count)]


def many_services(count: int, *, endpoints: int = 2) -> Desired:
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


def random_state(rng: random.Random) -> Desired:
    """Return a state of the small world. An address two services ask for is the first one's, as it is claimed."""
    claimed: set[tuple[object, ...]] = set()
    ports: list[DesiredPort] = []
    for key in rng.sample(_KEYS, rng.randint(0, 14)):
        name, family = key
        port = int(name.port[1:])
        address: str | None = rng.choice(_VIPS[family])
        claim = (family, address, port, name.protocol)
        if claim in claimed:
            address = None
        claimed.add(claim)
        ports.append(
            make_desired(
                f"{name.namespace}/{name.name}",
                *_pool(rng, family),
                port_name=name.port,
                protocol=name.protocol,
                cluster_ip=address,
                port=port,
                family=family,
                is_any_usable=rng.choice([None, None, True]),
                internal_local=rng.random() < 0.2,
            )
        )
    return desired_state(*ports)


def _pool(rng: random.Random, family: Family) -> Iterable[Endpoint]:
    for host in rng.sample(_HOSTS[family], rng.choice(_SIZES)):
        yield make_endpoint(f"{host}:8080", is_local=host[-1] in "13579]" and rng.random() < 0.9)


seeds: Final = st.integers(0, 2**32 - 1)


def random_states(seed: int, count: int) -> list[Desired]:
    """Return states that follow one another."""
    rng = random.Random(seed)
    return [random_state(rng) for _ in range(count)]
