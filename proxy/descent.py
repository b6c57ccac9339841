"""The way down the ladder: tries modes for real, and gives up a mode that cannot program anything any more. Shell.

What is decided stands in `ladder`. A change of the running mode is make before break, as one by a restart is: rules of the
old mode stay until the new one has programmed everything (`handover`). Nothing of this is silent: it is in the log, an Event,
the metrics, and for as long as it lasts at /readyz and /debug/state.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxy import handover, ladder
from proxy.announcer import Announcer
from proxy.backend import Backend, Draining, Preparing
from proxy.errors import KernelError, Unsupported
from proxy.journal import Round
from proxy.ladder import Endurance, Refusal
from proxy.listeners import Listeners
from proxy.reconciler import Reconciler

Create = Callable[[str], Backend[Any, Any]]

log = logging.getLogger(__name__)


async def choose(
    modes: Sequence[str], create: Create, *, is_to_run: bool = True
) -> tuple[Backend[Any, Any] | None, tuple[Refusal, ...]]:
    """Return the first backend that can do everything needed here, None if there is none; and why not those before it.

    If it is to run, the node is prepared for it, and the log tells the choice.
    """
    refusals: list[Refusal] = []
    for mode in modes:
        with contextlib.ExitStack() as unless_taken:
            try:
                backend = create(mode)
                unless_taken.callback(backend.close)
                await backend.probe()
                if is_to_run and isinstance(backend, Preparing):
                    await backend.prepare()
            except (Unsupported, KernelError) as error:
                refusals.append(ladder.refusal(mode, error))
                continue
            unless_taken.pop_all()
        if is_to_run:
            tell(backend.name, refusals)
        return backend, tuple(refusals)
    return None, tuple(refusals)


def tell(mode: str, refusals: Sequence[Refusal]) -> None:
    """Log which mode it has become, and why no better one."""
    for each in refusals:
        log.warning("passed over: mode %s", each)
    log.log(logging.WARNING if refusals else logging.INFO, "mode %s", mode)


class Descent:
    """Watches the running mode, and takes the next that will do when it fails for too long.

    `modes` are all that may be tried, best first, and `create` makes their backends; `leave` makes those that are to give way. `others` names for a mode those whose work is to go once it has done its own.
    `keep` is told of each backend that was taken into use, to close it at the end: a look that began at the one before may
    still be under way. The one that takes over is lent its listening sockets.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        announcer: Announcer,
        modes: Sequence[str],
        create: Create,
        *,
        leave: Create,
        others: Callable[[str], Sequence[str]],
        keep: Callable[[Backend[Any, Any]], object],
        listeners: Listeners,
        limit_s: float,
    ) -> None:
        self._reconciler = reconciler
        self._announcer = announcer
        self._modes = tuple(modes)
        self._create = create
        self._leave = leave
        self._others = others
        self._keep = keep
        self._listeners = listeners
        self._limit_s = limit_s
        self._endurance = Endurance(limit_s)
        self._is_over = asyncio.Event()
        self._is_done = asyncio.Event()

    def heard(self, ended: Round) -> None:
        """Hear of a round of the reconciler."""
        if self._endurance.is_over(ended):
            self._is_over.set()
        if not (ended.trouble or ended.error):
            self._reconciler.stuck = ""
            self._is_over.clear()
        # a mode that has everything refused is synced all the same, and what others have left still serves
        if (
            not ended.trouble
            and self._reconciler.is_synced.is_set()
            and not self._is_done.is_set()
        ):
            self._is_done.set()
            self._listeners.take_back()
            self._listeners.close_rest(is_for_services=True)

    async def run(self) -> None:
        """Have other modes' work go once all is programmed, and go down when it must be; until cancelled."""
        while True:
            async with asyncio.TaskGroup() as tasks:
                others = self._others(self._reconciler.backend.name)
                # what it removes may be of the mode that comes next: so it ends before that begins
                leaving = tasks.create_task(handover.run(self._is_done, others, self._leave))
                await self._is_over.wait()
                leaving.cancel()
            await self._go_down()

    async def _go_down(self) -> None:
        reconciler, old = self._reconciler, self._reconciler.backend
        mode = old.name
        what = f"nothing could be programmed for {self._limit_s:g} s"
        failed = Refusal(mode=mode, primitive=what, how=self._endurance.trouble)
        candidates = ladder.below(mode, self._modes)
        backend, refusals = await choose(candidates, self._create)
        if backend is None:
            why = (
                f"no other can run: {'; '.join(map(str, refusals))}"
                if refusals
                else "no other may be tried"
            )
            reconciler.stuck = f"mode {failed}; {why}; trying on"
            log.error("%s", reconciler.stuck)
            self._announcer.stuck(reconciler.stuck)
            self._is_over.clear()
            return
        if not self._is_over.is_set():
            backend.close()
            log.warning("mode %s can program again, and stays", mode)
            return
        self._keep(backend)
        passed_over = (*reconciler.passed_over, failed, *refusals)
        log.warning("mode %s; going on in mode %s", failed, backend.name)
        await reconciler.use(backend, passed_over)
        # what was heard of the old one meanwhile says nothing of the new one
        self._endurance = Endurance(self._limit_s)
        self._is_over.clear()
        self._is_done.clear()
        self._listeners.lend()
        if isinstance(old, Draining):  # two cannot listen at one place; what began goes on
            await old.drain(0.0)
        self._announcer.fell_back(backend.name, passed_over)
