"""The meter: what it makes of rounds, answers and a held event loop."""

import asyncio

import pytest

from proxy import meter
from proxy.changes import Trigger
from proxy.journal import Entry, Round
from proxy.meter import LAG_SAMPLE_S, Meter
from proxy.model import FAMILIES, Cause, Family
from tests.fakes import clock
from tests.fakes.clock import JumpingClock
from tests.model_builders import make_key

UNIX_S = 5000.0


class _Clock(JumpingClock):
    def time(self) -> float:
        return UNIX_S


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Monotonic 1000 is unix 5000."""
    made = _Clock()
    monkeypatch.setattr(meter, "time", made)
    return made


def a_round(
    *families: Family,
    is_full: bool = False,
    error: str = "",
    entries: tuple[Entry, ...] = (),
    triggers: tuple[Trigger, ...] = (),
) -> Round:
    return Round(
        started_s=990.0,
        ended_s=992.0,
        is_full=is_full,
        families=families,
        error=error,
        entries=entries,
        triggers=triggers,
    )


def entry(family: Family = "IPv4", error: str = "", triggered_s: float | None = None) -> Entry:
    return Entry(
        key=make_key(family=family),
        cause=Cause(kind="EndpointSlice", namespace="default", name="s-1"),
        received_s=900.0,
        decoded_s=900.0,
        queued_s=900.0,
        planned_s=900.0,
        acknowledged_s=900.0,
        triggered_s=triggered_s,
        error=error,
    )


@pytest.mark.usefixtures("now")
def test_a_round_counts_for_the_families_it_concerned() -> None:
    counted = Meter()

    counted.heard(a_round("IPv4"))
    counted.heard(a_round(*FAMILIES, is_full=True))

    v4, v6 = counted.families["IPv4"], counted.families["IPv6"]
    assert [h.sum for h in (v4.rounds, v4.full_rounds, v4.partial_rounds)] == [4.0, 2.0, 2.0]
    assert [h.sum for h in (v6.rounds, v6.full_rounds, v6.partial_rounds)] == [2.0, 2.0, 0.0]
    assert counted.rounds == {True: 2, False: 0}


@pytest.mark.usefixtures("now")
def test_only_a_round_that_ended_well_has_updated_a_family() -> None:
    counted = Meter()

    counted.heard(a_round("IPv4", error="no memory"))
    counted.heard(a_round("IPv6"))

    v4, v6 = counted.families["IPv4"], counted.families["IPv6"]
    assert (v4.updated_unix_s, v4.failures) == (0.0, 1)
    assert (v6.updated_unix_s, v6.failures) == (UNIX_S, 0)
    assert counted.rounds == {True: 1, False: 1}


@pytest.mark.usefixtures("now")
def test_a_refused_service_port_is_a_failure_of_its_family() -> None:
    counted = Meter()

    counted.heard(
        a_round(*FAMILIES, entries=(entry(error="no"), entry(error="no"), entry("IPv6")))
    )

    assert [counted.families[family].failures for family in FAMILIES] == [1, 0]


@pytest.mark.usefixtures("now")
def test_each_trigger_counts_once_in_its_family() -> None:
    counted = Meter()

    counted.heard(
        a_round("IPv4", triggers=(Trigger("IPv4", UNIX_S - 3.0), Trigger("IPv6", UNIX_S - 0.4)))
    )

    v4, v6 = (counted.families[family].programming for family in FAMILIES)
    assert (v4.sum, v4.cumulative()[-1]) == (3.0, 1)
    assert v6.sum == pytest.approx(0.4)
    assert v6.bounds[:4] == (0.0, 0.25, 0.5, 1.0)
    assert v6.cumulative()[:4] == [0, 0, 1, 1]
    assert len(v6.bounds) == 1 + 2 + 59 + 12 + 7


@pytest.mark.usefixtures("now")
def test_the_way_to_the_first_byte_is_measured_on_the_wall_clock() -> None:
    counted = Meter()

    counted.heard(
        a_round(
            "IPv4",
            entries=(
                entry(triggered_s=UNIX_S - 107.0),  # read 100 s ago
                entry(triggered_s=UNIX_S - 300.0, error="no"),
                entry(),
            ),
        )
    )

    assert (counted.reached.sum, counted.reached.cumulative()[-1]) == (7.0, 1)


def test_answers_are_counted_by_page_and_status() -> None:
    counted = Meter()

    counted.answered("healthz", 200)
    counted.answered("healthz", 503)
    counted.answered("healthz", 200)

    assert counted.answers == {("healthz", 200): 2, ("healthz", 503): 1}


def test_how_late_the_event_loop_comes_back_is_measured(now: _Clock) -> None:
    counted = Meter()

    async def life() -> None:
        task = asyncio.create_task(counted.watch_loop())
        await asyncio.sleep(2.5 * LAG_SAMPLE_S)
        now.now_s += 3.0  # somebody holds the loop
        await asyncio.sleep(LAG_SAMPLE_S)
        task.cancel()

    clock.run(now, life)

    assert counted.lag.cumulative()[-1] == 3
    assert counted.lag.sum == pytest.approx(3.0 - LAG_SAMPLE_S / 2, abs=0.01)
