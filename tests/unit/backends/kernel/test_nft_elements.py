import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_data import pack_value, pack_verdict
from backends.kernel.nft_elements import Data, Element
from backends.kernel.nft_numbers import MessageKind, VerdictCode
from proxy.netlink import codec
from proxy.netlink.codec import HEADER_LENGTH, Malformed, Request

IPV4 = 2

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
raw = st.binary(min_size=1, max_size=24)
keys = st.binary(max_size=24)
verdicts = st.tuples(st.integers(-5, 1), st.just("") | names)
data = st.none() | raw | verdicts


def listed(*elements: bytes) -> memoryview:
    """A message as the kernel lists it: without the flags that mark nested attributes."""

    def plain(attrs: bytes, depth: int) -> bytes:
        return b"".join(
            [
                codec.attr(kind, plain(bytes(view), depth - 1) if depth else bytes(view))
                for kind, view in codec.iter_attrs(attrs)
            ]
        )

    stripped = []
    for element in elements:
        ((_, content),) = codec.iter_attrs(element)
        parts = [
            codec.attr(
                kind,
                plain(bytes(view), 1 if view[2] == 2 else 0)
                if kind in {1, 2, 10}
                else bytes(view),
            )
            for kind, view in codec.iter_attrs(content)
        ]
        stripped.append(codec.attr(1, b"".join(parts)))
    attrs = (
        codec.attr_string(1, "t"),
        codec.attr_string(2, "s"),
        codec.attr(3, b"".join(stripped)),
    )
    return memoryview(b"\x02\0\0\x07" + b"".join(attrs))


def as_element(key: bytes, value: Data) -> bytes:
    return nft_elements.pack_element(Element(key, value))


def entries(request: Request) -> list[bytes]:
    content = codec.parse_attrs(request.payload, 4)[3]
    return [codec.attr(1 | codec.NLA_F_NESTED, bytes(v)) for _, v in codec.iter_attrs(content)]


# As `nft` 1.0.6 sent them, in list entries of kind 1.
@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        pytest.param(
            nft_elements.pack_verdict_element(bytes.fromhex("06000000 00500000"), "acc"),
            "2c000180 10000180 0c000100 0600000000500000"
            "18000280 14000280 08000100 fffffffc 08000200 61636300",
            id="tcp . 80 : goto acc",
        ),
        pytest.param(
            nft_elements.pack_element(
                Element(bytes.fromhex("11000000 00350000"), (VerdictCode.DROP, ""))
            ),
            "24000180 10000180 0c000100 1100000000350000 10000280 0c000280 08000100 00000000",
            id="udp . 53 : drop",
        ),
        pytest.param(
            nft_elements.pack_data_element(bytes([1, 2, 3, 4]), bytes.fromhex("00400000")),
            "1c000180 0c000180 08000100 01020304 0c000280 08000100 00400000",
            id="1.2.3.4 : 0x4000",
        ),
        pytest.param(
            nft_elements.pack_key_element(bytes.fromhex("06000000 00500000")),
            "14000180 10000180 0c000100 0600000000500000",
            id="tcp . 80",
        ),
        pytest.param(
            nft_elements.pack_key_element(bytes.fromhex("0050")),
            "10000180 0c000180 06000100 0050 0000",
            id="80",
        ),
        pytest.param(
            nft_elements.pack_bound_element(bytes([11, 0, 0, 0]), is_end=True),
            "18000180 08000300 00000001 0c000180 08000100 0b000000",
            id="end of 10.0.0.0/8",
        ),
        pytest.param(
            nft_elements.pack_element(
                Element(
                    bytes.fromhex("0a000001 00500000 0a000000"),
                    key_end=bytes.fromhex("0a000001 00500000 0affffff"),
                )
            ),
            "2c000180 14000180 10000100 0a000001005000000a000000"
            "14000a80 10000100 0a000001005000000affffff",
            id="10.0.0.1 . 80 . 10.0.0.0/8",
        ),
    ],
)
def test_elements_are_packed_as_nft_packs_them(packed: bytes, expected: str) -> None:
    assert packed == bytes.fromhex(expected)


