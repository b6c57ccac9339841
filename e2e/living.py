"""Reconciler and sweeper at work on a node, in this process: no source, the caller tells what the cluster is like."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from e2e.namespace import Namespace
from proxy.backend import Backend
from proxy.cache import Cache
from proxy.conntrack_sweeper import Sweeper
from proxy.conntrack_table import ConntrackTable
from proxy.desired import DesiredState
from proxy.model import EndpointSlice, NodeInfo, Service
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.sources.events import KINDS, Synced, Upsert

LIMIT_S = 30.0


class Life:
    """A node's daemon, reduced to what flows depend on. Without `is_sweeping` stale flows stay."""

    def __init__(self, backend: Backend[Any, Any], *, is_sweeping: bool = True) -> None:
        schedule = Schedule(now_s=time.monotonic(), min_interval_s=0.0)
        self.reconciler = Reconciler(Cache(NodeInfo(name="n1")), DesiredState(), backend, schedule)
        self._table = ConntrackTable()
        self.sweeper = Sweeper(self.reconciler, self._table)
        self._is_sweeping = is_sweeping
        if is_sweeping:
            self.reconciler.on_round = self.sweeper.on_round

    def tell(self, *news: Service | EndpointSlice) -> None:
        self.reconciler.cache.apply([Upsert(one) for one in news], time.monotonic())
        self.reconciler.wake()

    def tell_all(self, *news: Service | EndpointSlice) -> None:
        self.tell(*news)
        self.reconciler.cache.apply([Synced(kind) for kind in KINDS], time.monotonic())

    async def programmed(self, *news: Service | EndpointSlice) -> None:
        """Tell, and wait until new flows go by it."""
        before = self.reconciler.journal.total
        self.tell(*news)
        await self.until(lambda: self.reconciler.journal.total > before)

    @property
    def deleted(self) -> int:
        return sum(each.deleted for each in self.sweeper.families.values())

    async def until(self, is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Wait until something is so. Raises TimeoutError when that takes too long."""
        async with asyncio.timeout(limit_s):
            while not is_so():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.002)

    @asynccontextmanager
    async def lived(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.reconciler.run())]
        if self._is_sweeping:
            tasks.append(asyncio.create_task(self.sweeper.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            self._table.close()
            for end in ends:
                if not isinstance(end, asyncio.CancelledError):
                    raise end or AssertionError("a task of the daemon ended by itself")


def live(
    node: Namespace,
    backend: Callable[[], Backend[Any, Any]],
    life: Callable[[Life], Coroutine[Any, Any, None]],
    *,
    is_sweeping: bool = True,
) -> None:
    """Run the daemon on the node for as long as `life` takes."""

    async def main() -> None:
        made = backend()
        try:
            alive = Life(made, is_sweeping=is_sweeping)
            async with alive.lived():
                await life(alive)
        finally:
            made.close()

    with node.entered():
        asyncio.run(main())
