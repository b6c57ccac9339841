"""An event loop whose clock jumps: what waits for a time is run at that time, and nobody waits for it."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

STEP_S = 1e-6
"""How much time each turn of the loop takes, so that time passes even if nobody waits for any."""


class JumpingClock:
    """Monotonic time in seconds, as the standard library's `time` offers it."""

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

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits, and nothing will ever happen"
        self._clock.now_s += max(timeout, STEP_S)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own."""

    def __init__(self, clock: JumpingClock) -> None:
        self._jumping_clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._jumping_clock.now_s


def run(clock: JumpingClock, main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function to its end, in no time. Tasks it leaves behind are cancelled."""

    async def wrapped() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: JumpingLoop(clock)) as runner:
        return runner.run(wrapped())
