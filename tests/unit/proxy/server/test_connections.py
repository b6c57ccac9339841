"""Clients cannot use up the files of the process, whatever they send or do not send."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from aiohttp import web

from proxy.listeners import Listeners, listener_key
from proxy.server.connections import Connections, Listener

LIMIT_S = 60.0
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answering() -> web.Server:
    async def respond(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    return web.Server(respond)


def live(
    life: Callable[[Listener], Awaitable[None]], connections: Connections, host: str = "127.0.0.1"
) -> None:
    """Listen for as long as `life` takes."""

    async def main() -> None:
        listener = await connections.listen(answering(), host, 0)
        try:
            async with asyncio.timeout(LIMIT_S):
                await life(listener)
        finally:
            listener.close()

    # that of the daemon: asyncio's own forgets connections that come while a server closes
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - nobody tells of what is asked here
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", REQUEST])
def test_who_says_nothing_for_long_is_hung_up_on(said: bytes) -> None:
    connections = Connections(idle_s=0.05)

    async def life(listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(said)
        with contextlib.suppress(ConnectionResetError):  # who speaks late is hung up on before
            await reader.read()
        writer.close()
        await until(lambda: len(connections) == 0)

    live(life, connections)


def test_with_too_many_the_oldest_goes() -> None:
    connections = Connections(most=2)

    async def life(listener: Listener) -> None:
        (oldest, first), *others = [
            await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(3)
        ]
        with contextlib.suppress(ConnectionResetError):
            assert await oldest.read() == b""
        for reader, writer in others:
            writer.write(REQUEST)
            assert b" 200 " in await reader.readline()
        assert len(connections) == 2
        for _, writer in others:
            writer.close()
        first.close()
        await until(lambda: len(connections) == 0)

    live(life, connections)


def test_those_on_which_nobody_reads_end_with_the_listener_too() -> None:
    connections = Connections()

    async def life(listener: Listener) -> None:
        _, deaf = await asyncio.open_connection("127.0.0.1", listener.port, limit=1)
        await until(lambda: len(connections) == 1)
        [transport] = [each.transport for each in listener.answering.connections]
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def is_stuck() -> bool:
            deaf.write(REQUEST * 1000)
            return transport.get_write_buffer_size() > 0

        await until(is_stuck)
        listener.close()

        await until(lambda: not listener.answering.connections)
        assert len(connections) == 0
        deaf.transport.abort()

    live(life, connections)


def test_what_listens_for_one_family_does_not_answer_the_other() -> None:
    async def life(listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("::1", listener.port)
        writer.write(REQUEST)
        assert b" 200 " in await reader.readline()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", listener.port)

    live(life, Connections(), host="::")


@pytest.mark.parametrize("address", ["::", "0.0.0.0"])
def test_where_it_shall_it_answers_both_families_at_the_address_of_none(address: str) -> None:
    async def life(listener: Listener) -> None:
        both = await Connections().listen(listener.answering, address, 0, is_dual=True)
        for host in ("::1", "127.0.0.1"):
            reader, writer = await asyncio.open_connection(host, both.port)
            writer.write(REQUEST)
            assert b" 200 " in await reader.readline()
            writer.close()
        both.close()

    live(life, Connections())


def test_where_there_is_no_ipv6_the_other_family_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    async def life(listener: Listener) -> None:
        monkeypatch.setattr("proxy.server.connections.socket.socket", without_ipv6)
        one = await Connections().listen(listener.answering, "0.0.0.0", 0, is_dual=True)
        monkeypatch.undo()
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(REQUEST)
        assert b" 200 " in await reader.readline()
        writer.close()
        one.close()

    live(life, Connections())


def test_a_taken_address_is_refused() -> None:
    async def life(listener: Listener) -> None:
        with pytest.raises(OSError, match="in use"):
            await Connections().listen(listener.answering, "127.0.0.1", listener.port)

    live(life, Connections())


def test_what_is_no_request_ends_its_connection_only() -> None:
    async def life(listener: Listener) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        with socket.create_connection(("127.0.0.1", listener.port)):
            pass

    live(life, Connections())


@pytest.mark.parametrize(
    ("host", "bound"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "::"), ("::", "::")]
)
def test_who_waits_is_answered_by_the_process_that_takes_over(host: str, bound: str) -> None:
    passed, taken = Listeners(), Listeners()

    async def main() -> bytes:
        old = await Connections(passed).listen(answering(), host, 0, is_dual=True)
        port = old.port
        key = listener_key("TCP", bound, port)
        taken._inherited[key] = passed._kept[key].dup()
        old.close()
        assert not passed._kept
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        new = await Connections(taken).listen(answering(), host, port, is_dual=True)
        status = await reader.readline()
        writer.close()
        new.close()
        assert not taken._kept
        return status

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()).startswith(b"HTTP/1.1 200")
