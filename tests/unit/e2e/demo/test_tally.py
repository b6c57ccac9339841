"""What the demo counts, and the times it derives from that."""

import pytest

from e2e.client import Answer, Failure, Timed
from e2e.demo.tally import Failed, Tally


def answered(pod: str, started_s: float, took_s: float = 0.5) -> Timed:
    return Timed(started_s, took_s, Answer(pod, "192.0.2.1", 40000))


def tally_of(**outcomes: list[Timed]) -> Tally:
    """Keyword: client. Its outcomes in the order in which they were reported."""
    tally = Tally()
    for client, timeds in outcomes.items():
        for timed in timeds:
            tally.add(client, timed)
    return tally


def test_every_connection_counts_whether_answered_or_not() -> None:
    refused = Timed(2.0, 0.1, Failure.REFUSED)

    tally = tally_of(inside=[answered("a", 1.0)], outside=[refused, answered("b", 3.0)])

    assert tally.total == 3
    assert tally.failures == [Failed("outside", refused)]


def test_the_first_answer_after_a_change_is_the_earliest_of_all_clients() -> None:
    tally = tally_of(
        inside=[answered("new", 11.0), answered("new", 12.0)],
        outside=[answered("old", 10.0), answered("new", 10.5), answered("new", 13.0)],
    )

    assert tally.first_answer_s("new", 10.0) == 11.0
    assert tally.first_answer_s("new", 11.1) == 11.5


def test_an_answer_that_comes_in_the_moment_of_the_change_counts() -> None:
    tally = tally_of(inside=[answered("new", 10.0)])

    assert tally.first_answer_s("new", 10.5) == 10.5
    assert tally.first_answer_s("new", 10.6) is None


def test_answers_that_threads_report_in_another_order_are_found() -> None:
    tally = tally_of(inside=[answered("new", 10.4), answered("old", 9.6), answered("old", 9.7)])

    assert tally.first_answer_s("new", 10.5) == 10.9


def test_a_pod_that_never_answered_has_no_times() -> None:
    tally = tally_of(inside=[answered("a", 1.0), Timed(2.0, 1.0, Failure.TIMEOUT)])

    assert tally.first_answer_s("b", 0.0) is None
    assert tally.last_begun_s("b") is None


def test_the_last_connection_of_a_pod_is_the_one_begun_last_whoever_reports_it_when() -> None:
    tally = tally_of(
        inside=[answered("a", 5.0, took_s=0.1), answered("a", 4.9, took_s=0.3)],
        outside=[answered("a", 4.0), answered("b", 6.0)],
    )

    assert tally.last_begun_s("a") == 5.0


def test_answers_are_counted_by_client_and_pod_within_the_time() -> None:
    tally = tally_of(
        inside=[answered("a", 0.4), answered("a", 0.5), answered("b", 1.0), answered("a", 2.0)],
        outside=[answered("b", 1.5)],
        late=[answered("a", 2.5)],
        unlucky=[Timed(1.0, 0.5, Failure.RESET)],
    )

    assert tally.answers(1.0, 2.0) == {"inside": {"a": 1, "b": 1}, "outside": {"b": 1}}


def test_the_pace_is_that_of_whole_seconds_empty_ones_too() -> None:
    second = [n / 10 for n in range(10)]
    begun = [0.9, *(1 + s for s in second), 2.5, 2.6, *(4 + s for s in second), 5.0]

    up_to_the_gap = tally_of(inside=[answered("a", s) for s in [*begun[:13], 3.0]]).pace()
    beyond_it = tally_of(inside=[answered("a", s) for s in begun]).pace()

    assert up_to_the_gap == (6.0, 2)
    assert beyond_it == (5.5, 0)


@pytest.mark.parametrize("begun", [[], [1.0], [1.9, 2.1]], ids=["none", "one", "no whole second"])
def test_too_few_connections_have_no_pace(begun: list[float]) -> None:
    assert tally_of(inside=[answered("a", s) for s in begun]).pace() == (0.0, 0)
