import contextlib
import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.netlink import codec
from proxy.netlink.codec import Malformed, NetlinkAck

kinds = st.integers(1, 0x3FFF)
payloads = st.binary(max_size=200)


def error_payload(error: int, echoed: bytes, *extended: bytes) -> bytes:
    return struct.pack("=i", error) + echoed + b"".join(extended)


REQUEST_HEADER = codec.header(5, 1, 7, 0)
TEXT = codec.attr(1, b"no such thing\0")
OFFSET = codec.attr(2, struct.pack("=I", 44))


def test_an_attribute_counts_its_header_but_not_its_padding() -> None:
    assert codec.attr(3, b"abcde") == struct.pack("=HH", 9, 3) + b"abcde\0\0\0"


def test_an_attribute_of_a_multiple_of_four_bytes_has_no_padding() -> None:
    assert codec.attr(3, b"abcd") == struct.pack("=HH", 8, 3) + b"abcd"


def test_a_nested_attribute_says_so_and_holds_its_children() -> None:
    packed = codec.nested(4, codec.attr(1, b"a"), codec.attr(2, b"bc"))

    assert struct.unpack_from("=HH", packed) == (20, 4 | codec.NLA_F_NESTED)
    ((kind, content),) = codec.iter_attrs(packed)
    assert kind == 4
    assert [(k, bytes(v)) for k, v in codec.iter_attrs(content)] == [(1, b"a"), (2, b"bc")]


def test_the_longest_attribute_has_65535_bytes_with_its_header() -> None:
    assert struct.unpack_from("=H", codec.attr(1, bytes(65531))) == (65535,)
    with pytest.raises(ValueError, match="attribute 1 of 65536 bytes"):
        codec.attr(1, bytes(65532))


@given(st.lists(st.tuples(kinds, payloads)))
def test_attributes_come_back_as_they_were_packed(attrs: list[tuple[int, bytes]]) -> None:
    packed = b"".join([codec.attr(kind, payload) for kind, payload in attrs])

    assert [(kind, bytes(view)) for kind, view in codec.iter_attrs(packed)] == attrs
    assert {kind: bytes(view) for kind, view in codec.parse_attrs(packed).items()} == dict(attrs)


def test_attributes_are_read_from_an_offset_on() -> None:
    packed = b"family.." + codec.attr(1, b"x")

    assert [(kind, bytes(view)) for kind, view in codec.iter_attrs(packed, 8)] == [(1, b"x")]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x04", id="half a header"),
        pytest.param(struct.pack("=HH", 3, 1), id="shorter than its header"),
        pytest.param(struct.pack("=HH", 9, 1) + b"1234", id="longer than the rest"),
        pytest.param(codec.attr(1, b"") + b"\0\0", id="bytes left over"),
    ],
)
def test_broken_attributes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        codec.parse_attrs(data)


@given(st.integers(-(2**31), 2**32 - 1), st.integers(0, 2**64 - 1))
def test_numbers_come_back_in_network_byte_order(small: int, large: int) -> None:
    ((_, view),) = codec.iter_attrs(codec.attr_be32(1, small))
    assert bytes(view) == (small & 0xFFFFFFFF).to_bytes(4, "big")
    assert codec.read_be32(view) == small & 0xFFFFFFFF

    ((_, view),) = codec.iter_attrs(codec.attr_be64(1, large))
    assert codec.read_be64(view) == large


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_numbers_come_back_in_host_byte_order(short: int, long: int) -> None:
    ((_, view),) = codec.iter_attrs(codec.attr_u16(1, short))
    assert bytes(view) == short.to_bytes(2, sys.byteorder)
    assert codec.read_u16(view) == short

    ((_, view),) = codec.iter_attrs(codec.attr_u32(1, long))
    assert bytes(view) == long.to_bytes(4, sys.byteorder)
    assert codec.read_u32(view) == long


@pytest.mark.parametrize(
    "read", [codec.read_u16, codec.read_u32, codec.read_be32, codec.read_be64]
)
def test_a_number_of_the_wrong_length_is_malformed(read: object) -> None:
    assert callable(read)
    with pytest.raises(Malformed):
        read(b"123")


