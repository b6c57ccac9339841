"""The host of the userspace backend: fakes of routes and sockets, or the kernel's in a network namespace.

Sockets are passed from each process to the next, as they are when one is replaced: what serves lives in the process.
"""

import errno
import ipaddress
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

from backends.kernel.links import Links
from backends.kernel.routes import Routes, Unroutable
from backends.userspace.backend import UserspaceBackend
from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.kernel import Ears, Kernel
from backends.userspace.model import (
    NOBODY,
    ROUTE_PROTOCOL,
    SERVED,
    Listening,
    Place,
    Serving,
)
from backends.userspace.settings import ForwarderSettings
from proxy.desired import DesiredPort, Frontend
from proxy.listeners import Listeners
from proxy.model import PortKey
from proxy.netlink.codec import Request
from proxy.netlink.fib import Route
from tests.contract.host import AnyBackend
from tests.contract.meters import Meter, MeteredHost
from tests.data_plane import (
    ANY_NODE_ADDRESS,
    Behaviour,
    Connection,
    Marked,
    Range,
    Served,
    Treatment,
    wanted_addresses,
)
from tests.fakes.routes import RoutesKernel
from tests.work_counter import Visits, watch

NODE_ADDRESSES: Final = ("198.51.100.10", "2001:db8:1::a")
FOREIGN: Final = (
    Route("local", "192.0.2.77/32", 99),
    Route("local", "2001:db8:2::77/128", 99),
    Route("blackhole", "192.0.2.128/25", 99),
)


class MeteredRoutes(Routes):
    def __init__(self, meter: Meter, protocol: int) -> None:
        super().__init__(protocol)
        self._meter = meter

    def read(self) -> set[Route]:
        self._meter.count()
        return super().read()

    def _carry_out(self, routes: Sequence[Route], requests: Sequence[Request]) -> list[Unroutable]:
        if not requests:
            return []
        self._meter.count(len(requests), len(requests))
        with self._meter.writing() as is_done:
            return super()._carry_out(routes, requests) if is_done else []


class World:
    """The sockets of all processes there were: what one has opened, the next one has too."""

    def __init__(self) -> None:
        self.alive: dict[Place, None] = {}
        self.taken: set[Place] = set()
        """Where somebody else listens, who leaves when others want to."""
        self.room: int | None = None


class FakeEngine(Engine):
    """An engine whose sockets are entries of a dictionary."""

    def __init__(
        self,
        world: World,
        meter: Meter,
        settings: ForwarderSettings,
        listeners: Listeners | None,
    ) -> None:
        super().__init__(settings, listeners)
        self._world = world
        self._meter = meter
        self._serving: dict[PortKey, Serving] = {}
        self._listening: dict[Place, Listening] = {}

    def serving(self) -> dict[PortKey, Serving]:
        return dict(self._serving)

    def listening(self) -> dict[Place, Listening]:
        self._listening = {p: at for p, at in self._listening.items() if p in self._world.alive}
        return dict(self._listening)

    def is_listening(self, place: Place) -> bool:
        self._meter.count()
        return place in self._listening and place in self._world.alive

    def has(self, place: Place) -> bool:
        return place in self._listening

    def serve(self, key: PortKey, serving: Serving) -> None:
        """Changing what is served is what takes the place of writing into a kernel."""
        if key in self._serving:
            self._meter.count(written=1)
        self._serving[key] = serving

    def forget(self, key: PortKey) -> None:
        assert not any(at.owner == key for at in self._listening.values())
        del self._serving[key]

    def listen(self, place: Place, listening: Listening) -> None:
        assert listening.owner in self._serving, "who comes in finds nobody"
        world = self._world
        if place not in world.alive:
            self._meter.count(written=1)
            if place in world.taken:
                world.taken.discard(place)
                raise OSError(errno.EADDRINUSE, "Address already in use")
            if world.room is not None and len(world.alive) >= world.room:
                raise OSError(errno.EMFILE, "Too many open files")
            world.alive[place] = None
        self._listening[place] = listening

    def stop(self, place: Place) -> None:
        self._meter.count(written=1)
        del self._listening[place]
        self._world.alive.pop(place, None)

    def set_here(self, host: frozenset[str], ranges: tuple[str, ...]) -> None:
        """Nobody comes."""

    def counts(self, key: PortKey) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        """What is open stays so in the next process."""


