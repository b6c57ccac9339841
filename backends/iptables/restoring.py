"""Calls of `iptables-restore`: from a thread, waiting for the lock with a bound, and counted. Shell."""

import asyncio
import logging
import resource
import time
from collections.abc import Sequence
from typing import Final

from backends.kernel.xtables import LockHeld, Refused, Xtables
from proxy.backend import Figure
from proxy.schedule import Backoff
from proxy.threads import to_thread

log = logging.getLogger(__name__)

LOCK_TRIES: Final = 4
"""How often the lock is waited for, each time as long as the program does, before the whole round is given up."""
_PAUSE: Final = Backoff(first_s=0.2, last_s=2.0)


class Restoring:
    """Makes calls one after the other and counts them."""

    def __init__(self) -> None:
        self._done = 0
        self._refused = 0
        self._locked = 0
        self._elapsed_s = 0.0
        self._system_s = 0.0

    async def restore(self, door: Xtables, table: str, lines: Sequence[str]) -> None:
        """Carry out lines for one table: all or, with Refused, none. While another program holds the lock it is tried again.

        Raises LockHeld when it was not to be had, KernelError when the outcome is unknown.
        """
        for failures in range(1, LOCK_TRIES):
            try:
                return await self._call(door, table, lines)
            except LockHeld as held:
                log.warning("%s; trying again", held)
            await asyncio.sleep(_PAUSE.delay_s(failures))
        return await self._call(door, table, lines)

    async def _call(self, door: Xtables, table: str, lines: Sequence[str]) -> None:
        started_s, system_s = time.perf_counter(), _system_s()
        try:
            await to_thread(door.restore, table, lines)
        except Refused:
            self._refused += 1
            raise
        except LockHeld:
            self._locked += 1
            raise
        else:
            self._done += 1
        finally:
            self._elapsed_s += time.perf_counter() - started_s
            self._system_s += _system_s() - system_s

    def figures(self) -> tuple[Figure, ...]:
        return (
            Figure(
                name="restore_calls_total",
                text="Calls of iptables-restore by their end; locked: another program held the lock all the time.",
                label="end",
                values={"done": self._done, "refused": self._refused, "locked": self._locked},
            ),
            Figure(
                name="restore_seconds_total",
                text="Time spent in calls of iptables-restore, and how much of it the kernel worked for them: on legacy it"
                " copies the table.",
                label="part",
                values={"all": self._elapsed_s, "kernel": self._system_s},
            ),
        )


def _system_s() -> float:
    """Return how long the kernel has worked for programs that this process started and that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
