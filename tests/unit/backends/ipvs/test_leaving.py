"""Giving way to another mode: what is refused, what goes at once, and what waits for connections."""

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from backends.ipvs import deadlines, leaving
from backends.ipvs.backend import IpvsBackend
from backends.ipvs.layout import closed
from backends.ipvs.model import DEVICE, TABLE, IpvsStep, Operation, Step
from backends.kernel import ipvs_messages, nft_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Load, ServerId, VirtualServer
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_table import NUMBERS
from backends.kernel.nft_transaction import Transaction
from backends.kernel.sockets import Sockets
from proxy.backend import Retired
from proxy.conntrack_table import ConntrackTable
from proxy.desired import DesiredPort, Frontend
from proxy.errors import KernelError, ProxyError, Unsupported
from proxy.model import FAMILIES, Family
from proxy.netlink import conntrack
from proxy.netlink.conntrack import IPPROTO_UDP as UDP
from tests.desired_strategies import make_desired, whole
from tests.fakes.conntrack import packed_end
from tests.unit.backends.ipvs.driving import LAYOUT, Kernel, Process

OUTER: Final = (
    Frontend("LoadBalancer", "203.0.113.10", 80),
    Frontend("NodePort", None, 30080),
)
WEB = make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80", outer=OUTER)
API = make_desired("default/api", "10.1.0.3:80", cluster_ip="10.96.0.11")
DNS = make_desired(
    "default/dns",
    "10.1.0.4:53",
    protocol="UDP",
    cluster_ip="10.96.0.12",
    port=53,
    outer=(Frontend("NodePort", None, 30053),),
)
SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
BUSY, IDLE = Load(2, 1, 0), Load(0, 0, 0)
DRAIN_S: Final = 100.0


Forgotten = list[tuple[int, dict[bytes, set[bytes]]]]


class Flows(ConntrackTable):
    """Remembers what is to be forgotten."""

    def __init__(self, forgotten: "Forgotten", then: Callable[[], None]) -> None:
        super().__init__()
        self._forgotten = forgotten
        self._then = then

    def forget(
        self,
        family: Family,
        ends: Mapping[bytes, Collection[bytes]],
        protocol: int = conntrack.IPPROTO_UDP,
    ) -> int:
        self._forgotten.append((protocol, {end: set(sources) for end, sources in ends.items()}))
        self._then()
        return len(ends)


class Own(Sockets):
    """Remembers which of the node's own connections are to be ended, and which addresses there are at that moment."""

    def __init__(self, node: "Node") -> None:
        super().__init__()
        self._node = node

    def end(self, addresses: Collection[str]) -> int:
        if self._node.keeps_own is not None:
            raise self._node.keeps_own
        assert not set(addresses) & self._node.addresses(), "not gone yet"
        self._node.ended += addresses
        return len(addresses)


