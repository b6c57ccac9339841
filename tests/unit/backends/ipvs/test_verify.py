"""What somebody else changed is found, and belief corrected. That it is then repaired: tests/contract."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from backends.ipvs import verify as module
from backends.ipvs.belief import Observed
from backends.ipvs.kernel import Doors
from backends.ipvs.model import ALLOWED, BOUND, DEVICE, ELSEWHERE, EXTERNALS, SERVICES, TABLE
from backends.ipvs.nft_side import NftSide
from backends.kernel import ipvs_messages, nft_elements, nft_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.nft_table import TableFacts
from proxy.addresses import pack_ip
from proxy.backend import Drift
from proxy.desired import Frontend
from proxy.model import Family, PortKey
from proxy.netlink.codec import Request
from proxy.netlink.route import InterfaceAddress
from tests.desired_strategies import make_desired
from tests.unit.backends.ipvs.driving import LAYOUT, Kernel, Process, nft_of

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
WEB = make_desired("default/web", "10.1.0.1:80", outer=(VIP,), source_ranges=("192.0.2.0/24",))
API = make_desired("default/api", cluster_ip="10.96.0.11")


class Node:
    """A node whose process has programmed two services, and an administrator with doors of his own."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        with self.kernel.entered():
            self.process = Process(self.kernel)
            asyncio.run(self.process.adopt(WEB, API))
            self.admin = self.doors()

    def doors(self) -> Doors:
        with self.kernel.entered():
            return Doors(NftSide(Nft()), Ipvs(), Links())

    @property
    def observed(self) -> Observed:
        return self.process.observed

    def verified(self, background: Doors | None = None) -> list[Drift]:
        doors = self.process.backend._doors
        work = module.verify(
            doors, background or self.admin, asyncio.Lock(), self.observed, LAYOUT
        )
        return asyncio.run(work)

    def delete(self, name: str, key: bytes) -> None:
        packed = [nft_elements.pack_key_element(key)]
        nft_of(self.admin).commit(nft_elements.del_elements(NFPROTO_IPV4, TABLE, name, packed))

    def add(self, name: str, key: bytes, data: bytes | None = None) -> None:
        packed = nft_elements.pack_key_element(key)
        if data is not None:
            packed = nft_elements.pack_data_element(key, data)
        nft_of(self.admin).commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, name, [packed]))

    def tell_ipvs(self, *messages: bytes) -> None:
        assert self.admin.ipvs.carry_out(messages) == []


@pytest.fixture
def node() -> Node:
    return Node()


def only_key(node: Node, name: str) -> bytes:
    (key,) = node.observed.tables["IPv4"].elements[name]
    return key


def keys(drifts: list[Drift]) -> list[PortKey | None]:
    return [drift.key for drift in drifts]


def test_nothing_is_reported_where_nothing_was_changed(node: Node) -> None:
    assert node.verified() == []


@pytest.mark.parametrize("name", [SERVICES, EXTERNALS])
def test_a_missing_element_is_its_service_ports(node: Node, name: str) -> None:
    key = only_key(node, name)
    node.delete(name, key)

    assert node.verified() == [
        Drift(key=WEB.key, what=f"IPv4: missing element {key.hex()} of {name}")
    ]
    assert node.observed.tables["IPv4"].elements[name] == {}
    assert node.verified() == []


def test_an_element_is_told_to_be_changed_or_foreign(node: Node) -> None:
    key = only_key(node, EXTERNALS)
    node.delete(EXTERNALS, key)
    node.add(EXTERNALS, key, b"\1\0\0\0")
    node.add(BOUND, bytes([192, 0, 2, 1]))

    found = {(drift.key, drift.what.split()[1]) for drift in node.verified()}

    assert found == {(WEB.key, "changed"), (None, "foreign")}
    elements = node.observed.tables["IPv4"].elements
    assert elements[EXTERNALS] == {key: b"\1\0\0\0"}
    assert bytes([192, 0, 2, 1]) in elements[BOUND]


@pytest.mark.parametrize(
    "message",
    [
        ipvs_messages.del_server(SERVER),
        ipvs_messages.set_server(VirtualServer(SERVER, "lc")),
        ipvs_messages.del_destination(SERVER, "10.1.0.1", 80),
        ipvs_messages.set_destination(SERVER, Destination("10.1.0.1", 80, weight=7)),
        ipvs_messages.new_destination(SERVER, Destination("192.0.2.9", 80)),
    ],
    ids=["gone", "scheduler", "destination gone", "weight", "destination"],
)
def test_a_changed_virtual_server_is_its_service_ports(node: Node, message: bytes) -> None:
    node.tell_ipvs(message)

    assert keys(node.verified()) == [WEB.key]
    found = node.admin.ipvs.find_server(SERVER)
    assert node.observed.servers.get(SERVER) == found
    there = [each for each, _ in node.admin.ipvs.list_destinations(SERVER)]
    assert list(node.observed.destinations.get(SERVER, {}).values()) == there
    assert node.verified() == []


