"""Ranges as nftables sets hold them."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_ranges import interval_keys, merged_ranges

cidrs = st.lists(
    st.builds(
        lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    min_size=1,
    max_size=6,
)


@given(cidrs, st.integers(0, 2**32 - 1))
def test_an_address_is_in_the_merged_ranges_if_it_is_in_one_of_the_cidrs(
    ranges: list[str], number: int
) -> None:
    address = ipaddress.ip_address(number)
    merged = merged_ranges("IPv4", ranges)

    is_in = any(address in ipaddress.ip_network(cidr) for cidr in ranges)
    assert any(first <= address.packed <= last for first, last in merged) == is_in


@given(cidrs)
def test_merged_ranges_neither_overlap_nor_touch(ranges: list[str]) -> None:
    merged = merged_ranges("IPv4", ranges)

    ends = [int.from_bytes(last) for _, last in merged]
    starts = [int.from_bytes(first) for first, _ in merged]
    assert all(start > end + 1 for start, end in zip(starts[1:], ends, strict=False))


@given(cidrs)
def test_an_interval_set_has_the_same_ranges(ranges: list[str]) -> None:
    keys = interval_keys("IPv4", ranges)
    begins = [key[:-1] for key in keys if key[-1:] == b"\0"]
    ends = [int.from_bytes(key[:-1]) - 1 for key in keys if key[-1:] == b"\1"]

    merged = merged_ranges("IPv4", ranges)
    assert begins == [first for first, _ in merged]
    assert ends == [int.from_bytes(last) for _, last in merged if last != b"\xff" * 4]


def test_the_last_address_has_no_end() -> None:
    assert interval_keys("IPv6", ("ff00::/8",)) == [b"\xff" + bytes(15) + b"\0"]
