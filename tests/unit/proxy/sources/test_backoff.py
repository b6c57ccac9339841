"""Pauses grow, have a limit, and are not the same for everyone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sources.backoff import LONGEST_RETRY_AFTER_S, Backoff, parse_retry_after

BACKOFF = Backoff(first_s=0.2, max_s=1.2)


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(0, 0.2), (1, 0.2), (2, 0.4), (3, 0.8), (4, 1.2), (10**6, 1.2)]
)
def test_pauses_double_up_to_the_limit(failures: int, longest_s: float) -> None:
    assert BACKOFF.pause_s(failures, 0.0) == pytest.approx(longest_s)
    assert BACKOFF.pause_s(failures, 1.0) == pytest.approx(longest_s / 2)


@given(st.floats(0, 1e9), st.floats(0, 1))
def test_a_server_is_given_the_time_it_asks_for_within_reason(
    asked_s: float, jitter: float
) -> None:
    pause_s = BACKOFF.asked_pause_s(asked_s, jitter)

    if asked_s > 0:
        assert pause_s >= min(asked_s, LONGEST_RETRY_AFTER_S)
    assert pause_s <= min(asked_s, LONGEST_RETRY_AFTER_S) + BACKOFF.first_s
    assert BACKOFF.asked_pause_s(0, jitter) == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 120 ", 120.0),
        (None, 0.0),
        ("", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("9" * 400, 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
    ],
)
def test_the_header_gives_seconds_or_nothing(value: str | None, seconds: float) -> None:
    assert parse_retry_after(value) == seconds
