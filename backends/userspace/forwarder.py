"""The forwarder: one epoll object for all its sockets, which the event loop looks at as one. Shell.

A socket is registered once and for edges, so that a connection costs the kernel two registrations and the loop nothing.
Whatever can go on without waiting is continued in turns. `except Exception` stands here, around one connection's event.
"""

import asyncio
import contextlib
import itertools
import logging
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

from backends.userspace.balancing import Balancer
from backends.userspace.datagrams import Flow
from backends.userspace.here import Here
from backends.userspace.listeners import Listener, TcpListener, UdpListener
from backends.userspace.model import Listening, Place, Serving, Target
from backends.userspace.pipes import Pipes
from backends.userspace.services import COUNTED, Service
from backends.userspace.settings import ForwarderSettings
from backends.userspace.streams import Connection
from proxy.model import Family, PortKey, Protocol

EVENTS: Final = 512
"""Events taken in at once."""
TICK_S: Final = 0.25
SWEEP_S: Final = 5.0
"""How often what is silent is looked for; sooner where a time-out is short."""
REST_S: Final = 0.1
"""How long nobody is accepted when the process may open no more files."""

RESERVE: Final = 256
RESERVE_SHARE: Final = 8
"""Files that are left to the rest of the process, but no more than one in so many: health and the API server need some, too."""
LISTENERS_SHARE: Final = 2
"""Listeners may be one in so many of the sockets that there may be: clients need some, too."""
PIPES_SHARE: Final = 16
"""Pipes may be one for so many of the files; each is two."""
FLOWS_SHARE: Final = 4
"""UDP clients may have one in so many of the files that the process may open: connections need some, too."""
FLOWS_LOOKED_AT: Final = 512
"""How many are looked at to find one that is silent: then one goes all the same."""

_READING: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
_WRITING: Final = _READING | select.EPOLLOUT

Handler = Callable[[int], None]

log = logging.getLogger(__name__)


def _nothing(_now_s: float) -> None:
    """Do nothing with each tick."""


