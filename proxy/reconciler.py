"""The loop that keeps the kernel as desired: wait → plan → apply → remember → report. Shell.

Everything that decides lives elsewhere: `desired` says what should be, the backend plans and applies, and
`schedule` says when. This module moves keys between them and owns the belief about the kernel.

Nothing is written before every kind was listed once. If then the own Node is missing for NODE_WAIT_S
more, the loop goes on without it: zone unknown, and said so.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from proxy import batches
from proxy.backend import Applied, Backend, Drift
from proxy.backlog import Backlog, Quarantined, Waiting
from proxy.cache import Cache
from proxy.changes import Change
from proxy.desired import DesiredState
from proxy.desired_node import DesiredNode
from proxy.errors import Busy, KernelError, ProxyError, Unsupported
from proxy.health import Condition, Progress
from proxy.journal import Entry, Journal, Round
from proxy.ladder import Refusal, fallback_words
from proxy.model import FAMILIES, NodeInfo, PortKey, ServiceName, Value
from proxy.schedule import Backoff, Schedule
from proxy.threads import to_thread

NODE_WAIT_S: Final = 30.0
PRUNED_AT_ONCE: Final = 500
"""More ServicePorts are walked through in a thread: 10,000 take 0.2 s. Meanwhile only the verifier corrects belief."""
SLICE_S: Final = 0.005
"""How long changes are worked through before others may run."""

log = logging.getLogger(__name__)


class Leftovers(Value, frozen=True, kw_only=True):
    """That the kernel may hold objects nothing asks for, and when they are removed: at once, or again later."""

    error: str = ""
    failures: int = 0
    due_s: float = 0.0


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
        self.backlog = Backlog()
        self.is_synced = asyncio.Event()
        self.last_error = ""
        self.operations = 0
        self.transactions = 0
        self.prune_failures = 0
        self.passed_over: tuple[Refusal, ...] = ()
        """Which better modes than that of the backend will not do, and why."""
        self.stuck = ""
        """Why the backend stays although it can program nothing."""
        self.falls = 0
        """How often another backend had to take over."""
        self._turn = asyncio.Lock()  # held by a round
        self._backoff = Backoff(first_s=1.0, last_s=60.0)
        self.observed: Any = None
        self._is_belief_stale = True
        self._wake = asyncio.Event()
        self.progress = Progress()
        self.on_round: Callable[[Round], None] = _ignore
        self._undescribed: dict[ServiceName, Change] = {}
        self._host_addresses: frozenset[str] = frozenset()
        self._node_described: tuple[NodeInfo, frozenset[str], tuple[str, ...]] | None = None
        self._node_programmed: DesiredNode | None = None
        self._again_s = math.inf  # when a plan for no keys is due
        self._entries: list[Entry] = []  # of the round under way
        self._is_full_due = True
        self._leftovers: Leftovers | None = None

    @property
    def quarantine(self) -> Mapping[PortKey, Quarantined]:
        """The ServicePorts the kernel refused."""
        return self.backlog.quarantine

    def condition(self, now_s: float) -> Condition:
        """Return all that health depends on."""
        return Condition(
            is_synced=self.is_synced.is_set(),
            unlisted=self.cache.unlisted,
            node=self.cache.node,
            families=self.progress.families(self.cache.changes.queued_s),
            last_error=self.last_error,
            refused=len(self.quarantine),
            leftovers=self._leftovers.error if self._leftovers is not None else "",
            fallback="; ".join(
                filter(None, (fallback_words(self.backend.name, self.passed_over), self.stuck))
            ),
            is_contended=self.schedule.is_contended(now_s),
            uses_pod_cidrs=self.desired.settings.uses_pod_cidrs,
        )

    def wake(self) -> None:
        """Tell the loop that the cache has news. Several calls before it looks count as one."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled. Leaves the data plane as it is when it ends."""
        self.progress.started(time.monotonic())
        await self._barrier()
        self.progress.opened(time.monotonic())
        while True:
            await self._wait()
            async with self._turn:
                await self._round()

    async def _barrier(self) -> None:
        while not self.cache.unlisted <= {"Node"}:
            self._wake.clear()
            await self._wake.wait()
        deadline_s = time.monotonic() + NODE_WAIT_S
        while self.cache.unlisted:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self.last_error = (
                    "the own Node could not be read: its zone and addresses are unknown"
                )
                log.warning("%s", self.last_error)
                return
            self._wake.clear()
            await wait_for(self._wake, left_s)

    async def use(self, backend: Backend[Any, Any], passed_over: Sequence[Refusal]) -> None:
        """Let another backend take over as soon as no round is under way: it is to do everything from the beginning.

        Whatever the one before has programmed stays as it is.
        """
        async with self._turn:
            self.backend, self.passed_over = backend, tuple(passed_over)
            self.falls += 1
            self.stuck, self.last_error = "", ""
            self.observed, self._is_belief_stale, self._is_full_due = None, True, True
            self._leftovers = None
            self.is_synced.clear()
            self.schedule.begin_anew()
        self.wake()

    def hear_host_addresses(self, addresses: frozenset[str]) -> None:
        """Take in the addresses on this host's interfaces, as canonical text, whenever they change."""
        if addresses != self._host_addresses:
            self._host_addresses = addresses
            self.wake()

    def repair(self, drifts: Iterable[Drift]) -> None:
        """Have what somebody else changed planned again, or everything if no ServicePort owns it."""
        now_s = time.monotonic()
        for drift in drifts:
            if drift.key is None:
                self._is_belief_stale = True
            else:
                self.backlog.add_again("repair", drift.key, now_s)
        self.wake()

    def _node_inputs(self) -> tuple[NodeInfo, frozenset[str], tuple[str, ...]]:
        return self.cache.node, self._host_addresses, self.cache.service_cidrs

    def _has_work(self) -> bool:
        return (
            self.cache.has_changes
            or self._node_inputs() != self._node_described
            or bool(self._undescribed)
            or bool(self.backlog)
            or self._is_belief_stale
        )

    def _round_due_s(self) -> float | None:
        """Return when the next round is due, None if there is nothing to run for.

        Neither a new change nor the retry of a refused ServicePort runs before the schedule allows a round.
        """
        allowed_s = self.schedule.round_due_s(has_changes=True) or 0.0
        if self._has_work():
            return allowed_s
        due_s = self._leftovers.due_s if self._leftovers is not None else math.inf
        due_s = max(allowed_s, min(due_s, self.backlog.retry_s, self._again_s))
        return None if due_s == math.inf else due_s

    async def _wait(self) -> None:
        """Sleep until a round is due."""
        while True:
            self._wake.clear()
            due_s = self._round_due_s()
            timeout_s = None if due_s is None else due_s - time.monotonic()
            if timeout_s is not None and timeout_s <= 0:
                return
            await wait_for(self._wake, timeout_s)

    async def _round(self) -> None:
        """Bring everything that changed to the kernel. A failure costs this round, not the process."""
        started_s = time.monotonic()
        operations, transactions = self.operations, self.transactions
        is_full = self._is_belief_stale or self._is_full_due
        error, trouble = "", ""
        try:
            await self._work()
            trouble = self._refused_altogether()
        except Exception as failure:  # forwarding goes on and the next round looks anew
            error = str(failure) or type(failure).__name__
            if isinstance(failure, Busy):  # that passes, and is none of the kernel's
                self._again_s = 0.0  # the plan for no keys may be what could not be carried out
            else:
                self.observed, self._is_belief_stale = None, True
                trouble = error if isinstance(failure, KernelError | Unsupported) else ""
            log.error("reconcile failed: %s", error, exc_info=not isinstance(failure, ProxyError))
        self.last_error = error
        ended_s = time.monotonic()
        entries, self._entries = tuple(self._entries), []
        families = FAMILIES if is_full else self.progress.touched([e.key.family for e in entries])
        if not error:
            self.progress.succeeded(families, ended_s)
        self.schedule.round_ended(ended_s, failed=bool(error))
        self.on_round(
            Round(
                started_s=started_s,
                ended_s=ended_s,
                is_full=is_full,
                families=families,
                error=error,
                trouble=trouble,
                entries=entries,
                triggers=() if error else self.backlog.take_triggers(),
                operations=self.operations - operations,
                transactions=self.transactions - transactions,
            )
        )

    def _refused_altogether(self) -> str:
        """Return what the kernel says if it has refused everything there is, of which one author can hardly be the cause."""
        ports = self.desired.ports
        if not 1 < len(ports) <= len(self.quarantine):
            return ""
        if not all(key in self.quarantine for key in ports):
            return ""
        first = next(iter(ports))
        return (
            f"all {len(ports)} service ports are refused; {first}: {self.quarantine[first].reason}"
        )

    async def _work(self) -> None:
        if self._is_belief_stale:
            self.observed = await self.backend.observe()
            self._is_belief_stale, self._is_full_due = False, True
        try:
            await self._take_changes()
        finally:  # what could be described is programmed, whatever became of the rest
            await self._program_due()

    def _describe_node(self) -> None:
        """Describe the node anew if anything it depends on has changed."""
        inputs = self._node_inputs()
        if inputs != self._node_described:
            for key in self.desired.update_node(*inputs):
                self.backlog.add_again("node", key, time.monotonic())
            self._node_described = inputs

    async def _take_changes(self) -> None:
        """Describe what changed in the cache, yielding often enough for others to run."""
        started_s = time.perf_counter()
        self._describe_node()
        self.progress.took(self.cache.changes.queued_s)
        for name, change in self.cache.take_changes().items():
            self._undescribed[name] = change.after(self._undescribed.get(name))
        for name in list(self._undescribed):
            # last in the row if this fails, and not forgotten
            change = self._undescribed[name] = self._undescribed.pop(name)
            keys = self._describe(name)
            del self._undescribed[name]
            self.backlog.add(name, keys, change, time.monotonic())
            if time.perf_counter() - started_s > SLICE_S:
                await asyncio.sleep(0)
                started_s = time.perf_counter()

    def _describe(self, name: ServiceName) -> Collection[PortKey]:
        return self.desired.update(
            name, self.cache.services.get(name), self.cache.endpoints(name), self.cache.node
        )

    async def _program_due(self) -> None:
        """Program what changed and what is tried again; after an observation everything, then remove leftovers."""
        now_s = time.monotonic()
        self.backlog.add_refused(now_s)
        if not self._is_full_due:
            # What goes comes last, so that an address that changes hands is never without an owner.
            await self._program(sorted(self.backlog, key=lambda k: k not in self.desired.ports))
            if self._node_programmed is not self.desired.node or now_s >= self._again_s:
                self._again_s = math.inf
                await self._program_chunk([])
        else:
            self._again_s = math.inf
            for key in self.desired.ports:
                self.backlog.add_again("adoption", key, now_s)
            await self._program(batches.most_urgent_first(list(self.backlog), self.desired.ports))
            self._is_full_due = False
            self._leftovers = self._leftovers or Leftovers()
        if not self.is_synced.is_set():
            self.is_synced.set()
            self.journal.started()
            log.info(
                "programmed %d service ports in %.3f s with %d operations",
                len(self.desired.ports),
                time.monotonic() - now_s,
                self.operations,
            )
        if self._leftovers is not None and now_s >= self._leftovers.due_s:
            await self._prune(self._leftovers)
        self._node_programmed = self.desired.node

    async def _prune(self, leftovers: "Leftovers") -> None:
        """Remove what nothing asks for. What the kernel will not remove waits, and holds nothing else up."""
        desired, observed = self.desired.whole, self.observed
        if len(desired.ports) > PRUNED_AT_ONCE:
            plan = await to_thread(self.backend.prune, desired, observed)
        else:
            plan = self.backend.prune(desired, observed)
        error = ""
        try:
            applied = await self.backend.apply(plan, self.observed)
            self._count(applied)
            error = "; ".join(sorted(set(applied.failed.values())))
        except KernelError as refused:
            if not isinstance(refused, Busy):
                self._is_belief_stale = True
            error = str(refused)
        if not error:
            self._leftovers = None
            return
        failures = leftovers.failures + 1
        self.prune_failures += 1
        due_s = time.monotonic() + self._backoff.delay_s(failures)
        self._leftovers = Leftovers(error=error, failures=failures, due_s=due_s)
        log.error("leftovers could not be removed, trying again later: %s", error)

    async def _program(self, keys: Iterable[PortKey]) -> None:
        for chunk in batches.divide(
            keys, self.desired.ports, lambda: batches.at_once(self.observed)
        ):
            await self._program_chunk(chunk)
            await asyncio.sleep(0)

    async def _program_chunk(self, chunk: list[PortKey], *, is_retry: bool = False) -> None:
        """Program some keys at once. What the kernel refuses is tried once more alone, then set aside.

        It may name only some of many. So the rest is halved, and others may run before each part.
        """
        plan = self.backend.plan(self.desired.whole, self.observed, chunk)
        planned_s = time.monotonic()
        applied = await self.backend.apply(plan, self.observed)
        self._count(applied)
        for key in self.quarantine.keys() & applied.regained:
            self.backlog.add_again("retry", key, planned_s)
        refused = [key for key in chunk if key in applied.failed]
        if not refused:
            self._record(chunk, planned_s, "")
            return
        if len(chunk) == 1 and is_retry:
            self._record(chunk, planned_s, applied.failed[chunk[0]])
            return
        rest = [key for key in chunk if key not in applied.failed]
        if not rest and len(chunk) > 1:  # it does not say which
            rest, refused = chunk, []
        is_whole = bool(refused) and self.observed.is_rebuild_due
        middle = 0 if is_whole else len(rest) // 2
        for part in (rest[:middle], rest[middle:]):
            if part:
                await asyncio.sleep(0)
                await self._program_chunk(part)
        for key in refused:
            await asyncio.sleep(0)
            await self._program_chunk([key], is_retry=True)

    def _record(self, keys: Iterable[PortKey], planned_s: float, error: str) -> None:
        now_s = time.monotonic()
        for key in keys:
            failures = self.backlog.failures(key)
            if error:
                retry_s = now_s + self._backoff.delay_s(failures + 1)
                waiting = self.backlog.set_aside(key, error, retry_s)
                log.error("%s: refused by the kernel, set aside for now: %s", key, error)
            else:
                waiting = self.backlog.done(key)
                if failures:
                    log.info("%s: programmed after being refused %d times", key, failures)
            if waiting is not None:
                self._note(key, waiting, planned_s, now_s, error)

    def _note(
        self, key: PortKey, waiting: Waiting, planned_s: float, now_s: float, error: str
    ) -> None:
        change = waiting.change
        entry = Entry(
            key=key,
            cause=change.cause,
            triggered_s=change.triggered_s,
            received_s=change.received_s,
            decoded_s=change.decoded_s,
            queued_s=waiting.queued_s,
            planned_s=planned_s,
            acknowledged_s=now_s,
            error=error,
        )
        self.journal.add(entry)
        self._entries.append(entry)

    def _count(self, applied: Applied) -> None:
        if applied.again_s is not None:
            self._again_s = min(self._again_s, time.monotonic() + applied.again_s)
        self.operations += applied.operations
        self.transactions += applied.transactions


def _ignore(_: Round) -> None:
    """Listen to nothing."""


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
