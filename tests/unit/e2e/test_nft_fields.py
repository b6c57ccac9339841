import ipaddress
import sys

import pytest

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
from e2e import nft_fields


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
