"""Forwarded datagrams, on loopback addresses."""

import asyncio
import errno
import resource
import socket
from typing import Any, cast

import pytest

from backends.userspace import listeners
from backends.userspace.datagrams import Flow
from backends.userspace.forwarder import Forwarder
from backends.userspace.model import Target
from backends.userspace.settings import ForwarderSettings
from tests import forwarding
from tests.forwarding import (
    KEY,
    Clock,
    heard_by,
    listen,
    nobody,
    serving,
    udp_client,
    udp_endpoint,
    until,
)


def test_an_answer_comes_from_where_was_asked() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda data: b"re: " + data) as (target, _),
        ):
            forwarder.serve(KEY, serving(target))
            # a connected client hears only the address it asks
            async with udp_client(listen(forwarder, "UDP")) as (transport, client):
                transport.sendto(b"one")
                assert await heard_by(client) == b"re: one"
                transport.sendto(b"two")
                assert await heard_by(client) == b"re: two"
            assert len(forwarder.flows) == 1
            counted = forwarder.services[KEY].counted
            assert (counted["accepted"], counted["received"], counted["sent"]) == (1, 6, 14)

    asyncio.run(test())


def test_a_client_keeps_its_endpoint_and_others_get_theirs() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
            udp_endpoint(lambda _: b"b") as (b, _),
        ):
            forwarder.serve(KEY, serving(a, b))
            place = listen(forwarder, "UDP")
            async with udp_client(place) as (first, one), udp_client(place) as (second, two):
                answers: list[list[bytes]] = [[], []]
                for _ in range(3):
                    first.sendto(b"?")
                    second.sendto(b"?")
                    answers[0].append(await heard_by(one))
                    answers[1].append(await heard_by(two))
            assert sorted(answers) == [[b"a"] * 3, [b"b"] * 3]

    asyncio.run(test())


def test_a_flow_whose_endpoint_has_gone_goes_on_at_another() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
            udp_endpoint(lambda _: b"b") as (b, _),
        ):
            forwarder.serve(KEY, serving(a))
            async with udp_client(listen(forwarder, "UDP")) as (transport, client):
                transport.sendto(b"?")
                assert await heard_by(client) == b"a"
                forwarder.serve(KEY, serving(b))
                assert not forwarder.flows
                transport.sendto(b"?")
                assert await heard_by(client) == b"b"
            assert forwarder.services[KEY].balancer.open == {b: 1}

    asyncio.run(test())


def test_where_nobody_listens_the_next_datagram_goes_elsewhere() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
        ):
            forwarder.serve(KEY, serving(nobody(), a))
            async with udp_client(listen(forwarder, "UDP")) as (transport, client):
                transport.sendto(b"lost")
                await until(lambda: forwarder.services[KEY].failures == 1)
                transport.sendto(b"?")
                assert await heard_by(client) == b"a"

    asyncio.run(test())


def test_an_endpoint_that_is_a_frontend_is_sent_nothing() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
        ):
            forwarder.serve(KEY, serving())
            place, other = listen(forwarder, "UDP"), listen(forwarder, "UDP")
            service = forwarder.services[KEY]
            forwarder.serve(KEY, serving(Target(other.address, other.port)))
            async with udp_client(place) as (transport, client):
                transport.sendto(b"lost")
                await until(lambda: service.failures or service.accepted)
                assert (service.accepted, service.failures) == (0, 1)
                forwarder.serve(KEY, serving(Target(other.address, other.port), a))
                transport.sendto(b"?")
                assert await heard_by(client) == b"a"

    asyncio.run(test())


def test_without_a_port_for_a_flow_no_endpoint_is_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_port(*_: object) -> Flow:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            one, other = Target("127.0.0.1", 1), Target("127.0.0.1", 2)
            forwarder.serve(KEY, serving(one, other))
            service = forwarder.services[KEY]
            monkeypatch.setattr(listeners, "Flow", without_port)
            async with udp_client(listen(forwarder, "UDP")) as (transport, _):
                transport.sendto(b"?")
                await until(lambda: service.failures)
            pool, now_s = service.internal, forwarder.now_s
            chosen = [service.balancer.choose(pool, "c", now_s) for _ in range(4)]
            assert set(chosen) == {one, other}

    asyncio.run(test())


