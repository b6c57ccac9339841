"""Transactions as values and as messages, and which element a refusal is about. Those of mode nftables stand for all."""

from collections.abc import Iterable

import pytest

from backends.kernel import nft_elements, nft_messages, nft_table
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6, MessageKind, VerdictCode
from backends.kernel.nft_ranges import interval_keys
from backends.kernel.nft_table import ChainSpec, Data, RuleSpec
from backends.kernel.nft_transaction import (
    ELEMENTS_PER_MESSAGE,
    Batch,
    Element,
    Form,
    Messages,
    Transaction,
    pack,
    pack_element,
    pack_interval,
    parse_data,
    parse_interval,
)
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import AFFINITY_CLIENTS, ENDPOINTS, HAIRPIN, SERVICES, TABLE
from backends.nftables.names import form_of
from backends.nftables.sets import CLIENTS_AT_MOST
from proxy.model import FAMILIES, Family
from proxy.netlink import codec
from tests.model_builders import make_key

LAYOUT = Layout(NftSettings(families=FAMILIES))
WEB, API = make_key("default/web"), make_key("default/api")
K = MessageKind


def pack_ours(transaction: Transaction) -> Messages:
    return pack(transaction, TABLE, form_of)


def batch(set_name: str, *elements: Element) -> Batch:
    return Batch("IPv4", set_name, elements)


def kinds(requests: Iterable[codec.Request]) -> list[int]:
    return [request.kind for request in requests]


def test_a_transaction_is_packed_in_the_order_in_which_the_kernel_can_work_it_off() -> None:
    chain = ChainSpec("chain", None, (RuleSpec(b"", "one"), RuleSpec(b"", "two")))
    packed = pack_ours(
        Transaction(
            rebuild=("IPv4",),
            tables=("IPv4",),
            sets=(("IPv4", LAYOUT.sets("IPv4")[0]),),
            chains=(("IPv4", chain),),
            deletes=(batch(SERVICES, Element(b"old1", "drop", WEB)),),
            adds=(batch(SERVICES, Element(b"new1", "drop", WEB)),),
            gone_chains=(("IPv4", "gone"),),
            gone_sets=(("IPv4", "gone"),),
        )
    )

    assert kinds(packed.requests) == [
        K.DELTABLE, K.NEWTABLE, K.NEWSET, K.NEWCHAIN, K.DELRULE, K.NEWRULE, K.NEWRULE,
        K.DELSETELEM, K.NEWSETELEM, K.DELCHAIN, K.DELSET,
    ]  # fmt: skip
    assert len(packed.elements) == len(packed.requests)


def test_messages_go_to_the_family_and_the_table_they_are_for() -> None:
    numbers: dict[Family, int] = {"IPv4": NFPROTO_IPV4, "IPv6": NFPROTO_IPV6}
    for family, number in numbers.items():
        request = nft_table.pack_set(family, LAYOUT.sets(family)[0], TABLE)
        found = nft_messages.parse_set(request.payload + codec.attr_be64(16, 1))
        assert (found.family, found.table) == (number, TABLE)


def test_nothing_is_no_message() -> None:
    assert pack_ours(Transaction()).requests == []


def largest(count: int) -> Batch:
    """Elements as large as ours get."""
    key = LAYOUT.sets("IPv6")[1].facts.key_length
    data = LAYOUT.sets("IPv6")[1].facts.data_length
    elements = [Element(n.to_bytes(key, "big"), bytes(data), WEB) for n in range(count)]
    return Batch("IPv6", ENDPOINTS["TCP"], tuple(elements))


def test_many_elements_take_several_messages_none_of_which_is_too_long() -> None:
    many = largest(2 * ELEMENTS_PER_MESSAGE + 1)

    packed = pack_ours(Transaction(adds=(many,)))

    assert [len(elements) for elements in packed.elements] == [
        ELEMENTS_PER_MESSAGE,
        ELEMENTS_PER_MESSAGE,
        1,
    ]
    assert len(packed.requests) == 3
    for request, elements in zip(packed.requests, packed.elements, strict=True):
        found = nft_elements.parse_elements(request.payload)
        assert found == [(element.key, element.data) for element in elements]


def test_verdicts_with_the_longest_name_fit_a_message_too() -> None:
    key = LAYOUT.sets("IPv6")[0].facts.key_length
    elements = [
        Element(n.to_bytes(key, "big"), "goto pick-sctp-1048576", WEB)
        for n in range(ELEMENTS_PER_MESSAGE)
    ]

    packed = pack_ours(Transaction(adds=(Batch("IPv6", SERVICES, tuple(elements)),)))

    assert len(packed.requests) == 1


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_element_the_kernel_points_at_is_found(position: int) -> None:
    elements = [Element(bytes([n] * 4), bytes(4), key) for n, key in enumerate([WEB, API, None])]
    packed = pack_ours(Transaction(adds=(batch("data", *elements),)))
    one = len(nft_elements.pack_data_element(bytes(4), bytes(4)))
    size = codec.HEADER_LENGTH + len(packed.requests[0].payload)
    first = size - 3 * one

    assert packed.element_at(0, first + position * one) == elements[position]


def test_what_is_no_element_is_not_taken_for_one() -> None:
    only = Element(bytes(4), bytes(4), WEB)
    packed = pack_ours(Transaction(adds=(batch("data", only),)))
    name_of_the_set = (
        codec.HEADER_LENGTH + 4 + 16
    )  # after the header of nf_tables and the table's name

    assert packed.element_at(0, name_of_the_set) is None
    assert packed.element_at(0, None) is only