class UserspaceHost(MeteredHost):
    """`entered` is where sockets of rtnetlink are opened."""

    calls_at_most = 24
    kinds_of_disturbances = 4

    def __init__(
        self, entered: Callable[[], AbstractContextManager[None]], closing: ExitStack
    ) -> None:
        super().__init__()
        self._entered = entered
        self._closing = closing
        self._world = World()
        with entered():
            self._ours = closing.enter_context(Routes(ROUTE_PROTOCOL))
            self._others = closing.enter_context(Routes(FOREIGN[0].protocol))
            self._links = closing.enter_context(Links())

    def start(self) -> AnyBackend:
        meter = Meter()

        def open_kernel() -> Kernel:
            with self._entered():
                return Kernel(lambda protocol: MeteredRoutes(meter, protocol))

        def open_ears() -> Ears:
            with self._entered():
                return Ears()

        backend = UserspaceBackend(
            ForwarderSettings(),
            open_kernel=open_kernel,
            open_ears=open_ears,
            make_engine=lambda settings, passed: self.make_engine(meter, settings, passed),
        )
        self._count(backend, meter)
        self._closing.callback(backend.close)
        return backend

    def make_engine(
        self, meter: Meter, settings: ForwarderSettings, passed: Listeners | None
    ) -> Engine:
        return FakeEngine(self._world, meter, settings, passed)

    # --- looks

    def behaviour(
        self, observed: Observed, *, leave_out: Collection[Connection] = ()
    ) -> Behaviour:
        found: Behaviour = {}
        read: set[Place] = set()
        for key, serving in observed.serving.items():
            protocol = key.name.protocol
            for frontend in serving.frontends:
                connection = Connection(
                    key.family, protocol, frontend.address or ANY_NODE_ADDRESS, frontend.port
                )
                at = [frontend.address] if frontend.address else self._node(observed, key)
                places = [Place(key.family, protocol, address, frontend.port) for address in at]
                read.update(places)
                if connection in leave_out:
                    continue
                assert connection not in found
                assert frontend.address is None or frontend.address in observed.routes
                (listening,) = {observed.listening.get(place) for place in places}
                treatment = _treatment(key, serving, frontend, listening)
                if treatment is not None:
                    found[connection] = treatment
        assert observed.listening.keys() <= read
        return found

    @staticmethod
    def _node(observed: Observed, key: PortKey) -> list[str]:
        return [
            address
            for address in sorted(observed.host)
            if (":" in address) == (key.family == "IPv6")
            and not ipaddress.ip_address(address).is_loopback
        ]

    async def read_back(self, backend: AnyBackend, observed: Observed) -> Any:
        return await backend.observe()

    def state(self, observed: Observed) -> object:
        routes = sorted(observed.routes), sorted(observed.black_holes)
        return dict(observed.serving), dict(observed.listening), routes

    def is_noticed(self, before: Any, after: Any) -> bool:
        """The kernel announces routes; that a listener was ended only shows when it is looked at."""
        return bool(before[2] != after[2])

    def watch(self, observed: Observed, visits: Visits) -> None:
        watch(observed, visits)

    def check_extras(self, observed: Observed, desired: Mapping[PortKey, DesiredPort]) -> None:
        addresses = wanted_addresses(desired) | wanted_addresses(desired, are_external=True)
        assert {("IPv6" if ":" in a else "IPv4", a) for a in observed.routes} == addresses
        assert observed.routes.keys() == observed.holders.keys()
        assert not observed.black_holes
        node_ports = {(port, key) for key, s in observed.serving.items() for port in s.node_ports}
        assert {key for _, key in node_ports} == set(observed.node_ports)
        assert node_ports == {
            (n, key) for n, keys in observed.by_node_port.items() for key in keys
        }
        owned = {place: key for key, places in observed.places.items() for place in places}
        assert owned == {place: at.owner for place, at in observed.listening.items()}

    # --- what others do

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        rng = random.Random(seed)
        kinds = [kind] if kind is not None else rng.sample(range(4), rng.randint(1, 3))
        for each in kinds:
            ours = sorted(self._ours.read())
            if each == 0 and ours:
                assert self._ours.remove(rng.sample(ours, rng.randint(1, len(ours)))) == []
            elif each == 1:
                strays = [
                    f"10.96.9.{rng.randint(1, 9)}/32",
                    f"fd00:10:96::9:{rng.randint(1, 9)}/128",
                ]
                stray = Route("local", rng.choice(strays), ROUTE_PROTOCOL)
                assert self._ours.add([stray]) == []
            elif each == 2:
                assert self._ours.add([Route("blackhole", "10.77.0.0/16", ROUTE_PROTOCOL)]) == []
            elif each == 3:
                self.end_listeners(rng)

    def end_listeners(self, rng: random.Random) -> None:
        """Have somebody end some (ss --kill)."""
        alive = sorted(self._world.alive)
        for place in rng.sample(alive, min(len(alive), 2)):
            del self._world.alive[place]

    def plant_foreign(self) -> None:
        assert self._others.add(FOREIGN) == []

    def foreign(self) -> object:
        return sorted(self._others.read()), sorted(self._links.addresses())

    def own(self) -> object:
        return self._ours.read()

    def occupy(self, port: DesiredPort) -> None:
        """Somebody listens where the first frontend is, until others want to."""
        frontend = port.frontends[0]
        key = port.key
        place = Place(key.family, key.name.protocol, str(frontend.address), frontend.port)
        self._world.taken.add(place)

    def limit(self, room: int) -> None:
        self._world.room = len(self._world.alive) + room

    def lift_limit(self) -> None:
        self._world.room = None


