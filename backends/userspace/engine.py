"""What is served in this process, as the backend sees it: services and listeners that can be changed and looked at. Shell."""

from collections.abc import Callable, Mapping
from typing import Final

from backends.userspace.forwarder import Forwarder
from backends.userspace.here import Here
from backends.userspace.model import Listening, Place, Serving
from backends.userspace.settings import ForwarderSettings
from backends.userspace.sockets import Sockets, admit, is_alive
from proxy.listeners import Listeners
from proxy.model import PortKey

KINDS: Final = ("TCP", "UDP")


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
        self._here = Here()

    @property
    def forwarder(self) -> Forwarder:
        """The forwarder. Made on the event loop that asks first."""
        if self._made is None:
            self._made = self._make(self._settings)
            self._made.here = self._here
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
        forwarder, ranges = self.forwarder, self._here.ranges
        listener = forwarder.listeners.get(place)
        if listener is not None and not is_alive(listener.socket):
            self.stop(place)
            listener = None
        if listener is None:
            opened = self._sockets.open(place, listening.admission, ranges)
            forwarder.listen(place, listening, opened)
            return
        if listener.listening.admission != listening.admission:
            admit(listener.socket, place, listening.admission, ranges)
        forwarder.assign(place, listening)

    def stop(self, place: Place) -> None:
        """Stop listening somewhere."""
        self._sockets.leave(place)
        self.forwarder.stop(place)

    def set_here(self, host: frozenset[str], ranges: tuple[str, ...]) -> None:
        """Say who is on this node: the addresses of this host, and the ranges of pods here."""
        is_news = ranges != self._here.ranges
        self._here = Here(host, ranges)
        if self._made is None:
            return
        self._made.here = self._here
        for place, listener in self._made.listeners.items() if is_news else ():
            if listener.listening.admission.only_here:
                admit(listener.socket, place, listener.listening.admission, ranges)

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
