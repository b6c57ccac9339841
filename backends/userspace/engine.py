"""What is served in this process, as the backend sees it: services and listeners that can be changed and looked at. Shell."""

import errno
import logging
from collections.abc import Callable, Mapping
from typing import Final

from backends.userspace.forwarder import Forwarder
from backends.userspace.here import Here
from backends.userspace.interfaces import PodInterfaces
from backends.userspace.model import Listening, Place, Serving
from backends.userspace.settings import ForwarderSettings
from backends.userspace.sockets import Sockets, admit, describe, is_alive
from proxy.errors import KernelError
from proxy.listeners import Listeners
from proxy.model import PortKey

AT_ONCE: Final = 20
"""Listeners that are told who is here before others have their turn: each takes the kernel 0.2 ms where there are 250 pods."""
FULL: Final = "Too many open files: listeners have their share of what this process may open"

log = logging.getLogger(__name__)


class Engine:
    """The forwarder with the sockets it listens on. Its forwarder begins with the first thing that is served."""

    def __init__(
        self,
        settings: ForwarderSettings,
        listeners: Listeners | None = None,
        *,
        make: Callable[[ForwarderSettings], Forwarder] = Forwarder,
    ) -> None:
        self._settings = settings
        self._sockets = Sockets(listeners, needs_interface=settings.detector.is_by_interface)
        self._make = make
        self._made: Forwarder | None = None
        self._interfaces: PodInterfaces | None = None
        self._here = Here()
        self._untold: list[Place] = []

    @property
    def forwarder(self) -> Forwarder:
        """The forwarder. Made on the event loop that asks first. Raises KernelError."""
        if self._made is None:
            try:
                if self._settings.detector.is_by_interface and self._interfaces is None:
                    self._interfaces = PodInterfaces(self._settings.detector)
                self._made = self._make(self._settings)
            except OSError as error:  # too many open files
                number, text = error.errno or 0, error.strerror or str(error)
                raise KernelError("begin to forward", number, text) from error
            if self._interfaces is not None:
                self._here = Here(self._here.host, (), self._interfaces.numbers)
            self._made.here = self._here
            self._made.on_tick = self._look_at_interfaces
        return self._made

    def serving(self) -> dict[PortKey, Serving]:
        """Return what is served."""
        if self._made is None:
            return {}
        return {key: service.serving for key, service in self._made.services.items()}

    def listening(self) -> dict[Place, Listening]:
        """Return where somebody listens. What others have ended is closed."""
        if self._made is None:
            return {}
        listeners = self._made.listeners
        for place in [p for p, each in listeners.items() if not is_alive(each.socket)]:
            self.stop(place)
        return {place: listener.listening for place, listener in listeners.items()}

    def is_listening(self, place: Place) -> bool:
        """Whether somebody listens there; one system call."""
        listener = self._made.listeners.get(place) if self._made is not None else None
        return listener is not None and is_alive(listener.socket)

    def has(self, place: Place) -> bool:
        """Whether there is a listener, alive or not."""
        return self._made is not None and place in self._made.listeners

    def serve(self, key: PortKey, serving: Serving) -> None:
        self.forwarder.serve(key, serving)

    def forget(self, key: PortKey) -> None:
        self.forwarder.forget(key)

    def listen(self, place: Place, listening: Listening) -> None:
        """Listen somewhere, or have who listens there do it otherwise. Raises OSError; then it is as it was, but may let nobody in."""
        forwarder = self.forwarder
        listener = forwarder.listeners.get(place)
        if listener is not None and not is_alive(listener.socket):
            self.stop(place)
            listener = None
        if listener is None:
            if not forwarder.has_room_to_listen:
                raise OSError(errno.EMFILE, FULL)
            opened = self._sockets.open(place, listening.admission, self._here)
            try:
                forwarder.listen(place, listening, opened)
            except OSError:
                self._sockets.leave(place)
                opened.close()
                raise
            return
        if listener.listening.admission != listening.admission:
            admit(listener.socket, place, listening.admission, self._here)
        forwarder.assign(place, listening)

    def stop(self, place: Place) -> None:
        """Stop listening somewhere."""
        self._sockets.leave(place)
        self.forwarder.stop(place)

    def set_here(self, host: frozenset[str], ranges: tuple[str, ...]) -> None:
        """Say who is on this node: the addresses of this host, and the ranges of pods here."""
        self._stand(Here(host, ranges, self._here.interfaces))

    def _look_at_interfaces(self, _now_s: float) -> None:
        if self._interfaces is not None and self._interfaces.look():
            self._stand(Here(self._here.host, self._here.ranges, self._interfaces.numbers))

    def _stand(self, here: Here) -> None:
        before, self._here = self._here, here
        made = self._made
        if made is None:
            return
        made.here = here
        if (before.ranges, before.interfaces) != (here.ranges, here.interfaces):
            self._untold = list(made.listeners)
            self._tell(made)

    def _tell(self, forwarder: Forwarder) -> None:
        """Have listeners let in who is here now: some of them, then others have their turn."""
        told = 0
        while self._untold and told < AT_ONCE:
            place = self._untold.pop()
            listener = forwarder.listeners.get(place)
            if listener is None or not listener.listening.admission.only_here:
                continue
            told += 1
            try:
                admit(listener.socket, place, listener.listening.admission, self._here)
            except OSError as error:
                log.error("pods here may not be let in: %s", describe(place, error))
        if self._untold:
            forwarder.later(self._tell, forwarder)

    def counts(self, key: PortKey) -> Mapping[str, int]:
        """Return what was counted of one ServicePort, and how many connections and flows it has."""
        service = self._made.services.get(key) if self._made is not None else None
        if service is None:
            return {}
        return {"open": len(service.connections) + len(service.flows), **service.counted}

    def totals(self) -> Mapping[str, int]:
        """Return what was counted of everything, and what is open."""
        if self._made is None:
            return {}
        forwarder = self._made
        return {
            "connections": len(forwarder.connections),
            "flows": len(forwarder.flows),
            "rests": forwarder.rests,
            **forwarder.counted(),
        }

    async def drain(self, deadline_s: float) -> int:
        """Accept nobody any more and wait for connections to end, at most so long; return how many are left."""
        if self._made is None:
            return 0
        for place in self._made.listeners:
            self._sockets.leave(place)
        return await self._made.drain(deadline_s)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None
        if self._interfaces is not None:
            self._interfaces.close()
            self._interfaces = None
