"""Durations are read and written exactly as Go does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("1h0m0s", 3600.0),
        ("24h", 86400.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("7ns", 7e-9),
        ("-5s", -5.0),
        ("+5s", 5.0),
        ("-0", 0.0),
        ("30s1m", 90.0),
        ("0.1s", 0.1),
        ("0.0000000019s", 1e-9),
        ("2562047h", 2562047 * 3600.0),
    ],
)  # fmt: skip
def test_a_go_duration_is_read(text: str, seconds: float) -> None:
    assert duration.parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", ".s", "30 s", " 30s", "1d", "30S", "1h30", "--5s", "+", "٣s", "1e3s", "5s!"],
)
def test_what_go_refuses_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration: .*30s.*500ms"):
        duration.parse(text)


def test_a_duration_that_go_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        duration.parse("2562048h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (30.0, "30s"),
        (90.0, "1m30s"),
        (900.0, "15m0s"),
        (3600.0, "1h0m0s"),
        (86400.0, "24h0m0s"),
        (0.5, "500ms"),
        (0.0015, "1.5ms"),
        (0.00025, "250µs"),
        (7e-9, "7ns"),
        (1.5, "1.5s"),
        (60.25, "1m0.25s"),
        (-90.0, "-1m30s"),
    ],
)
def test_a_duration_is_written_as_go_prints_it(seconds: float, text: str) -> None:
    assert duration.render(seconds) == text


# 26 days: of longer times a float of seconds does not hold each nanosecond
@given(st.integers(min_value=-(2**51), max_value=2**51))
def test_what_is_written_is_read_back_to_the_nanosecond(nanoseconds: int) -> None:
    parsed = duration.parse(duration.render(nanoseconds / 10**9))

    assert round(parsed * 10**9) == nanoseconds
