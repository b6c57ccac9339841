"""What clients of a cluster IP experience: who answers them, under which address they arrive, who is refused and who waits."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e import sctp, topology
from e2e.client import ANSWER_S, Answer, Failure, Outcome
from e2e.namespace import Namespace
from e2e.programmed import Programmed, Stray, default_route, endpoint
from e2e.topology import FAMILIES, Addresses, Family, Host, World
from proxy.desired import DesiredPort
from proxy.model import PROTOCOLS, Endpoint, Protocol
from tests.desired_strategies import make_desired

pytestmark = pytest.mark.requires("nftables")
both_families = pytest.mark.parametrize("family", FAMILIES)
both_protocols = pytest.mark.parametrize("protocol", ["TCP", "UDP"])

SERVICE_PORT, SERVER_PORT = 80, 8080
# the node's side of its links to the pods
GATEWAY = Addresses("10.244.1.1", "fd00:10:244:1::1")
# before the second SYN, which follows after 1 s: the first one has to be answered
AT_ONCE_S = 0.5


@dataclass
class Service:
    """One ServicePort with a cluster IP that no other test uses."""

    data_plane: Programmed
    number: int
    family: Family
    protocol: Protocol

    @property
    def address(self) -> str:
        written = {"IPv4": f"10.96.0.{self.number}", "IPv6": f"fd00:10:96::{self.number:x}"}
        return written[self.family]

    def described(self, *pods: Host, remote: tuple[Host, ...] = ()) -> DesiredPort:
        """The service with these endpoints, of which those in `remote` are on another node."""
        return make_desired(
            f"default/s{self.number}",
            *[self._endpoint(pod) for pod in pods],
            *[self._endpoint(pod, is_local=False) for pod in remote],
            protocol=self.protocol,
            cluster_ip=self.address,
            port=SERVICE_PORT,
        )

    def serve(self, *pods: Host, remote: tuple[Host, ...] = ()) -> None:
        """Have exactly these endpoints from now on, for every new flow."""
        self.data_plane.put(self.described(*pods, remote=remote))
        if self.protocol == "UDP":
            self.data_plane.forget_flows()

    def has_none_here(self) -> None:
        """internalTrafficPolicy Local, and endpoints on other nodes only."""
        self.data_plane.put(
            make_desired(
                f"default/s{self.number}",
                protocol=self.protocol,
                cluster_ip=self.address,
                port=SERVICE_PORT,
                internal_local=True,
                is_any_usable=True,
            )
        )

    def asked(
        self, host: Host, *, port: int = SERVICE_PORT, timeout_s: float = ANSWER_S
    ) -> Outcome:
        """What one connection from that host comes to."""
        protocol = self.protocol.lower()
        return host.ask(self.address, port, protocol=protocol, timeout_s=timeout_s)

    def asked_often(self, host: Host, count: int, *, timeout_s: float = ANSWER_S) -> list[Outcome]:
        """What connections from that host come to, one after the other."""
        protocol = self.protocol.lower()
        return host.ask_often(
            count, self.address, SERVICE_PORT, protocol=protocol, timeout_s=timeout_s
        )

    def _endpoint(self, pod: Host, *, is_local: bool = True) -> Endpoint:
        return endpoint(pod, self.family, SERVER_PORT, is_local=is_local)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Every pod answers, but for the last one."""
    with topology.world(pods=6, remote_pods=1) as made:
        assert made.remote is not None
        servers = [*made.pods[:5], *made.remote.pods.values()]
        topology.serve_on(servers, f"tcp:{SERVER_PORT}", f"udp:{SERVER_PORT}")
        yield made


@pytest.fixture(scope="module")
def stray(world: World) -> Iterator[Stray]:
    with default_route(world) as counted:
        yield counted


@pytest.fixture(scope="module")
def data_plane(world: World, stray: Stray) -> Iterator[Programmed]:
    with Programmed(world.node) as programmed:
        yield programmed


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(10)


@pytest.fixture
def family() -> Family:
    return "IPv4"


@pytest.fixture
def protocol() -> Protocol:
    return "TCP"


@pytest.fixture
def service(
    data_plane: Programmed,
    stray: Stray,
    numbers: Iterator[int],
    family: Family,
    protocol: Protocol,
) -> Iterator[Service]:
    """A service nobody has described yet. Nothing may leave the node for its address untranslated."""
    before = stray.count()
    yield Service(data_plane, next(numbers), family, protocol)
    data_plane.clear()
    assert stray.count() == before


@pytest.fixture
def pod(world: World) -> Host:
    """A pod on the node that is no endpoint."""
    return world.pods[-1]


def askers(world: World, pod: Host, protocol: Protocol) -> list[Host]:
    """Everyone who can be told what became of the first packet."""
    # the kernel fails the call that sends a local datagram which a rule rejects or drops: a test of its own
    return [pod, world.client, *([world.node] if protocol == "TCP" else [])]


