"""Listening: answers for an application at an address, and tries again while it is taken. Shell."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, cast

from aiohttp import web

from proxy.errors import ProxyError
from proxy.listeners import Listeners
from proxy.server.connections import GOODBYE_S, Connections

BIND_RETRY_S: Final = 5.0

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, host: str, port: int, connections: Connections
) -> AsyncIterator[int]:
    """Serve, and yield the port. Raises OSError when the address cannot be bound."""
    runner = web.AppRunner(app, shutdown_timeout=GOODBYE_S)
    await runner.setup()
    try:
        answering = cast("web.Server", runner.server)  # None only before it is set up
        listener = await connections.listen(answering, host, port, is_dual=True)
        try:
            yield listener.port
        finally:
            await listener.finish()
    finally:
        await runner.cleanup()


async def serve_forever(
    app: web.Application,
    host: str,
    port: int,
    *,
    is_hard_fail: bool,
    retry_s: float = BIND_RETRY_S,
    listeners: Listeners | None = None,
    tell: Callable[[str], None] = lambda _words: None,
) -> None:
    """Serve until cancelled, trying again while the address is taken. Raises ProxyError then if `is_hard_fail`.

    `tell` is called with what is wrong, each time but that which ends the process: nobody would be there to pass it on.
    """
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                await stack.enter_async_context(serving(app, host, port, Connections(listeners)))
            except OSError as error:
                words = f"cannot serve on {host} port {port}: {error}"
                if is_hard_fail:
                    raise ProxyError(words) from error
                tell(words)
                log.error("%s; it is tried again", words)
                await asyncio.sleep(retry_s)
            else:
                break
        await asyncio.Event().wait()
