"""A forwarder on this host's loopback addresses, with endpoints and clients in the same event loop. Nothing is faked."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from msgspec import structs

from backends.userspace.forwarder import Forwarder
from backends.userspace.here import Here
from backends.userspace.model import Listening, Place, Serving, Target
from backends.userspace.settings import ForwarderSettings
from backends.userspace.sockets import Sockets
from proxy.desired import Frontend
from proxy.model import Protocol
from tests.model_builders import make_key
from tests.ports import free_port

KEY: Final = make_key("default/web")
LIMIT_S: Final = 60.0

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def serving(*targets: Target, **more: Any) -> Serving:
    """A ServicePort with the same endpoints for everybody."""
    frontends = (Frontend("ClusterIP", "127.0.0.1", 80),)
    pools = {"internal": targets, "outside": targets, "here": targets}
    return Serving(frontends=frontends, is_any_usable=True, **{**pools, **more})


class Clock:
    """Time in seconds that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def forwarding(
    settings: ForwarderSettings | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Forwarder]:
    """A forwarder without anything. It has patience with endpoints that are held up, unless the settings say otherwise."""
    usual, settings = ForwarderSettings(), settings or ForwarderSettings()
    if settings.connect_s == usual.connect_s:
        settings = structs.replace(settings, connect_s=LIMIT_S)
    forwarder = Forwarder(settings, clock=clock)
    try:
        yield forwarder
    finally:
        forwarder.close()


def free_place(protocol: Protocol = "TCP", host: str = "127.0.0.1") -> Place:
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    return Place("IPv6" if ":" in host else "IPv4", protocol, host, free_port(host, kind))


def listen(
    forwarder: Forwarder, protocol: Any = "TCP", *, role: Any = "internal", host: str = "127.0.0.1"
) -> Place:
    """Listen at a free port, for KEY, which is served already."""
    place = free_place(protocol, host)
    listening = Listening(KEY, role)
    opened = Sockets().open(place, listening.admission, Here())
    forwarder.listen(place, listening, opened)
    return place


@contextlib.asynccontextmanager
async def endpoint(talk: Talk, host: str = "127.0.0.1") -> AsyncIterator[Target]:
    """An endpoint that talks so with each client."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(guarded, host, 0)
    try:
        yield Target(host, server.sockets[0].getsockname()[1])
    finally:
        server.close()


def naming(name: bytes) -> Talk:
    """An endpoint that says who it is and ends."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        writer.write_eof()
        await reader.read()

    return talk


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that says what it hears, to the end, and then ends."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


def nobody() -> Target:
    """Where nobody listens."""
    return Target("127.0.0.1", free_port())


async def connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(place.address, place.port)


async def ask(place: Place, question: bytes = b"") -> bytes:
    """Say something and end, and return all that is answered."""
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await connect(place)
        try:
            writer.write(question)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def until(is_so: Callable[[], object]) -> None:
    """Let the loop run until something is so. Raises TimeoutError."""
    async with asyncio.timeout(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.005)


class Datagrams(asyncio.DatagramProtocol):
    """What came in, and from whom; `answer` makes an answer of each."""

    def __init__(self, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.heard: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self._answer = answer
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.heard.put_nowait((data, address))
        if self._answer is not None:
            self._transport.sendto(self._answer(data), address)


@contextlib.asynccontextmanager
async def udp_endpoint(
    answer: Callable[[bytes], bytes],
) -> AsyncIterator[tuple[Target, Datagrams]]:
    loop = asyncio.get_running_loop()
    transport, heard = await loop.create_datagram_endpoint(
        lambda: Datagrams(answer), local_addr=("127.0.0.1", 0)
    )
    try:
        yield Target("127.0.0.1", transport.get_extra_info("sockname")[1]), heard
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def udp_client(place: Place) -> AsyncIterator[tuple[Any, Datagrams]]:
    loop = asyncio.get_running_loop()
    transport, heard = await loop.create_datagram_endpoint(
        Datagrams, remote_addr=(place.address, place.port)
    )
    try:
        yield transport, heard
    finally:
        transport.close()


async def heard_by(client: Datagrams) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        data, _ = await client.heard.get()
        return data
