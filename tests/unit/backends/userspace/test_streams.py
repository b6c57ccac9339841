"""Forwarded connections, on loopback addresses."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.userspace.forwarder import Forwarder
from backends.userspace.halves import Half
from backends.userspace.model import Place, Target
from backends.userspace.settings import ForwarderSettings
from backends.userspace.streams import Connection
from tests import forwarding
from tests.forwarding import (
    KEY,
    Clock,
    ask,
    connect,
    echo,
    endpoint,
    listen,
    naming,
    nobody,
    serving,
    until,
)

_RESET = struct.pack("ii", 1, 0)
_CLOSE, _CLOSE_WAIT = 7, 8  # include/net/tcp_states.h


def run(test: object) -> None:
    asyncio.run(test)  # type: ignore[arg-type] # a coroutine


def start(forwarder: Forwarder, *targets: Target) -> Place:
    forwarder.serve(KEY, serving(*targets))
    return listen(forwarder)


def test_what_a_client_says_is_answered_and_counted() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            place = start(forwarder, target)

            assert await ask(place, b"hello") == b"hello"
            await until(lambda: not forwarder.connections)
            counted = forwarder.services[KEY].counted
            assert (counted["accepted"], counted["received"], counted["sent"]) == (1, 5, 5)
            assert forwarder.services[KEY].balancer.open == {}

    run(test())


def test_an_endpoint_may_speak_first() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"220 ready")) as target:
            reader, writer = await connect(start(forwarder, target))

            assert await reader.read(100) == b"220 ready"
            writer.close()

    run(test())


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 30_000_000])
def test_data_of_any_size_comes_back_as_it_was_said(size: int) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            place = start(forwarder, target)
            said = bytes(range(256)) * (size // 256) + bytes(size % 256)
            reader, writer = await connect(place)

            async def say() -> None:
                writer.write(said)
                await writer.drain()
                writer.write_eof()

            saying = asyncio.create_task(say())
            assert await reader.read() == said
            await saying
            writer.close()
            await until(lambda: not forwarder.connections)
            assert forwarder.services[KEY].received == forwarder.services[KEY].sent == size

    run(test())


def test_one_direction_may_end_long_before_the_other() -> None:
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that is all")
        writer.write_eof()
        heard.append(await reader.read())

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(talk) as target:
            reader, writer = await connect(start(forwarder, target))
            assert await reader.read() == b"that is all"
            (connection,) = forwarder.connections
            assert connection.is_half_closed
            writer.write(b"but I have more")
            writer.write_eof()
            await until(lambda: heard)
            await until(lambda: not forwarder.connections)
            writer.close()

    run(test())
    assert heard == [b"but I have more"]


def test_a_dead_endpoint_costs_no_error() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"alive")) as target:
            place = start(forwarder, nobody(), nobody(), target)

            assert [await ask(place, b"?") for _ in range(6)] == [b"alive"] * 6
            assert 2 <= forwarder.services[KEY].failures <= 4

    run(test())


def test_what_a_client_has_said_is_said_to_the_endpoint_that_accepts_alone() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            place = start(forwarder, nobody(), target)

            assert await ask(place, b"once") == b"once"

    run(test())


def test_without_an_endpoint_that_accepts_the_client_is_reset() -> None:
    async def test() -> None:
        async with forwarding.forwarding(ForwarderSettings(attempts=2)) as forwarder:
            place = start(forwarder, nobody(), nobody(), nobody())
            with pytest.raises(ConnectionResetError):
                await ask(place, b"?")
            assert forwarder.services[KEY].failures == 2
            assert forwarder.services[KEY].refused == 1

    run(test())


def test_an_endpoint_that_is_a_frontend_is_not_connected_to() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"alive")) as target:
            forwarder.serve(KEY, serving())
            own = [
                Target(place.address, place.port)
                for place in (listen(forwarder), listen(forwarder))
            ]
            place = next(iter(forwarder.listeners))
            service = forwarder.services[KEY]

            forwarder.serve(KEY, serving(*own))
            with pytest.raises(ConnectionResetError):
                await ask(place, b"?")
            assert (service.accepted, service.failures, service.refused) == (1, 2, 1)

            forwarder.serve(KEY, serving(*own, target))
            assert await ask(place, b"?") == b"alive"
            assert service.accepted == 2

    run(test())


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOBUFS])
def test_what_this_node_lacks_is_no_fault_of_an_endpoint(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"other")) as other:
            lacking = nobody()

            class Lacking(socket.SocketType):
                """Has no port left to one endpoint."""

                def connect_ex(self, address: Any, /) -> int:
                    return number if address == lacking else super().connect_ex(address)

            place = start(forwarder, lacking, other)
            monkeypatch.setattr(socket, "SocketType", Lacking)
            assert [await ask(place, b"?") for _ in range(4)] == [b"other"] * 4
            service = forwarder.services[KEY]
            assert service.failures == 2
            pool, now_s = service.internal, forwarder.now_s
            chosen = [service.balancer.choose(pool, "c", now_s) for _ in range(4)]
            assert set(chosen) == {lacking, other}

    run(test())


def test_an_endpoint_that_does_not_answer_in_time_is_given_up() -> None:
    async def test() -> None:
        with _full_endpoint() as (_, dead):
            clock = Clock()
            async with (
                forwarding.forwarding(clock=clock) as forwarder,
                endpoint(naming(b"alive")) as target,
            ):
                place = start(forwarder, dead, target)
                asking = asyncio.create_task(ask(place, b"?"))
                await until(lambda: forwarder.connecting)
                clock.now_s += forwarder.settings.connect_s
                assert await asking == b"alive"
                assert forwarder.services[KEY].failures == 1

    run(test())


@contextlib.contextmanager
def _full_endpoint() -> Iterator[tuple[socket.socket, Target]]:
    """An endpoint whose queue is full: the kernel does not answer further clients until somebody is accepted."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        target = Target(*server.getsockname())
        with socket.create_connection(target):
            yield server, target


