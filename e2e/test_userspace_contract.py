"""The laws of proxy/backend.py on real routes and sockets: those of tests/contract for mode userspace, in a namespace."""

import contextlib
import errno
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from backends.kernel.routes import Routes
from backends.userspace.engine import Engine
from backends.userspace.here import Detector
from backends.userspace.interfaces import PodInterfaces
from backends.userspace.model import ROUTE_PROTOCOL, Listening, Place, Serving
from backends.userspace.settings import ForwarderSettings
from e2e.namespace import Namespace
from proxy.desired import DesiredPort
from proxy.listeners import Listeners
from proxy.model import PortKey
from tests.contract.host import Ground
from tests.contract.meters import Meter
from tests.contract.userspace_host import FOREIGN, NODE_ADDRESSES, UserspaceHost
from tests.contract.userspace_laws import UserspaceLaws

pytestmark = pytest.mark.requires("userspace")

Entered = Callable[[], AbstractContextManager[None]]


class NamespacedEngine(Engine):
    """An engine whose sockets are in a namespace, and which is told from outside what goes wrong."""

    def __init__(
        self,
        host: "RealUserspaceHost",
        meter: Meter,
        settings: ForwarderSettings,
        listeners: Listeners,
    ) -> None:
        super().__init__(settings, listeners)
        self._host = host
        self._meter = meter
        self.listeners = listeners

    def is_listening(self, place: Place) -> bool:
        self._meter.count()
        return super().is_listening(place)

    def serve(self, key: PortKey, serving: Serving) -> None:
        if self._made is not None and key in self._made.services:
            self._meter.count(written=1)
        super().serve(key, serving)

    def listen(self, place: Place, listening: Listening) -> None:
        known = len(self.listeners._kept) + len(self.listeners._inherited)
        try:
            self._host.check_room(known - self.has(place))
            with self._host.entered():
                super().listen(place, listening)
        except OSError:
            if occupant := self._host.occupants.pop(place, None):
                occupant.close()
            raise
        if len(self.listeners._kept) + len(self.listeners._inherited) > known:
            self._meter.count(written=1)

    def stop(self, place: Place) -> None:
        self._meter.count(written=1)
        super().stop(place)

    def end(self) -> dict[str, socket.socket]:
        """End as a process does that has passed its sockets on; return them."""
        if self._made is not None:
            for listener in self._made.listeners.values():
                self._made._epoll.unregister(listener.socket)
            self._made.listeners.clear()
            self._made._doomed.clear()
            with contextlib.suppress(RuntimeError):  # the loop of that test may be closed
                self._made.close()
            self._made._epoll.close()
            self._made = None
        return {**self.listeners._kept, **self.listeners._inherited}

    def close(self) -> None:
        """What is open stays so in the next process, at the latest to the end of the test."""


class RealUserspaceHost(UserspaceHost):
    def __init__(self, entered: Entered, closing: ExitStack) -> None:
        super().__init__(entered, closing)
        self.entered = entered
        self.room: int | None = None
        self.occupants: dict[Place, socket.socket] = {}
        self._engine: NamespacedEngine | None = None
        closing.callback(self._end)

    def make_engine(
        self, meter: Meter, settings: ForwarderSettings, passed: Listeners | None
    ) -> Engine:
        listeners = Listeners()
        if self._engine is not None:
            listeners._inherited = self._engine.end()
        self._engine = NamespacedEngine(self, meter, settings, listeners)
        return self._engine

    def _end(self) -> None:
        sockets = [*self.occupants.values()]
        if self._engine is not None:
            sockets += self._engine.end().values()
        for each in sockets:
            each.close()

    def end_listeners(self, rng: random.Random) -> None:
        kept = self._engine.listeners._kept if self._engine is not None else {}
        alive = [each for key, each in sorted(kept.items()) if key.startswith("tcp")]
        for listener in rng.sample(alive, min(len(alive), 2)):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

    def occupy(self, port: DesiredPort) -> None:
        frontend = port.frontends[0]
        place = Place(port.key.family, "TCP", str(frontend.address), frontend.port)
        with self.entered():
            occupant = socket.socket()
            occupant.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
            occupant.bind((place.address, place.port))
            occupant.listen()
        self.occupants[place] = occupant

    def limit(self, room: int) -> None:
        assert self._engine is not None
        self.room = len(self._engine.listeners._kept) + room

    def check_room(self, known: int) -> None:
        """Raise OSError if there are so many sockets already."""
        if self.room is not None and known >= self.room:
            raise OSError(errno.EMFILE, "Too many open files")

    def lift_limit(self) -> None:
        self.room = None


class NamespaceGround:
    """Hosts in one namespace, one after the other."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @contextmanager
    def fresh(self) -> Iterator[RealUserspaceHost]:
        with self._namespace.entered():
            for protocol in (ROUTE_PROTOCOL, FOREIGN[0].protocol):
                with Routes(protocol) as routes:
                    assert routes.remove(routes.read()) == []
        with ExitStack() as closing:
            yield RealUserspaceHost(self._namespace.entered, closing)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("laws") as made:
        for address in NODE_ADDRESSES:
            length = "128 dev lo nodad" if ":" in address else "32 dev lo"
            made.ip(f"address add {address}/{length}")
        yield made


def test_interfaces_of_pods_are_followed_as_they_come_and_go(namespace: Namespace) -> None:
    detector = Detector(mode="InterfaceNamePrefix", interface="veth")
    with namespace.entered(), contextlib.closing(PodInterfaces(detector)) as found:
        assert not found.numbers
        namespace.ip("link add veth7 type veth peer name other")
        assert found.look()
        assert found.numbers == {socket.if_nametoindex("veth7")}

        namespace.ip("link set veth7 up")
        assert not found.look()
        namespace.ip("link set veth7 down", "link set veth7 name eth7")
        assert found.look()
        assert not found.numbers
        namespace.ip("link set eth7 name veth7")
        assert found.look()
        namespace.ip("link delete veth7")
        assert found.look()
        assert not found.numbers


class TestUserspace(UserspaceLaws):
    @pytest.fixture
    def ground(self, namespace: Namespace) -> Ground:
        return NamespaceGround(namespace)