def test_a_virtual_server_by_mark_is_its_service_ports(node: Node) -> None:
    (by_mark,) = [server for server in node.observed.servers if server.protocol is None]
    node.tell_ipvs(ipvs_messages.del_server(by_mark))

    assert keys(node.verified()) == [WEB.key]


def test_addresses_taken_away_or_added_are_told_and_belief_corrected(node: Node) -> None:
    device = node.observed.device
    assert device is not None
    node.admin.links.unbind(device, ["10.96.0.11"])
    node.admin.links.bind(device, ["192.0.2.77"])

    assert {(drift.key, drift.what) for drift in node.verified()} == {
        (API.key, "missing address 10.96.0.11 on our device"),
        (None, "foreign address 192.0.2.77 on our device"),
    }
    assert set(node.observed.bound) == {"10.96.0.10", "203.0.113.1", "192.0.2.77"}


def test_a_device_that_is_gone_is_nobodys(node: Node) -> None:
    node.admin.links.remove_dummy(DEVICE)

    assert Drift(key=None, what="our device") in node.verified()
    assert (node.observed.device, node.observed.bound) == (None, {})


def test_an_address_that_appears_on_another_interface_is_no_concern_of_those_without_it(
    node: Node,
) -> None:
    node.kernel.links.add("eth0", "", "203.0.113.1", "192.0.2.1")

    assert keys(node.verified()) == [WEB.key]
    assert node.observed.elsewhere == {"203.0.113.1", "192.0.2.1"}


@pytest.mark.parametrize(
    "disturbance",
    [
        nft_messages.del_table(NFPROTO_IPV4, TABLE),
        nft_messages.flush_chain(NFPROTO_IPV4, TABLE, "outer"),
        nft_messages.new_chain(NFPROTO_IPV4, TABLE, "stranger"),
        nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True),
    ],
    ids=["table", "rules", "chain", "dormant"],
)
def test_a_change_to_what_all_share_is_nobodys(node: Node, disturbance: Request) -> None:
    nft_of(node.admin).commit([disturbance])

    assert Drift(key=None, what="IPv4: our table, or a chain or set in it") in node.verified()


def test_structures_are_read_in_threads_since_programs_may_have_to_be_run(node: Node) -> None:
    threads: list[threading.Thread] = []

    class Slow(NftSide):
        def read_structure(self, family: Family) -> TableFacts:
            threads.append(threading.current_thread())
            return super().read_structure(family)

    with node.kernel.entered():
        doors = Doors(Slow(Nft()), Ipvs(), Links())
    nft_of(node.admin).commit([nft_messages.del_table(NFPROTO_IPV4, TABLE)])

    work = module.verify(doors, node.admin, asyncio.Lock(), node.observed, LAYOUT)
    assert keys(asyncio.run(work)) == [None]

    assert len(threads) == 1
    assert threading.current_thread() not in threads
    doors.close()


def test_many_changes_are_not_read_one_by_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SINGLE_READS", 1)
    node.delete(SERVICES, only_key(node, SERVICES))
    assert keys(node.verified()) == [WEB.key]

    node.delete(EXTERNALS, only_key(node, EXTERNALS))
    node.tell_ipvs(ipvs_messages.del_server(SERVER))
    assert node.verified() == [Drift(key=None, what="2 objects")]


# --- changes while we look


class Interrupted(Ipvs):
    """Something happens once the virtual servers are listed; all else was read by then."""

    event: Callable[[], None] = staticmethod(lambda: None)

    def list_servers(self) -> list[VirtualServer]:
        found = super().list_servers()
        self.event()
        return found


def interrupted(node: Node, event: Callable[[], None]) -> Doors:
    with node.kernel.entered():
        door = Interrupted()
    door.event = event
    return node.doors()._replace(ipvs=door)


@pytest.mark.parametrize("single_reads", [200, 1], ids=["one by one", "by a second look"])
def test_what_we_change_ourselves_meanwhile_is_no_drift(
    node: Node, monkeypatch: pytest.MonkeyPatch, single_reads: int
) -> None:
    monkeypatch.setattr(module, "SINGLE_READS", single_reads)
    changed = make_desired("default/web", "10.1.0.7:80", cluster_ip="10.96.0.12")

    def change() -> None:
        asyncio.run(node.process.program(changed, API))

    assert node.verified(interrupted(node, change)) == []
    assert node.observed.generation == nft_of(node.admin).generation()
    assert "10.96.0.12" in node.observed.bound


