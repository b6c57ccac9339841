"""The forwarder: what is served in place, drained, given up, and put off."""

import asyncio
import contextlib
import logging
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.userspace import forwarder as forwarder_module
from backends.userspace.forwarder import Forwarder
from backends.userspace.model import Listening, Place, Target
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
    heard_by,
    listen,
    naming,
    serving,
    udp_client,
    udp_endpoint,
    until,
)
from tests.model_builders import make_key


def test_endpoints_change_in_place_and_open_connections_go_on_for_a_while() -> None:
    async def test() -> None:
        clock = Clock()
        async with (
            forwarding.forwarding(clock=clock) as forwarder,
            endpoint(echo) as old,
            endpoint(naming(b"new")) as new,
        ):
            forwarder.serve(KEY, serving(old))
            place = listen(forwarder)
            reader, writer = await connect(place)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"

            forwarder.serve(KEY, serving(new))
            assert await ask(place) == b"new"
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            clock.now_s += forwarder.settings.drain_s
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(forwarding.LIMIT_S):
                    await reader.read()
            writer.close()

    asyncio.run(test())


def test_a_connection_whose_endpoint_comes_back_is_left_alone() -> None:
    async def test() -> None:
        clock = Clock()
        async with forwarding.forwarding(clock=clock) as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            reader, writer = await connect(listen(forwarder))
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            forwarder.serve(KEY, serving())
            forwarder.serve(KEY, serving(target))
            clock.now_s += forwarder.settings.drain_s
            await until(lambda: not forwarder._leaving)
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            writer.close()

    asyncio.run(test())


def test_a_service_that_goes_keeps_its_connections_for_a_while_and_its_counts() -> None:
    async def test() -> None:
        clock = Clock()
        async with forwarding.forwarding(clock=clock) as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            reader, writer = await connect(place)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            forwarder.stop(place)
            forwarder.forget(KEY)
            assert len(forwarder.connections) == 1
            clock.now_s += forwarder.settings.drain_s
            with pytest.raises(ConnectionResetError):
                await reader.read()
            clock.now_s += forwarder_module.SWEEP_S
            await until(lambda: not forwarder._ended)
            assert forwarder.counted()["received"] == 3
            with pytest.raises(ConnectionRefusedError):
                await connect(place)
            writer.close()

    asyncio.run(test())


def test_a_listener_is_given_to_another_service_without_refusing_anybody() -> None:
    other = make_key("default/other")

    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            endpoint(naming(b"a")) as a,
            endpoint(naming(b"b")) as b,
        ):
            forwarder.serve(KEY, serving(a))
            forwarder.serve(other, serving(b))
            place = listen(forwarder)
            before = forwarder.listeners[place].socket
            assert await ask(place) == b"a"

            forwarder.assign(place, Listening(other, "internal"))

            assert await ask(place) == b"b"
            assert forwarder.listeners[place].socket is before

    asyncio.run(test())


def test_silent_connections_end() -> None:
    async def test() -> None:
        settings = ForwarderSettings(idle_s=0.1)
        async with forwarding.forwarding(settings) as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            reader, writer = await connect(listen(forwarder))
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(forwarding.LIMIT_S):
                    await reader.read()
            writer.close()

    asyncio.run(test())


def test_half_closed_connections_end_sooner() -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.get_running_loop().create_future()

    async def test() -> None:
        clock = Clock()
        async with (
            forwarding.forwarding(clock=clock) as forwarder,
            endpoint(echo) as whole,
            endpoint(talk) as half,
        ):
            forwarder.serve(KEY, serving(whole, half))
            place = listen(forwarder)
            ends = [await connect(place) for _ in range(2)]
            await until(lambda: len(forwarder.connections) == 2)
            await until(lambda: any(each.is_half_closed for each in forwarder.connections))
            clock.now_s += forwarder.settings.half_closed_s
            await until(lambda: len(forwarder.connections) == 1)
            (left,) = forwarder.connections
            assert left.target == whole
            for _, writer in ends:
                writer.close()

    asyncio.run(test())


@contextlib.contextmanager
def few_files(spare: int) -> Iterator[None]:
    """The process may open only so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as opened:
        free = [opened.enter_context(Path("/dev/null").open()) for _ in range(spare)]
        limit = max(each.fileno() for each in free) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_files_nobody_is_accepted_for_a_moment_and_then_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarder_module, "REST_S", 0.02)

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"a")) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            with few_files(1):  # for the client itself
                asking = asyncio.create_task(ask(place))
                await until(lambda: forwarder.rests >= 2)
                assert not asking.done()
            assert await asking == b"a"

    asyncio.run(test())


def test_without_files_for_an_endpoint_a_client_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "REST_S", 0.02)

    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            with few_files(2):  # for both ends of the client's connection
                asking = asyncio.create_task(ask(place, b"hello"))
                await until(lambda: forwarder.rests >= 2)
                assert len(forwarder.starved) == 1
            assert await asking == b"hello"
            assert not forwarder.starved
            assert forwarder.services[KEY].refused == 0

    asyncio.run(test())


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def _has_64_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarder may have 48 sockets then: 8 files are the pipes', and 8 are left to others."""
    monkeypatch.setattr(forwarder_module, "REST_S", 0.02)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))


