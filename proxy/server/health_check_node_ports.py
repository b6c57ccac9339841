"""Health check node ports: load balancers ask here whether this node has endpoints of a Service. Shell.

What is answered is known from `proxy.health_checks`; here are the sockets. Changes count from when a round ended well, so
that nobody sends traffic for which nothing is programmed yet. Each family has its own listeners: on the addresses that
NodePorts listen on, or on all of them. Where a port cannot be had, the others are served and this one is tried again.

There may be thousands of these, so each is only a socket and a handler, without application, routes and runner: 500 of
them take 0.04 s and 1.3 MB, where an application with a runner for each takes 0.14 s and 2.9 MB. The parser is the
HTTP library's all the same: these ports are open to everybody.
"""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from proxy.addresses import join_host_port
from proxy.desired_node import DesiredNode
from proxy.health_checks import HealthCheck
from proxy.journal import Round
from proxy.listeners import allow_many_files
from proxy.model import Family, ServiceName
from proxy.reconciler import Reconciler
from proxy.server.connections import Connections, Listener
from proxy.server.guard import SERVER

RETRY_S: Final = 5.0
"""How long until a port that is taken is tried again, if nothing else happens."""
_RETRY_AT_LEAST_S: Final = 1.0
"""How long after a failure it is not tried again, unless another of ours has gone."""
_ATTEMPTS_TO_SAY: Final = 2
_TURN: Final = 32
"""How many are opened before others may run."""
_ANY: Final[dict[Family, str]] = {"IPv4": "0.0.0.0", "IPv6": "::"}  # noqa: S104 - load balancers are elsewhere

log = logging.getLogger(__name__)

OnBusy = Callable[[HealthCheck, str], None]


class _Place(NamedTuple):
    """Where a listener is, or should be."""

    service: ServiceName
    family: Family
    address: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)


def answer(check: HealthCheck, family: Family, *, is_healthy: bool) -> tuple[int, bytes, int]:
    """Return status, body and the count of the weight header: in the words and with the spaces of kube-proxy."""
    count = check.local.get(family, 0)
    body = (
        '{\n\t"service": {\n'
        f'\t\t"namespace": {json.dumps(check.service.namespace)},\n'
        f'\t\t"name": {json.dumps(check.service.name)}\n'
        "\t},\n"
        f'\t"localEndpoints": {count},\n'
        f'\t"serviceProxyHealthy": {"true" if is_healthy else "false"}\n'
        "}"
    )
    return (200 if count and is_healthy else 503), body.encode(), count


