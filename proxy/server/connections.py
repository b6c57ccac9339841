"""HTTP connections on ports that anybody may reach: not too many at a time, and none that is idle for long. Shell.

Who may ask what, and what is answered, is up to the handlers; here is what keeps clients from using up the files of the
process. The parser is the HTTP library's.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

IDLE_S: Final = 90.0
"""How long a connection is kept on which no whole request comes: longer than load balancers pause between two."""
MOST: Final = 512
_BACKLOG: Final = 64
_LONGEST_LINE: Final = 1 << 16
"""Bytes of a request's first line; up to there it is refused in words, beyond as malformed."""

requests_log = logging.getLogger(f"{__name__}.requests")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether something is worth a line in the log: not what anybody sends to an open port and is no request."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


requests_log.addFilter(_is_ours)


class Listener(NamedTuple):
    """Where connections come in, and what answers them."""

    server: asyncio.Server
    answering: web.Server

    @property
    def port(self) -> int:
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """End it and its connections at once, whatever is still to be sent."""
        self.server.close()
        for connection in self.answering.connections:
            if isinstance(connection, _Connection):
                connection.abort()


class Connections:
    """All there are over some ports together. Where there are too many, the oldest goes."""

    def __init__(self, *, most: int = MOST, idle_s: float = IDLE_S) -> None:
        self.idle_s = idle_s
        self._most = most
        self._open: dict[_Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def listen(self, answering: web.Server, host: str, port: int) -> Listener:
        """Answer at an address, in text; not in the other family. Raises OSError where that is not possible."""

        def connected() -> RequestHandler:
            return _Connection(answering, self)

        with contextlib.ExitStack() as stack:
            bound = stack.enter_context(_bind(host, port))
            server = await asyncio.get_running_loop().create_server(
                connected, sock=bound, backlog=_BACKLOG
            )
            stack.pop_all()
        return Listener(server, answering)

    def admit(self, connection: "_Connection") -> None:
        """Count a new one in."""
        if len(self._open) >= self._most:
            next(iter(self._open)).abort()
        self._open[connection] = None

    def forget(self, connection: "_Connection") -> None:
        """Count one out that has ended, or is about to."""
        self._open.pop(connection, None)


class _Connection(RequestHandler):
    """A client's."""

    __slots__ = ("_all",)

    def __init__(self, answering: web.Server, everybody: Connections) -> None:
        super().__init__(
            answering,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # which means none, as with web.Server
            logger=requests_log,
            max_line_size=_LONGEST_LINE,
            keepalive_timeout=everybody.idle_s,
        )
        self._all = everybody

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._all.admit(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.forget(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        self._all.forget(self)
        if self.transport is not None:
            self.transport.abort()
        self.force_close()


def _bind(host: str, port: int) -> socket.socket:
    is_ipv6 = ":" in host
    bound = socket.socket(
        socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    )
    with contextlib.ExitStack() as unless_bound:
        unless_bound.enter_context(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        unless_bound.pop_all()
    return bound
