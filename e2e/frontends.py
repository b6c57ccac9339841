"""Services with every kind of frontend on a node, and who asks them: a pod on the node, the node itself, and a client
outside the cluster. Shared by the tests of what becomes of their connections.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

from backends.nftables.layout import Layout, NftSettings
from e2e import topology
from e2e.client import ANSWER_S, Answer, Failure, Outcome
from e2e.programmed import Programmed, default_route, endpoint
from e2e.topology import CLUSTER_CIDRS, FAMILIES, SERVICE_CIDRS, Addresses, Family, Host, World
from proxy.desired import DesiredPort, Frontend, FrontendKind
from proxy.desired_node import DesiredNode
from proxy.model import Protocol
from tests.desired_strategies import make_desired

SERVICE_PORT, SERVER_PORT = 80, 8080
GATEWAY = Addresses("10.244.1.1", "fd00:10:244:1::1")
AT_ONCE_S, DROPPED_S = 0.5, 0.2
OUTSIDE_NETS: Final = (
    "203.0.113.0/24",
    "198.51.100.0/24",
    "2001:db8:113::/64",
    "2001:db8:100::/64",
)
Who = Literal["pod", "node", "client"]
FRONTENDS: Final[tuple[FrontendKind, ...]] = ("NodePort", "ExternalIP", "LoadBalancer")
SOURCE_RANGE: Final = NftSettings(families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS)
NODE: Final = DesiredNode(service_cidrs=SERVICE_CIDRS)
ON_NODE: Final = DesiredNode(
    service_cidrs=SERVICE_CIDRS, pod_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64")
)


class Service(NamedTuple):
    """One ServicePort with every kind of frontend, under addresses and a node port of its own."""

    number: int
    family: Family
    protocol: Protocol

    def at(self, kind: FrontendKind, node: Host | None = None) -> tuple[str, int]:
        """Where to connect."""
        v4, v6 = {
            "ClusterIP": ("10.96.0.", "fd00:10:96::"),
            "ExternalIP": ("198.51.100.", "2001:db8:100::"),
            "LoadBalancer": ("203.0.113.", "2001:db8:113::"),
            "NodePort": ("", ""),
        }[kind]
        if kind == "NodePort":
            assert node is not None
            return node.addresses.of(self.family), 30000 + self.number
        return f"{v6}{self.number:x}" if self.family == "IPv6" else f"{v4}{self.number}", 80

    def frontend(self, kind: FrontendKind) -> Frontend:
        if kind == "NodePort":
            return Frontend(kind, None, 30000 + self.number)
        return Frontend(kind, *self.at(kind))

    def described(
        self,
        *pods: Host,
        remote: tuple[Host, ...] = (),
        kinds: tuple[FrontendKind, ...] = FRONTENDS,
        external_local: bool = False,
        internal_local: bool = False,
        is_any_usable: bool | None = None,
        source_ranges: tuple[str, ...] = (),
        allows_own_vips: bool = False,
        affinity_timeout_s: int | None = None,
    ) -> DesiredPort:
        return make_desired(
            f"default/s{self.number}",
            *[endpoint(pod, self.family, SERVER_PORT) for pod in pods],
            *[endpoint(pod, self.family, SERVER_PORT, is_local=False) for pod in remote],
            protocol=self.protocol,
            cluster_ip=self.at("ClusterIP")[0],
            port=SERVICE_PORT,
            outer=tuple([self.frontend(kind) for kind in kinds]),
            external_local=external_local,
            internal_local=internal_local,
            is_any_usable=is_any_usable,
            source_ranges=source_ranges,
            allows_own_vips=allows_own_vips,
            affinity_timeout_s=affinity_timeout_s,
        )


class Ground:
    """The world, the data plane on its node, and who asks."""

    def __init__(self, world: World, data_plane: Programmed) -> None:
        self.world = world
        self.data_plane = data_plane
        self.pods = world.pods[:5]
        assert world.remote is not None
        self.remote = tuple(world.remote.pods.values())
        self._numbers = itertools.count(10)
        self._askers: dict[Who, Host] = {
            "pod": world.pods[-1], "node": world.node, "client": world.client,
        }  # fmt: skip

    def service(self, family: Family, protocol: Protocol = "TCP") -> Service:
        return Service(next(self._numbers), family, protocol)

    def put(self, *ports: DesiredPort) -> None:
        self.data_plane.put(*ports)
        if any(port.key.name.protocol == "UDP" for port in ports):
            self.data_plane.forget_flows()

    def ask(
        self,
        who: Who | Host,
        service: Service,
        kind: FrontendKind,
        *,
        count: int = 1,
        timeout_s: float = ANSWER_S,
        port: int | None = None,
    ) -> list[Outcome]:
        host = who if isinstance(who, Host) else self._askers[who]
        address, number = service.at(kind, self.world.node)
        return host.ask_often(
            count,
            address,
            port or number,
            protocol=service.protocol.lower(),
            timeout_s=timeout_s,
        )

    def sources(self, who: Who, family: Family, *, is_kept: bool) -> dict[str, str]:
        """Under which address each server sees who asks."""
        own = self._askers[who].addresses.of(family)
        here = own if is_kept else GATEWAY.of(family)
        there = own if is_kept else self.world.node.addresses.of(family)
        return {
            **{pod.name: here for pod in self.pods},
            **{pod.name: there for pod in self.remote},
        }


@contextmanager
def frontends_world() -> Iterator[World]:
    """Five pods answer, and one on another node."""
    with topology.world(pods=6, remote_pods=1) as made:
        assert made.remote is not None
        servers = [*made.pods[:5], *made.remote.pods.values()]
        topology.serve_on(servers, f"tcp:{SERVER_PORT}", f"udp:{SERVER_PORT}")
        with default_route(made):
            source = made.node.addresses
            for net in OUTSIDE_NETS:
                family: Family = "IPv6" if ":" in net else "IPv4"
                made.node.namespace.ip(f"route add {net} dev to-router src {source.of(family)}")
            yield made


@contextmanager
def programmed(world: World, settings: NftSettings, node: DesiredNode) -> Iterator[Ground]:
    with Programmed(world.node, Layout(settings)) as data_plane:
        data_plane.clear()
        data_plane.tell(node)
        yield Ground(world, data_plane)
        data_plane.clear()
        data_plane.tell(DesiredNode())


def seen(outcomes: list[Outcome]) -> set[tuple[str, str]]:
    """Who answered and under which address it saw the client; all have to be answers."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert len(answers) == len(outcomes), Counter(outcomes)
    return {(answer.name, answer.source) for answer in answers}


def assert_reaches(
    ground: Ground,
    who: Who,
    service: Service,
    kind: FrontendKind,
    names: set[str],
    *,
    is_kept: bool,
) -> None:
    expected = ground.sources(who, service.family, is_kept=is_kept)
    outcomes = ground.ask(who, service, kind, count=6 if len(names) == 1 else 24)
    assert seen(outcomes) == {(name, expected[name]) for name in names}, (who, kind)


def assert_refused(ground: Ground, who: Who, service: Service, kind: FrontendKind) -> None:
    outcomes = ground.ask(who, service, kind, timeout_s=AT_ONCE_S)
    assert outcomes == [Failure.REFUSED], (who, kind)


def assert_dropped(ground: Ground, who: Who, service: Service, kind: FrontendKind) -> None:
    outcomes = ground.ask(who, service, kind, timeout_s=DROPPED_S)
    assert outcomes == [Failure.TIMEOUT], (who, kind)


def who_can_tell(protocol: Protocol) -> list[Who]:
    """The kernel fails the call that sends a local datagram which a rule rejects or drops."""
    return ["pod", "client", *(["node"] if protocol == "TCP" else [])]  # type: ignore[list-item] # each is one of them