def _treatment(
    key: PortKey, serving: Serving, frontend: Frontend, listening: Listening | None
) -> Treatment | None:
    """What becomes of connections by what listens there, None where nobody does who should.

    Who is asked sees this node; policies are told apart all the same.
    """
    is_sticky = serving.affinity_s is not None
    nobody: Served = "dropped" if serving.is_any_usable else "refused"
    outside: Served
    here: Served

    def among(pool: Collection[object]) -> Served:
        return frozenset(map(str, pool)) or nobody

    if frontend.kind == "ClusterIP":
        outside = here = among(serving.internal)
    else:
        outside, here = among(serving.outside), among(serving.here)
    if key.name.protocol in SERVED:
        _check_listening(key, serving, frontend, listening)
        if listening is None:
            if (outside, here) != ("refused", "refused"):
                return None
        elif listening.admission == NOBODY:
            assert outside == here == "dropped"
        else:
            assert listening.admission.only_here == (outside == "dropped")
    else:
        assert listening is None
    marked: tuple[Marked, Marked] = ("kept", "kept")
    if frontend.kind != "ClusterIP":
        marked = ("kept", "kept for pods") if serving.is_split else ("masqueraded", "masqueraded")
    is_guarded = frontend.kind == "LoadBalancer" and bool(serving.ranges)
    ranges = _merged(serving.ranges) if is_guarded else None
    own = is_guarded and serving.allows_own_vips
    return Treatment((outside, marked[0]), (here, marked[1]), is_sticky, ranges, own)


def _check_listening(
    key: PortKey, serving: Serving, frontend: Frontend, listening: Listening | None
) -> None:
    if listening is None or listening.admission == NOBODY:
        return
    assert listening.owner == key
    assert listening.role == ("internal" if frontend.kind == "ClusterIP" else "external")
    allowed = listening.admission.ranges
    if frontend.kind != "LoadBalancer" or not serving.ranges:
        assert allowed is None
        return
    assert allowed == serving.ranges
    assert listening.admission.takes_node == serving.allows_own_vips


def _merged(cidrs: Sequence[str]) -> frozenset[Range]:
    found: list[Range] = []
    for network in sorted(map(ipaddress.ip_network, cidrs), key=lambda n: int(n.network_address)):
        first, beyond = int(network.network_address), int(network.broadcast_address) + 1
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], beyond))
        else:
            found.append((first, beyond))
    return frozenset(found)


class FakeUserspaceGround:
    """Hosts on the fakes."""

    @contextmanager
    def fresh(self) -> Iterator[UserspaceHost]:
        kernel = RoutesKernel()
        kernel.add("eth0", "", *NODE_ADDRESSES)
        with ExitStack() as closing:
            yield UserspaceHost(kernel.entered, closing)
