"""Looks after what drains: a destination that nobody wants goes when it is idle, or when its time is up. Shell."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, ParamSpec, TypeVar

from backends.ipvs import kernel
from backends.ipvs.belief import Observed
from backends.ipvs.model import Operation, Place
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load, ServerId
from proxy.backend import Figure
from proxy.errors import KernelError
from proxy.threads import to_thread

LISTED: Final = 20
"""So many lines are logged of one look: a roll-out may have thousands of destinations drain."""
LOOK_S: Final = 1.0
"""When what has begun to drain is looked at for the first time."""
LOOK_AGAIN_S: Final = 5.0
LOOK_ON_S: Final = 0.005
"""When the next part is looked at, where much drains."""
AT_ONCE: Final = 50
"""So many virtual servers are looked at in one go, which takes some milliseconds; then others may run."""
INLINE_DESTINATIONS: Final = 100
"""With more destinations than this the kernel is asked from a thread: of each the event loop would be held for some 50 µs."""
_IDLE: Final = Load(0, 0, 0)

P = ParamSpec("P")
T = TypeVar("T")
Loads = dict[Place, Load]

log = logging.getLogger(__name__)


class Drain(NamedTuple):
    """A destination that drains, what connections it has, and how long it may keep them."""

    server: ServerId
    destination: Destination
    load: Load
    left_s: float

    @property
    def place(self) -> Place:
        return self.destination.address, self.destination.port

    @property
    def connections(self) -> int:
        return self.load.active + self.load.inactive

    @property
    def is_over(self) -> bool:
        return not self.connections or self.left_s <= 0

    def __str__(self) -> str:
        where = f"{self.server}: {self.destination}"
        return (
            f"{where} with {self.load.active} active and {self.load.inactive} inactive connections"
        )


class Draining:
    """What drains, with the connections of the last look, and what has drained since the start."""

    def __init__(self) -> None:
        self.places: Mapping[ServerId, Collection[Place]] = {}
        self._busy: dict[ServerId, dict[Place, Load]] = {}
        self._next_s: dict[ServerId, float] = {}  # when a virtual server is due to be looked at
        self.again_s = LOOK_AGAIN_S
        self._drained = Counter(idle=0, deadline=0)
        self._cut = 0

    def figures(self) -> tuple[Figure, ...]:
        """Return all this in numbers."""
        loads = [load for busy in self._busy.values() for load in busy.values()]
        return (
            Figure(
                name="draining_destinations",
                text="Destinations without new connections that wait for theirs to end.",
                values={"": sum(map(len, self.places.values()))},
            ),
            Figure(
                name="draining_connections",
                text="Connections that destinations wait for, as of the last look at them.",
                values={
                    "active": sum([load.active for load in loads]),
                    "inactive": sum([load.inactive for load in loads]),
                },
                label="state",
            ),
            Figure(
                name="drained_destinations_total",
                text="Destinations that went since they were idle, or since their time was up.",
                values=dict(self._drained),
                label="reason",
            ),
            Figure(
                name="cut_connections_total",
                text="Connections of destinations that went since their time was up.",
                values={"": self._cut},
            ),
        )

    async def reap(self, ipvs: Ipvs, observed: Observed, now_s: float) -> int:
        """Remove what is idle; return the number of objects removed. A virtual server goes with its last destination.

        Where much drains, each call looks at a part of it; `again_s` says when the next one is due, which is not later than
        the next deadline. Raises KernelError if the kernel will not remove something.
        """
        seen: dict[ServerId, list[Drain]] = {}
        operations: list[Operation] = []
        due = self._due(observed, now_s)
        total = sum([len(observed.destinations[server]) for server in due])
        for server, loads in (await _ask(total, _loads, ipvs, due)).items():
            drains = list(_drains(observed, server, loads, now_s))
            over = [each for each in drains if each.is_over]
            seen[server] = drains
            left_s = [each.left_s for each in drains if not each.is_over]
            self._next_s[server] = now_s + min([LOOK_AGAIN_S, *left_s])
            if len(over) == len(observed.destinations[server]):
                operations.append(Operation("del server", server, None, None))
            else:
                operations += [
                    Operation("del destination", server, each.destination, None) for each in over
                ]
        refusals = await _ask(len(operations), kernel.carry_out, ipvs, operations)
        for number, operation in enumerate(operations):
            if number not in refusals:
                observed.fold_operation(operation, now_s)
        for refusal in refusals.values():
            raise KernelError("remove what has drained", refusal.errno, str(refusal))
        self._note(seen)
        left_s = [self._next_s[server] - now_s for server in observed.draining]
        self.again_s = max(LOOK_ON_S, min(left_s, default=LOOK_AGAIN_S))
        return len(operations)

    def _due(self, observed: Observed, now_s: float) -> list[ServerId]:
        """Return the virtual servers to look at now, and forget those of which nothing drains any more."""
        self._next_s = {each: self._next_s.get(each, now_s) for each in observed.draining}
        self._busy = {each: busy for each, busy in self._busy.items() if each in self._next_s}
        due = [server for server, at_s in self._next_s.items() if at_s <= now_s]
        return due[:AT_ONCE]

    def _note(self, seen: Mapping[ServerId, Iterable[Drain]]) -> None:
        """Count and log what a look has led to. Who never had connections to wait for goes without a word."""
        lines: list[str] = []
        cut: list[str] = []  # what somebody will ask about comes first
        before = {server: self._busy.pop(server, {}) for server in seen}
        for each in itertools.chain.from_iterable(seen.values()):
            was_busy = each.place in before[each.server]
            if not each.is_over:
                self._busy.setdefault(each.server, {})[each.place] = each.load
                if not was_busy:
                    lines.append(f"{each}: drains, for {each.left_s:.0f} s at most")
                continue
            self._drained["deadline" if each.connections else "idle"] += 1
            self._cut += each.connections
            if each.connections:
                cut.append(f"{each}: removed, its time is up")
            elif was_busy:
                lines.append(f"{each}: removed, it has drained")
        lines = cut + lines
        for line in lines[:LISTED]:
            log.info("%s", line)
        if len(lines) > LISTED:
            log.info("and %d more that drain or have drained", len(lines) - LISTED)


async def _ask(size: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a call returns that is about so many destinations."""
    if size > INLINE_DESTINATIONS:
        return await to_thread(call, *args, **kwargs)
    return call(*args, **kwargs)


def _loads(ipvs: Ipvs, servers: Iterable[ServerId]) -> dict[ServerId, Loads]:
    """Return the connections of all destinations of some virtual servers."""
    return {
        server: {(each.address, each.port): load for each, load in ipvs.list_destinations(server)}
        for server in servers
    }


def _drains(observed: Observed, server: ServerId, loads: Loads, now_s: float) -> Iterator[Drain]:
    there = observed.destinations[server]
    for place, until_s in observed.draining[server].items():
        yield Drain(server, there[place], loads.get(place, _IDLE), until_s - now_s)
