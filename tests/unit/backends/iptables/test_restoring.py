"""Calls of iptables-restore: the lock is waited for with a bound, and what they cost is counted."""

import time
from collections.abc import Iterator

import pytest

from backends.iptables import restoring
from backends.iptables.restoring import LOCK_TRIES, Restoring
from backends.kernel.xtables import LockHeld, Refused
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError
from proxy.schedule import Backoff
from tests.fakes.xtables import FakeXtables, XtablesKernel, killed, locked
from tests.unit.backends.iptables.machine import run

LINES = [":A - [0:0]"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "_PAUSE", Backoff(first_s=0.0, last_s=0.0))


@pytest.fixture
def door() -> Iterator[FakeXtables]:
    made = XtablesKernel().door(Flavour.LEGACY, "IPv4")
    yield made
    assert made.ends == []


def counted(calls: Restoring) -> dict[str, float]:
    return dict(calls.figures()[0].values)


def test_a_lock_that_is_given_back_in_time_costs_only_time(
    door: FakeXtables, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Restoring()
    door.ends = [locked] * (LOCK_TRIES - 1)

    run(calls.restore(door, "nat", LINES))

    assert "A" in door.save("nat")
    assert counted(calls) == {"done": 1, "refused": 0, "locked": LOCK_TRIES - 1}
    assert all("lock was held" in message for message in caplog.messages)
    assert len(caplog.messages) == LOCK_TRIES - 1


def test_a_lock_that_is_never_given_back_is_given_up(door: FakeXtables) -> None:
    calls = Restoring()
    door.ends = [locked] * LOCK_TRIES

    with pytest.raises(LockHeld):
        run(calls.restore(door, "nat", LINES))

    assert door.save("nat") == {}
    assert counted(calls)["locked"] == LOCK_TRIES


def test_what_is_refused_is_not_tried_again(door: FakeXtables) -> None:
    calls = Restoring()

    with pytest.raises(Refused):
        run(calls.restore(door, "nat", ["-X NONE"]))

    assert counted(calls) == {"done": 0, "refused": 1, "locked": 0}


def test_of_a_program_that_was_killed_nothing_is_known(door: FakeXtables) -> None:
    calls = Restoring()
    door.ends = [killed]

    with pytest.raises(KernelError, match="killed by signal 9"):
        run(calls.restore(door, "nat", LINES))

    assert counted(calls) == {"done": 0, "refused": 0, "locked": 0}


def test_time_is_counted_whatever_the_end(
    door: FakeXtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 12.5, 20.0, 21.0])
    kernel = iter([1.0, 3.0, 3.0, 3.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(restoring, "_system_s", lambda: next(kernel))
    calls = Restoring()

    run(calls.restore(door, "nat", LINES))
    with pytest.raises(Refused):
        run(calls.restore(door, "nat", ["-X NONE"]))

    assert calls.figures()[1].values == {"all": 3.5, "kernel": 2.5}