# --- who answers, and under which address a client arrives


@both_families
@both_protocols
def test_a_local_pod_keeps_its_address(world: World, service: Service, pod: Host) -> None:
    service.serve(world.pods[0])

    answer = service.asked(pod)

    assert isinstance(answer, Answer)
    assert answer[:2] == (world.pods[0].name, pod.addresses.of(service.family))


@both_families
@both_protocols
def test_a_local_pod_keeps_its_address_on_another_node(
    world: World, service: Service, pod: Host
) -> None:
    service.serve(remote=remote_pods(world))

    answer = service.asked(pod)

    assert isinstance(answer, Answer)
    assert answer[:2] == ("r1", pod.addresses.of(service.family))


def remote_pods(world: World) -> tuple[Host, ...]:
    assert world.remote is not None
    return tuple(world.remote.pods.values())


@both_families
@both_protocols
@pytest.mark.parametrize("asking", ["node", "client"])
def test_what_is_no_local_pod_arrives_under_an_address_of_the_node(
    world: World, service: Service, asking: str
) -> None:
    host = world.node if asking == "node" else world.client
    service.serve(world.pods[0])
    here = service.asked(host)
    service.serve(remote=remote_pods(world))
    there = service.asked(host)

    assert isinstance(here, Answer)
    assert isinstance(there, Answer)
    # of the link it leaves by
    assert here[:2] == (world.pods[0].name, GATEWAY.of(service.family))
    assert there[:2] == ("r1", world.node.addresses.of(service.family))


@both_families
@both_protocols
def test_a_connection_that_is_for_no_service_is_left_alone(
    world: World, service: Service, protocol: Protocol, family: Family
) -> None:
    target = world.pods[0]
    service.serve(target)

    answer = world.client.ask(target.addresses.of(family), SERVER_PORT, protocol=protocol.lower())

    assert isinstance(answer, Answer)
    assert answer[:2] == (target.name, world.client.addresses.of(family))


@both_families
@both_protocols
def test_a_pod_reaches_itself_through_its_service(world: World, service: Service) -> None:
    itself, other = world.pods[:2]
    service.serve(itself, other)

    outcomes = service.asked_often(itself, 25)

    assert {outcome[:2] for outcome in outcomes if isinstance(outcome, Answer)} == {
        (itself.name, GATEWAY.of(service.family)),
        (other.name, itself.addresses.of(service.family)),
    }
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


@both_families
@both_protocols
def test_connections_are_spread_evenly_over_five_endpoints(
    world: World, service: Service, pod: Host
) -> None:
    count, servers = 1000, world.pods[:5]
    service.serve(*servers)

    tally = Counter(
        outcome.name if isinstance(outcome, Answer) else outcome
        for outcome in service.asked_often(pod, count)
    )

    assert tally.keys() == {server.name for server in servers}
    expected = count / len(servers)
    chi_square = sum((seen - expected) ** 2 / expected for seen in tally.values())
    # four degrees of freedom: once in 200,000 runs by chance. The first slot drawn twice as often gives about 200.
    assert chi_square < 30, tally


# --- who is refused, and who waits


@both_families
@both_protocols
def test_without_an_endpoint_connections_are_refused_at_once(
    world: World, service: Service, pod: Host
) -> None:
    service.serve()

    for host in askers(world, pod, service.protocol):
        outcomes = service.asked_often(host, 5, timeout_s=AT_ONCE_S)
        assert outcomes == [Failure.REFUSED] * 5, host.name


@both_families
def test_a_program_that_does_not_ask_for_icmp_errors_is_refused_at_once_as_well(
    world: World, service: Service, pod: Host
) -> None:
    # only a reset ends its connect() for certain: an ICMP error may come too early to be heard
    service.serve()

    for host in (pod, world.client, world.node):
        for _ in range(5):
            with host.entered(), pytest.raises(ConnectionRefusedError):
                socket.create_connection((service.address, SERVICE_PORT), timeout=AT_ONCE_S)


@both_families
@both_protocols
def test_a_port_that_no_service_defines_is_refused_at_once(
    world: World, service: Service, pod: Host
) -> None:
    service.serve(world.pods[0])

    for host in askers(world, pod, service.protocol):
        outcome = service.asked(host, port=SERVER_PORT, timeout_s=AT_ONCE_S)
        assert outcome is Failure.REFUSED, host.name
        assert isinstance(service.asked(host), Answer)


@both_families
@both_protocols
def test_with_endpoints_only_where_the_policy_forbids_connections_are_dropped(
    world: World, service: Service, pod: Host
) -> None:
    service.has_none_here()

    for host in askers(world, pod, service.protocol):
        assert service.asked(host, timeout_s=0.2) is Failure.TIMEOUT, host.name