class _Narrow:
    """A flow's socket, of which a router says once that a datagram was too large."""

    def __init__(self, real: socket.SocketType, where: str) -> None:
        self._real = real
        self._where = where

    def __getattr__(self, name: str) -> Any:
        if name == self._where:
            self._where = ""
            return self._too_large
        return getattr(self._real, name)

    def _too_large(self, _: object) -> None:
        raise OSError(errno.EMSGSIZE, "Message too long")


@pytest.mark.parametrize("where", ["send", "recv"])
def test_a_datagram_that_is_too_large_ends_no_flow(where: str) -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda data: data) as (a, _),
        ):
            forwarder.serve(KEY, serving(a))
            async with udp_client(listen(forwarder, "UDP")) as (transport, client):
                transport.sendto(b"one")
                assert await heard_by(client) == b"one"
                (flow,) = forwarder.flows
                narrow = _Narrow(flow.server, where)
                flow.server = cast("socket.SocketType", narrow)
                transport.sendto(b"two")
                await until(lambda: not narrow._where)
                transport.sendto(b"three")
                while await heard_by(client) != b"three":
                    pass
                assert list(forwarder.flows) == [flow]
                assert forwarder.services[KEY].failures == 0

    asyncio.run(test())


def test_silent_flows_end_and_there_are_never_more_than_allowed() -> None:
    async def test() -> None:
        clock = Clock()
        async with (
            forwarding.forwarding(ForwarderSettings(flows=2), clock) as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
        ):
            forwarder.serve(KEY, serving(a))
            place = listen(forwarder, "UDP")
            async with (
                udp_client(place) as (first, one),
                udp_client(place) as (second, two),
                udp_client(place) as (third, three),
            ):
                for transport, client in ((first, one), (second, two), (third, three)):
                    transport.sendto(b"?")
                    assert await heard_by(client) == b"a"
                    assert len(forwarder.flows) <= 2
                clock.now_s += forwarder.settings.udp_s
                await until(lambda: not forwarder.flows)
                first.sendto(b"?")
                assert await heard_by(one) == b"a"

    asyncio.run(test())


class Remembered:
    """A flow without sockets."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.active_s = forwarder.now_s
        self.is_forgotten = False
        self._forwarder = forwarder
        forwarder.add_flow(cast("Flow", self))

    def close(self) -> None:
        self.is_forgotten = True
        del self._forwarder.flows[cast("Flow", self)]


def test_who_goes_on_is_not_forgotten_for_those_who_ask_once() -> None:
    async def test() -> None:
        async with forwarding.forwarding(ForwarderSettings(flows=300)) as forwarder:
            lasting = [Remembered(forwarder) for _ in range(100)]
            for number in range(2000):
                forwarder.now_s += 0.001
                if not number % 50:
                    for each in lasting:
                        each.active_s = forwarder.now_s
                Remembered(forwarder)
                assert len(forwarder.flows) <= 300
            assert not [each for each in lasting if each.is_forgotten]

    asyncio.run(test())


def test_clients_have_a_share_of_the_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda _: b"a") as (a, _),
        ):
            forwarder.serve(KEY, serving(a))
            place = listen(forwarder, "UDP")
            async with udp_client(place) as (first, one), udp_client(place) as (second, two):
                for transport, client in ((first, one), (second, two)):
                    transport.sendto(b"?")
                    assert await heard_by(client) == b"a"
                assert [flow.client for flow in forwarder.flows] == [
                    second.get_extra_info("sockname")
                ]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (7, 100))
    asyncio.run(test())


def test_without_an_endpoint_a_datagram_is_lost_and_counted() -> None:
    async def test() -> None:
        async with forwarding.forwarding() as forwarder:
            forwarder.serve(KEY, serving())
            async with udp_client(listen(forwarder, "UDP")) as (transport, _):
                transport.sendto(b"?")
                await until(lambda: forwarder.services[KEY].refused == 1)

    asyncio.run(test())


def test_more_than_is_taken_at_once_is_all_forwarded() -> None:
    async def test() -> None:
        async with (
            forwarding.forwarding() as forwarder,
            udp_endpoint(lambda data: data) as (a, _),
        ):
            forwarder.serve(KEY, serving(a))
            async with udp_client(listen(forwarder, "UDP")) as (transport, client):
                for number in range(150):
                    transport.sendto(b"%d" % number)
                found = {await heard_by(client) for _ in range(150)}
            assert found == {b"%d" % number for number in range(150)}

    asyncio.run(test())
