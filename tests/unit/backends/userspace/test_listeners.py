"""Which pool a client gets, and listeners that end."""

import asyncio
import socket
import struct

import pytest

from backends.userspace.datagrams import AT_ONCE
from backends.userspace.here import Detector, Here
from backends.userspace.model import Listening
from backends.userspace.settings import ForwarderSettings
from backends.userspace.streams import Connection
from tests import forwarding
from tests.forwarding import (
    KEY,
    ask,
    endpoint,
    heard_by,
    listen,
    naming,
    serving,
    udp_client,
    udp_endpoint,
    until,
)


@pytest.mark.parametrize(
    ("role", "host", "expected"),
    [
        ("internal", "127.0.0.1", b"internal"),
        ("external", "127.0.0.1", b"here"),
        ("external", "127.0.0.9", b"outside"),
        ("external", "127.0.0.8", b"here"),
        ("external", "127.0.0.7", b"here"),
    ],
    ids=["cluster IP", "the address asked", "from outside", "own address", "a pod here"],
)
def test_the_pool_follows_from_the_frontend_and_the_client(
    role: str, host: str, expected: bytes
) -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            endpoint(naming(b"internal")) as internal,
            endpoint(naming(b"outside")) as outside,
            endpoint(naming(b"here")) as here,
        ):
            forwarder.here = Here(frozenset(["127.0.0.8"]), ("127.0.0.7/32",))
            forwarder.serve(
                KEY,
                serving(internal=(internal,), outside=(outside,), here=(here,), is_split=True),
            )
            place = listen(forwarder, role=role)
            reader, writer = await asyncio.open_connection(
                place.address, place.port, local_addr=(host, 0)
            )
            assert await reader.read() == expected
            writer.close()

    asyncio.run(test())


@pytest.mark.parametrize(("interface", "expected"), [(1, b"here"), (2, b"outside")])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_pods_are_told_by_the_interface_where_that_is_configured(
    interface: int, expected: bytes, host: str
) -> None:
    async def test() -> None:
        detector = Detector(mode="BridgeInterface", interface="br0")
        async with (
            forwarding.forwarding(ForwarderSettings(detector=detector)) as forwarder,
            endpoint(naming(b"outside")) as outside,
            endpoint(naming(b"here")) as here,
        ):
            both = serving(outside=(outside,), here=(here,), is_split=True)
            forwarder.serve(KEY, both)
            forwarder.here = Here(interfaces=frozenset([interface]))
            place = listen(forwarder, role="external", host=host)
            # As if another address had been asked than the client's own
            listener = forwarder.listeners[place]
            listener.place = place._replace(address="192.0.2.1" if host == "127.0.0.1" else "::2")
            for option in ((socket.IPPROTO_IP, 8), (socket.IPPROTO_IPV6, 49)):
                if (option[0] == socket.IPPROTO_IPV6) == (host == "::1"):
                    listener.socket.setsockopt(*option, 1)

            assert await ask(place) == expected

    asyncio.run(test())


@pytest.mark.parametrize(("interface", "expected"), [(1, b"here"), (2, b"outside")])
def test_datagrams_tell_their_interface_too(interface: int, expected: bytes) -> None:
    async def test() -> None:
        detector = Detector(mode="BridgeInterface", interface="br0")
        async with (
            forwarding.forwarding(ForwarderSettings(detector=detector)) as forwarder,
            udp_endpoint(lambda _: b"outside") as (outside, _),
            udp_endpoint(lambda _: b"here") as (here, _),
        ):
            both = serving(outside=(outside,), here=(here,), is_split=True)
            forwarder.serve(KEY, both)
            forwarder.here = Here(interfaces=frozenset([interface]))
            place = listen(forwarder, "UDP", role="external")
            listener = forwarder.listeners[place]
            listener.place = place._replace(address="192.0.2.1")
            listener.socket.setsockopt(socket.IPPROTO_IP, 8, 1)
            async with udp_client(place) as (transport, client):
                transport.sendto(b"?")
                assert await heard_by(client) == expected

    asyncio.run(test())


def test_flows_end_with_their_listener_and_when_it_serves_another_pool() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"internal") as (internal, _),
            udp_endpoint(lambda _: b"external") as (external, _),
        ):
            forwarder.serve(
                KEY, serving(internal=(internal,), outside=(external,), here=(external,))
            )
            place = listen(forwarder, "UDP")
            async with udp_client(place) as (transport, client):
                transport.sendto(b"?")
                assert await heard_by(client) == b"internal"
                forwarder.assign(place, Listening(KEY, "external"))
                transport.sendto(b"?")
                assert await heard_by(client) == b"external"
                forwarder.stop(place)
                assert not forwarder.flows

    asyncio.run(test())


def test_more_than_are_accepted_at_once_are_all_accepted() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"a")) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            clients = []
            for _ in range(150):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex((place.address, place.port))
                clients.append(client)
            await until(lambda: forwarder.services[KEY].accepted == 150)
            for client in clients:
                client.close()

    asyncio.run(test())


def test_a_client_that_is_gone_before_it_is_accepted_harms_nobody() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"a")) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            with socket.create_connection((place.address, place.port)) as gone:
                reset = struct.pack("ii", 1, 0)
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            assert await ask(place) == b"a"
            await until(lambda: not forwarder.connections)

    asyncio.run(test())


def test_a_listener_that_ends_while_its_turn_is_due_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (target, _),
        ):
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder, "UDP")
            listener = forwarder.listeners[place]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((place.address, place.port))
                for _ in range(AT_ONCE):
                    client.send(b"?")
            turns = []
            take_turn = listener.on_event

            def on_event(mask: int) -> None:
                turns.append(mask)
                take_turn(mask)

            monkeypatch.setattr(listener, "on_event", on_event)
            listener.on_event(0)  # as many as are taken at once: it is to go on
            forwarder.stop(place)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(turns) == 2

    asyncio.run(test())


def test_a_mistake_at_one_client_keeps_nobody_waiting_who_came_after_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder, endpoint(naming(b"a")) as target:
            forwarder.serve(KEY, serving(target))
            place = listen(forwarder)
            begin, begun = Connection.begin, []

            def mistaken(connection: Connection) -> None:
                begun.append(connection)
                if len(begun) == 1:
                    raise ZeroDivisionError
                begin(connection)

            monkeypatch.setattr(Connection, "begin", mistaken)
            with (  # both are there before anybody is accepted
                socket.create_connection((place.address, place.port)) as first,
                socket.create_connection((place.address, place.port)) as second,
            ):
                first.setblocking(False)
                second.setblocking(False)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(forwarding.LIMIT_S):
                    assert await loop.sock_recv(second, 100) == b"a"
                    assert await loop.sock_recv(first, 100) == b""
            await until(lambda: not forwarder.connections)

    asyncio.run(test())
    assert "a mistake of ours" in caplog.text