async def _pass_time(forwarder: Forwarder, clock: Clock, attempts: int) -> None:
    """Have so many attempts take too long."""
    service = forwarder.services[KEY]
    for failures in range(service.failures + 1, service.failures + 1 + attempts):
        clock.now_s += forwarder.settings.connect_s
        await until(lambda: service.failures == failures)  # noqa: B023 - it is awaited here


def test_the_only_endpoint_has_the_time_of_all_attempts() -> None:
    async def test() -> None:
        clock = Clock()
        with _full_endpoint() as (server, target):
            async with forwarding.forwarding(clock=clock) as forwarder:
                place = start(forwarder, target)
                asking = asyncio.create_task(ask(place, b"?"))
                await until(lambda: forwarder.connecting)
                await _pass_time(forwarder, clock, forwarder.settings.attempts - 1)
                (await _accepted(server)).close()  # who was waiting
                with await _accepted(server) as accepted:
                    assert await _hear_all(accepted) == b"?"
                    accepted.send(b"late")
                assert await asking == b"late"
                assert not forwarder.connecting

    run(test())


def test_the_only_endpoint_is_given_up_after_all_attempts() -> None:
    async def test() -> None:
        clock = Clock()
        with _full_endpoint() as (_, target):
            async with forwarding.forwarding(clock=clock) as forwarder:
                asking = asyncio.create_task(ask(start(forwarder, target), b"?"))
                await until(lambda: forwarder.connecting)
                await _pass_time(forwarder, clock, forwarder.settings.attempts)
                with pytest.raises(ConnectionResetError):
                    await asking
                assert forwarder.services[KEY].refused == 1

    run(test())


