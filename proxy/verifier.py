"""Looks for changes somebody else made to our objects, and has them repaired. Shell.

Runs beside the reconciler and delays nothing: a cheap look at the kernel's generation counter every poll period,
a full comparison when that shows a foreign change and once a verify period, each in the background. Whoever keeps
undoing our repairs is reported as contention, and then only the periodic comparison repairs.
"""

import asyncio
import logging
import time
from typing import Final

from proxy.backend import Drift
from proxy.errors import KernelError
from proxy.reconciler import Reconciler

LISTED_DRIFTS: Final = 20

log = logging.getLogger(__name__)


class Verifier:
    """Compares belief with the kernel from time to time."""

    def __init__(self, reconciler: Reconciler) -> None:
        self.verifications = 0
        self.repairs = 0
        self.drifts = 0
        self._is_contended = False
        self._reconciler = reconciler
        self._schedule = reconciler.schedule

    async def run(self) -> None:
        """Verify until cancelled."""
        await self._reconciler.is_synced.wait()
        self._schedule.verified(time.monotonic(), repaired=False)
        while True:
            due_s = min(self._schedule.verify_due_s(), self._schedule.poll_due_s())
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await self._look()

    async def _look(self) -> None:
        now_s = time.monotonic()
        self._schedule.polled(now_s)
        observed = self._reconciler.observed
        if observed is None:
            self._schedule.verified(now_s, repaired=False)  # everything is about to be read anew
            return
        is_due = now_s >= self._schedule.verify_due_s()
        try:
            if is_due or (
                self._schedule.may_compare(now_s)
                and self._reconciler.backend.has_foreign_change(observed)
            ):
                drifts = await self._reconciler.backend.verify(observed)
                done_s = time.monotonic()
                self.verifications += 1
                # only a look that was for nothing is a reason to look less often
                took_s = 0.0 if is_due or drifts else done_s - now_s
                self._schedule.verified(done_s, repaired=bool(drifts), took_s=took_s)
                if self._reconciler.observed is observed:
                    self._repair(drifts)
        except KernelError as error:
            self._schedule.verified(time.monotonic(), repaired=False)
            log.error("verification failed, reading everything anew: %s", error)
            self._reconciler.repair([Drift(key=None, what=str(error))])

    def _repair(self, drifts: list[Drift]) -> None:
        if not drifts:
            return
        self.repairs += 1
        self.drifts += len(drifts)
        for drift in drifts[:LISTED_DRIFTS]:
            whose = f" of {drift.key}" if drift.key else ""
            log.warning("changed from outside, repairing: %s%s", drift.what, whose)
        if len(drifts) > LISTED_DRIFTS:
            log.warning("and %d more", len(drifts) - LISTED_DRIFTS)
        self._reconciler.repair(drifts)
        was_contended = self._is_contended
        self._is_contended = self._schedule.is_contended(time.monotonic())
        if self._is_contended and not was_contended:
            log.error("contended: somebody keeps changing our objects; repairing once a period")
