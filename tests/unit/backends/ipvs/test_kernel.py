"""Steps taken and belief read, through doors to the fakes."""

import asyncio
import errno
from collections.abc import Iterator, Sequence

import pytest

from backends.ipvs import kernel
from backends.ipvs.belief import Observed
from backends.ipvs.kernel import Doors, Way
from backends.ipvs.layout import IpvsSettings, Layout, closed
from backends.ipvs.model import DEVICE, EXTERNALS, SERVICES, TABLE, Operation
from backends.ipvs.nft_side import OURS, NftSide
from backends.kernel import ipvs_messages, nft_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.nft_table import TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.desired import Frontend
from proxy.model import FAMILIES, Family
from proxy.netlink.codec import Request
from proxy.netlink.route import InterfaceAddress
from tests.desired_strategies import make_desired
from tests.fakes import netlink
from tests.model_builders import make_key
from tests.unit.backends.ipvs.driving import LAYOUT, Kernel, Process, nft_of

WEB, API = make_key("default/web"), make_key("default/api")
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
DESIRED = make_desired(
    "default/web",
    "10.1.0.1:80",
    "10.1.0.2:80",
    outer=(VIP,),
    source_ranges=("192.0.2.0/24", "198.51.100.0/24"),
)
CLUSTER_IP = ServerId("IPv4", "TCP", "10.96.0.10", 80)


@pytest.fixture
def fakes() -> Iterator[Kernel]:
    """Whatever opens a socket talks to these."""
    fakes = Kernel()
    with fakes.entered():
        yield fakes


@pytest.fixture
def doors(fakes: Kernel) -> Iterator[Doors]:
    doors = Doors(NftSide(Nft()), Ipvs(), Links())
    yield doors
    doors.close()


@pytest.fixture
def observed(fakes: Kernel, doors: Doors) -> Observed:
    """The belief of a process that has programmed a service."""
    process = Process(fakes)
    asyncio.run(process.adopt(DESIRED))
    return process.observed


def tables(found: Observed) -> object:
    return {family: vars(facts) for family, facts in found.tables.items()}


# --- taking steps


def test_what_was_programmed_is_read_back(doors: Doors, observed: Observed) -> None:
    found = kernel.read_everything(doors, LAYOUT)

    assert tables(found) == tables(observed)
    assert found.generation == observed.generation
    assert (found.servers, found.destinations) == (observed.servers, observed.destinations)
    assert (found.device, found.bound) == (observed.device, observed.bound)
    assert sorted(found.bound) == ["10.96.0.10", "203.0.113.1"]
    assert len(found.servers) == 2


def test_of_messages_to_ipvs_those_refused_are_told_by_position(
    doors: Doors, observed: Observed
) -> None:
    gone = ServerId("IPv4", "TCP", "10.96.0.99", 80)
    refusals = kernel.carry_out(
        doors.ipvs,
        [
            Operation("add destination", CLUSTER_IP, Destination("10.1.0.9", 80), WEB),
            Operation("add destination", CLUSTER_IP, Destination("10.1.0.1", 80), WEB),
            # what is gone already is as it should be
            Operation("del destination", CLUSTER_IP, Destination("10.1.0.99", 80), WEB),
            Operation("del server", gone, None, WEB),
            Operation("set destination", CLUSTER_IP, Destination("10.1.0.99", 80), WEB),
        ],
    )

    assert {n: refusal.errno for n, refusal in refusals.items()} == {
        1: errno.EEXIST, 4: errno.ENOENT,
    }  # fmt: skip
    _, destinations = kernel.read_server(doors.ipvs, CLUSTER_IP)
    assert "10.1.0.9" in [each.address for each, _ in destinations]
    assert kernel.read_server(doors.ipvs, gone) == (None, [])


def test_what_is_there_and_would_not_go_is_refused(fakes: Kernel) -> None:
    class Stubborn(Ipvs):
        def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
            return [Refusal(0, errno.EPERM, "not permitted")]

    with Stubborn() as stubborn:
        refusals = kernel.carry_out(stubborn, [Operation("del server", CLUSTER_IP, None, WEB)])

    assert list(refusals) == [0]


# --- what is ours


def test_virtual_servers_of_others_are_not_believed_to_be_ours(
    doors: Doors, observed: Observed
) -> None:
    by_address = VirtualServer(ServerId("IPv4", "TCP", "192.0.2.200", 80), "rr")
    by_mark = VirtualServer(marked("IPv4", 7), "rr")
    place = Destination("192.0.2.9", 80)
    doors.ipvs.carry_out(
        [
            ipvs_messages.new_server(by_address),
            ipvs_messages.new_server(by_mark),
            ipvs_messages.new_destination(by_address.id, place),
        ]
    )

    found = kernel.read_everything(doors, LAYOUT)

    assert found.servers == observed.servers
    # one at an address may become ours when we have to bind that
    assert found.strangers == {
        "192.0.2.200": {by_address.id: (by_address, {("192.0.2.9", 80): place})}
    }


