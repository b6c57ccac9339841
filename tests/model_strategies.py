"""Random clusters for property tests: what objects become over time, and in which order that is heard of.

The names, addresses and ports are few, so that objects get in each other's way: services contest addresses, slices
repeat endpoints and change their service, everything comes and goes.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from hypothesis import strategies as st

from proxy.model import (
    Endpoint,
    EndpointSlice,
    NodeInfo,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
)
from proxy.sources.events import Delete, Event, ObjectKind, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)

SERVICE_NAMES: Final = tuple(
    ServiceName(namespace, name) for namespace in ("a", "b") for name in ("api", "web")
)

State = Service | EndpointSlice | NodeInfo | None
"""What an object is at one time; None while there is none."""

_VARIANTS: Final = 24
_CLUSTER_IPS: Final = ("10.96.0.1", "10.96.0.2", "fd00::1")
_PORTS: Final[tuple[tuple[str, Protocol], ...]] = (
    ("", "TCP"),
    ("", "UDP"),
    ("dns", "TCP"),
    ("dns", "UDP"),
)
_HOSTS: Final = ("10.1.0.1", "10.1.0.2", "10.1.0.10", "[fd01::1]", "[fd01::2]")


class Identity(NamedTuple):
    """Which object."""

    kind: ObjectKind
    namespace: str
    name: str


class News(NamedTuple):
    """That an object is now like this."""

    identity: Identity
    state: State

    def event(self) -> Event:
        """Return it as a source would tell it."""
        return Delete(*self.identity) if self.state is None else Upsert(self.state)


History = list[list[News]]
"""Batches of news, in the order in which they are heard."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Return what happens to some objects, some of it told twice, interleaved and in batches of any size."""
    told: list[list[News]] = []
    for identity in draw(st.lists(st.sampled_from(_IDENTITIES), min_size=1, unique=True)):
        states = draw(st.lists(st.sampled_from(_STATES[identity]), min_size=1, max_size=3))
        repeated = [News(identity, state) for state in states for _ in range(draw(_TIMES))]
        told.append(repeated)
    order = draw(st.permutations([index for index, news in enumerate(told) for _ in news]))
    waiting = [iter(news) for news in told]
    batches: History = [[]]
    for index in order:
        batches[-1].append(next(waiting[index]))
        if draw(_ENDS_BATCH):
            batches.append([])
    return batches


def final_states(batches: Iterable[Sequence[News]]) -> list[News]:
    """Return what there is in the end, ordered by identity: all that should matter."""
    latest = {news.identity: news.state for batch in batches for news in batch}
    return [News(i, latest[i]) for i in sorted(latest) if latest[i] is not None]


_TIMES: Final = st.sampled_from([1, 1, 1, 2])
_ENDS_BATCH: Final = st.sampled_from([False, False, True])


def _service(rng: random.Random, name: ServiceName) -> Service:
    if rng.random() < 0.15:
        return make_service(str(name), skipped="headless")
    external = (*_CLUSTER_IPS, "203.0.113.1", "2001:db8::1")
    ports: dict[object, ServicePort] = {}
    for _ in range(rng.randint(1, 3)):
        port_name, protocol = rng.choice(_PORTS)
        cluster_ip = rng.choice(_CLUSTER_IPS)
        is_ipv6 = ":" in cluster_ip
        same_family = [ip for ip in external if (":" in ip) == is_ipv6]
        port = make_service_port(
            str(name),
            port_name,
            protocol=protocol,
            cluster_ip=cluster_ip,
            port=rng.choice([53, 80]),
            node_port=rng.choice([0, 0, 30053]),
            external_ips=tuple(rng.sample(same_family, rng.choice([0, 0, 1, 2]))),
            load_balancer_vips=tuple(rng.sample(same_family, rng.choice([0, 0, 1]))),
            internal_local=rng.random() < 0.3,
            external_local=rng.random() < 0.3,
        )
        ports[port.key] = port
    created = f"2026-01-0{rng.randint(1, 2)}T00:00:00Z"
    return make_service(
        str(name), *ports.values(), created=created, resource_version=str(rng.randint(1, 9))
    )


def _slice(rng: random.Random, namespace: str, name: str) -> EndpointSlice:
    is_ipv6 = rng.random() < 0.3
    hosts = [host for host in _HOSTS if (":" in host) == is_ipv6]
    port_name, protocol = rng.choice(_PORTS)
    return make_slice(
        name,
        *(_endpoint(rng, rng.choice(hosts)) for _ in range(rng.randint(0, 4))),
        namespace=namespace,
        service=rng.choice(["api", "web", "web", None]),
        port_name=port_name,
        protocol=protocol,
        family="IPv6" if is_ipv6 else "IPv4",
        resource_version=str(rng.randint(1, 9)),
    )


def _endpoint(rng: random.Random, host: str) -> Endpoint:
    return make_endpoint(
        f"{host}:{rng.choice([53, 8080])}",
        ready=rng.random() < 0.6,
        serving=rng.random() < 0.7,
        terminating=rng.random() < 0.4,
        is_local=rng.random() < 0.5,
        zone_hints=rng.choice([["z1"], ["z1"], ["z2"], []]),
    )


def _states() -> dict[Identity, list[State]]:
    """Return what each object may be; None stands among it several times, so that deletions are not rare."""
    rng = random.Random(20260101)
    states: dict[Identity, list[State]] = {
        Identity("Node", "", "n1"): [make_node(zone=zone) for zone in ("z1", "z2", "")]
    }
    for name in SERVICE_NAMES:
        states[Identity("Service", *name)] = [
            *(_service(rng, name) for _ in range(_VARIANTS)),
            *[None] * (_VARIANTS // 4),
        ]
    for namespace in ("a", "b"):
        for slice_name in ("s-1", "s-10", "s-9"):
            states[Identity("EndpointSlice", namespace, slice_name)] = [
                *(_slice(rng, namespace, slice_name) for _ in range(_VARIANTS)),
                *[None] * (_VARIANTS // 4),
            ]
    return states


_STATES: Final = _states()
_IDENTITIES: Final = sorted(_STATES)
