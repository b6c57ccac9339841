"""The daemon from cache to backend, on a fake kernel and a clock that jumps."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.model import EndpointSlice, NodeInfo, Service
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.sources.events import KINDS, Event, ObjectKind, Synced, Upsert
from proxy.verifier import Verifier
from tests.fakes import clock
from tests.fakes.backend import FakeBackend
from tests.fakes.clock import JumpingClock

A_MOMENT_S = 0.001


class Daemon:
    """Reconciler and verifier, with the test in the place of the source."""

    def __init__(self, *, min_interval_s: float = 0.0) -> None:
        self.clock = JumpingClock()
        self.backend = FakeBackend()
        self.cache = Cache(NodeInfo(name="n1"))
        self.desired = DesiredState()
        schedule = Schedule(now_s=self.clock.now_s, min_interval_s=min_interval_s)
        self.reconciler = Reconciler(self.cache, self.desired, self.backend, schedule)
        self.verifier = Verifier(self.reconciler)

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    def tell(self, *news: Event | Service | EndpointSlice | NodeInfo) -> None:
        """Deliver events, or objects as they are now, in one batch."""
        events = [
            Upsert(one) if isinstance(one, Service | EndpointSlice | NodeInfo) else one
            for one in news
        ]
        self.cache.apply(events, self.now_s)
        self.reconciler.wake()

    def tell_all(self, *news: Event | Service | EndpointSlice | NodeInfo) -> None:
        """Deliver the first list of every kind."""
        self.tell(*news, *listed())

    def find_in_kernel(self, *objects: Service | EndpointSlice) -> None:
        """Have the kernel hold what an earlier run programmed for some objects."""
        earlier = Daemon()
        earlier.tell(*objects)
        for name in earlier.cache.take_changes():
            earlier.desired.update(
                name,
                earlier.cache.services.get(name),
                earlier.cache.endpoints(name),
                earlier.cache.node,
            )
        self.backend.kernel.update(earlier.desired.ports)

    async def pass_s(self, seconds: float = A_MOMENT_S) -> None:
        """Let time pass on the clock of the test."""
        await asyncio.sleep(seconds)

    def live(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the daemon for as long as `life` takes. An error of either ends both."""

        async def main() -> None:
            tasks = [
                asyncio.create_task(self.reconciler.run()),
                asyncio.create_task(self.verifier.run()),
            ]
            living = asyncio.create_task(life())
            try:
                done, _ = await asyncio.wait([living, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                assert living in done, "the daemon ended by itself"
            finally:
                for task in (living, *tasks):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

        clock.run(self.clock, main)


def listed(*, but: ObjectKind | None = None) -> list[Event]:
    """Return that all kinds have been listed, but perhaps one."""
    return [Synced(kind) for kind in KINDS if kind != but]


def make_daemon(monkeypatch: pytest.MonkeyPatch, *, min_interval_s: float = 0.0) -> Daemon:
    """Make a daemon that is on no real clock."""
    daemon = Daemon(min_interval_s=min_interval_s)
    for module in ("reconciler", "verifier"):
        monkeypatch.setattr(f"proxy.{module}.time", daemon.clock)
    return daemon
