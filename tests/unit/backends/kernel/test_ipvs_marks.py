"""Firewall marks: ours are told from others, whatever the masquerade bit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.ipvs_marks import NUMBERS, Marks, Role

ROLES: tuple[Role, ...] = ("cluster", "local", "here")
bits = st.integers(0, 31)
numbers = st.integers(0, NUMBERS - 1)


@given(bits, numbers)
def test_a_mark_tells_its_number_and_only_that_of_the_cluster_has_the_bit(
    bit: int, number: int
) -> None:
    marks = Marks(1 << bit)
    made = [marks.mark(number, role) for role in ROLES]

    assert [marks.number(mark) for mark in made] == [number] * 3
    assert [bool(mark & 1 << bit) for mark in made] == [True, False, False]
    assert len(set(made)) == 3
    assert all(0 < mark < 1 << 32 for mark in made)


@given(bits, numbers, numbers)
def test_marks_of_two_numbers_differ(bit: int, one: int, other: int) -> None:
    marks = Marks(1 << bit)
    made = {marks.mark(number, role) for number in {one, other} for role in ROLES}

    assert len(made) == 3 * len({one, other})


@pytest.mark.parametrize("mark", [0, 1, 0x4000, 0x10, 0xFFFFFFFF])
def test_marks_of_others_have_no_number(mark: int) -> None:
    assert Marks(0x4000).number(mark) is None


def test_the_rules_tell_ours_by_value_and_mask() -> None:
    marks = Marks(0x4000)

    assert all(marks.mark(5, role) & marks.mask == marks.value for role in ROLES)
    assert not marks.mask & 0x4000