def test_which_of_several_it_was_is_not_guessed() -> None:
    elements = [Element(bytes([n] * 4), bytes(4), WEB) for n in range(2)]
    packed = pack_ours(Transaction(adds=(batch("data", *elements),)))

    assert packed.element_at(0, None) is None


DATA: list[Data] = [b"\1\2\3\4", "drop", "goto pick-tcp-1", "jump somewhere", None]


@pytest.mark.parametrize("data", DATA, ids=str)
def test_what_an_element_maps_to_is_read_as_it_was_packed(data: Data) -> None:
    packed = pack_element(b"key1", data)

    request = nft_elements.new_elements(NFPROTO_IPV4, TABLE, "set", [packed])[0]
    ((key, read),) = nft_elements.parse_elements(request.payload)
    assert (key, parse_data(read)) == (b"key1", data)


@pytest.mark.parametrize("data", DATA, ids=str)
def test_the_element_that_stands_for_all_others_has_a_flag_and_no_key(data: Data) -> None:
    packed = pack_element(b"", data)

    ((_, entry),) = codec.iter_attrs(packed)
    attrs = codec.parse_attrs(entry)
    assert 1 not in attrs
    assert codec.read_be32(attrs[3]) == 2
    assert nft_elements.parse_element(entry).key == b""


def test_a_verdict_without_a_word_is_shown_by_its_number() -> None:
    assert parse_data((VerdictCode.ACCEPT, "")) == "verdict 1"


@pytest.mark.parametrize("name", [SERVICES, ENDPOINTS["TCP"], HAIRPIN])
def test_sets_are_made_as_they_are_recognised(name: str) -> None:
    for family in FAMILIES:
        spec = next(spec for spec in LAYOUT.sets(family) if spec.name == name)
        request = nft_table.pack_set(family, spec, TABLE)
        found = nft_messages.parse_set(request.payload + codec.attr_be64(16, 1))
        assert spec.facts == (
            found.flags,
            found.key_type,
            found.key_length,
            found.data_type,
            found.data_length,
            found.size,
        )


@pytest.mark.parametrize("end", [b"\0", b"\1"])
def test_where_a_range_begins_or_ends_is_packed_and_read_back(end: bytes) -> None:
    key = b"\n\0\0\0" + end
    packed = pack_interval(Form.BOUNDS, key)
    (request,) = nft_elements.new_elements(2, TABLE, "service-cidrs", [packed])

    (element,) = nft_elements.parse_all_elements(request.payload)

    assert (element.key, element.is_interval_end) == (b"\n\0\0\0", end == b"\1")
    assert parse_interval(Form.BOUNDS, element) == key


def test_a_range_of_concatenations_is_one_element_and_read_back_by_the_same_key() -> None:
    key = b"first-12byte" + b"last--12byte"
    (request,) = nft_elements.new_elements(
        NFPROTO_IPV4, TABLE, "set", [pack_interval(Form.RANGES, key)]
    )

    (element,) = nft_elements.parse_all_elements(request.payload)

    assert (element.key, element.key_end) == (b"first-12byte", b"last--12byte")
    assert not element.is_interval_end
    assert parse_interval(Form.RANGES, element) == key


def test_a_range_of_one_value_is_read_back_as_its_first_and_its_last() -> None:
    assert parse_interval(Form.RANGES, nft_elements.Element(b"only")) == b"onlyonly"


def test_the_largest_ranges_fit_a_message_too() -> None:
    length = 2 * (16 + 16 + 8)  # source, address, protocol and port of IPv6
    many = [Element(n.to_bytes(length, "big"), None, WEB) for n in range(ELEMENTS_PER_MESSAGE)]
    step = Transaction(adds=(Batch("IPv6", "allowed", tuple(many)),))

    packed = pack(step, TABLE, lambda _: Form.RANGES)

    assert len(packed.requests) == 1
    assert len(nft_elements.parse_all_elements(packed.requests[0].payload)) == len(many)


def test_the_bounds_of_ranges_are_sent_in_their_order() -> None:
    keys = interval_keys("IPv4", ("10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24"))
    shuffled = Batch("IPv4", SERVICE_CIDRS, tuple([Element(k, None, WEB) for k in reversed(keys)]))

    packed = pack_ours(Transaction(deletes=(shuffled,), adds=(shuffled,)))

    for request, elements in zip(packed.requests, packed.elements, strict=True):
        sent = nft_elements.parse_all_elements(request.payload)
        assert [parse_interval(Form.BOUNDS, element) for element in sent] == keys
        assert [element.key for element in elements] == keys  # who is blamed is found by position


def test_the_map_of_clients_is_limited_so_that_no_room_is_made_before_there_are_any() -> None:
    specs = {spec.name: spec for spec in LAYOUT.sets("IPv4")}

    packed = pack_ours(Transaction(sets=tuple([("IPv4", s) for s in specs.values()])))

    found = [
        nft_messages.parse_set(request.payload + codec.attr_be64(16, 1))
        for request in packed.requests
    ]
    assert {s.name: s.size for s in found if s.size} == {AFFINITY_CLIENTS: CLIENTS_AT_MOST}
    assert CLIENTS_AT_MOST & 0xFFFF == 0
