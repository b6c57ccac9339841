"""Which endpoint gets a connection: in turn or where there are fewest, the same for the same client. Pure.

The memory of session affinity is one for all frontends of a ServicePort. An endpoint that did not accept comes last for a while.
"""

import errno
from collections.abc import Collection
from typing import Final

from backends.userspace.model import Target

REMEMBERED: Final = 65_536
"""Clients that a ServicePort remembers; beyond them those go that were remembered first."""

LACKING: Final = frozenset([
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRNOTAVAIL,
])  # fmt: skip
"""What connecting says when this node lacks something, as a port of its own: no endpoint is to blame."""


class Pool:
    """Endpoints that are equally good."""

    def __init__(self, targets: tuple[Target, ...] = (), offset: int = 0) -> None:
        """`offset`: where the first turn begins, so that not every node begins with the same endpoint."""
        self.targets = targets
        self.members = frozenset(targets)
        self._turn = offset

    def replace(self, targets: tuple[Target, ...]) -> None:
        """Have other endpoints from now on, also for who is looking for one at this moment."""
        if targets != self.targets:
            self.targets, self.members = targets, frozenset(targets)

    def in_turn(self) -> tuple[Target, ...]:
        """Return all endpoints, beginning with the one whose turn it is."""
        targets = self.targets
        if len(targets) < 2:
            return targets
        at = self._at(len(targets))
        return targets[at:] + targets[:at] if at else targets

    def next(self) -> Target | None:
        """Return the one whose turn it is."""
        targets = self.targets
        return targets[self._at(len(targets))] if targets else None

    def _at(self, count: int) -> int:
        """Return whose turn it is, and go on to the next.

        Each round begins one further on: otherwise of two clients that connect by turns, each would meet every other endpoint only.
        """
        turn = self._turn
        self._turn = turn + 1
        return (turn + turn // count) % count


class Balancer:
    """Chooses for one ServicePort."""

    def __init__(self, *, is_least: bool = False, avoid_s: float = 5.0) -> None:
        self.affinity_s: float | None = None
        self.open: dict[Target, int] = {}
        """How many connections each endpoint has. Counted by whoever makes and ends them."""
        self._is_least = is_least
        self._avoid_s = avoid_s
        self._avoided: dict[Target, float] = {}
        self._memory: dict[str, tuple[Target, float]] = {}

    def choose(
        self, pool: Pool, client: str, now_s: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the endpoint for a new connection of a client, None if all were tried; and remember it."""
        affinity_s = self.affinity_s
        if affinity_s is None:
            if not (tried or self._is_least or self._avoided):
                return pool.next()
            return self._best(pool, now_s, tried)
        remembered = self._memory.pop(client, None)
        target: Target | None = None
        if remembered is not None and remembered[1] > now_s:
            target = remembered[0]
            if target not in pool.members or target in tried:
                target = None
        target = target or self._best(pool, now_s, tried)
        if target is not None:
            self._remember(client, target, now_s + affinity_s, now_s)
        return target

    def refused(self, target: Target, now_s: float) -> None:
        """Note that an endpoint did not accept a connection."""
        self._avoided[target] = now_s + self._avoid_s

    def accepted(self, target: Target) -> None:
        """Note that it did."""
        if self._avoided:
            self._avoided.pop(target, None)

    def keep_only(self, members: Collection[Target]) -> None:
        """Forget what is remembered of endpoints that have gone, but for clients: they are asked for when they come."""
        self._avoided = {t: until_s for t, until_s in self._avoided.items() if t in members}

    def _best(self, pool: Pool, now_s: float, tried: Collection[Target]) -> Target | None:
        candidates = [target for target in pool.in_turn() if target not in tried]
        if not candidates:
            return None
        if self._avoided:
            well = [t for t in candidates if self._avoided.get(t, 0.0) <= now_s]
            if len(well) == len(candidates):
                self._avoided = {t: at_s for t, at_s in self._avoided.items() if at_s > now_s}
            candidates = well or candidates
        if self._is_least:
            return min(candidates, key=lambda target: self.open.get(target, 0))
        return candidates[0]

    def _remember(self, client: str, target: Target, until_s: float, now_s: float) -> None:
        self._memory[client] = (target, until_s)
        # Each use moves a client to the end, and all are kept for as long: the first are those that end first.
        while True:
            first = next(iter(self._memory))
            if self._memory[first][1] > now_s and len(self._memory) <= REMEMBERED:
                return
            del self._memory[first]
