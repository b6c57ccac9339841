"""What is counted while things happen: rounds, answers, how long the event loop is held. Shell, for it asks the clock.

Those to whom it happens know nothing of metrics: they tell a listener, and this is the listener. What can be read off
the state at any time is not counted here but looked up when somebody asks (see `metrics`).
"""

import asyncio
import time
from collections import Counter
from typing import Final

from proxy.histogram import Histogram, doubling
from proxy.journal import Round
from proxy.model import FAMILIES, Family

LAG_SAMPLE_S: Final = 0.1
_SYNC_BOUNDS_S: Final = doubling(0.001, 15)
_LAG_BOUNDS_S: Final = doubling(0.0005, 14)
# As in kube-proxy, whose first bound is 0 by an oversight in how its list is put together.
_PROGRAMMING_BOUNDS_S: Final = (
    0.0, 0.25, 0.5, *map(float, range(1, 60)), *map(float, range(60, 120, 5)),
    *map(float, range(120, 301, 30)),
)  # fmt: skip


class FamilyMeter:
    """What is counted of one address family. Times are unix seconds, 0 for never."""

    def __init__(self) -> None:
        self.rounds = Histogram(_SYNC_BOUNDS_S)
        self.full_rounds = Histogram(_SYNC_BOUNDS_S)
        self.partial_rounds = Histogram(_SYNC_BOUNDS_S)
        self.programming = Histogram(_PROGRAMMING_BOUNDS_S)
        self.updated_unix_s = 0.0
        self.failures = 0


class Meter:
    """Everything that is counted."""

    def __init__(self) -> None:
        self.families: dict[Family, FamilyMeter] = {family: FamilyMeter() for family in FAMILIES}
        self.reached = Histogram(_PROGRAMMING_BOUNDS_S)
        """From a change in the cluster until its first byte was read here."""
        self.lag = Histogram(_LAG_BOUNDS_S)
        self.rounds: Counter[bool] = Counter({True: 0, False: 0})
        """How many rounds ended well, and how many did not."""
        self.answers: Counter[tuple[str, int]] = Counter()
        """How often which page answered with which status."""

    def heard(self, ended: Round) -> None:
        """Count a round of the reconciler."""
        unix_s = time.time()
        took_s = ended.ended_s - ended.started_s
        refused = {entry.key.family for entry in ended.entries if entry.error}
        self.rounds[not ended.error] += 1
        for family in ended.families:
            meter = self.families[family]
            meter.rounds.observe(took_s)
            (meter.full_rounds if ended.is_full else meter.partial_rounds).observe(took_s)
            if ended.error or family in refused:
                meter.failures += 1
            if not ended.error:
                meter.updated_unix_s = unix_s
        for trigger in ended.triggers:
            self.families[trigger.family].programming.observe(unix_s - trigger.at_s)
        unix_ahead_s = unix_s - time.monotonic()
        for entry in ended.entries:
            if entry.triggered_s is not None and not entry.error:
                self.reached.observe(entry.received_s + unix_ahead_s - entry.triggered_s)

    def answered(self, page: str, status: int) -> None:
        """Count an answer of one of the health pages."""
        self.answers[page, status] += 1

    async def watch_loop(self) -> None:
        """Measure, until cancelled, how late the event loop comes back to whoever waits for a time."""
        while True:
            due_s = time.monotonic() + LAG_SAMPLE_S
            await asyncio.sleep(LAG_SAMPLE_S)
            self.lag.observe(time.monotonic() - due_s)
