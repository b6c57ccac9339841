"""The loop that keeps the kernel as desired: wait → plan → apply → remember → report. Shell.

Everything that decides lives elsewhere: `desired` says what should be, the backend plans and applies, and
`schedule` says when. This module moves keys between them and owns the belief about the kernel.

Nothing is written before every kind was listed once. If only the own Node is missing after NODE_WAIT_S, the
loop goes on without it: zone unknown, and said so.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from proxy.backend import Applied, Backend
from proxy.cache import Cache, Change
from proxy.desired import DesiredPort, DesiredState
from proxy.errors import KernelError
from proxy.journal import Entry, Journal
from proxy.model import Cause, PortKey, ServiceName, Value
from proxy.schedule import Backoff, Schedule

NODE_WAIT_S: Final = 30.0
CHUNK_ENDPOINTS: Final = 1000
"""Endpoints programmed in one step: bounds how long the event loop is held."""
SLICE_S: Final = 0.005
"""How long changes are worked through before others may run."""

log = logging.getLogger(__name__)


class Quarantined(Value, frozen=True, kw_only=True):
    """A ServicePort the kernel refused: why, how often in a row, and when it is tried again."""

    reason: str
    failures: int
    retry_s: float


class Reconciler:
    """Owns the belief about the kernel and brings it to what is desired."""

    def __init__(
        self, cache: Cache, desired: DesiredState, backend: Backend[Any, Any], schedule: Schedule
    ) -> None:
        self.cache = cache
        self.desired = desired
        self.backend = backend
        self.schedule = schedule
        self.journal = Journal()
        self.quarantine: dict[PortKey, Quarantined] = {}
        self.is_synced = asyncio.Event()
        self.last_error = ""
        self.operations = 0
        self.transactions = 0
        self.repairs = 0
        self._backoff = Backoff(first_s=1.0, last_s=60.0)
        self._observed: Any = None
        self._wake = asyncio.Event()
        self._dirty: dict[PortKey, Change] = {}
        self._is_full_due = True

    def wake(self) -> None:
        """Tell the loop that the cache has news. Several calls before it looks count as one."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled. Leaves the data plane as it is when it ends."""
        await self._barrier()
        while True:
            await self._wait()
            now_s = time.monotonic()
            if self._is_round_due(now_s):
                await self._round()
            elif now_s >= self.schedule.verify_due_s():
                await self._verify()
            elif now_s >= self.schedule.poll_due_s():
                self.schedule.polled(now_s)
                if self._sees_foreign_change(now_s):
                    await self._verify()

    async def _barrier(self) -> None:
        deadline_s = time.monotonic() + NODE_WAIT_S
        while self.cache.unlisted:
            left_s = deadline_s - time.monotonic()
            if self.cache.unlisted == {"Node"} and left_s <= 0:
                self.last_error = (
                    "the own Node could not be read: its zone and addresses are unknown"
                )
                log.warning("%s", self.last_error)
                return
            self._wake.clear()
            timeout_s = max(left_s, 0.0) if self.cache.unlisted == {"Node"} else None
            await _wait_for(self._wake, timeout_s)

    def _has_work(self) -> bool:
        return self.cache.has_changes or bool(self._dirty) or self._is_full_due

    def _is_round_due(self, now_s: float) -> bool:
        due_s = self.schedule.round_due_s(has_changes=self._has_work())
        if due_s is not None and now_s >= due_s:
            return True
        return any(now_s >= q.retry_s for q in self.quarantine.values())

    async def _wait(self) -> None:
        """Sleep until something is due or the cache has news."""
        self._wake.clear()
        dues = [self.schedule.verify_due_s(), self.schedule.poll_due_s()]
        dues += [q.retry_s for q in self.quarantine.values()]
        round_due_s = self.schedule.round_due_s(has_changes=self._has_work())
        if round_due_s is not None:
            dues.append(round_due_s)
        timeout_s = min(dues) - time.monotonic()
        if timeout_s > 0:
            await _wait_for(self._wake, timeout_s)

    async def _round(self) -> None:
        """Bring everything that changed to the kernel. A failure costs this round, not the process."""
        failed = False
        try:
            if self._observed is None:
                self._observed = await self.backend.observe()
                self._is_full_due = True
            await self._take_changes()
            if self._is_full_due:
                await self._full()
            else:
                now_s = time.monotonic()
                for key in [k for k, q in self.quarantine.items() if now_s >= q.retry_s]:
                    self._dirty.setdefault(key, _again("retry", now_s))
                await self._program(list(self._dirty))
            if not self.schedule.failures:
                self.last_error = ""
        except Exception as error:
            failed = True
            self._observed = None
            self.last_error = str(error) or type(error).__name__
            log.error(
                "reconcile failed: %s",
                self.last_error,
                exc_info=not isinstance(error, KernelError),
            )
        self.schedule.round_ended(time.monotonic(), failed=failed)

    async def _take_changes(self) -> None:
        """Describe what changed in the cache, yielding often enough for others to run."""
        started_s = time.perf_counter()
        for name, change in self.cache.take_changes().items():
            for key in self._describe(name):
                self._dirty.setdefault(key, change)
            if time.perf_counter() - started_s > SLICE_S:
                await asyncio.sleep(0)
                started_s = time.perf_counter()

    def _describe(self, name: ServiceName) -> Collection[PortKey]:
        return self.desired.update(
            name, self.cache.services.get(name), self.cache.endpoints(name), self.cache.node
        )

    async def _full(self) -> None:
        """Plan every key once, the most important first, then remove what nothing asks for."""
        started_s = time.monotonic()
        for key in self.desired.ports:
            self._dirty.setdefault(key, _again("adoption", started_s))
        keys = sorted(self._dirty, key=lambda key: _urgency(key, self.desired.ports.get(key)))
        await self._program(keys)
        plan = self.backend.prune(self.desired.ports, self._observed)
        if plan:
            self._count(await self.backend.apply(plan, self._observed))
        self._is_full_due = False
        if not self.is_synced.is_set():
            self.is_synced.set()
            log.info(
                "programmed %d service ports in %.3f s with %d operations",
                len(self.desired.ports),
                time.monotonic() - started_s,
                self.operations,
            )

    async def _program(self, keys: Iterable[PortKey]) -> None:
        for chunk in self._chunks(keys):
            await self._program_chunk(chunk)
            await asyncio.sleep(0)

    def _chunks(self, keys: Iterable[PortKey]) -> Iterator[list[PortKey]]:
        """Divide keys by the endpoints they stand for. A table made anew takes them all at once."""
        chunk: list[PortKey] = []
        weight = 0
        is_whole = self._observed.is_rebuild_due
        for key in keys:
            port = self.desired.ports.get(key)
            chunk.append(key)
            weight += 1 + (len(port.reachable) if port else 0)
            if weight >= CHUNK_ENDPOINTS and not is_whole:
                yield chunk
                chunk, weight = [], 0
        if chunk:
            yield chunk

    async def _program_chunk(self, chunk: list[PortKey], *, is_retry: bool = False) -> None:
        """Program some keys at once. What the kernel refuses is tried once more alone, then set aside."""
        plan = self.backend.plan(self.desired.ports, self._observed, chunk)
        planned_s = time.monotonic()
        applied = await self.backend.apply(plan, self._observed) if plan else Applied()
        self._count(applied)
        refused = [key for key in chunk if key in applied.failed]
        if not refused:
            self._record(chunk, planned_s, "")
        elif len(chunk) == 1 and is_retry:
            self._record(chunk, planned_s, applied.failed[chunk[0]])
        elif len(refused) == len(chunk) > 1:
            middle = len(chunk) // 2
            await self._program_chunk(chunk[:middle])
            await self._program_chunk(chunk[middle:])
        else:
            await self._program_chunk([key for key in chunk if key not in applied.failed])
            for key in refused:
                await self._program_chunk([key], is_retry=True)

    def _record(self, keys: Iterable[PortKey], planned_s: float, error: str) -> None:
        now_s = time.monotonic()
        for key in keys:
            change = self._dirty.pop(key, None)
            failures = self.quarantine[key].failures + 1 if key in self.quarantine else 1
            if error:
                retry_s = now_s + self._backoff.delay_s(failures)
                self.quarantine[key] = Quarantined(
                    reason=error, failures=failures, retry_s=retry_s
                )
                log.error("%s: refused by the kernel, set aside for now: %s", key, error)
            elif self.quarantine.pop(key, None) is not None:
                log.info("%s: programmed after being refused %d times", key, failures - 1)
            if change is not None:
                self.journal.add(
                    Entry(
                        key=key,
                        cause=change.cause,
                        received_s=change.received_s,
                        planned_s=planned_s,
                        acknowledged_s=now_s,
                        error=error,
                    )
                )

    def _count(self, applied: Applied) -> None:
        self.operations += applied.operations
        self.transactions += applied.transactions

    def _sees_foreign_change(self, now_s: float) -> bool:
        if self._observed is None or self.schedule.is_contended(now_s):
            return False
        return self.backend.has_foreign_change(self._observed)

    async def _verify(self) -> None:
        """Compare belief with the kernel and repair what differs, naming it."""
        if self._observed is None:
            self.schedule.verified(time.monotonic(), repaired=False)
            return
        try:
            drifts = await self.backend.verify(self._observed)
        except KernelError as error:
            log.error("verification failed: %s", error)
            self._observed = None
            self._is_full_due = True
            drifts = []
        now_s = time.monotonic()
        self.schedule.verified(now_s, repaired=bool(drifts))
        if not drifts:
            return
        self.repairs += 1
        for drift in drifts[:20]:
            log.warning("changed from outside, repairing: %s", drift.what)
        if len(drifts) > 20:
            log.warning("changed from outside, repairing %d more objects", len(drifts) - 20)
        if self.schedule.is_contended(now_s):
            log.error(
                "contended: somebody keeps changing our objects; repairing only once a period"
            )
        for drift in drifts:
            if drift.key is None:
                self._is_full_due = True
            else:
                self._dirty.setdefault(drift.key, _again("repair", now_s))


def _again(why: str, now_s: float) -> Change:
    return Change(cause=Cause(kind=why, namespace="", name=""), received_s=now_s)


def _urgency(key: PortKey, port: DesiredPort | None) -> int:
    """Order the first batch: the API server, DNS, what pods on this node serve, then the rest."""
    if (key.name.namespace, key.name.name) == ("default", "kubernetes"):
        return 0
    if port is None:
        return 3
    if any(frontend.port == 53 for frontend in port.frontends):
        return 1
    return 2 if any(endpoint.is_local for endpoint in port.reachable) else 3


async def _wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
