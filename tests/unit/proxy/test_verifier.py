"""The verifier: when it looks, what it has repaired, and how it gives way to somebody who does not."""

import logging

import pytest

from proxy.backend import Drift
from proxy.schedule import REPAIRS_BEFORE_CONTENDED
from tests.daemon import Daemon, make_daemon
from tests.fakes.backend import unreachable
from tests.model_builders import make_endpoint, make_key, make_service, make_slice

WEB = make_key("default/web")
POLL_S, VERIFY_S = 1.0, 60.0


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


def test_nothing_is_verified_before_everything_was_programmed(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell(make_service())
        await daemon.pass_s(3 * VERIFY_S)

        assert daemon.backend.verified_at == []

    daemon.live(life)


def test_everything_is_compared_once_a_period(daemon: Daemon) -> None:
    async def life() -> None:
        started_s = daemon.now_s
        daemon.tell_all(make_service())
        await daemon.pass_s(3.5 * VERIFY_S)

        at = [round(at_s - started_s) for at_s in daemon.backend.verified_at]
        assert at == [VERIFY_S, 2 * VERIFY_S, 3 * VERIFY_S]
        assert daemon.verifier.verifications == 3
        assert (daemon.verifier.repairs, daemon.verifier.drifts) == (0, 0)

    daemon.live(life)


def test_a_foreign_change_is_noticed_at_the_next_poll_and_repaired(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service(), make_service("default/api"))
        await daemon.pass_s(10.0)
        daemon.backend.applied.clear()

        daemon.backend.tamper(WEB)
        await daemon.pass_s(POLL_S + 0.1)

        assert daemon.backend.applied == [[WEB]]
        assert WEB in daemon.backend.kernel
        assert (daemon.verifier.repairs, daemon.verifier.drifts) == (1, 1)

    daemon.live(life)

    assert (
        "changed from outside, repairing: pool differs of default/web (TCP, IPv4)" in caplog.text
    )


def test_a_change_nobody_announces_is_found_by_the_periodic_comparison(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(10.0)
        del daemon.backend.kernel[WEB]

        await daemon.pass_s(VERIFY_S - 11.0)
        assert WEB not in daemon.backend.kernel
        await daemon.pass_s(2.0)
        assert WEB in daemon.backend.kernel

    daemon.live(life)


def test_a_change_soon_after_a_comparison_that_takes_long_is_seen_at_once(daemon: Daemon) -> None:
    daemon.backend.verify_s = 5.0

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(VERIFY_S + 10.0)
        assert len(daemon.backend.verified_at) == 1  # that of the period
        for _ in range(2):
            daemon.backend.tamper(WEB)
            await daemon.pass_s(POLL_S + 6.0)
            assert WEB in daemon.backend.kernel

    daemon.live(life)


def test_our_own_changes_are_not_taken_for_foreign(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        for number in range(1, 20):
            daemon.tell(make_slice("s-1", make_endpoint(f"10.1.0.{number}:80")))
            await daemon.pass_s(1.0)

        assert daemon.backend.verified_at == []
        assert daemon.verifier.repairs == 0

    daemon.live(life)


def test_what_was_compared_with_an_earlier_belief_is_of_no_interest(daemon: Daemon) -> None:
    daemon.backend.verify_s = 5.0

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(10.0)
        daemon.backend.tamper(WEB)
        await daemon.pass_s(POLL_S + 1.0)  # the comparison is under way

        daemon.reconciler.repair([Drift(key=None, what="a shared chain")])
        await daemon.pass_s(10.0)

        assert len(daemon.backend.verified_at) == 1
        assert (daemon.verifier.repairs, set(daemon.backend.kernel)) == (0, {WEB})

    daemon.live(life)


async def fight(daemon: Daemon, rounds: int) -> None:
    """Undo what is programmed whenever it has been repaired, each time within a poll period."""
    for _ in range(rounds):
        if WEB in daemon.backend.kernel:
            daemon.backend.tamper(WEB)
        await daemon.pass_s(POLL_S + 0.1)


def test_after_five_repairs_in_a_minute_only_the_periodic_comparison_repairs(
    daemon: Daemon,
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        await fight(daemon, 30)

        assert daemon.verifier.repairs == REPAIRS_BEFORE_CONTENDED
        assert WEB not in daemon.backend.kernel
        assert daemon.reconciler.schedule.is_contended(daemon.now_s)

        await daemon.pass_s(VERIFY_S)
        assert WEB in daemon.backend.kernel

    daemon.live(life)


def test_contention_is_reported(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        await fight(daemon, 10)
        await daemon.pass_s(2 * VERIFY_S)

    daemon.live(life)

    assert [r.levelno for r in caplog.records if "contended" in r.message] == [logging.ERROR]


def test_long_lists_of_differences_are_cut_short_in_the_log(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"default/{number}" for number in range(25)]

    async def life() -> None:
        daemon.tell_all(*map(make_service, names))
        await daemon.pass_s()
        for name in names:
            daemon.backend.tamper(make_key(name))
        await daemon.pass_s(POLL_S + 0.1)

        assert len(daemon.backend.kernel) == 25

    daemon.live(life)

    assert caplog.text.count("changed from outside") == 20
    assert "and 5 more" in caplog.text


def test_a_comparison_that_fails_has_everything_read_anew(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(10.0)

        daemon.backend.tamper(WEB)
        daemon.backend.failure = unreachable()
        await daemon.pass_s(POLL_S + 0.1)
        daemon.backend.failure = None
        await daemon.pass_s(2.0)

        assert len(daemon.backend.observed_at) == 2
        assert WEB in daemon.backend.kernel

    daemon.live(life)


def test_comparisons_that_fail_are_not_tried_without_pause(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(10.0)
        daemon.backend.failure = unreachable()
        await daemon.pass_s(2 * VERIFY_S)

    daemon.live(life)