class HealthCheckNodePorts:
    """Listens where health checks are wanted."""

    def __init__(
        self,
        reconciler: Reconciler,
        is_healthy: Callable[[], bool],
        on_busy: OnBusy = lambda _check, _error: None,
        *,
        retry_s: float = RETRY_S,
        connections: Connections | None = None,
    ) -> None:
        """`is_healthy` says whether the proxy keeps up; `on_busy` is told once of each port that stays unavailable."""
        self._reconciler = reconciler
        self._is_healthy = is_healthy
        self._on_busy = on_busy
        self._retry_s = retry_s
        self._connections = connections if connections is not None else Connections()
        self._retry_at_least_s = min(retry_s, _RETRY_AT_LEAST_S)
        self._wanted: dict[ServiceName, HealthCheck] = {}
        self._node: DesiredNode | None = None
        self._refused: set[ServiceName] = (
            set()
        )  # what changed of them counts once it is programmed
        self._due: set[ServiceName] = set()
        self._listeners: dict[ServiceName, dict[_Place, Listener]] = {}
        self._failures: dict[_Place, int] = {}  # how often in a row
        self._tried_s = -math.inf
        self._wake = asyncio.Event()

    @property
    def places(self) -> list[str]:
        """Where it listens now, as `address:port`."""
        return sorted(str(place) for of_one in self._listeners.values() for place in of_one)

    def heard(self, ended: Round) -> None:
        """Take in what a round of the reconciler has programmed. To be told of every round."""
        if not ended.error:
            self._take()

    def _take(self) -> None:
        desired = self._reconciler.desired
        changed = desired.health_checks.take_changed() | self._refused
        if changed:
            self._refused = changed & {key.name.service for key in self._reconciler.quarantine}
            changed -= self._refused
        for name in changed:
            if (new := desired.health_checks.wanted.get(name)) is not None:
                self._wanted[name] = new
            else:
                self._wanted.pop(name, None)
        self._due |= changed
        if desired.node is not self._node:
            self._node = desired.node
            self._due |= self._wanted.keys()
        if self._due or (self._failures and self._is_time()):
            self._wake.set()

    def _is_time(self) -> bool:
        """Whether what has failed may be tried again: not with each of a hundred rounds a second."""
        return time.monotonic() - self._tried_s >= self._retry_at_least_s

    async def run(self) -> None:
        """Listen until cancelled, also for what was programmed before anybody could tell of it."""
        allow_many_files()
        if self._reconciler.is_synced.is_set():
            self._take()
        try:
            while True:
                self._wake.clear()
                await self._sync()
                await self._rest()
        finally:
            everywhere = [each for of_one in self._listeners.values() for each in of_one.values()]
            self._listeners.clear()
            await asyncio.gather(*[each.finish() for each in everywhere])

    async def _rest(self) -> None:
        """Sleep until something has changed, or something is to be tried again."""
        timeout_s = self._retry_s if self._failures else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def _sync(self) -> None:
        """Close what is not wanted any more, then open what is missing: a port may have changed hands."""
        due, self._due = self._due, set()
        wanted = {name: frozenset(self._places(name)) for name in sorted(due)}
        closed = [self._close(name, places) for name, places in wanted.items()]
        is_retry = any(closed) or self._is_time()
        if is_retry:
            self._tried_s = time.monotonic()
            for name in {place.service for place in self._failures}:
                wanted[name] = frozenset(self._places(name))
        count = 0
        for name, places in wanted.items():
            for place in sorted(places - self._listeners.get(name, {}).keys()):
                if name in self._due:
                    break  # other places may be wanted by now
                if place in self._failures and not is_retry:
                    continue
                await self._try_to_open(place)
                count += 1
                if count % _TURN == 0:
                    await asyncio.sleep(0)

    def _places(self, name: ServiceName) -> Iterator[_Place]:
        check = self._wanted.get(name)
        if check is None:
            return
        limited: Mapping[Family, tuple[str, ...] | None] = (
            self._node.node_port_addresses if self._node is not None else {}
        )
        for family in check.local:
            addresses = limited.get(family)
            for address in (_ANY[family],) if addresses is None else addresses:
                yield _Place(name, family, address, check.port)

    def _close(self, name: ServiceName, but: frozenset[_Place]) -> bool:
        """Close what is not wanted; return whether there was something."""
        listeners = self._listeners.get(name, {})
        unwanted = [place for place in listeners if place not in but]
        for place in unwanted:
            listeners.pop(place).close()
        if not listeners:
            self._listeners.pop(name, None)
        for place in [p for p in self._failures if p.service == name and p not in but]:
            del self._failures[place]
        return bool(unwanted)

    async def _try_to_open(self, place: _Place) -> None:
        try:
            listener = await self._open(place)
        except OSError as error:
            attempts = self._failures[place] = self._failures.get(place, 0) + 1
            self._say(place, attempts, error.strerror or str(error))
        else:
            self._listeners.setdefault(place.service, {})[place] = listener
            if self._failures.pop(place, None) is not None:
                log.info("health checks of %s are answered on %s now", place.service, place)

    def _say(self, place: _Place, attempts: int, error: str) -> None:
        check = self._wanted.get(place.service)
        if attempts == 1:
            log.warning(
                "health checks of %s cannot be answered on %s, trying again: %s",
                *(place.service, place, error),
            )
        elif attempts == _ATTEMPTS_TO_SAY and check is not None:
            self._on_busy(check, f"health checks cannot be answered on {place}: {error}")

    async def _open(self, place: _Place) -> Listener:
        """Listen at a place. Raises OSError where that is not possible."""

        async def respond(_request: web.BaseRequest) -> web.StreamResponse:
            check = self._wanted.get(place.service)
            if check is None:
                raise web.HTTPServiceUnavailable
            status, body, count = answer(check, place.family, is_healthy=self._is_healthy())
            headers = {
                "Content-Type": "application/json",
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(count),
                "Server": SERVER,
            }
            return web.Response(status=status, body=body, headers=headers)

        return await self._connections.listen(web.Server(respond), place.address, place.port)
