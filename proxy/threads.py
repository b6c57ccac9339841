"""Threads beside the event loop: blocking calls are waited for, and the loop has its turn soon. Shell."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from proxy.errors import ProxyError

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_S: Final = 0.0005


async def to_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a call returns or raises, made in a thread.

    When cancelled meanwhile this ends only after the call has: whoever cancels is about to close what it uses.
    """
    work = asyncio.create_task(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with contextlib.suppress(ProxyError):
            await work
        raise


def switch_often() -> None:
    """Let the event loop wait for a thread that computes no longer than half a millisecond. For the whole process.

    A change makes some ten system calls, and after each the interpreter has to be had again: from a thread that reads
    the kernel's state back, after 5 ms each time as Python has it, which made the slowest changes 14 ms slower.
    """
    sys.setswitchinterval(SWITCH_S)