class Forwarder:
    """Listeners, connections and flows of this process. Made and used on the event loop."""

    def __init__(
        self, settings: ForwarderSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.services: dict[PortKey, Service] = {}
        self.listeners: dict[Place, Listener] = {}
        self.here = Here()
        self.now_s = clock()
        self.on_tick: Callable[[float], object] = _nothing
        self.connecting: dict[Connection, float] = {}
        self.flows: dict[Flow, float] = {}
        self.resting: dict[Listener, None] = {}
        self.starved: dict[Connection, None] = {}
        self.rests = 0
        self._clock = clock
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        pipes_at_most = files // PIPES_SHARE
        self.pipes = Pipes(pipes_at_most)
        self._flows_at_most = min(settings.flows, files // FLOWS_SHARE)
        self._sockets_at_most = files - min(RESERVE, files // RESERVE_SHARE) - 2 * pipes_at_most
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._doomed: list[socket.SocketType] = []
        self._later: deque[tuple[Callable[..., object], object]] = deque()
        self._leaving: deque[tuple[float, Service, frozenset[Target]]] = deque()
        self._ended: list[Service] = []
        self._past = dict.fromkeys(COUNTED, 0)
        self._next_sweep_s = 0.0
        self._is_resting = False
        self._is_drained = asyncio.Event()
        self._is_drained.set()
        self._is_due = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._on_events)
        self._tick = self._loop.call_later(TICK_S, self._on_tick)

    # --- what is served

    def serve(self, key: PortKey, serving: Serving) -> None:
        """Serve a ServicePort so from now on. What is connected to an endpoint that has gone may go on for a while."""
        service = self.services.get(key)
        if service is None:
            settings = self.settings
            balancer = Balancer(is_least=settings.is_least, avoid_s=settings.avoid_s)
            self.services[key] = Service(serving, balancer, settings.offset)
        else:
            self._leave(service, service.update(serving))

    def forget(self, key: PortKey) -> None:
        """Serve a ServicePort no longer."""
        service = self.services.pop(key, None)
        if service is not None:
            self._leave(service, service.update(Serving(frontends=())))
            self._ended.append(service)

    def _leave(self, service: Service, gone: frozenset[Target]) -> None:
        if not gone:
            return
        for flow in [flow for flow in service.flows if flow.target in gone]:
            flow.close()
        if any(each.target in gone for each in service.connections):
            self._leaving.append((self.now_s + self.settings.drain_s, service, gone))

    def listen(self, place: Place, listening: Listening, listener: socket.socket) -> None:
        """Accept what comes in by a listening socket, which does not block and is ours from now on."""
        kind = TcpListener if place.protocol == "TCP" else UdpListener
        service = self.services[listening.owner]
        self.listeners[place] = kind(self, place, listening, listener, service)

    def assign(self, place: Place, listening: Listening) -> None:
        """Have a listener serve otherwise."""
        self.listeners[place].assign(listening, self.services[listening.owner])

    @property
    def has_room_to_listen(self) -> bool:
        """Whether there may be another listener."""
        return len(self.listeners) < self._sockets_at_most // LISTENERS_SHARE

    def is_ours(self, protocol: Protocol, target: Target) -> bool:
        """Whether an endpoint is a frontend of ours: what went there would come back to us, for ever."""
        family: Family = "IPv6" if ":" in target.ip else "IPv4"
        return Place(family, protocol, target.ip, target.port) in self.listeners

    def stop(self, place: Place) -> None:
        """Stop listening somewhere."""
        listener = self.listeners.pop(place)
        self.resting.pop(listener, None)
        listener.close()
        self._bury()

    # --- sockets

    def watch(self, end: socket.SocketType, handler: Handler, *, is_writing: bool = False) -> None:
        """Have a handler called whenever a socket becomes readable, ends, or (if asked for) becomes writable."""
        descriptor = end.fileno()
        self._epoll.register(descriptor, _WRITING if is_writing else _READING)
        self._handlers[descriptor] = handler

    def ignore(self, listener: socket.socket) -> None:
        """Hear of a listening socket no more: where another process has it too, closing it here does not end that."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(listener.fileno())

    def ask_for_room(self, end: socket.SocketType) -> None:
        """Have a socket's handler called as soon as it is writable."""
        descriptor = end.fileno()
        if descriptor in self._handlers:
            self._epoll.modify(descriptor, _WRITING)

    def close_later(self, end: socket.SocketType) -> None:
        """Close a socket after the events at hand, in which its number may still occur."""
        self._handlers.pop(end.fileno(), None)
        self._doomed.append(end)
        self._wake()

    def later(self, call: Callable[..., object], argument: object) -> None:
        """Go on with something after everybody else had a turn."""
        self._later.append((call, argument))
        self._wake()

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._go_on)

    def _bury(self) -> None:
        doomed = self._doomed
        while doomed:
            doomed.pop().close()

    def _on_events(self) -> None:
        self.now_s = self._clock()
        handlers = self._handlers
        for descriptor, mask in self._epoll.poll(0, EVENTS):
            handler = handlers.get(descriptor)
            if handler is not None:
                self.call(handler, mask)
        self._bury()

    def _go_on(self) -> None:
        """Go on with what was left for later, each once."""
        self._is_due = False
        self.now_s = self._clock()
        for _ in range(len(self._later)):
            call, argument = self._later.popleft()
            self.call(call, argument)
        self._bury()

    @staticmethod
    def call(handler: Callable[..., object], argument: object) -> None:
        """Call a handler, whose mistakes are its connection's own."""
        try:
            handler(argument)
        except Exception:
            owner = getattr(handler, "__self__", argument)
            log.exception("a mistake of ours, in %s", type(owner).__name__)
            if isinstance(owner, (Connection, Flow)):
                owner.close()

    # --- time

    @property
    def has_room(self) -> bool:
        """Whether there may be another connection, which is two sockets. One that was put off lacks its second one still."""
        taken = len(self._handlers) + len(self.starved) + len(self._doomed)
        return taken + 2 <= self._sockets_at_most

    def rest(self) -> None:
        """Accept nobody for a moment: there are as many files as may be."""
        if not self._is_resting:
            self.rests += 1
            self._is_resting = True
            self._loop.call_later(REST_S, self._resume)

    def put_off(self, connection: Connection) -> None:
        """Have a connection try again to get to an endpoint after a moment: the process may open no more files."""
        self.starved[connection] = None
        self.rest()

    def _resume(self) -> None:
        self._is_resting = False
        self.now_s = self._clock()
        starved, self.starved = self.starved, {}
        for connection in starved:
            self.call(Connection.begin, connection)
        resting, self.resting = self.resting, {}
        for listener in resting:
            self.later(listener.on_event, 0)

    def add_flow(self, flow: Flow) -> None:
        """Remember a flow; beyond the limit, or for want of files, one goes that has been silent for about the longest."""
        if 0 < self._flows_at_most <= len(self.flows) or (self.flows and not self.has_room):
            self._forget_one()
        self.flows[flow] = flow.active_s

    def _forget_one(self) -> None:
        """Have the first go that has been silent since it was put where it is; those before it are put at the end."""
        passed: list[Flow] = []
        for flow, since_s in itertools.islice(self.flows.items(), FLOWS_LOOKED_AT):
            if flow.active_s == since_s:
                passed.insert(0, flow)
                break
            passed.append(flow)
        gone, *others = passed
        for each in others:
            del self.flows[each]
            self.flows[each] = each.active_s
        gone.close()

    def _on_tick(self) -> None:
        self._tick = self._loop.call_later(TICK_S, self._on_tick)
        self._on_events()  # if this process was held up, endpoints may have answered long since
        now_s = self.now_s
        self.call(self.on_tick, now_s)
        while self.connecting:
            connection = next(iter(self.connecting))
            if self.connecting[connection] > now_s:
                break
            self.call(Connection.on_time_out, connection)
        while self._leaving and self._leaving[0][0] <= now_s:
            _, service, gone = self._leaving.popleft()
            for each in service.leaving(gone - service.members):
                each.abort()
        if now_s >= self._next_sweep_s:
            self._sweep(now_s)
        if not self._is_drained.is_set() and not self.connections:
            self._is_drained.set()
        self._bury()

    def _sweep(self, now_s: float) -> None:
        """End what was silent for too long."""
        settings = self.settings
        periods = [s for s in (settings.idle_s, settings.half_closed_s, settings.udp_s) if s > 0]
        self._next_sweep_s = now_s + min([SWEEP_S, *[s / 4 for s in periods]])
        for flow in [f for f in self.flows if f.active_s + settings.udp_s <= now_s]:
            flow.close()
        for service in [service for service in self._ended if service.is_idle]:
            self._ended.remove(service)
            for name, count in service.counted.items():
                self._past[name] += count
        for service in [*self.services.values(), *self._ended]:
            if not service.connections:
                continue
            for each in list(service.connections):
                limit_s = settings.half_closed_s if each.is_half_closed else settings.idle_s
                if limit_s and each.active_s + limit_s <= now_s:
                    each.abort()

    # --- looks

    @property
    def connections(self) -> Collection[Connection]:
        """All that are open or being opened."""
        served: Iterable[Service] = itertools.chain(self.services.values(), self._ended)
        return [each for service in served for each in service.connections]

    def counted(self) -> dict[str, int]:
        """Return what all services together have counted, also those that are gone."""
        total = dict(self._past)
        for service in itertools.chain(self.services.values(), self._ended):
            for name, count in service.counted.items():
                total[name] += count
        return total

    # --- the end

    async def drain(self, deadline_s: float) -> int:
        """Accept nobody any more, and wait until all connections have ended, at most so long; return how many have not."""
        for place in list(self.listeners):
            self.stop(place)
        self._is_drained.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._is_drained.wait()
        return len(self.connections)

    def close(self) -> None:
        """Close everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._tick.cancel()
        for place in list(self.listeners):
            self.stop(place)
        for connection in self.connections:
            connection.abort()
        for flow in list(self.flows):
            flow.close()
        self._later.clear()
        self._bury()
        self.pipes.close()
        self._epoll.close()
