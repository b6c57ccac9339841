"""The parts of a running daemon in one hand: what `app` puts together and the pages are about. Shell, for it asks the clock."""

import time
from typing import NamedTuple

from proxy.announcer import Announcer
from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.events_recorder import Recorder
from proxy.health import PERIODS_TO_LATE, is_keeping_up
from proxy.listeners import Listeners
from proxy.meter import Meter
from proxy.reconciler import Reconciler
from proxy.sources.events import Source
from proxy.verifier import Verifier


class Parts(NamedTuple):
    """What runs side by side."""

    settings: Settings
    source: Source
    reconciler: Reconciler
    verifier: Verifier
    sweeper: Sweeper
    meter: Meter
    recorder: Recorder
    announcer: Announcer
    listeners: Listeners

    def is_healthy(self) -> bool:
        """Return whether no change has waited too long."""
        now_s = time.monotonic()
        return is_keeping_up(self.reconciler.condition(now_s), now_s, self.timeout_s)

    @property
    def timeout_s(self) -> float:
        """How long a change may wait before the proxy counts as unhealthy."""
        return PERIODS_TO_LATE * self.settings.sync_period_s
