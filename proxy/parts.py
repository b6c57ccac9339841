"""The parts of a running daemon in one hand: what `app` puts together and the pages are about. Pure."""

from typing import NamedTuple

from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.health import PERIODS_TO_LATE
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

    @property
    def timeout_s(self) -> float:
        """How long a change may wait before the proxy counts as unhealthy."""
        return PERIODS_TO_LATE * self.settings.sync_period_s
