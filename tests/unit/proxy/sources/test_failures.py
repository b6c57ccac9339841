"""How long to wait follows from what went wrong, and how often in a row."""

import pytest

from proxy.sources.backoff import Backoff
from proxy.sources.events import Trouble
from proxy.sources.failures import Failures

NOW_S = 100.0


def _failures() -> Failures:
    return Failures(Backoff(first_s=1, max_s=4), Backoff(first_s=1, max_s=16))


def _pauses(*troubles: Trouble, list_took_s: float = 0.0) -> list[float]:
    failures = _failures()
    pauses = []
    for trouble in troubles:
        failures.add(trouble, "words", NOW_S)
        pauses.append(failures.pause_until_s(0.0, list_took_s) - NOW_S)
    return pauses


@pytest.mark.parametrize(
    ("troubles", "pauses"),
    [
        (["server"] * 4, [1, 2, 4, 4]),
        (["connect"] * 6, [1, 2, 4, 8, 16, 16]),
        (["timeout", "server", "connect", "server"], [1, 2, 4, 4]),
        (["forbidden"] * 7, [1, 2, 4, 8, 16, 32, 40]),
        (["throttled"] * 7, [1, 2, 4, 8, 16, 32, 40]),
        (["gone"] * 4, [0, 2, 4, 4]),
        (["closed", "silent", "malformed"], [0, 2, 4]),
        (["unauthorized"] * 3, [0, 2, 4]),
        (["server", "server", "unauthorized", "unauthorized"], [1, 2, 0, 4]),
        (["unauthorized", "server", "unauthorized"], [0, 2, 0]),
    ],
)
def test_pauses(troubles: list[Trouble], pauses: list[float]) -> None:
    assert _pauses(*troubles) == pytest.approx(pauses)


def test_lists_that_take_long_are_not_repeated_quickly() -> None:
    assert _pauses("gone", "gone", "gone", list_took_s=3.0) == pytest.approx([0, 6, 6])
    assert _pauses("server", "server", list_took_s=3.0) == pytest.approx([1, 2])


@pytest.mark.parametrize(
    ("trouble", "asked_s", "pause_s"), [("server", 9, 9), ("server", 0.5, 1), ("gone", 2, 2)]
)
def test_a_server_may_ask_for_more(trouble: Trouble, asked_s: float, pause_s: float) -> None:
    failures = _failures()

    failures.add(trouble, "words", NOW_S, asked_s)

    assert failures.pause_until_s(0.0, 0.0) == pytest.approx(NOW_S + pause_s)


def test_a_pause_is_found_once_for_each_failure() -> None:
    failures = _failures()
    assert failures.pause_until_s(0.5, 0.0) == 0
    failures.add("server", "words", NOW_S)

    first_s = failures.pause_until_s(0.5, 0.0)

    assert first_s == pytest.approx(NOW_S + 0.75)
    assert failures.pause_until_s(0.9, 0.0) == first_s
    failures.end_pause()
    assert failures.pause_until_s(0.9, 0.0) == 0


def test_counts_stay_when_the_row_ends() -> None:
    failures = _failures()
    failures.add("connect", "no route", NOW_S)
    failures.add("connect", "no route", NOW_S)
    failures.count("malformed")
    assert (failures.in_row, failures.last, failures.error) == (2, "connect", "no route")

    failures.end_row()

    assert (failures.in_row, failures.last, failures.error) == (0, None, "")
    assert failures.counts == {"connect": 2, "malformed": 1}
