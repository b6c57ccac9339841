"""Ctrl-C, SIGTERM and SIGHUP, taken only where the demo can stop without leaving anything behind.

An exception in the middle of `ip netns add` would leave a namespace that nobody knows. So the signals wait until
`check` or `pause`. Those of the terminal are blocked, which the programs we start inherit: Ctrl-C reaches all of them,
and each would end in its own way while its namespace is taken down. SIGTERM is not, as the daemon has to hear it.
"""

import signal
from types import FrameType
from typing import Self


class Interrupted(Exception):  # noqa: N818 - nothing is wrong: somebody wants us to stop
    """The demo was told to stop. `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Holds the signals back for the length of its `with` block, which includes the cleaning up."""

    def __init__(self) -> None:
        self._terminated = False
        self._blocked: set[signal.Signals] = set()

    def __enter__(self) -> Self:
        # what nohup or a shell's background job ignores stays ignored; blocked, it would be queued
        self._blocked = {
            number
            for number in (signal.SIGINT, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)
        self._previous = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        # impatient further ones have nothing left to stop
        while self._received(0.0):
            pass
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)
        signal.signal(signal.SIGTERM, self._previous)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        self.pause(0.0)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted if a signal has come or comes meanwhile."""
        number = self._received(seconds)
        if number:
            raise Interrupted(number)
        if self._terminated:
            raise Interrupted(signal.SIGTERM)

    def _received(self, seconds: float) -> int:
        info = signal.sigtimedwait(self._blocked, seconds)
        return info.si_signo if info else 0

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True
