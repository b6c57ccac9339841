"""Blocking calls in a thread, waited for even by those who are told to stop. Shell."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from proxy.errors import ProxyError

P = ParamSpec("P")
T = TypeVar("T")


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
