import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import nft_expressions
from backends.kernel.nft_expressions import (
    AnyExpression,
    Bitwise,
    Compare,
    Counter,
    CtLoad,
    Dynset,
    Expression,
    Fib,
    Immediate,
    Lookup,
    Masquerade,
    MetaLoad,
    MetaSet,
    Nat,
    Numgen,
    Payload,
    Reject,
    Unknown,
    Verdict,
)
from backends.kernel.nft_numbers import NFPROTO_IPV4, REG_VERDICT, VerdictCode
from proxy.netlink import codec
from proxy.netlink.codec import Malformed
from tests.unit.backends.kernel.nft_goldens import EXPRESSIONS

little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host"
)
cases = pytest.mark.parametrize(
    ("value", "sent", "listed"),
    [
        pytest.param(value, bytes.fromhex(sent), bytes.fromhex(listed), id=words)
        for words, value, sent, listed in EXPRESSIONS
    ],
)

# What `nft` sends beyond what we do: it names sets also by their number within the transaction, it gives the
# operation of some bitwise expressions though it is the default, and a TCP reset a code it does not have.
SENT_BY_NFT_ONLY = {"lookup": 4, "dynset": 2, "bitwise": 6, "reject": 2}

u32 = st.integers(0, 2**32 - 1)
registers = st.integers(1, 23)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
words4 = st.binary(min_size=4, max_size=16)

expressions: st.SearchStrategy[Expression] = st.one_of(
    st.builds(MetaLoad, u32, registers),
    st.builds(MetaSet, u32, registers),
    st.builds(Payload, u32, u32, u32, registers),
    st.builds(Compare, u32, words4, registers),
    st.integers(1, 16).flatmap(
        lambda n: st.builds(
            Bitwise,
            st.binary(min_size=n, max_size=n),
            st.binary(min_size=n, max_size=n),
            registers,
        )
    ),
    st.builds(Lookup, names, registers, st.none() | st.integers(0, 23), st.booleans()),
    st.builds(Immediate, words4, registers),
    st.builds(Verdict, st.integers(-5, 1), st.just("") | names),
    st.builds(Numgen, u32, u32, registers, u32),
    st.builds(
        Nat,
        u32,
        u32,
        registers,
        st.none() | registers,
        st.integers(0, 2**32 - 1).map(lambda flags: flags & ~3),
    ),
    st.builds(Masquerade, u32),
    st.builds(Reject, u32, st.none() | st.integers(0, 255)),
    st.builds(CtLoad, u32, registers, st.none() | st.integers(0, 1)),
    st.builds(Fib, u32, u32, registers),
    st.builds(Counter, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.builds(Dynset, u32, names, registers, st.none() | registers, st.integers(0, 2**64 - 1)),
)


def parse_one(entry: bytes) -> AnyExpression:
    (found,) = nft_expressions.parse_expressions(entry)
    return found


def attributes(entry: bytes) -> tuple[str, list[tuple[int, bytes]]]:
    ((_, content),) = codec.iter_attrs(entry)
    parts = codec.parse_attrs(content)
    return codec.read_string(parts[1]), [
        (kind, bytes(v)) for kind, v in codec.iter_attrs(parts[2])
    ]


@little_endian
@cases
def test_expressions_are_sent_as_nft_sends_them(
    value: Expression, sent: bytes, listed: bytes
) -> None:
    name, from_nft = attributes(sent)
    packed = value.pack()

    if packed != sent:
        our_name, ours = attributes(packed)
        assert our_name == name
        assert ours == [a for a in from_nft if a in ours or a[0] != SENT_BY_NFT_ONLY.get(name)]


@little_endian
def test_nearly_all_expressions_are_sent_in_exactly_the_bytes_of_nft() -> None:
    different = {
        value.type_name for _, value, sent, _ in EXPRESSIONS if value.pack().hex() != sent
    }

    assert different == set(SENT_BY_NFT_ONLY)


@little_endian
@cases
def test_expressions_are_known_again_as_the_kernel_lists_them(
    value: Expression, sent: bytes, listed: bytes
) -> None:
    assert parse_one(listed) == value


@given(expressions)
def test_expressions_come_back_as_they_were_packed(value: Expression) -> None:
    assert parse_one(value.pack()) == value


@given(st.lists(expressions, max_size=8))
def test_a_rule_comes_back_in_order(values: list[Expression]) -> None:
    packed = nft_expressions.pack_expressions(values)

    assert nft_expressions.parse_expressions(packed) == tuple(values)


def entry(name: str, *attrs: bytes) -> bytes:
    return codec.nested(1, codec.attr_string(1, name), codec.nested(2, *attrs))


def be32(kind: int, value: int) -> bytes:
    return codec.attr_be32(kind, value)


def test_an_expression_that_is_not_modelled_is_kept_whole() -> None:
    found = parse_one(entry("quota", codec.attr_be64(1, 5)))

    assert found == Unknown("quota", codec.attr_be64(1, 5))
    assert found.pack() == entry("quota", codec.attr_be64(1, 5))


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(entry("masq", be32(1, 16), be32(2, 8)), id="masquerade to a port range"),
        pytest.param(
            entry("nat", be32(1, 1), be32(2, 2), be32(3, 1), be32(4, 2)), id="dnat to a range"
        ),
        pytest.param(
            entry("nat", be32(1, 1), be32(2, 2), be32(3, 1), be32(5, 9), be32(6, 10)),
            id="dnat to a range of ports",
        ),
        pytest.param(
            entry("lookup", be32(2, 1), codec.attr_string(1, "s"), be32(5, 3)),
            id="unknown lookup flags",
        ),
        pytest.param(
            entry("dynset", be32(4, 1), be32(3, 1), codec.attr_string(1, "s"), be32(9, 1)),
            id="inverted dynset",
        ),
        pytest.param(entry("meta", be32(2, 3)), id="meta without register"),
        pytest.param(entry("meta", be32(2, 3), be32(1, 1), be32(3, 1)), id="meta both ways"),
        pytest.param(
            entry("meta", be32(2, 3), codec.attr(1, b"\0\1")), id="register of two bytes"
        ),
        pytest.param(entry("cmp", be32(1, 1), be32(2, 0), codec.nested(3)), id="cmp without data"),
        pytest.param(entry("immediate", be32(1, 0), codec.nested(2)), id="verdict without code"),
        pytest.param(entry("reject", be32(1, 0), codec.attr(2, b"\0\3")), id="code of two bytes"),
    ],
)
def test_a_form_that_is_not_modelled_equals_nothing_we_write(packed: bytes) -> None:
    assert isinstance(parse_one(packed), Unknown)


