"""Removes tracked UDP flows that lead to what no longer serves. Shell; what is stale is decided in `conntrack`.

Told of the reconciler's rounds, it looks at the ServicePorts that a round has programmed and compares the kernel's table
with the endpoints of now: what it was told too late or not at all is made up for by the next look, and now and then it
looks through everything. What could not be done is done again later.

The first change after a quiet time is looked at at once. After a walk through a large table it rests, so that it never
takes more than SHARE of a core; what changes meanwhile is looked at together.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Final

from proxy import conntrack
from proxy.conntrack import Belief, Ends, Table, Task
from proxy.conntrack_table import ConntrackTable, Found
from proxy.errors import KernelError
from proxy.histogram import Histogram, doubling
from proxy.journal import Round
from proxy.model import FAMILIES, Family, PortKey
from proxy.reconciler import Reconciler, wait_for
from proxy.schedule import Backoff

SHARE: Final = 0.04
"""The part of one core that sweeps may take, averaged over the rest after each."""
EVERYTHING_S: Final = 60.0
"""How often everything is looked through, whatever was heard."""
EVERYTHING_SHARE: Final = 0.005
"""The part of one core that this may take: with very large tables it comes less often."""
SLICE_S: Final = 0.003
"""How long ServicePorts are looked at before others may run."""
MOST_CHANGED: Final = 1000
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

    `families`, `sweeps`, `failures` and `cpu_s` (of all walks, the kernel's part included) are for whoever counts;
    `last_error` is empty when all is well.
    """

    def __init__(self, reconciler: Reconciler) -> None:
        """Open a socket, in the network namespace of the calling thread. Raises KernelError."""
        self.families: dict[Family, FamilySweeps] = {each: FamilySweeps() for each in FAMILIES}
        self.sweeps = 0
        self.failures = 0
        self.cpu_s = 0.0
        self.last_error = ""
        self._reconciler = reconciler
        self._table = ConntrackTable()
        self._backoff = Backoff(first_s=1.0, last_s=60.0)
        self._failures_in_a_row = 0
        self._wake = asyncio.Event()
        self._node_addresses: frozenset[str] = frozenset()
        self._beliefs: dict[PortKey, Belief] = {}
        self._lingering: set[PortKey] = set()
        self._dirty: dict[PortKey, Ends] = {}  # and where new flows were sent since the last look
        self._suspects: set[PortKey] = set()
        self._is_everything_due = True
        self._allowed_s = 0.0
        self._everything_due_s = 0.0

    def close(self) -> None:
        self._table.close()

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
        """Hear on which addresses (canonical text) this node serves node ports now."""
        if addresses != self._node_addresses:
            self._node_addresses = addresses
            self._is_everything_due = True
            self._wake.set()

    def _programmed(self, key: PortKey, *, is_suspect: bool) -> None:
        """Remember where new flows are sent to from now on.

        What was repaired or tried again was perhaps missing for a while: then nothing was translated.
        """
        port = self._reconciler.desired.ports.get(key)
        pool = conntrack.ends(port.reachable) if port is not None else frozenset()
        self._dirty[key] = self._dirty.get(key, frozenset()) | pool
        if is_suspect:
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
            self._wake.clear()
            now_s = time.monotonic()
            if now_s >= self._everything_due_s:
                self._is_everything_due = True
            is_due = bool(self._dirty or self._lingering or self._is_everything_due)
            if is_due and now_s >= self._allowed_s:
                return
            until_s = self._allowed_s if is_due else self._everything_due_s
            if is_due:
                await asyncio.sleep(until_s - now_s)
            else:
                await wait_for(self._wake, until_s - now_s)

    async def _look(self) -> None:
        is_everything, self._is_everything_due = self._is_everything_due, False
        dirty, self._dirty = self._dirty, {}
        suspects, self._suspects = self._suspects, set()
        keys = self._reconciler.desired.ports.keys() if is_everything else ()
        try:
            tasks = await self._tasks({*dirty, *self._lingering, *keys}, dirty, suspects, is_everything)
            found = await self._sweep(tasks)
        except KernelError as error:
            self._failed(str(error))
            self._is_everything_due |= is_everything
            self._suspects |= suspects
            for key, pool in dirty.items():
                self._dirty[key] = self._dirty.get(key, frozenset()) | pool
            return
        self._succeeded(found, is_everything=is_everything)