def test_a_client_that_breaks_off_has_the_endpoint_broken_off() -> None:
    broken = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        try:
            await reader.read()
        except ConnectionResetError:
            broken.set()

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(talk) as target:
            place = start(forwarder, target)
            client = socket.create_connection((place.address, place.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await until(lambda: any(c.down and c.down.moved for c in forwarder.connections))
            client.close()
            async with asyncio.timeout(forwarding.LIMIT_S):
                await broken.wait()
            assert not forwarder.connections

    run(test())


def test_an_endpoint_that_breaks_off_has_the_client_broken_off_after_its_last_word() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(talk) as target:
            reader, writer = await connect(start(forwarder, target))
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(test())


def test_an_endpoint_that_breaks_off_after_its_end_ends_the_connection() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with forwarding.forwarding() as forwarder:
                reader, writer = await connect(start(forwarder, Target(*server.getsockname())))
                with await _accepted(server) as accepted:
                    accepted.send(b"that is all")
                assert await reader.read() == b"that is all"
                assert len(forwarder.connections) == 1
                writer.write(b"but I have more")  # which the endpoint's kernel answers by a reset
                await until(lambda: not forwarder.connections)
                writer.close()

    run(test())


def test_it_does_so_too_where_the_client_has_not_yet_read_all_of_it() -> None:
    said = b"x" * (100 << 10)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            async with forwarding.forwarding() as forwarder:
                place = start(forwarder, Target(*server.getsockname()))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
                client.setblocking(False)
                await loop.sock_connect(client, (place.address, place.port))
                with await _accepted(server) as accepted:
                    (connection,) = forwarder.connections
                    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
                    accepted.setblocking(False)
                    await loop.sock_sendall(accepted, said)
                    accepted.shutdown(socket.SHUT_WR)
                    await until(lambda: connection.down and connection.down.is_blocked)
                    await until(lambda: _state(connection) == _CLOSE_WAIT)
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                await until(lambda: _state(connection) == _CLOSE)
                assert not connection.is_half_closed
                heard = b""
                while part := await loop.sock_recv(client, 1 << 16):
                    heard += part
                assert heard == said
                await until(lambda: not forwarder.connections)

    run(test())


def _state(connection: Connection) -> int:
    """The state of the connection to the endpoint, as the kernel has it (struct tcp_info)."""
    assert connection.server is not None
    return connection.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def test_clients_and_endpoints_that_vanish_are_noticed_some_day() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            _, writer = await connect(start(forwarder, target))
            await until(lambda: forwarder.connections)
            (connection,) = forwarder.connections
            for end in (connection.client, connection.server):
                assert end is not None
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            writer.close()

    run(test())


def test_a_client_that_never_reads_costs_one_pipe_and_no_more() -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(talk) as target:
            place = start(forwarder, target)
            with socket.create_connection((place.address, place.port)):
                await until(
                    lambda: any(c.down and c.down.is_blocked for c in forwarder.connections)
                )
                (connection,) = forwarder.connections
                assert connection.down is not None
                assert connection.down.piped <= 1 << 20
                moved = connection.down.moved
                # others are served all the same
                assert len(await _some(place)) == 1000
                assert connection.down.moved == moved

    async def _some(place: Place) -> bytes:
        reader, writer = await connect(place)
        data = await reader.readexactly(1000)
        writer.transport.abort()
        return data

    run(test())


def test_an_end_that_came_while_nobody_was_reading_is_passed_on() -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(60_000))
        await writer.drain()
        said.set()
        await is_blocked.wait()
        writer.write(b"the end")

    said, is_blocked = asyncio.Event(), asyncio.Event()

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(talk) as target:
            place = start(forwarder, target)
            listener = forwarder.listeners[place].socket
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, (place.address, place.port))
                await until(
                    lambda: any(c.down and c.down.is_blocked for c in forwarder.connections)
                )
                (connection,) = forwarder.connections
                assert connection.down is not None
                down = connection.down
                is_blocked.set()
                await until(lambda: down.is_ending)
                heard = b""
                async with asyncio.timeout(forwarding.LIMIT_S):
                    while data := await loop.sock_recv(client, 1 << 16):
                        heard += data
                assert len(heard) == 60_007
                assert not down.is_bulk

    run(test())


def test_without_files_for_a_pipe_data_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            monkeypatch.setattr(forwarder.pipes, "take", lambda: None)
            said = bytes(9_000_000)
            place = start(forwarder, target)
            reader, writer = await connect(place)
            writer.write(said)
            writer.write_eof()
            assert await reader.read() == said
            writer.close()

    run(test())


def test_each_endpoint_that_is_tried_is_told_the_client_first() -> None:
    async def test() -> None:
        settings = ForwarderSettings(sends_proxy_header=True)
        async with forwarding.forwarding(settings) as forwarder, endpoint(echo) as target:
            place = start(forwarder, nobody(), target)

            answer = await ask(place, b"hello")

            assert answer.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1")
            assert answer.endswith(place.port.to_bytes(2) + b"hello")
            assert len(answer) == 28 + 5
            await until(lambda: not forwarder.connections)
            assert forwarder.services[KEY].received == 5

    run(test())