@contextlib.contextmanager
def _silent_clients(place: Place, count: int) -> Iterator[list[socket.socket]]:
    """Clients that say nothing, and break off when they are closed."""
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(count)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect((place.address, place.port))
        yield clients


@pytest.mark.usefixtures("_has_64_files")
def test_connections_leave_files_to_the_rest_of_the_process() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            with socket.create_server(("127.0.0.1", 0)) as server:
                forwarder.serve(KEY, serving(Target(*server.getsockname())))
                place = listen(forwarder)
                before = _files()
                with _silent_clients(place, 30) as clients:
                    await until(lambda: forwarder.rests >= 3)
                    service = forwarder.services[KEY]
                    assert service.accepted == len(forwarder.connections) == 23
                    assert _files() - before - len(clients) <= 48

                    for client in clients[:10]:
                        client.close()
                    await until(lambda: service.accepted == 30)
                    assert len(forwarder.connections) == 20

    asyncio.run(test())


@pytest.mark.usefixtures("_has_64_files")
def test_datagrams_are_forwarded_though_connections_have_all_files() -> None:
    other = make_key("default/other", protocol="UDP")

    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
        ):
            with socket.create_server(("127.0.0.1", 0)) as server:
                forwarder.serve(KEY, serving(Target(*server.getsockname())))
                forwarder.serve(other, serving(a))
                asked, place = listen(forwarder, "UDP"), listen(forwarder)
                forwarder.assign(asked, Listening(other, "internal"))
                with _silent_clients(place, 30):
                    await until(lambda: forwarder.rests >= 3)
                    for _ in range(3):
                        async with udp_client(asked) as (transport, client):
                            transport.sendto(b"?")
                            assert await heard_by(client) == b"a"
                    assert len(forwarder.flows) <= 2

    asyncio.run(test())


def test_a_mistake_ends_one_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            reader, writer = await connect(place)
            await until(lambda: forwarder.connections)
            (connection,) = forwarder.connections

            def mistaken(*_: object, **__: object) -> bool:
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(type(connection), "run", mistaken)
                writer.write(b"x")
                await until(lambda: connection.is_over)
            assert await ask(place, b"y") == b"y"
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(test())
    assert "a mistake of ours" in caplog.text


def test_draining_refuses_new_connections_and_waits_for_old_ones() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            reader, writer = await connect(place)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"

            draining = asyncio.create_task(forwarder.drain(forwarding.LIMIT_S))
            await until(lambda: not forwarder.listeners)
            with pytest.raises(ConnectionRefusedError):
                await connect(place)
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            assert not draining.done()
            writer.write_eof()
            assert await reader.read() == b""
            assert await draining == 0
            writer.close()

    asyncio.run(test())


def test_draining_ends_at_its_deadline() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(echo) as target:
            forwarder.serve(KEY, serving(target))
            _, writer = await connect(listen(forwarder))
            await until(lambda: forwarder.connections)
            assert await forwarder.drain(0.02) == 1
            writer.close()

    asyncio.run(test())


def test_many_connections_leave_nothing_behind() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"a")) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            for _ in range(20):
                assert await asyncio.gather(*[ask(place, b"?") for _ in range(20)]) == [b"a"] * 20
            await until(lambda: not forwarder.connections)
            service = forwarder.services[KEY]
            assert (service.accepted, service.balancer.open) == (400, {})
            assert len(forwarder._handlers) == 1
            assert not forwarder.connecting

    asyncio.run(test())


def test_closing_ends_everything() -> None:
    async def test() -> None:
        async with endpoint(echo) as target:
            forwarder = Forwarder(ForwarderSettings())
            forwarder.serve(KEY, serving(target, Target("127.0.0.1", 9)))
            place = listen(forwarder)
            reader, writer = await connect(place)
            writer.write(b"one")
            await reader.read(3)
            forwarder.close()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    asyncio.run(test())


def test_without_files_a_datagram_is_lost_and_no_endpoint_is_blamed() -> None:
    async def test() -> None:
        one, other = Target("127.0.0.1", 1), Target("127.0.0.1", 2)
        async with forwarding.forwarding() as forwarder:
            forwarder.serve(KEY, serving(one, other))
            place = listen(forwarder, "UDP")
            service = forwarder.services[KEY]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                with few_files(1), socket.socket():
                    client.sendto(b"?", (place.address, place.port))
                    await until(lambda: service.failures)
                chosen = [service.balancer.choose(service.internal, "c", 0.0) for _ in range(4)]
                assert set(chosen) == {one, other}

    asyncio.run(test())


def test_a_mistake_at_an_endpoint_in_vain_ends_one_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        settings = ForwarderSettings(connect_s=0.01)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            target = Target(*silent.getsockname())
            with socket.create_connection(target):  # its queue is full
                async with forwarding.forwarding(settings) as forwarder:

                    def mistaken(_: Connection) -> None:
                        raise ZeroDivisionError

                    monkeypatch.setattr(Connection, "_give_up", mistaken)
                    forwarder.serve(KEY, serving(target))
                    place = listen(forwarder)
                    assert await ask(place) == b""

    asyncio.run(test())
    assert "a mistake of ours" in caplog.text
