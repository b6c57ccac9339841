"""Long work on the event loop in pieces, between which others run. Shell: it reads the clock, and knows nothing of the work."""

import asyncio
import time
from collections.abc import AsyncIterator, Generator
from typing import Final, TypeVar

from aiohttp import web

T = TypeVar("T")
PIECE_S: Final = 0.002
"""How long pieces of one answer may hold the event loop before others run."""
_WRITE: Final = 1 << 16


async def in_pieces(steps: Generator[object, None, T]) -> T:
    """Drive steps to their end, letting others run after every few."""
    started_s = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if time.perf_counter() - started_s > PIECE_S:
            await asyncio.sleep(0)
            started_s = time.perf_counter()


async def stream(
    request: web.Request, response: web.StreamResponse, texts: AsyncIterator[str]
) -> web.StreamResponse:
    """Send texts as they come, some at a time."""
    await response.prepare(request)
    waiting: list[bytes] = []
    size, started_s = 0, time.perf_counter()
    async for text in texts:
        waiting.append(text.encode("utf-8", "backslashreplace"))
        size += len(waiting[-1])
        if size >= _WRITE:
            await response.write(b"".join(waiting))
            waiting, size = [], 0
        if time.perf_counter() - started_s > PIECE_S:
            await asyncio.sleep(0)
            started_s = time.perf_counter()
    await response.write_eof(b"".join(waiting))
    return response
