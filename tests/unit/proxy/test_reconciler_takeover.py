"""Another backend takes over from the one that runs: between two rounds, from the beginning, and nothing is taken back."""

import asyncio

import pytest

from proxy.ladder import Refusal
from tests.daemon import Daemon, make_daemon
from tests.fakes.backend import FakeBackend, unreachable
from tests.model_builders import make_endpoint, make_key, make_service, make_slice

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, OLD = make_key("default/web"), make_key("default/old")
WHY = (Refusal(mode="fake", primitive="programming", how="no answer"),)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


def test_the_new_one_programs_everything_and_the_old_ones_work_stays(daemon: Daemon) -> None:
    other = FakeBackend()

    async def life() -> None:
        daemon.tell_all(make_service(), make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s()
        await daemon.reconciler.use(other, WHY)
        assert not daemon.reconciler.is_synced.is_set()
        await daemon.pass_s()

        assert daemon.reconciler.is_synced.is_set()
        assert other.kernel == daemon.backend.kernel == daemon.desired.ports
        daemon.tell(make_slice("s-1", make_endpoint(B)))
        await daemon.pass_s()
        assert other.kernel == daemon.desired.ports
        assert daemon.backend.kernel != daemon.desired.ports

    daemon.live(life)

    assert daemon.reconciler.passed_over == WHY


def test_it_waits_for_the_round_under_way(daemon: Daemon) -> None:
    other = FakeBackend()
    daemon.backend.apply_s = 5.0

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(1.0)
        taking_over = asyncio.create_task(daemon.reconciler.use(other, WHY))
        await daemon.pass_s(1.0)
        assert daemon.reconciler.backend is daemon.backend
        await taking_over
        assert daemon.backend.kernel.keys() == {WEB}
        await daemon.pass_s()
        assert other.kernel.keys() == {WEB}

    daemon.live(life)


def test_what_an_earlier_run_left_in_the_new_mode_is_adopted_and_pruned(daemon: Daemon) -> None:
    other = FakeBackend()
    daemon.find_in_kernel(make_service(), make_service("default/old"))
    other.kernel, daemon.backend.kernel = daemon.backend.kernel, {}

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        assert other.kernel.keys() == {WEB, OLD}
        await daemon.reconciler.use(other, WHY)
        await daemon.pass_s()
        assert other.kernel.keys() == {WEB}

    daemon.live(life)


def test_that_the_old_one_could_not_prune_does_not_keep_the_new_one_from_it(
    daemon: Daemon,
) -> None:
    other = FakeBackend()
    daemon.find_in_kernel(make_service(), make_service("default/old"))
    other.kernel = dict(daemon.backend.kernel)
    daemon.backend.refused[OLD] = "busy"

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(40.0)
        assert "busy" in daemon.reconciler.condition(daemon.now_s).leftovers
        await daemon.reconciler.use(other, WHY)
        await daemon.pass_s()
        assert other.kernel.keys() == {WEB}
        assert daemon.reconciler.condition(daemon.now_s).leftovers == ""

    daemon.live(life)


def test_what_only_the_old_one_was_refused_is_programmed_at_once(daemon: Daemon) -> None:
    other = FakeBackend()
    daemon.backend.refused[WEB] = "no room"

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(100.0)
        assert daemon.reconciler.quarantine.keys() == {WEB}
        await daemon.reconciler.use(other, WHY)
        await daemon.pass_s()
        assert not daemon.reconciler.quarantine
        assert other.kernel.keys() == {WEB}

    daemon.live(life)


def test_that_the_old_one_failed_keeps_nobody_waiting(daemon: Daemon) -> None:
    other = FakeBackend()
    daemon.backend.failure = unreachable()

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s(100.0)
        assert daemon.reconciler.schedule.failures > 5
        await daemon.reconciler.use(other, WHY)
        await daemon.pass_s(0.01)
        assert other.kernel.keys() == {WEB}

    daemon.live(life)


def test_what_was_to_be_removed_later_of_the_old_one_is_not_asked_of_the_new_one(
    daemon: Daemon,
) -> None:
    other = FakeBackend()
    daemon.backend.again_s = 10.0

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        told = len(daemon.backend.told)
        await daemon.reconciler.use(other, WHY)
        await daemon.pass_s(60.0)
        assert len(daemon.backend.told) == told
        assert len(other.told) <= 1

    daemon.live(life)
