"""HTTP connections on ports that anybody may reach: not too many at a time, and none that is idle for long. Shell.

Who may ask what, and what is answered, is up to the handlers; here is what keeps clients from using up the files of the
process. The parser is the HTTP library's.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from proxy.listeners import Listeners, listener_key

_ANY: Final = "0.0.0.0"  # noqa: S104 - as configured
IDLE_S: Final = 90.0
"""How long a connection is kept on which no whole request comes: longer than load balancers pause between two."""
GOODBYE_S: Final = 1.0
"""How long answers may take at the end."""
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
    end: Callable[[], None]
    """Ends it for new connections; what is under way may be answered."""

    @property
    def port(self) -> int:
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def finish(self, limit_s: float = GOODBYE_S) -> None:
        """End it, but first answer whoever has connected: where another process listens on, nobody is to notice."""
        self.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for connection in self.answering.connections:
                    if isinstance(connection, _Connection):
                        await connection.owes_nothing.wait()
        self.close()

    def close(self) -> None:
        """End it and its connections at once, whatever is still to be sent."""
        self.end()
        for connection in self.answering.connections:
            if isinstance(connection, _Connection):
                connection.abort()


class Connections:
    """All there are over some ports together. Where there are too many, the oldest goes."""

    def __init__(
        self, listeners: Listeners | None = None, *, most: int = MOST, idle_s: float = IDLE_S
    ) -> None:
        """`listeners` has what the process before listened on, and passes on what this one does."""
        self._listeners = listeners if listeners is not None else Listeners()
        self.idle_s = idle_s
        self._most = most
        self._open: dict[_Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def listen(
        self, answering: web.Server, host: str, port: int, *, is_dual: bool = False
    ) -> Listener:
        """Answer at an address, in text; if `is_dual`, at the address of none (`0.0.0.0` or `::`) in both families.

        Raises OSError where that is not possible.
        """

        def connected() -> RequestHandler:
            return _Connection(answering, self)

        # a socket for both families is at `::`; an earlier version may have passed one at `0.0.0.0`
        hosts = ("::", host) if is_dual and host == _ANY else (host,)
        found = (self._listeners.take(listener_key("TCP", each, port)) for each in hosts)
        passed = next(filter(None, found), None)
        with contextlib.ExitStack() as stack:
            bound = stack.enter_context(passed or _bind(host, port, is_dual=is_dual))
            key = listener_key("TCP", *bound.getsockname()[:2])
            stack.callback(self._listeners.drop, key)
            server = await asyncio.get_running_loop().create_server(
                connected, sock=bound, backlog=_BACKLOG
            )
            self._listeners.keep(key, bound)
            stack.pop_all()

        def end() -> None:
            self._listeners.drop(key)
            server.close()

        return Listener(server, answering, end)

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

    __slots__ = ("_all", "owes_nothing")

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
        self.owes_nothing = asyncio.Event()
        """Not set from when somebody has connected, or said something, until he is answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._all.admit(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.owes_nothing.clear()
        super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self.owes_nothing.set()
        return finished

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.forget(self)
        self.owes_nothing.set()
        super().connection_lost(exc)

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        self._all.forget(self)
        if self.transport is not None:
            self.transport.abort()
        self.force_close()


def _bind(host: str, port: int, *, is_dual: bool) -> socket.socket:
    """Return a socket at an address. As with Go's net.Listen, `0.0.0.0` may stand for both families too."""
    if is_dual and host == _ANY:
        try:
            return _bound(socket.AF_INET6, "::", port, is_dual=True)
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _bound(family, host, port, is_dual=is_dual)


def _bound(family: int, host: str, port: int, *, is_dual: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.ExitStack() as unless_bound:
        unless_bound.enter_context(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        bound.bind((host, port))
        unless_bound.pop_all()
    return bound
