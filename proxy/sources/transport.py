"""HTTP to the API server: one request at a time, its answer as pieces of bytes. Shell; the only door to the HTTP library.

Whatever goes wrong below comes out as `TransportError`, with the word that metrics count it by. Nothing is retried and
nothing is timed here but the connection: how long to wait for bytes is for the caller to know.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Final

import aiohttp
from yarl import URL

from proxy import __version__
from proxy.sources.access import Access
from proxy.sources.events import Trouble

_READ_BYTES: Final = 256 << 10
# A peer that vanished without a word is noticed after half a minute, also where no bookmarks come, and also while it
# has a request to confirm, when the kernel sends no probes.
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class TransportError(Exception):
    """A request that came to nothing."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


class Answer:
    """An answer whose head has come. Has to be closed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._body = response.content
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def piece(self) -> bytes:
        """Return whatever has come of the body, or b"" at its end. Raises TransportError when it was cut off."""
        with _translated():
            return await self._body.readany()

    def close(self) -> None:
        """Give the connection back, or give it up if the body was not read to its end."""
        if self._body.at_eof():
            self._response.release()
        else:
            self._response.close()


class Transport:
    """Connections to one API server; made on the event loop, and to be used as a context manager."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"sliceproxy/{__version__}", "Accept": "application/json"},
            read_bufsize=_READ_BYTES,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=None, sock_connect=connect_timeout_s, sock_read=None
            ),
        )

    async def __aenter__(self) -> "Transport":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, access: Access, target: str, *, is_watch: bool) -> Answer:
        """Send a GET and return its answer as soon as the head has come. Raises TransportError.

        A watch is not compressed: its events are small and each has to come at once.
        """
        encoding = {"Accept-Encoding": "identity" if is_watch else "gzip"}
        return await self._request(access, "GET", target, encoding)

    async def send(self, access: Access, method: str, target: str, body: bytes) -> Answer:
        """Send a JSON document with POST, or as a merge patch with PATCH. Raises TransportError."""
        patch = "application/merge-patch+json"
        content_type = {"Content-Type": patch if method == "PATCH" else "application/json"}
        return await self._request(access, method, target, content_type, body)

    async def _request(
        self,
        access: Access,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Answer:
        with _translated():
            response = await self._session.request(
                method,
                URL(access.server + target, encoded=True),
                data=body,
                headers={**access.headers, **headers},
                ssl=access.tls if access.tls is not None else True,
                server_hostname=access.tls_server_name or None,
                proxy=access.proxy or None,
                allow_redirects=False,  # a token is for this server only
            )
        return Answer(response)


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    connection = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        with contextlib.suppress(OSError):
            connection.setsockopt(level, option, value)
    return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise TransportError("connect", "no connection in time") from error
    except aiohttp.ClientConnectorError as error:
        raise TransportError("connect", _words(error)) from error
    except aiohttp.ClientPayloadError as error:
        raise TransportError("closed", "the answer was cut off") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TransportError("closed", _words(error)) from error


def _words(error: Exception) -> str:
    """Return what went wrong on one line, without URLs: that of a proxy may hold a password."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            text = f"{error.host} port {error.port}: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            text = f"{error.host} port {error.port}: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientResponseError():
            text = f"{error.status} {error.message}"
        case _:
            text = str(error)
    return " ".join(text.split()) or type(error).__name__
