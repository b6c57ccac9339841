"""The reconciler of production on a backend under test, fed with objects; what it makes of the backend's refusals."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Self

from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.model import NodeInfo, PortKey
from proxy.reconciler import Reconciler
from proxy.schedule import Backoff, Schedule
from proxy.sources.events import KINDS, Event, Synced, Upsert
from tests.contract.host import AnyBackend, Host
from tests.data_plane import Behaviour
from tests.desired_strategies import Ports
from tests.model_builders import make_endpoint, make_service, make_service_port, make_slice

_LIMIT_S = 60.0
_LOOK_S = 0.005
"""Looking costs processor time, which threads of the backend need to get on."""


class Daemon:
    """Cache, desired state and reconciler, running as long as the `async with` block."""

    def __init__(self, backend: AnyBackend) -> None:
        schedule = Schedule(now_s=time.monotonic())
        cache = Cache(NodeInfo(name="n1"))
        self._reconciler = Reconciler(cache, DesiredState(), backend, schedule)
        self._reconciler._backoff = Backoff(first_s=0.01, last_s=0.01)

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._reconciler.run())
        await self.hear([Synced(kind) for kind in KINDS])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    @property
    def desired(self) -> Ports:
        return self._reconciler.desired.ports

    @property
    def set_aside(self) -> set[PortKey]:
        """Whom the kernel refuses."""
        return set(self._reconciler.quarantine)

    def served(self, host: Host) -> Behaviour:
        """What is programmed by the reconciler's belief."""
        observed = self._reconciler.observed
        return host.behaviour(observed) if observed is not None else {}

    async def hear(self, events: Sequence[Event]) -> None:
        self._reconciler.cache.apply(events, time.monotonic())
        self._reconciler.wake()

    async def until(self, is_so: Callable[[], object]) -> None:
        """Let it run until something is so. Raises TimeoutError."""
        async with asyncio.timeout(_LIMIT_S):
            while not is_so():
                if self._running.done():
                    self._running.result()
                await asyncio.sleep(_LOOK_S)


def make_services(first: int, count: int) -> list[Event]:
    """Services with one endpoint each."""
    events: list[Event] = []
    for number in range(first, first + count):
        name, address = f"default/s{number}", f"10.96.{number >> 8}.{number & 255}"
        port = make_service_port(name, cluster_ip=address)
        endpoint = make_endpoint(f"10.1.{number >> 8}.{number & 255}:80")
        events.append(Upsert(make_service(name, port)))
        events.append(Upsert(make_slice(f"s{number}-a", endpoint, service=f"s{number}")))
    return events
