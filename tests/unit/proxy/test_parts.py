import time

import pytest

from proxy.announcer import Announcer
from proxy.conntrack_sweeper import Sweeper
from proxy.events_recorder import Recorder
from proxy.listeners import Listeners
from proxy.meter import Meter
from proxy.parts import Parts
from proxy.sources.stream import StreamSource
from proxy.verifier import Verifier
from tests.fakes.conntrack import FakeFlows
from tests.unit.proxy.config.loading import settings_of
from tests.unit.proxy.server.serving_debug import make_reconciler


def make_parts() -> Parts:
    reconciler, recorder = make_reconciler(), Recorder("n1")
    return Parts(
        settings=settings_of(),
        source=StreamSource("-", "n1"),
        reconciler=reconciler,
        verifier=Verifier(reconciler),
        sweeper=Sweeper(reconciler, FakeFlows()),
        meter=Meter(),
        recorder=recorder,
        announcer=Announcer(recorder, "n1"),
        listeners=Listeners(),
    )


def test_a_change_may_wait_for_two_sync_periods() -> None:
    parts = make_parts()

    assert parts.timeout_s == 2 * parts.settings.sync_period_s


@pytest.mark.parametrize(("waited", "is_healthy"), [(0.5, True), (1.5, False)])
def test_whoever_lets_a_change_wait_longer_is_not_healthy(
    waited: float, *, is_healthy: bool
) -> None:
    parts = make_parts()
    since_s = time.monotonic() - waited * parts.timeout_s
    parts.reconciler.progress.started(since_s)
    parts.reconciler.progress.opened(since_s)

    assert parts.is_healthy() is is_healthy