def test_a_string_ends_in_nul_and_is_read_without_it() -> None:
    ((_, view),) = codec.iter_attrs(codec.attr_string(1, "chäin"))

    assert bytes(view).endswith(b"\0")
    assert codec.read_string(view) == "chäin"
    assert codec.read_string(b"no end") == "no end"


def test_a_foreign_name_that_is_not_utf_8_can_be_sent_back() -> None:
    name = codec.read_string(b"\xff\xfe\0")

    assert name.encode(errors="surrogateescape") == b"\xff\xfe"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), payloads
        )
    )
)
def test_messages_come_back_as_they_were_packed(
    messages: list[tuple[int, int, int, bytes]],
) -> None:
    datagram = b"".join([codec.message(*message) for message in messages])

    found = [(m.kind, m.flags, m.seq, bytes(m.payload)) for m in codec.iter_messages(datagram)]
    assert found == messages


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"123456789", id="half a header"),
        pytest.param(struct.pack("=IHHII", 15, 0, 0, 0, 0), id="shorter than its header"),
        pytest.param(struct.pack("=IHHII", 40, 0, 0, 0, 0), id="longer than the datagram"),
    ],
)
def test_broken_messages_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(codec.iter_messages(data))


def test_an_acknowledgement_without_error_is_success() -> None:
    payload = error_payload(0, REQUEST_HEADER)

    assert codec.parse_error(payload, codec.NLM_F_CAPPED) == NetlinkAck(0, "", None)


def test_a_refusal_carries_number_text_and_offset() -> None:
    payload = error_payload(-2, REQUEST_HEADER, TEXT, OFFSET)

    found = codec.parse_error(payload, codec.NLM_F_CAPPED | codec.NLM_F_ACK_TLVS)

    assert found == NetlinkAck(2, "no such thing", 44)


def test_the_text_of_a_refusal_stands_after_the_whole_request_if_that_is_repeated() -> None:
    echoed = codec.message(5, 1, 7, b"a payload")
    payload = error_payload(-17, echoed, TEXT)

    assert codec.parse_error(payload, codec.NLM_F_ACK_TLVS) == NetlinkAck(
        17, "no such thing", None
    )


def test_a_refusal_without_the_flag_has_no_text_whatever_follows() -> None:
    payload = error_payload(-2, REQUEST_HEADER, TEXT)

    assert codec.parse_error(payload, codec.NLM_F_CAPPED) == NetlinkAck(2, "", None)


def test_the_end_of_a_dump_may_be_an_error_with_a_text() -> None:
    payload = error_payload(-2, b"", TEXT)

    assert codec.parse_done(payload, codec.NLM_F_ACK_TLVS) == NetlinkAck(2, "no such thing", None)
    assert codec.parse_done(struct.pack("=i", 0), 0) == NetlinkAck(0, "", None)
    assert codec.parse_done(b"", 0) == NetlinkAck(0, "", None)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\0\0\0\0", id="no request"),
        pytest.param(error_payload(-2, REQUEST_HEADER, codec.attr(2, b"\0")), id="short offset"),
        pytest.param(error_payload(-2, REQUEST_HEADER, b"\1"), id="broken attribute"),
    ],
)
def test_a_broken_refusal_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        codec.parse_error(payload, codec.NLM_F_CAPPED | codec.NLM_F_ACK_TLVS)


@given(st.binary(max_size=80), st.integers(0, 0xFFFF))
def test_decoders_answer_arbitrary_bytes_with_a_value_or_malformed(
    data: bytes, flags: int
) -> None:
    for decode in (codec.parse_attrs, lambda data: list(codec.iter_messages(data))):
        with contextlib.suppress(Malformed):
            decode(data)
    for parse in (codec.parse_error, codec.parse_done):
        with contextlib.suppress(Malformed):
            assert parse(data, flags).errno >= -(2**31)


@given(st.lists(payloads, min_size=2, max_size=5))
def test_attributes_follow_one_another_on_multiples_of_four(contents: list[bytes]) -> None:
    packed = [codec.attr(1, content) for content in contents]

    ends = [sum(map(len, packed[:count])) for count in range(len(packed) + 1)]
    assert all(end % 4 == 0 for end in ends)
    assert all(later - earlier >= 4 for earlier, later in pairwise(ends))