@pytest.mark.parametrize("changed", [2, 3, 6], ids=["other register", "other length", "a shift"])
def test_a_bitwise_expression_of_another_kind_is_not_taken_for_ours(changed: int) -> None:
    attrs = {1: be32(1, 1), 2: be32(2, 1), 6: be32(6, 0), 3: be32(3, 4)}
    mask, xor = (codec.nested(kind, codec.attr(1, bytes(4))) for kind in (4, 5))
    assert parse_one(entry("bitwise", *attrs.values(), mask, xor)) == Bitwise(bytes(4), bytes(4))

    attrs[changed] = be32(changed, 2)

    assert isinstance(parse_one(entry("bitwise", *attrs.values(), mask, xor)), Unknown)


def test_flags_the_kernel_adds_to_nat_by_itself_make_no_difference() -> None:
    packed = entry("nat", be32(1, 1), be32(2, 2), be32(3, 1), be32(7, 0x3 | 0x10))

    assert parse_one(packed) == Nat(1, NFPROTO_IPV4, flags=0x10)


def test_padding_between_attributes_is_passed_over() -> None:
    packed = entry("counter", codec.attr(3, b""), codec.attr_be64(1, 7), codec.attr_be64(2, 1))

    assert parse_one(packed) == Counter(octets=7, packets=1)


def test_a_lookup_into_a_verdict_map_differs_from_one_into_a_set() -> None:
    assert Lookup("m", 1, REG_VERDICT).pack() != Lookup("m", 1).pack()
    assert parse_one(Lookup("m", 1, REG_VERDICT).pack()) != Lookup("m", 1)


def test_a_verdict_keeps_its_sign_and_its_chain() -> None:
    packed = nft_expressions.pack_expressions([Verdict(VerdictCode.GOTO, "c")])

    assert b"\xff\xff\xff\xfc" in packed
    assert nft_expressions.parse_expressions(packed) == (Verdict(-4, "c"),)


def test_an_entry_without_a_name_is_malformed() -> None:
    with pytest.raises(Malformed):
        nft_expressions.parse_expressions(codec.nested(1, codec.nested(2)))


@given(st.lists(expressions, min_size=1, max_size=3), st.data())
def test_damaged_rules_give_a_value_or_malformed(
    values: list[Expression], data: st.DataObject
) -> None:
    packed = bytearray(nft_expressions.pack_expressions(values))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = nft_expressions.parse_expressions(bytes(packed))
    except Malformed:
        return
    assert all(isinstance(value, Expression | Unknown) for value in found)