@given(keys, raw)
def test_the_fast_packers_pack_what_the_general_one_does(key: bytes, value: bytes) -> None:
    assert nft_elements.pack_data_element(key, value) == as_element(key, value)
    assert nft_elements.pack_key_element(key) == as_element(key, None)
    for is_end in (False, True):
        bound = nft_elements.pack_bound_element(key, is_end=is_end)
        assert bound == nft_elements.pack_element(Element(key, is_interval_end=is_end))


@given(st.data(), st.integers(1, 40), st.integers(1, 16), st.integers(1, 5))
def test_equally_long_elements_packed_at_once_are_as_packed_one_by_one(
    data: st.DataObject, key_length: int, value_length: int, count: int
) -> None:
    def some(length: int) -> list[bytes]:
        return [data.draw(st.binary(min_size=length, max_size=length)) for _ in range(count)]

    all_keys, values = some(key_length), some(value_length)

    packed = nft_elements.pack_data_elements(all_keys, values)

    assert packed == [as_element(*each) for each in zip(all_keys, values, strict=True)]


@given(keys, names)
def test_the_fast_verdict_packer_packs_what_the_general_one_does(key: bytes, chain: str) -> None:
    packed = nft_elements.pack_verdict_element(key, chain)

    assert packed == as_element(key, (VerdictCode.GOTO, chain))


@given(
    st.builds(
        Element,
        keys,
        data,
        st.none() | raw,
        st.booleans(),
        st.integers(0, 2**63),
    )
)
def test_an_element_comes_back_as_it_was_packed(element: Element) -> None:
    ((_, content),) = codec.iter_attrs(nft_elements.pack_element(element))

    assert nft_elements.parse_element(content) == element


words = st.integers(1, 6).map(lambda n: 4 * n)


@st.composite
def homogeneous(draw: st.DrawFn) -> list[tuple[bytes, Data]]:
    """Elements of one set: keys of one length; data of one length, verdicts, or none."""
    length = draw(words | st.integers(1, 9))
    keys = draw(st.lists(st.binary(min_size=length, max_size=length), max_size=20))
    data_length = draw(words | st.integers(1, 9))
    chains = st.sampled_from(["a", "b", "chain-with-a-name"])
    values: st.SearchStrategy[Data] = draw(
        st.sampled_from(
            [
                st.none(),
                st.binary(min_size=data_length, max_size=data_length),
                st.just((VerdictCode.DROP, "")) | st.tuples(st.just(VerdictCode.GOTO), chains),
            ]
        )
    )
    return [(key, draw(values)) for key in keys]


@given(homogeneous())
def test_a_listed_block_comes_back_as_it_was_packed(pairs: list[tuple[bytes, Data]]) -> None:
    payload = listed(*[as_element(key, value) for key, value in pairs])

    assert nft_elements.parse_elements(payload) == pairs


@given(st.lists(st.tuples(keys, data), max_size=8))
def test_a_mixed_block_comes_back_as_it_was_packed(pairs: list[tuple[bytes, Data]]) -> None:
    packed = [as_element(key, value) for key, value in pairs]

    assert nft_elements.parse_elements(listed(*packed)) == pairs
    (request,) = nft_elements.new_elements(IPV4, "t", "s", packed) or [listed_request()]
    assert nft_elements.parse_elements(request.payload) == pairs


def listed_request() -> Request:
    return Request(0, 0, bytes(listed()))


@given(
    st.lists(
        st.builds(Element, keys, data, st.none() | raw, st.booleans(), st.just(0)), max_size=5
    )
)
def test_ranges_come_back_when_all_there_is_to_know_is_asked_for(elements: list[Element]) -> None:
    payload = listed(*[nft_elements.pack_element(element) for element in elements])

    assert nft_elements.parse_all_elements(payload) == elements
    pairs = [(element.key, element.data) for element in elements]
    assert nft_elements.parse_elements(payload) == pairs


def test_a_verdict_among_data_of_equal_length_is_told_apart() -> None:
    key = bytes(12)
    verdict = as_element(key, (VerdictCode.ACCEPT, ""))
    like_it = as_element(key, bytes(8))
    assert len(verdict) == len(like_it)

    assert nft_elements.parse_elements(listed(like_it, verdict)) == [
        (key, bytes(8)),
        (key, (VerdictCode.ACCEPT, "")),
    ]