@both_families
@pytest.mark.parametrize("protocol", ["UDP"])
def test_the_node_cannot_even_send_a_datagram_that_is_refused_or_dropped(
    world: World, service: Service
) -> None:
    service.serve()
    with pytest.raises(PermissionError):
        service.asked(world.node)
    service.has_none_here()
    with pytest.raises(PermissionError):
        service.asked(world.node)
    service.serve(world.pods[0])
    assert isinstance(service.asked(world.node), Answer)


# --- coming and going


@both_families
@both_protocols
def test_an_endpoint_that_is_gone_gets_no_new_connection(
    world: World, service: Service, pod: Host
) -> None:
    staying, leaving, other = world.pods[:3]
    service.serve(staying, leaving, other)
    before = service.asked_often(pod, 60)
    service.serve(staying, other)
    after = service.asked_often(pod, 100)

    assert names(before) == {staying.name, leaving.name, other.name}
    assert names(after) == {staying.name, other.name}


def names(outcomes: list[Outcome]) -> set[str]:
    """Who answered; all have to be answers."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert len(answers) == len(outcomes), Counter(outcomes)
    return {answer.name for answer in answers}


@both_families
def test_a_connection_outlives_its_endpoints_removal(
    world: World, service: Service, pod: Host
) -> None:
    leaving, coming = world.pods[:2]
    service.serve(leaving)

    with pod.converse(service.address, SERVICE_PORT) as conversation:
        before = conversation.ask()
        service.serve(coming)
        after = conversation.ask()

    assert before == after
    assert before.name == leaving.name


@both_families
@both_protocols
def test_the_first_endpoint_and_the_last_one_count_at_once(
    world: World, service: Service, pod: Host
) -> None:
    seen = []
    for endpoints in ([], world.pods[:1], [], world.pods[1:2]):
        service.serve(*endpoints)
        seen.append(service.asked(pod, timeout_s=ANSWER_S if endpoints else AT_ONCE_S))

    assert [outcome.name for outcome in seen if isinstance(outcome, Answer)] == ["a", "b"]
    assert (seen[0], seen[2]) == (Failure.REFUSED, Failure.REFUSED)


@both_families
def test_ports_of_one_address_are_told_apart_by_protocol(
    world: World, service: Service, pod: Host
) -> None:
    by_udp = Service(service.data_plane, service.number, service.family, "UDP")
    service.serve(world.pods[0])
    by_udp.serve(world.pods[1])

    outcomes = [service.asked(pod), by_udp.asked(pod)]

    assert [outcome.name for outcome in outcomes if isinstance(outcome, Answer)] == ["a", "b"]


# --- SCTP


@both_families
@pytest.mark.parametrize("protocol", ["SCTP"])
def test_an_association_is_translated(world: World, service: Service, pod: Host) -> None:
    target = world.pods[0]
    service.serve(target)
    number = socket.AF_INET if service.family == "IPv4" else socket.AF_INET6

    with sctp.listener(target, number) as listener:
        sctp.send(pod, service.address, sctp.association(40000, SERVICE_PORT))
        heard = sctp.hear(listener, within_s=20)

    assert heard == (pod.addresses.of(service.family), SERVER_PORT)


@pytest.mark.requires("sctp")
@both_families
@pytest.mark.parametrize("protocol", ["SCTP"])
def test_an_association_is_answered(world: World, service: Service, pod: Host) -> None:
    target = world.pods[0]
    service.serve(target)

    with target.serve(f"sctp:{SERVER_PORT}"):
        answer = service.asked(pod)

    assert isinstance(answer, Answer)
    assert answer[:2] == (target.name, pod.addresses.of(service.family))


# --- what an administrator sees


def test_the_stock_tool_takes_back_what_it_lists(world: World, data_plane: Programmed) -> None:
    pools = [[f"10.244.3.{n}:8080" for n in range(1, size + 1)] for size in (0, 1, 2, 3, 5, 9, 33)]
    pools6 = [[f"[fd00:10:244:3::{n:x}]:8080" for n in range(1, len(p) + 1)] for p in pools]
    data_plane.put(
        *[
            make_desired(
                f"default/listed-{number}",
                *pool,
                protocol=protocol,
                cluster_ip=f"{prefix}{number}",
            )
            for prefix, family_pools in (("10.96.1.", pools), ("fd00:10:96::1:", pools6))
            for number, pool in enumerate(family_pools, 1)
            for protocol in PROTOCOLS
        ]
    )

    listed = world.node.namespace.run(["nft", "list", "ruleset"])

    data_plane.clear()
    for protocol, capacity in itertools.product(PROTOCOLS, (1, 2, 4, 8, 16, 64)):
        assert listed.count(f"chain pick-{protocol.lower()}-{capacity} ") == len(FAMILIES)
    with Namespace("copy") as copy:
        copy.run(["nft", "-c", "-f", "-"], stdin=listed)
        copy.run(["nft", "-f", "-"], stdin=listed)
