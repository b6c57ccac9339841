"""Steps as netlink messages, and which element a refusal is about."""

from collections.abc import Iterable

import pytest

from backends.ipvs import messages
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.messages import ELEMENTS_PER_MESSAGE
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    EXTERNALS,
    SERVICE_CIDRS,
    SERVICES,
    TABLE,
    Batch,
    Data,
    Element,
    NftStep,
    Operation,
    Verb,
)
from backends.kernel import ipvs_messages, nft_elements
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft_numbers import NFPROTO_IPV4, MessageKind, VerdictCode
from backends.kernel.nft_table import ChainSpec, RuleSpec
from proxy.model import FAMILIES
from proxy.netlink import codec
from tests.model_builders import make_key

LAYOUT = Layout(IpvsSettings(families=FAMILIES))
WEB, API = make_key("default/web"), make_key("default/api")
SERVER = VirtualServer(ServerId("IPv4", "TCP", "10.96.0.10", 80), "rr")
PLACE = Destination("10.1.0.1", 8080, weight=3)
K = MessageKind


def batch(name: str, *elements: Element) -> Batch:
    return Batch("IPv4", name, elements)


def kinds(requests: Iterable[codec.Request]) -> list[int]:
    return [request.kind for request in requests]


def test_a_transaction_is_packed_in_the_order_in_which_the_kernel_can_work_it_off() -> None:
    chain = ChainSpec("chain", None, (RuleSpec(b"", "one"), RuleSpec(b"", "two")))
    packed = messages.pack(
        NftStep(
            rebuild=("IPv4",),
            tables=("IPv4",),
            sets=(("IPv4", LAYOUT.sets("IPv4")[0]),),
            chains=(("IPv4", chain),),
            deletes=(batch(SERVICES, Element(b"old1", None, WEB)),),
            adds=(batch(SERVICES, Element(b"new1", None, WEB)),),
        )
    )

    assert kinds(packed.requests) == [
        K.DELTABLE, K.NEWTABLE, K.NEWSET, K.NEWCHAIN, K.DELRULE, K.NEWRULE, K.NEWRULE,
        K.DELSETELEM, K.NEWSETELEM,
    ]  # fmt: skip
    assert len(packed.elements) == len(packed.requests)


@pytest.mark.parametrize("name", [EXTERNALS, ALLOWED])
def test_many_elements_take_several_messages_none_of_which_is_too_long(name: str) -> None:
    facts = LAYOUT.set_facts["IPv6"][name]
    length = facts.key_length * (2 if name == ALLOWED else 1)
    data: Data = bytes(4) if name == EXTERNALS else None
    many = [Element(n.to_bytes(length, "big"), data, WEB) for n in range(ELEMENTS_PER_MESSAGE + 1)]

    packed = messages.pack(NftStep(adds=(Batch("IPv6", name, tuple(many)),)))

    assert [len(each) for each in packed.elements] == [ELEMENTS_PER_MESSAGE, 1]
    assert len(packed.requests) == 2


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_element_the_kernel_points_at_is_found(position: int) -> None:
    elements = [Element(bytes([n] * 4), bytes(4), key) for n, key in enumerate([WEB, API, None])]
    packed = messages.pack(NftStep(adds=(batch(EXTERNALS, *elements),)))
    one = len(nft_elements.pack_data_element(bytes(4), bytes(4)))
    first = codec.HEADER_LENGTH + len(packed.requests[0].payload) - 3 * one

    assert packed.element_at(0, first + position * one) == elements[position]


def test_a_refusal_without_a_place_is_of_the_only_element_and_of_none_among_several() -> None:
    one, other = (Element(bytes([n] * 4), None, key) for n, key in enumerate([WEB, API]))
    packed = messages.pack(NftStep(deletes=(batch(BOUND, one),), adds=(batch(BOUND, one, other),)))

    assert packed.element_at(0, None) is one
    assert packed.element_at(1, None) is None
    # after the header of nf_tables stands the table's name
    assert packed.element_at(0, codec.HEADER_LENGTH + 8) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param(SERVICE_CIDRS, b"\x0a\x60\0\0\0", id="where a range begins"),
        pytest.param(SERVICE_CIDRS, b"\x0a\x70\0\0\1", id="where it ends"),
        pytest.param(ALLOWED, b"first-12byte" + b"last--12byte", id="sources"),
    ],
)
def test_ranges_are_packed_and_read_back_by_the_same_key(name: str, key: bytes) -> None:
    (request,) = messages.pack(NftStep(adds=(batch(name, Element(key, None, WEB)),))).requests

    (element,) = nft_elements.parse_all_elements(request.payload)

    assert messages.parse_interval(name, element) == key
    assert element.is_interval_end == (name == SERVICE_CIDRS and key[-1] == 1)


def test_a_range_of_one_source_is_read_back_as_its_first_and_its_last() -> None:
    assert messages.parse_interval(ALLOWED, nft_elements.Element(b"only")) == b"onlyonly"


def test_a_mark_is_packed_as_it_is_read_and_a_verdict_is_none_of_ours() -> None:
    step = NftStep(adds=(batch(EXTERNALS, Element(b"key1", b"\1\2\3\4", WEB)),))
    (request,) = messages.pack(step, "elsewhere").requests

    assert request == nft_elements.new_elements(
        NFPROTO_IPV4, "elsewhere", EXTERNALS,
        [nft_elements.pack_data_element(b"key1", b"\1\2\3\4")],
    )[0]  # fmt: skip
    assert messages.pack(step).requests != [request]  # the table is ours unless another is named
    assert TABLE.encode() in messages.pack(step).requests[0].payload
    assert messages.parse_data(b"\1\2\3\4") == b"\1\2\3\4"
    assert messages.parse_data((VerdictCode.ACCEPT, "")) is None


@pytest.mark.parametrize(
    ("verb", "spec", "expected"),
    [
        ("add server", SERVER, ipvs_messages.new_server(SERVER)),
        ("set server", SERVER, ipvs_messages.set_server(SERVER)),
        ("del server", None, ipvs_messages.del_server(SERVER.id)),
        ("add destination", PLACE, ipvs_messages.new_destination(SERVER.id, PLACE)),
        ("set destination", PLACE, ipvs_messages.set_destination(SERVER.id, PLACE)),
        (
            "del destination",
            PLACE,
            ipvs_messages.del_destination(SERVER.id, PLACE.address, PLACE.port),
        ),
    ],
)
def test_an_operation_is_the_message_its_verb_says(
    verb: Verb, spec: VirtualServer | Destination | None, expected: bytes
) -> None:
    assert messages.pack_operation(Operation(verb, SERVER.id, spec, WEB)) == expected