@pytest.mark.parametrize(
    ("usual", "unusual"),
    [
        pytest.param(Element(bytes(12)), Element(bytes(4), is_interval_end=True), id="in a set"),
        pytest.param(
            Element(bytes(12), bytes(8)), Element(bytes(4), bytes(8), None, True), id="in a map"
        ),
    ],
)
def test_an_element_of_equal_length_but_other_attributes_is_told_apart(
    usual: Element, unusual: Element
) -> None:
    packed = [nft_elements.pack_element(element) for element in (usual, unusual, usual)]
    assert len({len(each) for each in packed}) == 1

    found = nft_elements.parse_elements(listed(*packed))

    assert found == [(e.key, e.data) for e in (usual, unusual, usual)]


def block(*entries_: bytes) -> bytes:
    return b"\x02\0\0\x07" + codec.attr(3, b"".join(entries_))


def test_an_element_shorter_than_its_key_is_malformed() -> None:
    whole = codec.attr(1, pack_value(1, bytes(12)))
    cut = struct.pack("=H", 16) + whole[2:16]

    with pytest.raises(Malformed):
        nft_elements.parse_elements(block(codec.attr(1, whole[4:] + pack_value(2, b"data")), cut))


def test_attributes_of_an_element_may_stand_in_any_order() -> None:
    entry = codec.attr(1, pack_value(2, b"data") + pack_value(1, b"key."))

    assert nft_elements.parse_elements(block(entry, entry)) == [(b"key.", b"data")] * 2


def test_a_key_may_end_without_being_filled_up() -> None:
    unfilled = struct.pack("=HHHH", 13, 1, 9, 1) + b"12345" + bytes(3)
    entry = codec.attr(1, unfilled + pack_value(2, b"data"))

    assert nft_elements.parse_elements(block(entry, entry)) == [(b"12345", b"data")] * 2


def test_a_key_that_is_a_verdict_is_malformed() -> None:
    entry = codec.attr(1, codec.attr(1, pack_verdict(VerdictCode.DROP)))

    with pytest.raises(Malformed):
        nft_elements.parse_elements(block(entry))


def test_a_catch_all_element_has_an_empty_key() -> None:
    catch_all = codec.nested(1, codec.attr_be32(3, 2))

    assert nft_elements.parse_elements(listed(catch_all)) == [(b"", None)]


def test_an_empty_set_lists_nothing() -> None:
    assert nft_elements.parse_elements(listed()) == []
    assert nft_elements.parse_elements(b"\x02\0\0\x07" + codec.attr_string(1, "t")) == []


@given(homogeneous(), st.data())
def test_damaged_blocks_give_values_or_malformed(
    pairs: list[tuple[bytes, Data]], draws: st.DataObject
) -> None:
    payload = bytearray(listed(*[as_element(key, value) for key, value in pairs]))
    for _ in range(draws.draw(st.integers(1, 4))):
        payload[draws.draw(st.integers(4, len(payload) - 1))] = draws.draw(st.integers(0, 255))
    try:
        found = nft_elements.parse_elements(bytes(payload))
    except Malformed:
        return
    assert all(isinstance(key, bytes) for key, _ in found)


@given(
    st.lists(
        st.builds(Element, keys, data, st.none() | raw, st.booleans(), st.just(0)), max_size=6
    )
)
def test_a_block_is_split_into_its_elements(elements: list[Element]) -> None:
    payload = listed(*[nft_elements.pack_element(element) for element in elements])

    found = nft_elements.split_elements(payload)

    assert [nft_elements.parse_elements(block(codec.attr(1, part)))[0] for part in found] == [
        (element.key, element.data) for element in elements
    ]


def test_equal_blocks_are_split_into_elements_that_differ_where_they_do() -> None:
    packed = [as_element(struct.pack("=III", 1, 2, n), bytes(8)) for n in range(100)]

    assert len(set(nft_elements.split_elements(listed(*packed)))) == 100
    assert len(set(nft_elements.split_elements(listed(*packed, packed[7])))) == 100


def test_a_block_that_ends_within_an_element_is_malformed() -> None:
    whole = bytes(listed(*[as_element(bytes(12), (VerdictCode.GOTO, c)) for c in "ab"]))
    content = codec.parse_attrs(whole, 4)[3]
    cut = b"\x02\0\0\x07" + codec.attr(3, bytes(content[:-8]))

    with pytest.raises(Malformed):
        nft_elements.parse_elements(cut)


