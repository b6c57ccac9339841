"""Listening: binds an application to an address, and tries again while it is taken. Shell."""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import ConfigError

BIND_RETRY_S: Final = 5.0
IDLE_S: Final = 90.0
"""How long a connection may stay without a request."""
_LONGEST_LINE: Final = 1 << 16
"""Bytes of a request's first line; up to there it is refused in words, beyond as malformed."""
_GOODBYE_S: Final = 1.0
"""How long answers under way may take at the end."""

log = logging.getLogger(__name__)
requests_log = logging.getLogger(f"{__name__}.requests")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether something is worth a line in the log: not what anybody sends to an open port and is no request."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


requests_log.addFilter(_is_ours)


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Start serving; `cleanup()` of what is returned ends it. Raises OSError when the address cannot be bound."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=requests_log,
        max_line_size=_LONGEST_LINE,
        keepalive_timeout=IDLE_S,
        shutdown_timeout=_GOODBYE_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


async def serve_forever(
    app: web.Application,
    host: str,
    port: int,
    *,
    is_hard_fail: bool,
    retry_s: float = BIND_RETRY_S,
) -> None:
    """Serve until cancelled, trying again while the address is taken. Raises ConfigError then if `is_hard_fail`."""
    while True:
        try:
            runner = await serve(app, host, port)
        except OSError as error:
            if is_hard_fail:
                raise ConfigError(f"cannot serve on {host} port {port}: {error}") from error
            log.error("cannot serve on %s port %d, trying again: %s", host, port, error)
            await asyncio.sleep(retry_s)
        else:
            break
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
