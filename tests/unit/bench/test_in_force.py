"""A change is in force when the last generation of its time began, as far as that was noticed."""

import pytest

from bench.in_force import Look, between_s, last_ms


@pytest.mark.parametrize(
    ("seen_s", "found_ms"),
    [
        ([9.9, 10.010, 10.012, 10.2], 12.0),
        ([10.0], 0.0),
        ([9.9, 10.2], None),
        ([], None),
    ],
)
def test_the_last_change_between_two_times_counts(
    seen_s: list[float], found_ms: float | None
) -> None:
    assert last_ms(seen_s, 10.0, 10.1) == pytest.approx(found_ms)


def test_a_change_counts_as_made_in_the_middle_between_two_looks() -> None:
    before = Look(7, 10.0)

    assert between_s(before, Look(7, 10.4)) is None
    assert between_s(before, Look(8, 10.4)) == pytest.approx(10.2)
