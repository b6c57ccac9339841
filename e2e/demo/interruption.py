"""Ctrl-C, SIGTERM and SIGHUP, taken only where the demo can stop without leaving anything behind.

An exception in the middle of `ip netns add` would leave a namespace that nobody knows. So the signals wait until
`check` or `pause`. Those of the terminal are blocked, which the programs we start inherit: Ctrl-C reaches all of them,
and each would end in its own way while its namespace is taken down. SIGTERM is not, as the daemon has to hear it.
"""

import signal
import time
from types import FrameType
from typing import Self

_FROM_THE_TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})


class Interrupted(Exception):  # noqa: N818 - nothing is wrong: somebody wants us to stop
    """The demo was told to stop. `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Holds the signals back for the length of its `with` block, which includes the cleaning up."""

    def __init__(self) -> None:
        self._received = 0
        # a shell's background job ignores SIGINT, what nohup starts SIGHUP
        self._ignored = {
            number for number in _FROM_THE_TERMINAL if signal.getsignal(number) == signal.SIG_IGN
        }

    def __enter__(self) -> Self:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_THE_TERMINAL)
        self._on_sigterm = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        # further ones, of somebody impatient, have nothing left to stop
        while signal.sigtimedwait(_FROM_THE_TERMINAL, 0.0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        self.pause(0.0)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Interrupted if a signal has come or comes meanwhile."""
        end_s = time.monotonic() + seconds
        while not self._received:
            left_s = max(0.0, end_s - time.monotonic())
            info = signal.sigtimedwait(_FROM_THE_TERMINAL, left_s)
            if info is None:
                break
            if info.si_signo not in self._ignored:
                self._received = info.si_signo
        if self._received:
            raise Interrupted(self._received)

    def _terminate(self, number: int, _frame: FrameType | None) -> None:
        self._received = self._received or number