def test_what_somebody_changes_meanwhile_is_left_to_the_next_look(node: Node) -> None:
    key = only_key(node, SERVICES)

    assert node.verified(interrupted(node, lambda: node.delete(SERVICES, key))) == []
    assert node.observed.generation != nft_of(node.admin).generation()
    assert keys(node.verified()) == [WEB.key]
    assert node.observed.generation == nft_of(node.admin).generation()


# --- whose it is


def test_all_that_a_service_port_occupies_is_its_own(node: Node) -> None:
    owners, rendered = module.Owners(node.observed), node.observed.rendered[WEB.key]
    (allowed,) = node.observed.tables["IPv4"].elements[ALLOWED]

    assert owners.of_element("IPv4", ALLOWED, allowed) == WEB.key
    assert owners.of_element("IPv6", ALLOWED, allowed) is None
    assert {owners.of_server(server) for server in (SERVER, *rendered.marked)} == {WEB.key}
    assert owners.of_address("203.0.113.1") == WEB.key
    assert owners.of_address("203.0.113.2") is None


def test_an_address_that_several_share_is_of_them_all() -> None:
    kernel = Kernel()
    process = Process(kernel)
    other = make_desired("default/web", "10.1.0.1:53", port_name="dns", port=53)
    asyncio.run(process.adopt(WEB, other))

    owners = module.Owners(process.observed)

    assert owners.all_of_address("10.96.0.10") == [WEB.key, other.key]


# --- addresses that are announced

OURS, OTHER = 7, 3


@pytest.mark.parametrize(
    ("index", "address", "is_there", "is_of_concern"),
    [
        pytest.param(OURS, "10.96.0.10", True, False, id="one we have bound"),
        pytest.param(OURS, "10.96.0.10", False, True, id="one that somebody took away"),
        pytest.param(OURS, "10.96.0.99", False, False, id="one we have unbound"),
        pytest.param(OURS, "2001:db8::1", True, True, id="one that somebody put there"),
        pytest.param(OTHER, "192.0.2.1", True, False, id="a pod's"),
        pytest.param(OTHER, "10.96.0.10", True, True, id="a service's elsewhere"),
        pytest.param(OTHER, "203.0.113.1", True, False, id="one known to be elsewhere"),
        pytest.param(OTHER, "203.0.113.1", False, True, id="one elsewhere no more"),
        pytest.param(OTHER, "192.0.2.9", False, False, id="the node's own"),
    ],
)
def test_of_addresses_that_came_or_went_those_of_services_matter(
    index: int, address: str, is_there: bool, is_of_concern: bool
) -> None:
    elsewhere = frozenset(["203.0.113.1", "192.0.2.9"])
    observed = Observed({}, device=OURS, bound=["10.96.0.10"], elsewhere=elsewhere)
    for name, member in ((BOUND, "10.96.0.10"), (ELSEWHERE, "203.0.113.1")):
        observed.references["IPv4", name, pack_ip(member)] = 1

    news = {InterfaceAddress(index, address, 32): is_there}

    assert module.concerns(news, observed) is is_of_concern
    if index == OTHER and not is_of_concern:  # a service may name it later
        assert (address in observed.elsewhere) == is_there


def test_an_address_that_moves_to_another_interface_is_still_there() -> None:
    observed = Observed({}, device=OURS, elsewhere=frozenset(["192.0.2.1", "203.0.113.1"]))
    observed.references["IPv4", ELSEWHERE, pack_ip("203.0.113.1")] = 1
    bridge = OTHER + 1

    for address in ("192.0.2.1", "203.0.113.1"):
        news = {
            InterfaceAddress(bridge, address, 24): True,
            InterfaceAddress(OTHER, address, 24): False,
        }
        assert not module.concerns(news, observed)
    assert observed.elsewhere == {"192.0.2.1", "203.0.113.1"}


def test_many_addresses_are_taken_into_belief_at_once() -> None:
    """Each by itself would copy all the others."""
    times: list[int] = []

    class Counting(Observed):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "elsewhere":
                times.append(len(self.elsewhere))

    observed = Counting({}, device=OURS, elsewhere=frozenset(["10.1.255.1"]))
    news = {InterfaceAddress(OTHER, f"10.1.0.{n}", 32): True for n in range(200)}
    news[InterfaceAddress(OTHER, "10.1.255.1", 32)] = False

    assert not module.concerns(news, observed)
    assert times == [1, 200]
