"""Values of plans: how much they write, and what they say."""

import pytest

from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import (
    BOUND,
    EXTERNALS,
    PLACES,
    SERVICES,
    AddressStep,
    Frontend,
    IpvsStep,
    Operation,
    Rendered,
    has_drains,
)
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.nft_table import ChainSpec
from backends.kernel.nft_transaction import Batch, Element, Transaction
from proxy.model import Protocol
from tests.model_builders import make_key

WEB = make_key("default/web", "http")
SPEC = Layout(IpvsSettings(families=("IPv4",))).sets("IPv4")[0]
SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
PLACE = ("10.1.0.1", 80)
FRONTEND = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])
NEXT = FRONTEND[:-3] + bytes([81, 0, 0])
NFT = Transaction(
    rebuild=("IPv6",),
    tables=("IPv6",),
    sets=(("IPv4", SPEC),),
    chains=(("IPv4", ChainSpec("chain", None, ())),),
    deletes=(Batch("IPv4", SERVICES, (Element(FRONTEND, None, WEB), Element(NEXT, None, None))),),
    adds=(Batch("IPv6", EXTERNALS, (Element(bytes(12) + FRONTEND, b"\5\0\0\xa6", WEB),)),),
)
ADDRESSES = AddressStep(
    bind=(("10.96.0.10", WEB),), unbind=(("10.96.0.11", None),), is_device_missing=True
)
OPERATIONS = IpvsStep(
    (
        Operation("add server", SERVER, VirtualServer(SERVER, "wrr"), WEB),
        Operation("set destination", SERVER, Destination(*PLACE, weight=0), WEB, True),
        Operation("del server", marked("IPv4", 0xA6000005), None, None),
    )
)


def frontend(key: bytes) -> Frontend:
    return Frontend("address", key, None)


def test_the_size_of_a_step_is_the_number_of_objects_it_writes() -> None:
    assert [NFT.size, ADDRESSES.size, OPERATIONS.size] == [4 + 3, 3, 3]
    assert [Transaction().size, AddressStep().size, IpvsStep(()).size] == [0, 0, 0]


def test_the_sets_of_a_node_port_are_those_that_do_not_look_at_an_address() -> None:
    assert PLACES["node-port"].all == (
        "nodeports", "nodeport-shortcuts", "nodeports-dropped", "nodeports-refused",
    )  # fmt: skip
    assert len(PLACES["address"].all) == 6


def test_while_one_becomes_the_other_both_are_occupied() -> None:
    old = Rendered(
        frontends=(frontend(b"a"), frontend(b"b")),
        marked=(marked("IPv4", 1),),
        shared=frozenset([(BOUND, b"a")]),
    )
    new = Rendered(
        frontends=(frontend(b"b"), frontend(b"c")),
        marked=(marked("IPv4", 2), marked("IPv4", 1)),
        shared=frozenset([(BOUND, b"c")]),
    )

    assert old.joined(new) == Rendered(
        frontends=(frontend(b"a"), frontend(b"b"), frontend(b"c")),
        marked=(marked("IPv4", 1), marked("IPv4", 2)),
        shared=frozenset([(BOUND, b"a"), (BOUND, b"c")]),
    )


@pytest.mark.parametrize(
    ("old", "new", "joined"), [(None, 7, 7), (7, None, 7), (0, None, 0), (7, 0, 0)]
)
def test_the_number_in_marks_is_the_new_one_if_there_is_one(
    old: int | None, new: int | None, joined: int
) -> None:
    assert Rendered(number=old).joined(Rendered(number=new)).number == joined


@pytest.mark.parametrize(
    ("protocol", "expected"), [("TCP", True), ("UDP", False), ("SCTP", False)]
)
def test_only_connections_of_tcp_are_seen_to_end(protocol: Protocol, expected: bool) -> None:
    assert has_drains(protocol) is expected