@pytest.mark.parametrize(
    ("server", "is_ours"),
    [
        (CLUSTER_IP, True),
        (CLUSTER_IP._replace(address="10.96.0.11"), False),
        (marked("IPv4", LAYOUT.marks.mark(1, "here")), True),
        (marked("IPv4", 0x1234), True),
        (CLUSTER_IP._replace(address="10.96.0.12"), True),
        (CLUSTER_IP._replace(address="10.96.0.12", port=81), False),
        (marked("IPv4", 0x1235), False),
        (marked("IPv6", LAYOUT.marks.mark(1, "here")), False),
    ],
    ids=[
        "bound", "elsewhere", "in our range", "in our tables", "in our tables by address", "another port",
        "foreign mark", "other family",
    ],
)  # fmt: skip
def test_a_virtual_server_is_ours_by_its_address_its_mark_or_since_our_rules_lead_to_it(
    server: ServerId, is_ours: bool
) -> None:
    layout = Layout(IpvsSettings(families=("IPv4",)))
    led_to = [marked("IPv4", 0x1234), CLUSTER_IP._replace(address="10.96.0.12")]

    assert kernel.is_our_server(server, layout, ["10.96.0.10"], led_to) is is_ours


def test_rules_lead_to_virtual_servers_by_address_and_by_mark(observed: Observed) -> None:
    ((key, data),) = observed.tables["IPv4"].elements[EXTERNALS].items()
    assert isinstance(data, bytes)
    port = (80).to_bytes(2)

    assert kernel.servers_in(observed.tables) == {
        CLUSTER_IP: [Way(bytes([10, 96, 0, 10]), "TCP", port)],
        marked("IPv4", int.from_bytes(data, "little")): [Way(key[:4], "TCP", port)],
    }


@pytest.mark.parametrize(
    ("name", "key", "data"),
    [(SERVICES, bytes(9), None), (EXTERNALS, bytes(24), b"\1"), (EXTERNALS, bytes(7), None)],
    ids=["no address", "no mark", "no key"],
)
def test_elements_of_another_shape_lead_nowhere(
    observed: Observed, name: str, key: bytes, data: bytes | None
) -> None:
    before = kernel.servers_in(observed.tables)
    observed.tables["IPv6"].elements[name] = {key: data}

    assert kernel.servers_in(observed.tables) == before


def test_addresses_of_a_device_that_is_down_are_ours_and_kube_proxys_are_nobodys(
    fakes: Kernel, doors: Doors, observed: Observed
) -> None:
    fakes.links.add("kube-ipvs0", "dummy", "10.96.0.10", "10.96.0.50")
    fakes.links.add("eth0", "", "192.0.2.1")
    index = observed.device
    assert index is not None
    assert kernel.read_addresses(doors.links) == (
        index, frozenset(observed.bound), frozenset(["192.0.2.1"]),
    )  # fmt: skip

    fakes.links.links[index] = fakes.links.links[index]._replace(is_up=False)

    down = kernel.read_addresses(doors.links)
    assert (down.device, down.bound) == (None, frozenset(observed.bound))


def test_news_of_kube_proxys_device_are_nobodys_even_once_it_has_gone(
    fakes: Kernel, doors: Doors
) -> None:
    with kernel.News(doors.links) as news:
        kube_proxys = fakes.links.add("kube-ipvs0", "dummy", "10.96.0.50")
        other = fakes.links.add("eth0", "", "192.0.2.1")
        assert news.take() == {InterfaceAddress(other, "192.0.2.1", 32): True}

        doors.links.unbind(kube_proxys, ["10.96.0.50"])
        del fakes.links.links[kube_proxys]
        assert news.take() == {}

        for end in fakes.links._listening:
            end.queue.append(netlink.LOST)
        assert news.take() is None


def test_somebody_elses_device_of_our_name_is_not_ours(fakes: Kernel, doors: Doors) -> None:
    fakes.links.add(DEVICE, "dummy", "203.0.113.9")

    assert kernel.read_addresses(doors.links) == (None, frozenset(), frozenset(["203.0.113.9"]))


@pytest.mark.parametrize(
    ("disturbance", "has_to_go"),
    [
        (nft_messages.flush_chain(NFPROTO_IPV4, TABLE, "outer"), False),
        (nft_messages.new_chain(NFPROTO_IPV4, TABLE, "stranger"), True),
        (nft_messages.new_set(NFPROTO_IPV4, TABLE, "crowd", key_type=7, key_length=4), True),
        (nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True), True),
        (nft_messages.new_table(NFPROTO_IPV4, "other"), False),
    ],
    ids=["rules", "chain", "set", "dormant", "another table"],
)
def test_a_table_has_to_go_where_the_kernel_would_not_let_it_be_mended(
    doors: Doors, observed: Observed, disturbance: Request, has_to_go: bool
) -> None:
    nft_of(doors).commit([disturbance])

    found = kernel.read_everything(doors, LAYOUT)

    assert found.tables["IPv4"].has_to_go is has_to_go
    assert not found.tables["IPv6"].has_to_go


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_that_lets_nothing_through_has_to_go_as_its_sets_may_say_too_much(
    doors: Doors, observed: Observed, family: Family
) -> None:
    OURS.commit(nft_of(doors), Transaction(chains=((family, closed()),)))

    found = kernel.read_everything(doors, LAYOUT)

    assert {each: facts.has_to_go for each, facts in found.tables.items()} == {
        each: each == family for each in FAMILIES
    }


# --- reading


def test_where_there_is_nothing_nothing_is_read(doors: Doors) -> None:
    found = kernel.read_everything(doors, LAYOUT)

    assert tables(found) == {family: vars(TableFacts()) for family in FAMILIES}
    assert (found.servers, found.device, found.bound) == ({}, None, {})


@pytest.mark.parametrize("name", [SERVICES, EXTERNALS, "allowed"])
def test_single_elements_are_read_as_they_are_believed(
    doors: Doors, observed: Observed, name: str
) -> None:
    believed = observed.tables["IPv4"].elements[name]
    one = min(believed)

    assert OURS.read_elements(nft_of(doors), "IPv4", name, [one, bytes(len(one))]) == {
        one: believed[one]
    }
