"""Bytes come as they come, and whatever goes wrong has one of a few names."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.sources.access import Access
from proxy.sources.transport import Transport, TransportError

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _server(talk: Talk) -> AsyncIterator[tuple[Transport, Access]]:
    """Run a server that talks as given, and a transport to reach it with."""

    conversations: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with Transport(5.0) as transport:
            headers = {"Authorization": "Bearer x"}
            yield transport, Access(f"http://127.0.0.1:{port}/prefix", None, headers)
        await asyncio.gather(*filter(None, conversations))


def _says(*pieces: bytes, seen: list[bytes] | None = None) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return talk


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _read(transport: Transport, access: Access) -> bytes:
    answer = await transport.get(access, "/a?x=%21y", is_watch=True)
    try:
        pieces = []
        while piece := await answer.piece():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        answer.close()


@pytest.mark.parametrize(("is_watch", "encoding"), [(True, b"identity"), (False, b"gzip")])
def test_a_request_goes_out_as_it_was_written(is_watch: bool, encoding: bytes) -> None:
    seen: list[bytes] = []

    async def scenario() -> None:
        async with _server(_says(CHUNKED + b"0\r\n\r\n", seen=seen)) as (transport, access):
            answer = await transport.get(access, "/a?x=%21y%2Fz&w=", is_watch=is_watch)
            assert answer.status == 200
            answer.close()

    asyncio.run(scenario())
    [request] = seen
    lines = request.split(b"\r\n")
    assert lines[0] == b"GET /prefix/a?x=%21y%2Fz&w= HTTP/1.1"
    assert b"Accept-Encoding: " + encoding in lines
    assert b"Authorization: Bearer x" in lines
    assert b"Accept: application/json" in lines
    assert any(line.startswith(b"User-Agent: sliceproxy/") for line in lines)


def test_a_body_comes_to_its_end() -> None:
    async def scenario() -> None:
        talk = _says(CHUNKED, b"3\r\nab\n\r\n", b"2\r\ncd\r\n0\r\n\r\n")
        async with _server(talk) as (transport, access):
            assert await _read(transport, access) == b"ab\ncd"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"HTTP/1.1 200 OK\r\nContent-Le",),
        (CHUNKED,),
        (CHUNKED, b"5\r\nab"),
        (CHUNKED, b"nonsense\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",),
        (b"SSH-2.0-nothing\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",),
    ],
)
def test_what_is_cut_off_or_no_http_is_closed(pieces: tuple[bytes, ...]) -> None:
    async def scenario() -> None:
        async with _server(_says(*pieces)) as (transport, access):
            with pytest.raises(TransportError) as caught:
                await _read(transport, access)
            assert caught.value.trouble == "closed"
            assert str(caught.value)
            assert "\n" not in str(caught.value)

    asyncio.run(scenario())


def test_the_password_of_a_proxy_that_refuses_is_not_told() -> None:
    async def scenario() -> None:
        refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        async with _server(_says(refusal)) as (transport, access):
            proxy = access.server.removesuffix("/prefix").replace("//", "//user:hunter2@")
            through = Access(
                "https://example.invalid", ssl.create_default_context(), {}, proxy=proxy
            )
            with pytest.raises(TransportError) as caught:
                await transport.get(through, "/", is_watch=False)
            assert str(caught.value) == "407 Proxy Authentication Required"

    asyncio.run(scenario())


def test_a_server_that_is_not_there_cannot_be_connected_to() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        async with Transport(5.0) as transport:
            for host in ("127.0.0.1", "no-such-host.invalid"):
                with pytest.raises(TransportError) as caught:
                    await transport.get(
                        Access(f"http://{host}:{port}", None, {}), "/", is_watch=False
                    )
                assert caught.value.trouble == "connect"
                assert host in str(caught.value)

    asyncio.run(scenario())


def test_a_connection_that_takes_too_long_is_given_up() -> None:
    async def scenario() -> None:
        # Nobody takes the connections off this queue, and it has room for one.
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            with contextlib.ExitStack() as stack:
                for _ in range(4):
                    other = stack.enter_context(socket.socket())
                    other.setblocking(False)
                    other.connect_ex(("127.0.0.1", port))
                async with Transport(0.05) as transport:
                    with pytest.raises(TransportError) as caught:
                        await transport.get(
                            Access(f"http://127.0.0.1:{port}", None, {}), "/", is_watch=True
                        )
        assert caught.value.trouble == "connect"
        assert "in time" in str(caught.value)

    asyncio.run(scenario())


def test_connections_notice_a_peer_that_vanished() -> None:
    async def scenario() -> None:
        async with _server(_says(CHUNKED, b"1\r\na\r\n")) as (transport, access):
            answer = await transport.get(access, "/", is_watch=True)
            connection = answer._response.connection
            assert connection is not None
            assert connection.transport is not None
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle_s, pause_s, count, unconfirmed_ms = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
            assert idle_s + pause_s * count == 30
            assert unconfirmed_ms == 30_000
            answer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_read", [True, False])
def test_a_connection_is_used_again_only_if_the_answer_was_read(is_read: bool) -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(CHUNKED + b"1\r\na\r\n")
            if is_read:
                writer.write(b"0\r\n\r\n")

    async def scenario() -> None:
        async with _server(talk) as (transport, access):
            for _ in range(3):
                answer = await transport.get(access, "/", is_watch=True)
                while await answer.piece() and is_read:
                    pass
                answer.close()

    asyncio.run(scenario())
    assert connections == (1 if is_read else 3)
