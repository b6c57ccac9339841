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
    IpvsPlan,
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
NFT = Transaction(
    rebuild=("IPv6",),
    tables=("IPv6",),
    sets=(("IPv4", SPEC),),
    chains=(("IPv4", ChainSpec("chain", None, ())),),
    deletes=(Batch("IPv4", SERVICES, (Element(b"\1", None, WEB), Element(b"\2", None, None))),),
    adds=(Batch("IPv6", EXTERNALS, (Element(b"\3", b"\5\0\0\xa6", WEB),)),),
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


def test_a_plan_is_true_if_there_is_anything_to_do_or_to_look_after() -> None:
    assert not IpvsPlan((), {WEB: None})
    assert IpvsPlan((NFT,), {})
    assert IpvsPlan((), {}, drains=((SERVER, PLACE),))
    assert IpvsPlan((), {}, reaps=True)


def test_a_plan_is_described_line_by_line_with_whom_each_line_is_for() -> None:
    planned = IpvsPlan((NFT, ADDRESSES, OPERATIONS), {}, drains=((SERVER, PLACE),))

    *lines, last = planned.describe()

    whose = "# default/web:http (TCP, IPv4)"
    assert lines == [
        "1 delete table ip6 sliceproxy-ipvs",
        "1 add table ip6 sliceproxy-ipvs",
        f"1 add set ip sliceproxy-ipvs {BOUND}",
        "1 write chain ip sliceproxy-ipvs chain",
        f"1 delete element ip sliceproxy-ipvs services 01  {whose}",
        "1 delete element ip sliceproxy-ipvs services 02",
        f"1 add element ip6 sliceproxy-ipvs externals 03 : 050000a6  {whose}",
        "2 make device sliceproxy-ipvs",
        f"2 bind 10.96.0.10  {whose}",
        "2 unbind 10.96.0.11",
        f"3 add server TCP 10.96.0.10:80 wrr  {whose}",
        f"3 set destination TCP 10.96.0.10:80 10.1.0.1:80 weight 0  {whose}",
        "3 del server mark 0xa6000005 (IPv4)",
    ]
    assert last == "TCP 10.96.0.10:80: 10.1.0.1:80 drains"


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
