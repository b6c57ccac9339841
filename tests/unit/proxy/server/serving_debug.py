"""A daemon's pages on loopback, for tests: real sockets, a real loop, the null backend, and a clock that is the real one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import aiohttp
from aiohttp import web

from backends.null.backend import NullBackend
from proxy.cache import Cache
from proxy.config.settings import Settings
from proxy.desired import DesiredState
from proxy.model import EndpointSlice, NodeInfo, Service
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.server import debug, guard
from proxy.server.connections import Connections
from proxy.server.serving import serving
from proxy.sources.events import KINDS, Event, Synced, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)

T = TypeVar("T")


class Answer(NamedTuple):
    """What came back: status, headers and body."""

    status: int
    headers: dict[str, str]
    text: str


class Pages:
    """The pages of one daemon."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str, *, accept: str = "*/*", method: str = "GET") -> Answer:
        async with self._session.request(
            method, self.url + path, headers={"Accept": accept}, allow_redirects=False
        ) as response:
            return Answer(response.status, dict(response.headers), await response.text())


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on a free port and yield its URL."""
    async with serving(app, "127.0.0.1", 0, Connections()) as port:
        yield f"http://127.0.0.1:{port}"


def make_reconciler(
    objects: Iterable[Service | EndpointSlice | Event] = (),
    backend: NullBackend | None = None,
) -> Reconciler:
    """Make a reconciler that knows some objects; nothing is programmed before it runs."""
    cache = Cache(NodeInfo(name="n1"))
    schedule = Schedule(now_s=time.monotonic())
    reconciler = Reconciler(cache, DesiredState(), backend or NullBackend(), schedule)
    events = [Upsert(o) if isinstance(o, Service | EndpointSlice) else o for o in objects]
    cache.apply([*events, Upsert(make_node()), *map(Synced, KINDS)], time.monotonic())
    return reconciler


def looking(
    reconciler: Reconciler,
    look: Callable[[Pages], Awaitable[T]],
    settings: Settings | None = None,
) -> T:
    """Run a daemon until it is synced, then look at its pages."""

    async def main() -> T:
        running = asyncio.create_task(reconciler.run())
        try:
            async with asyncio.timeout(60):
                await reconciler.is_synced.wait()
            app = guard.application(is_local_only=True)
            debug.add_routes(app, reconciler, settings)
            async with listening(app) as url, aiohttp.ClientSession() as session:
                return await look(Pages(url, session))
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    return asyncio.run(main())


def get(reconciler: Reconciler, path: str, *, accept: str = "*/*") -> Answer:
    """Ask one question."""
    return looking(reconciler, lambda pages: pages.get(path, accept=accept))


def shop() -> list[Service | EndpointSlice]:
    """A few services in different states."""
    return [
        make_service("default/web", make_service_port("default/web", cluster_ip="10.96.0.1")),
        make_slice(
            "web-a",
            make_endpoint("10.1.0.1:80", is_local=True),
            make_endpoint("10.1.0.2:80", ready=False, serving=False),
        ),
        make_service("shop/api", make_service_port("shop/api", "http", cluster_ip="10.96.0.2")),
        make_service("shop/files", skipped="headless"),
    ]
