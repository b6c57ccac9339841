"""What rules say: fields, registers and comparisons."""

import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import nft_phrases as say
from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    Expression,
    Lookup,
    Masquerade,
    MetaLoad,
    MetaSet,
    Payload,
    Reject,
    Verdict,
)
from backends.kernel.nft_numbers import MetaKey, Operator, RejectKind, VerdictCode
from proxy.model import FAMILIES, Family

bits = st.integers(0, 31).map(lambda number: 1 << number)
marks = st.integers(0, 2**32 - 1)
registers = st.sampled_from([1, 9, 10, 11, 2, 13, 14, 15, 3, 17, 18, 19, 4, 21, 22, 23])
both_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize(
    ("address", "is_outside"),
    [
        pytest.param("10.244.0.0", False, id="first"),
        pytest.param("10.244.255.255", False, id="last"),
        pytest.param("10.243.255.255", True, id="before"),
        pytest.param("10.245.0.0", True, id="after"),
    ],
)
def test_a_source_outside_a_network_is_told_from_one_inside(
    address: str, is_outside: bool
) -> None:
    network = ipaddress.ip_network("10.244.0.0/16")
    source, mask, comparison = say.source_in_network(
        "IPv4", network.network_address.packed, network.netmask.packed, is_inverted=True
    )

    assert isinstance(source, Payload)
    assert (source.offset, source.length) == (12, 4)
    assert isinstance(mask, Bitwise)
    assert isinstance(comparison, Compare)
    packed = ipaddress.ip_address(address).packed
    masked = bytes([(a & m) ^ x for a, m, x in zip(packed, mask.mask, mask.xor, strict=True)])
    assert comparison.operator == Operator.NEQ
    assert (masked != comparison.data) == is_outside


@both_families
@pytest.mark.parametrize("has_address", [True, False])
def test_the_parts_of_a_frontend_follow_one_another_without_a_gap(
    family: Family, has_address: bool
) -> None:
    *parts, lookup = say.frontend_in(family, "s", has_address=has_address)

    width = 16 if family == "IPv6" else 4
    lengths = [width, 4, 4] if has_address else [4, 4]
    assert isinstance(lookup, Lookup)
    at = 0
    for part, length in zip(parts, lengths, strict=True):
        assert isinstance(part, Payload | MetaLoad)
        assert _slot(part.register) == at
        at += length // 4


@both_families
def test_a_mark_is_looked_up_and_set_whole(family: Family) -> None:
    *_, lookup, setting = say.mark_by_frontend(family, "marks")

    assert isinstance(lookup, Lookup)
    assert isinstance(setting, MetaSet)
    assert (lookup.data_register, setting.key) == (setting.register, MetaKey.MARK)


@pytest.mark.parametrize(
    ("mark", "is_ours"), [(0xA6000005, True), (0xA6004005, True), (0xA4000005, False), (0, False)]
)
def test_a_mark_is_compared_where_the_mask_has_bits(mark: int, is_ours: bool) -> None:
    _, masking, comparison = say.mark_is(0xA6000000, 0xFE000000)

    assert isinstance(masking, Bitwise)
    assert isinstance(comparison, Compare)
    pairs = zip(say.word(mark), masking.mask, strict=True)
    masked = bytes([a & m for a, m in pairs])
    assert (comparison.operator, masked == comparison.data) == (Operator.EQ, is_ours)


def _slot(register: int) -> int:
    return 4 * (register - 1) if register < 8 else register - 8


def run_on_mark(expressions: Iterable[Expression], mark: int) -> tuple[int, bool]:
    """Return the packet mark after these expressions, and whether they came to their end."""
    register = 0
    for expression in expressions:
        match expression:
            case MetaLoad(key=MetaKey.MARK):
                register = mark
            case Bitwise(mask=mask, xor=xor):
                register = register & say.read_word(mask) ^ say.read_word(xor)
            case Compare(operator=operator, data=data):
                if (register == say.read_word(data)) != (operator == Operator.EQ):
                    return mark, False
            case MetaSet(key=MetaKey.MARK):
                mark = register
            case _:
                return mark, True
    return mark, True


@given(marks, bits)
def test_marking_sets_our_bit_and_leaves_all_others(mark: int, bit: int) -> None:
    assert run_on_mark(say.or_mark(bit), mark) == (mark | bit, True)


@given(marks, bits)
def test_only_what_is_marked_is_masqueraded_and_loses_the_mark(mark: int, bit: int) -> None:
    expressions = say.masquerade_marked(bit)

    assert run_on_mark(expressions, mark) == (mark & ~bit, bool(mark & bit))
    assert isinstance(expressions[-1], Masquerade)


def test_a_reset_is_only_for_tcp() -> None:
    protocol, comparison, rejection = say.reset()

    assert protocol == MetaLoad(key=MetaKey.L4PROTO)
    assert comparison == Compare(operator=Operator.EQ, data=b"\6")
    assert rejection == Reject(kind=RejectKind.TCP_RESET)


@pytest.mark.parametrize(
    ("verdict", "code", "chain"),
    [
        (say.goto("there"), VerdictCode.GOTO, "there"),
        (say.jump("there"), VerdictCode.JUMP, "there"),
        (say.drop(), VerdictCode.DROP, ""),
    ],
)
def test_verdicts(verdict: Verdict, code: int, chain: str) -> None:
    assert (verdict.code, verdict.chain) == (code, chain)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([4], [1, 9], id="ip daddr"),
        pytest.param([4, 1, 2], [1, 9, 10, 11], id="ip daddr . meta l4proto . th dport"),
        pytest.param([4, 4, 4, 4], [1, 9, 10, 11, 2], id="four words fill a 16-byte register"),
        pytest.param([16, 2, 4], [1, 2, 13, 14], id="ip6 daddr . tcp dport . numgen"),
        pytest.param([16, 16, 1, 2], [1, 2, 3, 17, 18], id="ip6 saddr . ip6 daddr . proto . port"),
    ],
)
def test_parts_of_a_concatenation_go_where_nft_puts_them(
    lengths: list[int], expected: list[int]
) -> None:
    found = [1]
    for length in lengths:
        found.append(say.next_register(found[-1], length))

    assert found == expected


def test_there_are_64_bytes_of_registers() -> None:
    assert say.next_register(1, 60) == 23
    with pytest.raises(ValueError, match="64 bytes"):
        say.next_register(1, 64)


@given(registers, st.integers(1, 16), st.integers(1, 16))
def test_registers_of_a_concatenation_never_overlap(
    register: int, first: int, second: int
) -> None:
    def slot(number: int) -> int:
        return 4 * (number - 1) if number < 8 else number - 8

    try:
        middle = say.next_register(register, first)
        last = say.next_register(middle, second)
    except ValueError:
        return
    assert slot(middle) * 4 >= slot(register) * 4 + first
    assert slot(last) * 4 >= slot(middle) * 4 + second
    assert all(number in {1, 2, 3, 4} or number % 4 for number in (middle, last))
