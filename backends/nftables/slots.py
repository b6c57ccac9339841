"""Slots: the elements of a map that hold the endpoints of a list, numbered without gaps. Pure.

The number ends the key, as a word in the host's byte order, as `numgen` produces it.
"""

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from backends.kernel.nft_table import Data
from backends.nftables.model import Row

_WIDE: Final = 128
_SLOT_NUMBERS: Final = tuple([struct.pack("=I", number) for number in range(1024)])


def slot_key(prefix: bytes, number: int) -> bytes:
    """Return the key of one slot of a pool."""
    if number < len(_SLOT_NUMBERS):
        return prefix + _SLOT_NUMBERS[number]
    return prefix + struct.pack("=I", number)


def slot_range(prefix: bytes, start: int, count: int) -> Sequence[bytes]:
    """Return the keys of consecutive slots."""
    if count < _WIDE:
        return [prefix + number for number in _numbers(start, count)]
    return _wide_slot_range(prefix, start, count)


@functools.lru_cache(maxsize=4 * _WIDE)
def _numbers(start: int, count: int) -> tuple[bytes, ...]:
    """Return what the keys of consecutive slots end in."""
    return tuple([slot_key(b"", number) for number in range(start, start + count)])


@functools.lru_cache(maxsize=64)
def _wide_slot_range(prefix: bytes, start: int, count: int) -> tuple[bytes, ...]:
    """Return the keys of many slots. Kept, because a large pool rarely changes only once, and because
    bytes remember their hash: looking the same objects up again is several times faster."""
    return tuple([slot_key(prefix, number) for number in range(start, start + count)])


def changed_slots(old: Sequence[bytes], pool: Sequence[bytes]) -> dict[int, bytes]:
    """Return what to write into which slots so that a pool fills the first of them.

    `old` are the slots as they are, `pool` the distinct endpoints wanted. What can stay in its slot stays.
    """
    if not old:
        return dict(enumerate(pool))
    size, wanted = len(pool), set(pool)
    kept = old[:size]
    missing = wanted.difference(kept)
    if not missing and len(kept) == size:
        return {}
    holes = [number for number, data in enumerate(kept) if data not in wanted]
    if len(holes) + size - len(kept) < len(missing):
        # somebody has put an endpoint into two slots: all but the first are holes
        first = {data: number for number, data in reversed(list(enumerate(kept)))}
        holes = [n for n, data in enumerate(kept) if data not in wanted or first[data] != n]
    holes += range(len(kept), size)
    return dict(zip(holes, [data for data in pool if data in missing], strict=True))


def slot_keys(row: Row) -> Sequence[bytes]:
    """Return the keys of all slots of a row."""
    return slot_range(row.prefix, row.first, row.length)


def believed_slots(elements: Mapping[bytes, Data], row: Row) -> list[bytes]:
    """Return the slots from the first on that we believe full, usually one more or less than wanted."""
    found: list[bytes] = []
    if slot_key(row.prefix, row.first) not in elements:
        return found
    while True:
        # one size for pools that grow and shrink a little
        keys = slot_range(row.prefix, row.first + len(found), (row.length | 7) + 1)
        block: list[Any] = list(
            map(elements.get, keys)
        )  # bytes: an endpoint map holds nothing else
        if None in block:
            found += block[: block.index(None)]
            return found
        found += block
