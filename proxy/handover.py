"""What a change of mode leaves behind: goes as soon as the mode of now has programmed everything. Shell.

Make before break across a restart. What any earlier mode has in the kernel serves until then, and after that only the
connections that began with it (`Backend.retire`). Nothing that goes wrong here stops the proxy: two sets of rules for the
same services do no harm.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from proxy.backend import Backend
from proxy.errors import KernelError, ProxyError, Unsupported
from proxy.schedule import Backoff

RETRY: Final = Backoff(first_s=1.0, last_s=60.0)
_FAILED: Final = "what mode %s has left cannot be removed, trying again; `sliceproxy cleanup --mode %s` removes it, too: %s"

log = logging.getLogger(__name__)


async def run(
    is_synced: asyncio.Event, others: Iterable[str], create: Callable[[str], Backend[Any, Any]]
) -> None:
    """Wait until everything is programmed, then retire the backends of other modes, side by side. Ends when they are gone."""
    await is_synced.wait()
    async with asyncio.TaskGroup() as tasks:
        for name in others:
            tasks.create_task(_retire(name, create))


async def _retire(name: str, create: Callable[[str], Backend[Any, Any]]) -> None:
    """Retire one backend, trying again until it is gone."""
    with contextlib.ExitStack() as stack:
        backend: Backend[Any, Any] | None = None
        failures, told, is_waiting = 0, "", False
        while True:
            try:
                if backend is None:
                    backend = create(name)
                    stack.callback(backend.close)
                retired = await backend.retire()
            except ProxyError as error:
                if says_nothing_can_be_left(error):
                    return
                failures += 1
                if str(error) != told:
                    told = str(error)
                    log.warning(_FAILED, name, name, told)
                await asyncio.sleep(RETRY.delay_s(failures))
                continue
            failures, told = 0, ""
            if retired.removed:
                log.info("left by mode %s, removed: %s", name, ", ".join(retired.removed))
            if retired.again_s is None:
                return
            if not is_waiting:
                is_waiting = True
                log.info("left by mode %s, waits for %s to end", name, retired.waits_for)
            await asyncio.sleep(retired.again_s)


def says_nothing_can_be_left(error: ProxyError) -> bool:
    """Whether the kernel lacks what the rules of that mode are made of, or even the protocol in which it is asked."""
    return isinstance(error, Unsupported) or (
        isinstance(error, KernelError) and error.errno == errno.EPROTONOSUPPORT
    )
