"""What rules say: fields, registers and comparisons."""

import ipaddress

import pytest

from backends.kernel import nft_phrases as say
from backends.kernel.nft_expressions import Bitwise, Compare, Lookup, MetaLoad, MetaSet, Payload
from backends.kernel.nft_numbers import MetaKey, Operator
from proxy.model import FAMILIES, Family

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
