"""Ranges of addresses as nftables sets hold them: without overlaps, which the kernel refuses. Pure."""

from collections.abc import Iterable
from typing import Final

from proxy.addresses import bounds_of
from proxy.model import Family

BEGIN, END = b"\0", b"\1"
_WIDTHS: Final[dict[Family, int]] = {"IPv4": 4, "IPv6": 16}


def merged_ranges(family: Family, cidrs: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """Return first and last address of each range that canonical CIDRs make up."""
    width = _WIDTHS[family]
    return [(start.to_bytes(width), (end - 1).to_bytes(width)) for start, end in _merged(cidrs)]


def interval_keys(family: Family, cidrs: Iterable[str]) -> list[bytes]:
    """Return the elements of ranges in a plain interval set: where each begins, and what is next to its end.

    One byte follows the address to tell the two apart. A range without an end goes on to the last address.
    """
    width = _WIDTHS[family]
    keys: list[bytes] = []
    for start, end in _merged(cidrs):
        keys.append(start.to_bytes(width) + BEGIN)
        if end < 1 << (8 * width):
            keys.append(end.to_bytes(width) + END)
    return keys


def _merged(cidrs: Iterable[str]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(map(bounds_of, cidrs)):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged
