"""Slots are numbered without gaps, and change as little as possible."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from backends.nftables.model import LOCAL_FROM, Row
from backends.nftables.slots import (
    believed_slots,
    changed_slots,
    slot_key,
    slot_keys,
    slot_range,
)


@given(st.integers(0, 2000))
def test_the_number_of_a_slot_is_a_word_of_the_host_as_numgen_makes_it(number: int) -> None:
    assert slot_key(b"key", number) == b"key" + number.to_bytes(4, sys.byteorder)


@given(st.integers(0, 1100), st.integers(0, 5))
def test_a_range_of_slots_is_those_slots(first: int, count: int) -> None:
    keys = slot_range(b"key", first, count)

    assert list(keys) == [slot_key(b"key", number) for number in range(first, first + count)]


endpoints = st.sampled_from([bytes([number]) for number in range(8)])


@given(st.lists(endpoints, max_size=6), st.lists(endpoints, max_size=6, unique=True))
def test_slots_end_up_with_the_pool_and_change_as_little_as_possible(
    old: list[bytes], pool: list[bytes]
) -> None:
    changes = changed_slots(old, pool)

    result = dict(enumerate(old[: len(pool)])) | changes
    assert sorted(result) == list(range(len(pool)))
    assert sorted(result.values()) == sorted(pool)
    staying = {endpoint for number, endpoint in enumerate(old[: len(pool)]) if endpoint in pool}
    assert len(changes) == len(pool) - len(staying)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0, LOCAL_FROM]))
def test_what_is_believed_to_be_full_is_seen_up_to_the_first_gap(
    full: int, expected: int, first: int
) -> None:
    row = Row("endpoints-tcp", b"prefix", first, full)
    elements = dict(zip(slot_keys(row), [bytes([n]) for n in range(full)], strict=True))
    elements[slot_key(b"prefix", first + full + 1)] = b"beyond the gap"

    found = believed_slots(elements, row._replace(length=expected))

    assert found == [bytes([n]) for n in range(full)]
