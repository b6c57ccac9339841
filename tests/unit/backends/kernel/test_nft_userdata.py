import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import nft_userdata
from backends.kernel.nft_userdata import VERDICT_TYPE, declare, set_userdata
from proxy.netlink.codec import Malformed

# What `nft` 1.0.6 sent for a set or map declared in these words, on a little-endian host:
# key, data, comment, type number of the key, its length, userdata.
SETS = [
    ("ipv4_addr", None, "", 0x7, 4, "000402000000"),
    ("ipv6_addr", None, "", 0x8, 16, "000402000000"),
    ("mark", None, "", 0x13, 4, "000401000000"),
    ("inet_proto", None, "", 0xC, 1, "000400000000"),
    ("inet_service", None, "hello", 0xD, 2, "000402000000070668656c6c6f00"),
    ("ipv4_addr . ipv4_addr", None, "", 0x1C7, 8, "000400000000030800040d0000000100"),
    (
        "ipv4_addr . inet_proto . inet_service",
        "verdict",
        "",
        0x730D,
        12,
        "000400000000010400000000030800040d0000000100060400000000",
    ),
    (
        "ipv6_addr . inet_proto . inet_service",
        "verdict",
        "hi",
        0x830D,
        24,
        "000400000000010400000000030800040d00000001000604000000000703686900",
    ),
    (
        "inet_proto . inet_service",
        "verdict",
        "",
        0x30D,
        8,
        "000400000000010400000000030800040d0000000100060400000000",
    ),
    ("ipv4_addr", "mark", "", 0x7, 4, "000402000000010401000000060400000000"),
    (
        "ipv4_addr . ipv4_addr . inet_proto . inet_service",
        "ipv4_addr . inet_service",
        "",
        0x1C730D,
        16,
        "000400000000010400000000030800040d0000000100040800040d0000000100060400000000",
    ),
    (
        "ip daddr . tcp dport . numgen random mod 65536",
        "ip daddr . tcp dport",
        "",
        0x7344,
        12,
        "000400000000010400000000035000040d00000001480014000407000000010c00040c00000001040c0000000114000407000000010c000408000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c000408000000010402000000060400000000",
    ),
    (
        "ip daddr . udp dport . numgen random mod 65536",
        "ip daddr . udp dport",
        "",
        0x7344,
        12,
        "000400000000010400000000035000040d00000001480014000407000000010c00040c00000001040c0000000114000407000000010c000406000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c000406000000010402000000060400000000",
    ),
    (
        "ip daddr . sctp dport . numgen random mod 65536",
        "ip daddr . sctp dport",
        "",
        0x7344,
        12,
        "000400000000010400000000035000040d00000001480014000407000000010c00040c00000001040c0000000114000407000000010c00040a000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c00040a000000010402000000060400000000",
    ),
    (
        "ip6 daddr . tcp dport . numgen random mod 65536",
        "ip6 daddr . tcp dport",
        "",
        0x8344,
        24,
        "000400000000010400000000035000040d00000001480014000407000000010c00040d0000000104090000000114000407000000010c000408000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c000408000000010402000000060400000000",
    ),
    (
        "ip6 daddr . udp dport . numgen random mod 65536",
        "ip6 daddr . udp dport",
        "",
        0x8344,
        24,
        "000400000000010400000000035000040d00000001480014000407000000010c00040d0000000104090000000114000407000000010c000406000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c000406000000010402000000060400000000",
    ),
    (
        "ip6 daddr . sctp dport . numgen random mod 65536",
        "ip6 daddr . sctp dport",
        "",
        0x8344,
        24,
        "000400000000010400000000035000040d00000001480014000407000000010c00040d0000000104090000000114000407000000010c00040a000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c00040a000000010402000000060400000000",
    ),
    (
        "ip saddr . ip daddr . meta l4proto . th dport",
        "ip daddr . th dport",
        "hi",
        0x1C730D,
        16,
        "000400000000010400000000035a00040d00000001520014000407000000010c00040c00000001040b0000000114000407000000010c00040c00000001040c000000020e00040900000001060004100000000314000407000000010c00040b000000010402000000043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c00040b0000000104020000000604000000000703686900",
    ),
    ("tcp sport", None, "", 0xD, 2, "0004020000000314000407000000010c000408000000010401000000"),
    (
        "ip6 saddr . meta l4proto",
        None,
        "",
        0x20C,
        20,
        "000400000000032e00040d00000001260014000407000000010c00040d000000010408000000010e0004090000000106000410000000",
    ),
    (
        "udp dport",
        "ip daddr",
        "",
        0xD,
        2,
        "0004020000000104020000000314000407000000010c0004060000000104020000000414000407000000010c00040c00000001040c000000060400000000",
    ),
    (
        "ip daddr",
        "meta mark",
        "",
        0x7,
        4,
        "0004020000000104010000000314000407000000010c00040c00000001040c000000040e0004090000000106000403000000060400000000",
    ),
]

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)


@pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes of a little-endian host")
@pytest.mark.parametrize(
    ("key", "data", "comment", "number", "length", "userdata"),
    [pytest.param(*each, id=f"{each[0]} : {each[1]}" if each[1] else each[0]) for each in SETS],
)
def test_sets_are_declared_as_nft_declares_them(
    key: str, data: str | None, comment: str, number: int, length: int, userdata: str
) -> None:
    declared = declare(key)

    assert (declared.type, declared.length) == (number, length)
    found = set_userdata(declared, declare(data) if data else None, comment)
    assert found == bytes.fromhex(userdata)


def test_parts_keep_the_length_they_have_before_they_are_filled_up() -> None:
    assert declare("ipv4_addr . inet_service . inet_proto").field_lengths == (4, 2, 1)
    assert declare("ipv4_addr").field_lengths == (4,)


def test_verdicts_have_a_type_but_no_length() -> None:
    assert declare("verdict")[:2] == (VERDICT_TYPE, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ipv5_addr", "ipv5_addr"),
        ("ip daddr . inet_service", "mixes"),
        ("ip daddr . numgen inc mod 3", "numgen inc mod 3"),
        ("numgen random mod many", "many"),
        ("", "''"),
    ],
)
def test_a_declaration_in_other_words_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declare(words)


@given(st.integers(0, 255), texts)
def test_a_comment_comes_back_as_it_was_written(kind: int, comment: str) -> None:
    packed = nft_userdata.comment_userdata(kind, comment)

    assert nft_userdata.parse_comment(packed, kind) == comment


def test_the_comment_of_a_rule_is_what_nft_makes_of_it() -> None:
    packed = nft_userdata.comment_userdata(nft_userdata.RULE_COMMENT, "sp1 abcdef")

    assert packed == bytes.fromhex("000b 7370312061626364656600")


def test_no_comment_is_no_userdata() -> None:
    assert nft_userdata.comment_userdata(nft_userdata.RULE_COMMENT, "") == b""
    assert nft_userdata.parse_comment(b"", nft_userdata.RULE_COMMENT) == ""


def test_the_comment_of_a_set_stands_among_its_other_userdata() -> None:
    userdata = set_userdata(declare("ipv4_addr"), None, "ours")

    assert nft_userdata.parse_comment(userdata, nft_userdata.SET_COMMENT) == "ours"
    assert nft_userdata.parse_comment(userdata, 6) == ""


def test_a_comment_too_long_for_its_length_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="exceed 255"):
        nft_userdata.comment_userdata(0, "x" * 255)


@given(st.binary(max_size=40))
def test_what_others_store_there_is_never_an_error(userdata: bytes) -> None:
    assert isinstance(nft_userdata.parse_comment(userdata, 0), str)


def test_userdata_that_end_within_a_value_are_malformed() -> None:
    with pytest.raises(Malformed):
        nft_userdata.iter_userdata(b"\0\x05abc")
    with pytest.raises(Malformed):
        nft_userdata.iter_userdata(b"\0")