def chunk(count: int) -> list[bytes]:
    return [
        nft_elements.pack_data_element(struct.pack(">III", 1, 2, n), bytes(8))
        for n in range(count)
    ]


Builder = Callable[[int, str, str, Sequence[bytes]], list[Request]]
builders = pytest.mark.parametrize(
    "build", [nft_elements.new_elements, nft_elements.del_elements], ids=["new", "del"]
)


@builders
@pytest.mark.parametrize("count", [1, 1637, 1638, 1639, 3276, 5000])
def test_elements_are_spread_over_as_few_messages_as_fit(build: Builder, count: int) -> None:
    elements = chunk(count)  # of 40 bytes: 1638 fit into 65535 with the header of the list

    requests = build(IPV4, "t", "s", elements)

    assert [each for request in requests for each in entries(request)] == elements
    assert len(requests) == -(-count // 1638)


@builders
def test_no_elements_are_no_message(build: Builder) -> None:
    assert build(IPV4, "t", "s", []) == []


@given(st.lists(st.integers(1, 30_000), max_size=12))
def test_no_list_of_elements_is_longer_than_its_length_can_say(lengths: list[int]) -> None:
    elements = [codec.nested(1, codec.attr(9, bytes(length))) for length in lengths]

    requests = nft_elements.new_elements(IPV4, "t", "s", elements)

    assert [each for request in requests for each in entries(request)] == elements
    for earlier, later in pairwise(requests):
        assert sum(map(len, entries(earlier))) + len(entries(later)[0]) > 65531


@pytest.mark.parametrize(("last", "messages"), [(32_760, 1), (32_764, 2)])
def test_a_list_is_filled_to_the_last_byte(last: int, messages: int) -> None:
    elements = [codec.attr(1, bytes(length - 4)) for length in (32_768, last)]

    assert len(nft_elements.new_elements(IPV4, "t", "s", elements)) == messages


def test_adding_creates_and_deleting_does_not() -> None:
    (new,) = nft_elements.new_elements(IPV4, "t", "s", chunk(1))
    (gone,) = nft_elements.del_elements(IPV4, "t", "s", chunk(1))

    assert (new.kind, new.flags) == (MessageKind.NEWSETELEM, codec.NLM_F_CREATE)
    assert (gone.kind, gone.flags) == (MessageKind.DELSETELEM, 0)
    assert new.payload == gone.payload
    assert new.payload[:20] == bytes.fromhex("02000000 06000100 74000000 06000200 73000000")


def test_flushing_names_no_element() -> None:
    request = nft_elements.flush_set(IPV4, "t", "s")

    assert request.kind == MessageKind.DELSETELEM
    assert codec.parse_attrs(request.payload, 4).keys() == {1, 2}


def test_single_elements_are_asked_for_one_by_one() -> None:
    requests = nft_elements.get_elements(IPV4, "t", "s", [b"key1", b"key2"])

    assert [request.kind for request in requests] == [MessageKind.GETSETELEM] * 2
    assert [entries(request) for request in requests] == [
        [nft_elements.pack_key_element(b"key1")],
        [nft_elements.pack_key_element(b"key2")],
    ]


@given(st.lists(st.tuples(raw, data), min_size=1, max_size=6), st.data())
def test_the_element_at_fault_is_found_by_its_offset(
    pairs: list[tuple[bytes, Data]], draws: st.DataObject
) -> None:
    packed = [as_element(key, value) for key, value in pairs]
    (request,) = nft_elements.new_elements(IPV4, "tab", "some-set", packed)
    guilty = draws.draw(st.integers(0, len(packed) - 1))
    message = codec.message(request.kind, request.flags, 1, request.payload)
    start = len(message) - sum(map(len, packed[guilty:]))
    offset = draws.draw(st.integers(start, start + len(packed[guilty]) - 1))

    assert nft_elements.element_at(request, offset) == guilty


def test_an_offset_before_the_elements_points_at_none() -> None:
    (request,) = nft_elements.del_elements(IPV4, "t", "s", chunk(2))

    assert nft_elements.element_at(request, HEADER_LENGTH + 4) is None
    assert nft_elements.element_at(request, HEADER_LENGTH + len(request.payload)) is None


def test_other_messages_have_no_elements() -> None:
    request = nft_messages.new_chain(IPV4, "t", "some-chain")

    assert nft_elements.element_at(request, 40) is None
