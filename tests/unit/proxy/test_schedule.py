"""The schedule on a clock that stands still: when rounds, polls and verifications are due."""

import pytest

from proxy.schedule import (
    REPAIR_WINDOW_S,
    REPAIRS_BEFORE_CONTENDED,
    RETRY_FIRST_S,
    RETRY_LAST_S,
    Backoff,
    Schedule,
)


def repaired_at(*times_s: float) -> Schedule:
    schedule = Schedule(now_s=0.0)
    for now_s in times_s:
        schedule.verified(now_s, repaired=True)
    return schedule


def test_nothing_is_due_without_changes() -> None:
    schedule = Schedule(now_s=100.0)

    assert schedule.round_due_s(has_changes=False) is None

    schedule.round_ended(101.0, failed=False)
    assert schedule.round_due_s(has_changes=False) is None


def test_the_first_change_is_due_at_once() -> None:
    schedule = Schedule(now_s=100.0, min_interval_s=10.0)

    due_s = schedule.round_due_s(has_changes=True)

    assert due_s is not None
    assert due_s <= 100.0


def test_the_minimum_interval_is_from_the_end_of_a_round_to_the_start_of_the_next() -> None:
    schedule = Schedule(now_s=0.0, min_interval_s=10.0)

    schedule.round_ended(107.0, failed=False)  # however long it took

    assert schedule.round_due_s(has_changes=True) == 117.0


def test_a_change_after_a_quiet_time_is_due_at_once() -> None:
    schedule = Schedule(now_s=0.0, min_interval_s=10.0)
    schedule.round_ended(100.0, failed=False)

    due_s = schedule.round_due_s(has_changes=True)

    assert due_s is not None
    assert due_s < 200.0


def test_without_a_minimum_interval_rounds_follow_each_other() -> None:
    schedule = Schedule(now_s=0.0)

    schedule.round_ended(100.0, failed=False)

    assert schedule.round_due_s(has_changes=True) == 100.0


def test_changes_that_come_meanwhile_collapse_into_one_round() -> None:
    """Asking is free: when the next round is due depends only on the end of the last one."""
    schedule = Schedule(now_s=0.0, min_interval_s=10.0)
    schedule.round_ended(100.0, failed=False)

    asked = {schedule.round_due_s(has_changes=True) for _ in range(3)}
    schedule.round_ended(110.0, failed=False)

    assert asked == {110.0}
    assert schedule.round_due_s(has_changes=False) is None


def test_a_failure_is_tried_again_without_new_changes() -> None:
    schedule = Schedule(now_s=0.0)

    schedule.round_ended(100.0, failed=True)

    assert schedule.failures == 1
    for has_changes in (False, True):
        assert schedule.round_due_s(has_changes=has_changes) == 100.0 + RETRY_FIRST_S


def test_failures_in_a_row_are_tried_again_later_and_later() -> None:
    schedule = Schedule(now_s=0.0, backoff=Backoff(first_s=1.0, last_s=5.0))
    delays = []

    for _ in range(5):
        schedule.round_ended(100.0, failed=True)
        delays.append((schedule.round_due_s(has_changes=False) or 0.0) - 100.0)

    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_retry_never_comes_before_the_minimum_interval() -> None:
    schedule = Schedule(now_s=0.0, min_interval_s=10.0, backoff=Backoff(first_s=1.0, last_s=20.0))
    delays = []

    for _ in range(5):
        schedule.round_ended(100.0, failed=True)
        delays.append((schedule.round_due_s(has_changes=False) or 0.0) - 100.0)

    assert delays == [10.0, 10.0, 10.0, 10.0, 16.0]


def test_what_begins_anew_waits_neither_for_a_retry_nor_for_the_minimum_interval() -> None:
    schedule = Schedule(now_s=0.0, min_interval_s=10.0)
    schedule.round_ended(100.0, failed=True)

    schedule.begin_anew()

    assert schedule.round_due_s(has_changes=True) == 0.0
    assert schedule.round_due_s(has_changes=False) is None
    schedule.round_ended(100.0, failed=True)
    assert schedule.failures == 1


def test_success_cancels_the_retry_and_resets_the_delay() -> None:
    schedule = Schedule(now_s=0.0)
    schedule.round_ended(100.0, failed=True)
    schedule.round_ended(101.0, failed=True)

    schedule.round_ended(102.0, failed=False)
    assert schedule.failures == 0
    assert schedule.round_due_s(has_changes=False) is None

    schedule.round_ended(103.0, failed=True)
    assert schedule.round_due_s(has_changes=False) == 103.0 + RETRY_FIRST_S


@pytest.mark.parametrize(
    ("failures", "delay_s"),
    [
        (1, RETRY_FIRST_S),
        (2, 2 * RETRY_FIRST_S),
        (6, 3.2),
        (10, RETRY_LAST_S),
        (10_000, RETRY_LAST_S),
    ],
)
def test_the_delay_doubles_up_to_its_limit(failures: int, delay_s: float) -> None:
    assert Backoff().delay_s(failures) == pytest.approx(delay_s)


def test_polls_come_once_a_period_from_the_start() -> None:
    schedule = Schedule(now_s=100.0, poll_period_s=2.0)
    assert schedule.poll_due_s() == 102.0

    schedule.polled(105.0)
    assert schedule.poll_due_s() == 107.0


def test_verifications_come_once_a_period_from_the_start() -> None:
    schedule = Schedule(now_s=100.0, verify_period_s=30.0)
    assert schedule.verify_due_s() == 130.0

    schedule.verified(145.0, repaired=False)
    assert schedule.verify_due_s() == 175.0


def test_a_few_repairs_are_no_contention() -> None:
    schedule = repaired_at(*range(REPAIRS_BEFORE_CONTENDED - 1))
    schedule.verified(5.0, repaired=False)

    assert not schedule.is_contended(6.0)


def test_five_repairs_within_a_minute_are_contention() -> None:
    assert repaired_at(0.0, 10.0, 20.0, 30.0, 59.0).is_contended(59.0)


def test_repairs_that_lie_back_do_not_count() -> None:
    assert not repaired_at(0.0, 10.0, 20.0, 30.0, REPAIR_WINDOW_S).is_contended(REPAIR_WINDOW_S)


def test_contention_ends_when_repairs_become_rare() -> None:
    schedule = repaired_at(1.0, 2.0, 3.0, 4.0, 5.0)

    assert schedule.is_contended(60.0)
    assert not schedule.is_contended(1.0 + REPAIR_WINDOW_S)
    schedule.verified(1.0 + REPAIR_WINDOW_S, repaired=True)
    assert schedule.is_contended(1.0 + REPAIR_WINDOW_S)
