"""An event loop whose clock jumps: what waits for a time runs at that time, and nobody really waits."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STEP_S = 1e-6
"""How long each turn of the loop takes, so that time passes even where nobody waits."""


class JumpingClock:
    """Monotonic time in seconds, asked for as the standard library's `time` is."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def perf_counter(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.SelectSelector):
    """Lets the time pass that a real selector would sleep."""

    def __init__(self, clock: JumpingClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits for another one"
        self._clock.now_s += max(timeout, STEP_S)
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: JumpingClock) -> None:
        self._jumping_clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._jumping_clock.now_s


def run(clock: JumpingClock, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end, in no time."""
    with asyncio.Runner(loop_factory=lambda: _JumpingLoop(clock)) as runner:
        return runner.run(main())
