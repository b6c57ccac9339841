"""The port: serving, closed (nobody listens), or mute (connections are accepted and never answered)."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Literal

Mode = Literal["serving", "closed", "mute"]


class Listener:
    """Holds one port through all modes. Connections that are open stay as they are, but for those of a mute time."""

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._protocol = protocol
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._unanswered: set[asyncio.BaseTransport] = set()
        self.port = port
        self.mode: Mode = "closed"

    async def become(self, mode: Mode) -> None:
        """Change the mode; done when this returns."""
        if mode == self.mode:
            return
        self._close()
        loop = asyncio.get_running_loop()
        if mode == "serving":
            self._server = await loop.create_server(
                self._protocol, self._host, self.port, ssl=self._tls, backlog=512
            )
        elif mode == "mute":
            self._server = await loop.create_server(
                lambda: _Mute(self._unanswered), self._host, self.port
            )
        if self._server is not None:
            self.port = self._server.sockets[0].getsockname()[1]
        self.mode = mode

    def close(self) -> None:
        """Listen no more."""
        self._close()
        self.mode = "closed"

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for transport in list(self._unanswered):
            transport.close()


class _Mute(asyncio.Protocol):
    """Hears, and says nothing."""

    def __init__(self, held: set[asyncio.BaseTransport]) -> None:
        self._held = held
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._transport is not None:
            self._held.discard(self._transport)
