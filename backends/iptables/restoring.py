"""Calls of `iptables-restore`: waiting for the lock with a bound, and counted. Shell.

What is short is given to the program that is kept for it, whose answer the event loop waits for; everything else takes a
thread.
"""

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

from backends.kernel.xtables import Begun, LockHeld, Refused, Xtables
from proxy.backend import Figure
from proxy.errors import ProxyError
from proxy.schedule import Backoff
from proxy.threads import to_thread

log = logging.getLogger(__name__)

LOCK_TRIES: Final = 4
"""How often the lock is waited for, each time as long as the program does, before the whole round is given up."""
INLINE_LINES: Final = 200
"""More lines are written from a thread: they may not fit into a pipe at once, and joining them takes milliseconds."""
_PAUSE: Final = Backoff(first_s=0.2, last_s=2.0)


class Restoring:
    """Makes calls one after the other and counts them."""

    def __init__(self) -> None:
        self._done = 0
        self._refused = 0
        self._locked = 0
        self._elapsed_s = 0.0
        self._kernel_s = 0.0
        self._doors: WeakSet[Xtables] = WeakSet()

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
        self._doors.add(door)
        started_s = time.perf_counter()
        try:
            await _carry_out(door, table, lines)
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
                text="Time spent in calls of iptables-restore; kernel: how long the kernel worked for all programs that were"
                " started here. On legacy it copies the table.",
                label="part",
                values={"all": self._elapsed_s, "kernel": self._worked_s()},
            ),
        )

    def _worked_s(self) -> float:
        """Return how long the kernel has worked for programs. One that has ended counts anew, and to the microsecond."""
        ended_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
        worked_s = ended_s + sum([door.system_s() for door in self._doors])
        self._kernel_s = max(self._kernel_s, worked_s)
        return self._kernel_s


async def _carry_out(door: Xtables, table: str, lines: Sequence[str]) -> None:
    """Do what `Xtables.restore` does, without a thread if there is a program that can begin at once.

    When cancelled meanwhile this ends only after the program has: its answer would be taken for that to the next text.
    """
    begun = door.begin(table, lines) if len(lines) <= INLINE_LINES else None
    if begun is None:
        return await to_thread(door.restore, table, lines)
    try:
        if begun.is_awaited:  # else there was no room for all of it
            await _until_over(begun)
    except asyncio.CancelledError:
        with contextlib.suppress(ProxyError):
            await to_thread(begun.finish)
        raise
    if begun.is_done:
        return begun.finish()
    return await to_thread(begun.finish)


async def _until_over(begun: Begun) -> None:
    """Wait until a call is over or its time is."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def go_on() -> None:
        if begun.go_on():
            over.set()

    for output in begun.outputs:
        loop.add_reader(output, go_on)
    timer = loop.call_later(begun.limit_s, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
        for output in begun.outputs:
            loop.remove_reader(output)