class Node:
    """A node whose mode was ipvs, and the backend that gives way."""

    def __init__(self, kernel: Kernel, file: Path | None = None) -> None:
        self.kernel = kernel
        self.now_s = 0.0
        self.forgotten: Forgotten = []
        """What connection tracking was told to forget."""
        self.ended: list[str] = []
        """The addresses whose connections the node itself has lost."""
        self.keeps_own: ProxyError | None = None
        """Why the kernel does not end the node's own connections."""
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens when flows are forgotten: after new connections are refused, before virtual servers go."""
        self._file = file
        self.backend = self.restarted()

    def restarted(self, open_ipvs: Callable[[], Ipvs] = Ipvs) -> IpvsBackend:
        self.backend = IpvsBackend(
            LAYOUT,
            open_ipvs=open_ipvs,
            open_flows=lambda: Flows(self.forgotten, self.meanwhile),
            open_sockets=lambda: Own(self),
            deadlines_file=self._file,
            drain_s=DRAIN_S,
            now_s=lambda: self.now_s,
        )
        return self.backend

    def program(self, *ports: DesiredPort) -> Process:
        process = Process(self.kernel)
        asyncio.run(process.adopt(*ports))
        return process

    def retire(self) -> Retired:
        return asyncio.run(self.backend.retire())

    def count(self, server: ServerId, load: Load, *addresses: str) -> None:
        for address in addresses:
            self.kernel.ipvs.count(server, address, 80, load)

    def weights(self, server: ServerId) -> dict[str, int]:
        return {to: weight for to, (weight, _) in self.kernel.destinations(server).items()}

    def servers(self) -> list[ServerId]:
        with Ipvs() as ipvs:
            return [each.id for each in ipvs.list_servers()]

    def marked(self) -> ServerId:
        [server] = [each for each in self.servers() if each.protocol is None]
        return server

    def addresses(self) -> set[str]:
        """Those on our device."""
        with Links() as links:
            link = links.find(DEVICE)
            return {e.address for e in links.addresses() if link and e.ifindex == link.ifindex}

    def is_bare(self) -> bool:
        with Links() as links, Nft() as nft:
            is_table = any(nft.find_table(NUMBERS[family], TABLE) for family in FAMILIES)
            return not (self.servers() or links.find(DEVICE) or is_table)

    def is_closed(self) -> bool:
        """Whether new connections are refused."""
        with Nft() as nft:
            return all(
                [rule.comment for rule in nft.list_rules(NUMBERS[family], TABLE, "dispatch")]
                == list(closed().facts.comments)
                for family in FAMILIES
            )


@pytest.fixture
def node() -> Iterator[Node]:
    kernel = Kernel()
    with kernel.entered():
        yield Node(kernel)


def test_where_nothing_is_there_nothing_is_done_and_the_module_is_not_loaded(node: Node) -> None:
    def load() -> Ipvs:
        raise AssertionError("IPVS was asked for")

    node.restarted(load)

    assert node.retire() == Retired()


def test_without_connections_everything_goes_at_once(node: Node) -> None:
    node.program(WEB, API, DNS)

    retired = node.retire()

    assert retired.removed == ("5 virtual servers", f"device {DEVICE}", "2 nftables tables")
    assert retired.again_s is None
    assert node.is_bare()


def test_foreign_virtual_servers_and_devices_stay(node: Node) -> None:
    node.program(WEB)
    foreign = VirtualServer(ServerId("IPv4", "TCP", "192.0.2.200", 80), "rr")
    with Ipvs() as ipvs:
        ipvs.carry_out([ipvs_messages.new_server(foreign)])
    index = node.kernel.links.add("eth0", "", "192.0.2.1")

    node.retire()

    assert node.servers() == [foreign.id]
    assert index in node.kernel.links.links


def test_what_has_connections_gets_no_new_ones_and_everything_else_goes(node: Node) -> None:
    node.program(WEB, API)
    node.count(SERVER, BUSY, "10.1.0.1")

    retired = node.retire()

    assert retired == Retired(
        removed=("2 virtual servers", "2 addresses"),
        waits_for="3 connections",
        again_s=leaving.LOOK_AGAIN_S,
    )
    assert node.weights(SERVER) == {"10.1.0.1:80": 0}
    assert node.addresses() == {"10.96.0.10"}
    assert node.is_closed()

    node.count(SERVER, IDLE, "10.1.0.1")
    assert node.retire().removed == ("1 virtual servers", f"device {DEVICE}", "2 nftables tables")
    assert node.is_bare()


def test_an_address_stays_as_long_as_a_mark_with_connections_is_reached_at_it(node: Node) -> None:
    node.program(WEB)
    server = node.marked()
    node.count(server, BUSY, "10.1.0.2")

    node.retire()

    assert node.servers() == [server]
    assert node.addresses() == {"203.0.113.10"}


def test_all_addresses_stay_while_one_may_lead_to_what_the_rules_name_no_more(node: Node) -> None:
    """A service lost all its endpoints, and one of them had connections that came by a virtual server found by mark."""
    process = node.program(WEB, API)
    server = node.marked()
    node.count(server, BUSY, "10.1.0.2")
    asyncio.run(process.program(make_desired("default/web", outer=OUTER), API))

    retired = node.retire()

    assert retired.waits_for == "3 connections"
    assert "203.0.113.10" in node.addresses()

    node.count(server, IDLE, "10.1.0.2")
    node.retire()
    assert node.is_bare()


def test_new_connections_are_refused_before_anything_goes(node: Node) -> None:
    node.program(WEB, DNS)
    seen: list[tuple[bool, int, int]] = []
    node.meanwhile = lambda: seen.append(
        (node.is_closed(), len(node.servers()), len(node.addresses()))
    )

    node.retire()

    assert seen == [(True, 4, 3)]


def test_tracked_udp_flows_are_forgotten_and_their_virtual_servers_wait_for_nothing(
    node: Node,
) -> None:
    node.kernel.links.add("eth0", "", "192.0.2.1")
    node.program(WEB, DNS)
    for server in node.servers():
        node.kernel.ipvs.count(server, "10.1.0.4", 53, BUSY)

    assert node.retire().again_s is None

    own = [
        f"{address}:30053" for address in ("192.0.2.1", "10.96.0.10", "10.96.0.12", "203.0.113.10")
    ]
    wanted = [packed_end(each) for each in ("10.96.0.12:53", *own)]
    assert node.forgotten == [(UDP, {end: set() for end in wanted})]
    assert node.is_bare()


def test_flows_are_forgotten_once(node: Node) -> None:
    node.program(WEB, DNS)
    node.count(SERVER, BUSY, "10.1.0.1")
    node.retire()
    node.retire()

    assert len(node.forgotten) == 1


def test_after_its_time_a_connection_is_cut_and_forgotten_so_that_it_is_answered_by_a_reset(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.program(WEB, API)
    node.count(SERVER, BUSY, "10.1.0.1")
    node.retire()
    node.now_s = DRAIN_S - 0.1
    assert node.retire().removed == ()
    assert node.forgotten == []

    node.now_s = DRAIN_S
    assert node.retire().again_s is None

    assert node.is_bare()
    ends = {packed_end("10.96.0.10:80"): {packed_end("10.1.0.1:80")}}
    assert node.forgotten == [(conntrack.IPPROTO_TCP, ends)]
    assert "3 connections through IPVS are cut" in caplog.text


def test_connections_to_other_destinations_of_the_virtual_server_go_on(
    node: Node, tmp_path: Path
) -> None:
    """One of them had been draining for a while when the mode was changed."""
    file = tmp_path / "draining.json"
    node.program(WEB)
    node.count(SERVER, BUSY, "10.1.0.1", "10.1.0.2")
    deadlines.save(file, {SERVER: {("10.1.0.1", 80): 10.0}})
    node = Node(node.kernel, file)
    assert node.retire().waits_for == "6 connections"

    node.now_s = 10.0
    assert node.retire().waits_for == "3 connections"

    assert node.weights(SERVER) == {"10.1.0.2:80": 0}
    ends = {packed_end("10.96.0.10:80"): {packed_end("10.1.0.1:80")}}
    assert node.forgotten == [(conntrack.IPPROTO_TCP, ends)]


def test_what_the_node_itself_has_begun_with_an_address_ends_when_that_goes(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.program(WEB, API)
    node.count(SERVER, BUSY, "10.1.0.1")
    with caplog.at_level(logging.INFO):
        node.retire()
    assert node.ended == ["10.96.0.11", "203.0.113.10"]
    assert "ended 2 connections of this node itself" in caplog.text

    node.count(SERVER, IDLE, "10.1.0.1")
    node.retire()
    assert node.ended == ["10.96.0.11", "203.0.113.10", "10.96.0.10"]


def test_where_the_kernel_cannot_end_connections_that_is_said_and_no_more(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.program(WEB)
    node.keeps_own = Unsupported("listing connections", "no such module")

    assert node.retire().again_s is None

    assert node.is_bare()
    assert "time out: listing connections: no such module" in caplog.text


def test_a_restart_does_not_lengthen_the_time(node: Node, tmp_path: Path) -> None:
    node = Node(node.kernel, tmp_path / "draining.json")
    node.program(WEB)
    node.count(SERVER, BUSY, "10.1.0.1")
    node.retire()
    node.now_s = DRAIN_S - 1
    node.restarted()
    assert node.retire().again_s

    node.now_s = DRAIN_S
    node.restarted()
    node.retire()

    assert node.servers() == []


def test_back_in_mode_ipvs_before_all_have_ended_everything_is_served_again(node: Node) -> None:
    node.program(WEB, API)
    node.count(SERVER, BUSY, "10.1.0.1")
    node.retire()

    process = node.program(WEB, API)

    assert node.weights(SERVER) == {"10.1.0.1:80": 1, "10.1.0.2:80": 1}
    assert node.addresses() == {"10.96.0.10", "10.96.0.11", "203.0.113.10"}
    assert not node.is_closed()
    assert process.observed.draining == {}


def test_back_in_mode_ipvs_nothing_is_let_through_before_its_virtual_server_is_there(
    node: Node,
) -> None:
    """The sets still hold frontends whose virtual servers are gone."""
    node.program(WEB, API)
    node.count(SERVER, BUSY, "10.1.0.1")
    node.retire()
    process = Process(node.kernel)

    observed = asyncio.run(process.backend.observe())
    desired = whole({WEB.key: WEB, API.key: API})
    steps = process.backend.plan(desired, observed, [*desired.ports]).steps

    assert observed.is_rebuild_due
    [opening] = [number for number, step in enumerate(steps) if isinstance(step, Transaction)]
    made = [
        each.server
        for step in steps[:opening]
        for each in _operations(step)
        if each.verb == "add server"
    ]
    assert {server.address for server in made} == {"10.96.0.11", ""}


def _operations(step: Step) -> Sequence[Operation]:
    return step.operations if isinstance(step, IpvsStep) else ()


class Stubborn(Ipvs):
    def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
        return [Refusal(0, errno.EPERM, "not permitted")] if messages else []


def test_where_a_virtual_server_will_not_go_its_address_stays_and_the_next_look_goes_on(
    node: Node,
) -> None:
    node.program(WEB)
    node.restarted(Stubborn)
    with pytest.raises(KernelError, match="not permitted"):
        node.retire()
    assert node.addresses() == {"10.96.0.10", "203.0.113.10"}
    assert node.is_closed()

    node.restarted()
    assert node.retire().again_s is None
    assert node.is_bare()


def test_without_the_module_there_are_no_virtual_servers(node: Node) -> None:
    node.program(WEB)
    node.kernel.ipvs.has_module = False

    assert node.retire().removed == (f"device {DEVICE}", "2 nftables tables")


def test_what_is_gone_already_is_no_failure(node: Node) -> None:
    node.program(WEB, API)
    [mark] = [each for each in node.servers() if each.protocol is None]

    class Racing(Ipvs):
        """Somebody else removes a virtual server before our message arrives."""

        def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
            super().carry_out([ipvs_messages.del_server(mark)])
            return super().carry_out(messages)

    node.restarted(Racing)

    assert node.retire().again_s is None
    assert node.is_bare()


def test_a_table_of_another_shape_goes_all_the_same(node: Node) -> None:
    node.program(WEB)
    with Nft() as nft:
        for family in FAMILIES:
            nft.commit([nft_messages.del_table(NUMBERS[family], TABLE)])
            nft.commit([nft_messages.new_table(NUMBERS[family], TABLE)])

    assert node.retire().again_s is None
    assert node.is_bare()


def test_connections_go_on_even_where_somebody_has_removed_our_tables(node: Node) -> None:
    """A virtual server found by mark may have been reached at any address then, and all stay for its time."""
    node.program(WEB, DNS)
    node.count(SERVER, BUSY, "10.1.0.1")
    for server in node.servers():
        node.kernel.ipvs.count(server, "10.1.0.4", 53, BUSY)
    with Nft() as nft:
        nft.commit([nft_messages.del_table(NUMBERS[family], TABLE) for family in FAMILIES])

    node.retire()

    by_address = [server for server in node.servers() if server.protocol is not None]
    assert by_address == [SERVER]
    assert node.addresses() == {"10.96.0.10", "10.96.0.12", "203.0.113.10"}

    node.now_s = DRAIN_S
    node.retire()
    assert node.is_bare()


def test_destinations_that_drain_already_keep_their_time(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "draining.json"
    node.count(SERVER, BUSY, "10.1.0.1")
    process = Process(node.kernel, deadlines_file=file, drain_s=DRAIN_S, now_s=lambda: -50.0)
    asyncio.run(process.adopt(WEB))
    other = make_desired("default/web", "10.1.0.2:80", outer=OUTER)
    asyncio.run(process.program(other))
    asyncio.run(process.look(other))
    node = Node(node.kernel, file)
    node.retire()

    node.now_s = DRAIN_S - 50
    node.retire()

    assert node.servers() == []


def test_changes_of_the_new_mode_and_the_departure_do_not_disturb_each_other(node: Node) -> None:
    """Others' tables change between every two steps."""
    node.program(WEB, DNS)
    names: list[str] = []

    def change() -> None:
        names.append(f"other-{len(names)}")
        with Nft() as nft:
            nft.commit([nft_messages.new_table(NUMBERS["IPv4"], names[-1])])

    class Disturbed(Nft):
        def commit(self, messages: Sequence[object]) -> None:
            change()
            super().commit(messages)  # type: ignore[arg-type] # handed on as it is
            change()

    node.meanwhile = change
    backend = IpvsBackend(
        LAYOUT,
        open_nft=Disturbed,
        open_flows=lambda: Flows(node.forgotten, node.meanwhile),
        open_sockets=lambda: Own(node),
    )

    assert asyncio.run(backend.retire()).again_s is None
    assert node.is_bare()
    with Nft() as nft:
        assert sorted(table.name for table in nft.list_tables(NUMBERS["IPv4"])) == sorted(names)
