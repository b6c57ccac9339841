import ipaddress
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import nft_fields
from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    CtLoad,
    Expression,
    MetaLoad,
    MetaSet,
    Payload,
)
from backends.kernel.nft_numbers import (
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    CtKey,
    MetaKey,
    Operator,
    PayloadBase,
)

registers = st.sampled_from([1, 9, 10, 11, 2, 13, 14, 15, 3, 17, 18, 19, 4, 21, 22, 23])


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
        found.append(nft_fields.next_register(found[-1], length))

    assert found == expected


def test_there_are_64_bytes_of_registers() -> None:
    assert nft_fields.next_register(1, 60) == 23
    with pytest.raises(ValueError, match="64 bytes"):
        nft_fields.next_register(1, 64)


@given(registers, st.integers(1, 16), st.integers(1, 16))
def test_registers_of_a_concatenation_never_overlap(
    register: int, first: int, second: int
) -> None:
    def slot(number: int) -> int:
        return 4 * (number - 1) if number < 8 else number - 8

    try:
        middle = nft_fields.next_register(register, first)
        last = nft_fields.next_register(middle, second)
    except ValueError:
        return
    assert slot(middle) * 4 >= slot(register) * 4 + first
    assert slot(last) * 4 >= slot(middle) * 4 + second
    assert all(number in {1, 2, 3, 4} or number % 4 for number in (middle, last))


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        pytest.param(nft_fields.source(NFPROTO_IPV4), (PayloadBase.NETWORK, 12, 4), id="ip saddr"),
        pytest.param(
            nft_fields.destination(NFPROTO_IPV4), (PayloadBase.NETWORK, 16, 4), id="ip daddr"
        ),
        pytest.param(
            nft_fields.source(NFPROTO_IPV6), (PayloadBase.NETWORK, 8, 16), id="ip6 saddr"
        ),
        pytest.param(
            nft_fields.destination(NFPROTO_IPV6), (PayloadBase.NETWORK, 24, 16), id="ip6 daddr"
        ),
        pytest.param(nft_fields.destination_port(), (PayloadBase.TRANSPORT, 2, 2), id="th dport"),
    ],
)
def test_fields_are_where_the_headers_have_them(
    load: Payload, expected: tuple[int, int, int]
) -> None:
    assert (load.header, load.offset, load.length) == expected


def prefix(text: str, operator: int = Operator.EQ) -> tuple[Expression, ...]:
    network = ipaddress.ip_network(text)
    family = NFPROTO_IPV4 if network.version == 4 else NFPROTO_IPV6
    load = nft_fields.source(family, 2)
    return nft_fields.match_prefix(
        load, network.network_address.packed, network.prefixlen, operator
    )


def test_a_prefix_of_whole_bytes_is_compared_as_far_as_it_goes() -> None:
    assert prefix("10.244.0.0/16", Operator.NEQ) == (
        Payload(PayloadBase.NETWORK, 12, 2, 2),
        Compare(Operator.NEQ, bytes([10, 244]), 2),
    )
    assert prefix("fd00:10:244::/64") == (
        Payload(PayloadBase.NETWORK, 8, 8, 2),
        Compare(Operator.EQ, bytes.fromhex("fd00001002440000"), 2),
    )


def test_any_other_prefix_is_masked_first() -> None:
    assert prefix("10.1.16.0/20") == (
        Payload(PayloadBase.NETWORK, 12, 4, 2),
        Bitwise(b"\xff\xff\xf0\0", bytes(4), 2),
        Compare(Operator.EQ, bytes([10, 1, 16, 0]), 2),
    )


def test_a_whole_address_is_a_prefix_too() -> None:
    assert prefix("10.1.2.3/32")[1] == Compare(Operator.EQ, bytes([10, 1, 2, 3]), 2)


@pytest.mark.parametrize("length", [0, 33])
def test_a_prefix_that_is_none_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="prefix length"):
        nft_fields.match_prefix(nft_fields.source(NFPROTO_IPV4), bytes(4), length)


MARK = (0x4000).to_bytes(4, sys.byteorder)


def test_a_bit_of_the_mark_is_set_without_touching_the_others() -> None:
    assert nft_fields.set_mark_bits(0x4000) == (
        MetaLoad(MetaKey.MARK),
        Bitwise((0xFFFFBFFF).to_bytes(4, sys.byteorder), MARK),
        MetaSet(MetaKey.MARK),
    )


def test_a_bit_of_the_mark_is_flipped_without_touching_the_others() -> None:
    assert nft_fields.flip_mark_bits(0x4000) == (
        MetaLoad(MetaKey.MARK),
        Bitwise(b"\xff\xff\xff\xff", MARK),
        MetaSet(MetaKey.MARK),
    )


def test_bits_match_when_any_of_them_is_set() -> None:
    assert nft_fields.match_bits(CtLoad(CtKey.STATUS), 0x4000) == (
        CtLoad(CtKey.STATUS),
        Bitwise(MARK, bytes(4)),
        Compare(Operator.NEQ, bytes(4)),
    )
