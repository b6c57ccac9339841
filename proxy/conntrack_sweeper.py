"""Removes tracked UDP flows that lead to what no longer serves. Shell; what is stale is decided in `conntrack`.

Told of the reconciler's rounds, it looks at the ServicePorts that a round has programmed and compares the kernel's table
with the endpoints of now: what it was told too late or not at all is made up for by the next look, and now and then it
looks through everything. What could not be done is done again later.

A change is looked at at once, as long as that takes no more than SHARE of a core over some ten seconds. Where it does,
as with very large tables and many changes, what changes in a while is looked at together.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from proxy import conntrack
from proxy.beside import at_localhost
from proxy.budget import Budget
from proxy.conntrack import Belief, Ends, Table, Task
from proxy.conntrack_table import Found, Sweeping
from proxy.errors import KernelError
from proxy.histogram import Histogram, doubling
from proxy.journal import Round
from proxy.model import FAMILIES, IPV4, Family, PortKey
from proxy.reconciler import Reconciler, wait_for
from proxy.schedule import Backoff

SHARE: Final = 0.03
"""The part of one core that sweeps may take in the long run, but for those of everything once a period."""
CREDIT_S: Final = 0.3
"""How much of that can be saved up for later."""
EVERYTHING_S: Final = 60.0
"""How often everything is looked through, whatever was heard."""
EVERYTHING_SHARE: Final = 0.005
"""The part of one core that this may take: with very large tables it comes less often."""
SLICE_S: Final = 0.003
"""How long ServicePorts are looked at before others may run."""
MOST_CHANGED: Final = 500
"""A round that programs more ServicePorts has everything looked through instead."""
_BOUNDS_S: Final = doubling(0.001, 15)

log = logging.getLogger(__name__)


class FamilySweeps:
    """What is counted of one address family."""

    def __init__(self) -> None:
        self.deleted = 0
        self.durations = Histogram(_BOUNDS_S)


class Sweeper:
    """Keeps the kernel's table of UDP flows free of what is stale.

    `listening` names the backends that serve frontends by listeners of this process.
    `families`, `sweeps`, `failures` and `cpu_s` (of all walks, the kernel's part included) are for whoever counts;
    `last_error` is empty when all is well.
    """

    def __init__(
        self, reconciler: Reconciler, flows: Sweeping, listening: Collection[str] = ()
    ) -> None:
        self.families: dict[Family, FamilySweeps] = {each: FamilySweeps() for each in FAMILIES}
        self.sweeps = 0
        self.failures = 0
        self.cpu_s = 0.0
        self.last_error = ""
        self._reconciler = reconciler
        self._flows = flows
        self._listening = listening
        self._backoff = Backoff(first_s=1.0, last_s=60.0)
        self._failures_in_a_row = 0
        self._wake = asyncio.Event()
        self._host_addresses: frozenset[str] = frozenset()
        self._node_addresses: frozenset[str] = frozenset()
        self._beliefs: dict[PortKey, Belief] = {}
        self._lingering: set[PortKey] = set()
        self._dirty: dict[PortKey, Ends] = {}  # and where new flows were sent since the last look
        self._suspects: set[PortKey] = set()
        self._is_everything_due = True
        self._budget = Budget(share=SHARE, most_s=CREDIT_S, now_s=time.monotonic())
        self._retry_s = 0.0
        self._everything_due_s = 0.0

    def on_round(self, ended: Round) -> None:
        """Hear of a round of the reconciler; to be called when it has ended and before another begins."""
        if ended.is_full or len(ended.entries) > MOST_CHANGED:
            self._is_everything_due = True
        else:
            for entry in ended.entries:
                if entry.key.name.protocol == "UDP" and not entry.error:
                    self._programmed(entry.key, is_suspect=not entry.cause.name)
        if self._dirty or self._lingering or self._is_everything_due:
            self._wake.set()

    def on_addresses(self, addresses: frozenset[str]) -> None:
        """Hear which addresses (canonical text) this host has now."""
        self._host_addresses = addresses
        self._wake.set()

    def _programmed(self, key: PortKey, *, is_suspect: bool) -> None:
        """Remember where new flows are sent to from now on.

        What was repaired or tried again was perhaps missing for a while: then nothing was translated. What is over
        by the next look counts too: that may be some time away, or be under way.
        """
        port = self._reconciler.desired.ports.get(key)
        pool = conntrack.ends(port.reachable) if port is not None else frozenset()
        self._dirty[key] = self._dirty.get(key, frozenset()) | pool
        if is_suspect or conntrack.may_have_gone_by(self._beliefs.get(key, _NOTHING), port):
            self._suspects.add(key)

    async def run(self) -> None:
        """Sweep until cancelled."""
        await self._reconciler.is_synced.wait()
        while True:
            await self._wait()
            await self._look()

    async def _wait(self) -> None:
        """Sleep until there is something to look at, and time for it."""
        while True:
            is_woken = self._wake.is_set()
            due_s = max(self._budget.allowed_s, self._retry_s)
            if not is_woken:
                due_s = max(due_s, self._everything_due_s)
            rest_s = due_s - time.monotonic()
            if rest_s <= 0:
                return
            if is_woken:
                await asyncio.sleep(rest_s)
            else:
                await wait_for(self._wake, rest_s)

    async def _look(self) -> None:
        """Look once at what was heard of, or at everything."""
        self._wake.clear()
        before, self._node_addresses = (
            self._node_addresses,
            conntrack.node_addresses(self._reconciler.desired.node, self._host_addresses),
        )
        is_periodic = time.monotonic() >= self._everything_due_s
        is_everything = (
            is_periodic
            or self._is_everything_due
            or any(map(conntrack.may_have_flows, self._node_addresses - before))
        )
        self._is_everything_due = False
        dirty, self._dirty = self._dirty, {}
        keys = {*dirty, *self._lingering}
        if is_everything:
            ports = self._reconciler.desired.ports
            keys |= {key for key in ports if key.name.protocol == "UDP"}
            self._suspects |= keys
        suspects = self._suspects & keys
        self._suspects -= keys
        tasks = await self._tasks(keys, dirty, suspects)
        try:
            found = await self._sweep(tasks) if tasks else None
        except KernelError as error:
            self._failed(str(error))
            self._is_everything_due |= is_everything
            self._suspects |= suspects
            for key, pool in dirty.items():
                self._dirty[key] = self._dirty.get(key, frozenset()) | pool
            return
        if found is not None:
            self._count(found)
        now_s, cpu_s = time.monotonic(), found.cpu_s if found is not None else 0.0
        if is_everything:
            self._everything_due_s = now_s + max(EVERYTHING_S, cpu_s / EVERYTHING_SHARE)
        if not is_periodic:
            self._budget.spend(cpu_s, now_s)

    async def _tasks(
        self, keys: Iterable[PortKey], programmed: Mapping[PortKey, Ends], suspects: set[PortKey]
    ) -> list[Task]:
        """Describe what there is to look for, yielding often enough for others to run."""
        tasks: list[Task] = []
        turn = _Turn()
        for key in keys:
            task = self._task(key, programmed.get(key, frozenset()), key in suspects)
            if task is not None:
                tasks.append(task)
            await turn.give_way()
        return tasks

    def _task(self, key: PortKey, programmed: Ends, is_suspect: bool) -> Task | None:
        """Return what to look for among the flows of a ServicePort, None if nothing."""
        reconciler = self._reconciler
        port = reconciler.desired.ports.get(key)
        if port is None:
            self._beliefs.pop(key, None)
            self._lingering.discard(key)
            return None
        serving = conntrack.serving(key, reconciler.cache.endpoints(key.name.service))
        belief = self._beliefs.get(key, _NOTHING)
        task = conntrack.look(port, serving, belief, programmed, is_suspect=is_suspect)
        if task.is_worth_a_sweep:
            return task
        self._believe(key, conntrack.unswept(task))
        return None

    def _believe(self, key: PortKey, belief: Belief) -> None:
        self._beliefs[key] = belief
        if belief.lingering:
            self._lingering.add(key)
        else:
            self._lingering.discard(key)

    async def _sweep(self, tasks: Sequence[Task]) -> Found:
        """Delete what is stale. Raises KernelError."""
        # Where the data plane is not yet as described, flows may still begin as they should not.
        unsettled = frozenset(self._reconciler.backlog) | self._reconciler.quarantine.keys()
        backend, turn = self._reconciler.backend, _Turn()
        table = Table(
            self._node_addresses,
            is_listening=backend.name in self._listening,
            is_listening_at_localhost=IPV4 in at_localhost(backend),
        )
        for task in tasks:
            table.add(task)
            await turn.give_way()
        found = await self._flows.sweep(conntrack.filters(tasks), table)
        turn = _Turn()
        for task in tasks:
            self._believe(task.key, conntrack.swept(task, found.kept.get(task.key, ())))
            if task.key in unsettled:
                self._suspects.add(task.key)
            await turn.give_way()
        return found

    def _count(self, found: Found) -> None:
        """Take note of what a sweep has done, and have it done again where it could not."""
        self.sweeps += 1
        self.cpu_s += found.cpu_s
        for family, took_s in found.took_s.items():
            self.families[family].durations.observe(took_s)
            self.families[family].deleted += found.deleted[family]
        if deleted := sum(found.deleted.values()):
            log.info("deleted %d tracked UDP flows to endpoints that no longer serve", deleted)
        if found.trouble:
            self._failed(found.trouble)
            self._is_everything_due = True
        else:
            self._failures_in_a_row, self.last_error = 0, ""

    def _failed(self, error: str) -> None:
        """Have everything that was to be done done again later."""
        self.failures += 1
        self._failures_in_a_row += 1
        if error != self.last_error:
            log.error("stale UDP flows stay for now: %s", error)
        self.last_error = error
        self._retry_s = time.monotonic() + self._backoff.delay_s(self._failures_in_a_row)
        self._wake.set()


class _Turn:
    """Lets others run when this has taken long enough."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    async def give_way(self) -> None:
        if time.perf_counter() - self._began_s > SLICE_S:
            await asyncio.sleep(0)
            self._began_s = time.perf_counter()


_NOTHING: Final = Belief()