@contextlib.contextmanager
def _slow_endpoint() -> Iterator[tuple[socket.socket, Target]]:
    """An endpoint for which little waits on either side: nobody reads until the test does."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server, Target(*server.getsockname())


async def _accepted(server: socket.socket) -> socket.socket:
    server.setblocking(False)
    accepted, _ = await asyncio.get_running_loop().sock_accept(server)
    return accepted


async def _say_too_much(forwarder: Forwarder, say: Callable[[bytes], object]) -> int:
    """Say things until the endpoint has no room for more; return how much was said."""
    said = 0
    async with asyncio.timeout(forwarding.LIMIT_S):
        while not any(each.up.is_blocked for each in forwarder.connections):
            say(bytes(60_000))
            said += 60_000
            await asyncio.sleep(0.005)
    return said


async def _hear_all(accepted: socket.socket) -> bytes:
    heard = b""
    async with asyncio.timeout(forwarding.LIMIT_S):
        while data := await asyncio.get_running_loop().sock_recv(accepted, 1 << 16):
            heard += data
    return heard


@pytest.mark.parametrize("size", [6, 3_000_000])
def test_what_stands_behind_urgent_data_is_passed_on(size: int) -> None:
    def say(client: socket.socket) -> None:
        client.sendall(bytes(size))
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            async with forwarding.forwarding() as forwarder:
                place = start(forwarder, Target(*server.getsockname()))
                with socket.create_connection((place.address, place.port)) as client:
                    saying = asyncio.create_task(asyncio.to_thread(say, client))
                    with await _accepted(server) as accepted:
                        await _exchange(accepted, saying, size)

    async def _exchange(accepted: socket.socket, saying: asyncio.Task[None], size: int) -> None:
        heard = b""
        async with asyncio.timeout(forwarding.LIMIT_S):
            while len(heard) < size + 5:
                heard += await asyncio.get_running_loop().sock_recv(accepted, 1 << 16)
            await saying
        assert heard == bytes(size) + b"after"

    run(test())


def test_what_the_endpoint_has_no_room_for_at_first_comes_later() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            with _slow_endpoint() as (server, target):
                place = start(forwarder, target)
                with socket.create_connection((place.address, place.port)) as client:
                    said = await _say_too_much(forwarder, client.sendall)
                    client.shutdown(socket.SHUT_WR)
                    with await _accepted(server) as accepted:
                        assert len(await _hear_all(accepted)) == said

    run(test())


def test_an_endpoint_that_breaks_off_what_it_was_told_is_no_end() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            with _slow_endpoint() as (server, target):
                reader, writer = await connect(start(forwarder, target))
                await _say_too_much(forwarder, writer.write)
                writer.write_eof()
                with await _accepted(server) as accepted:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                with pytest.raises(ConnectionResetError):
                    async with asyncio.timeout(forwarding.LIMIT_S):
                        await reader.read()
                writer.close()

    run(test())


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_client_that_breaks_off_is_noticed_though_the_endpoint_reads_nothing(
    *, has_ended: bool
) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            with _slow_endpoint() as (_, target):
                place = start(forwarder, target)
                with socket.create_connection((place.address, place.port)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    if has_ended:
                        client.shutdown(socket.SHUT_WR)
                        await until(lambda: any(c.up.is_done for c in forwarder.connections))
                    else:
                        await _say_too_much(forwarder, client.sendall)
                await until(lambda: not forwarder.connections)

    run(test())


def test_an_endpoint_that_came_while_another_did_not_answer_is_tried_too() -> None:
    async def test() -> None:
        clock = Clock()
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            host, port = silent.getsockname()
            with socket.create_connection((host, port)):  # its queue is full
                async with (
                    forwarding.forwarding(clock=clock) as forwarder,
                    endpoint(naming(b"new")) as new,
                ):
                    place = start(forwarder, Target(host, port))
                    asking = asyncio.create_task(ask(place))
                    await until(lambda: forwarder.connecting)
                    forwarder.serve(KEY, serving(new))
                    clock.now_s += forwarder.settings.connect_s
                    assert await asking == b"new"

    run(test())


def test_what_an_endpoint_has_taken_is_said_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    moves = Half.move

    async def test() -> None:
        with contextlib.ExitStack() as opened:
            servers = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "ab"]
            by_port = {server.getsockname()[1]: server for server in servers}

            def move(half: Half) -> bool:
                """Have an endpoint break off as soon as it has taken something, before anybody is told that it accepted."""
                was_open = half.is_open
                is_more = moves(half)
                if half.sink is not None and half.is_open and not was_open:
                    accepted, _ = by_port[half.sink.getpeername()[1]].accept()
                    with accepted:
                        heard.append(accepted.recv(100))
                        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    raise ConnectionResetError
                return is_more

            monkeypatch.setattr(Half, "move", move)
            async with forwarding.forwarding() as forwarder:
                place = start(forwarder, *[Target(*each.getsockname()) for each in servers])
                with socket.create_connection((place.address, place.port)) as client:
                    client.send(b"once")  # before it is accepted: so it is passed on at once
                    await until(lambda: forwarder.services[KEY].accepted)
                    await until(lambda: not forwarder.connections)
                assert forwarder.services[KEY].failures == 0

    run(test())
    assert heard == [b"once"]
