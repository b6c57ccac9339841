"""The engine: what is served and where somebody listens, on loopback addresses."""

import asyncio
import errno
import resource
import socket

import pytest

from backends.userspace.engine import Engine
from backends.userspace.forwarder import Forwarder
from backends.userspace.here import Detector, Here
from backends.userspace.interfaces import PodInterfaces
from backends.userspace.model import NOBODY, Admission, Listening, Place
from backends.userspace.settings import ForwarderSettings
from proxy.errors import KernelError
from proxy.listeners import Listeners
from tests.fakes.links import LinksKernel
from tests.forwarding import KEY, ask, endpoint, free_place, naming, serving, until
from tests.model_builders import make_key
from tests.unit.backends.userspace.test_sockets import is_kept_out


def test_before_anything_is_served_there_is_nothing() -> None:
    engine = Engine(ForwarderSettings())

    assert (engine.serving(), engine.listening(), engine.totals()) == ({}, {}, {})
    assert not engine.is_listening(free_place())
    assert engine.counts(KEY) == {}
    assert asyncio.run(engine.drain(0.0)) == 0
    engine.close()


def test_what_is_served_is_told_and_ends() -> None:
    async def test() -> None:
        engine, place = Engine(ForwarderSettings()), free_place()
        async with endpoint(naming(b"a")) as target:
            engine.serve(KEY, serving(target))
            engine.listen(place, Listening(KEY, "internal"))
            assert await ask(place) == b"a"

            assert engine.serving() == {KEY: serving(target)}
            assert engine.listening() == {place: Listening(KEY, "internal")}
            assert engine.is_listening(place)
            assert engine.has(place)
            assert engine.counts(KEY)["accepted"] == engine.totals()["accepted"] == 1

            engine.stop(place)
            engine.forget(KEY)
            assert (engine.serving(), engine.listening()) == ({}, {})
            assert not engine.has(place)
        engine.close()

    asyncio.run(test())


def test_a_listener_changes_its_owner_and_whom_it_lets_in_in_place() -> None:
    other = make_key("default/other")

    async def test() -> None:
        engine, place = Engine(ForwarderSettings()), free_place()
        engine.serve(KEY, serving())
        engine.serve(other, serving())
        engine.listen(place, Listening(KEY, "internal"))
        before = engine.forwarder.listeners[place].socket

        engine.listen(place, Listening(other, "external", NOBODY))

        assert engine.forwarder.listeners[place].socket is before
        assert engine.listening() == {place: Listening(other, "external", NOBODY)}
        assert is_kept_out(place, "127.0.0.1")
        engine.close()

    asyncio.run(test())


def test_a_listener_that_somebody_has_ended_is_opened_anew() -> None:
    async def test() -> None:
        engine, place = Engine(ForwarderSettings()), free_place()
        engine.serve(KEY, serving())
        engine.listen(place, Listening(KEY, "internal"))
        engine.forwarder.listeners[place].socket.shutdown(socket.SHUT_RDWR)
        assert not engine.is_listening(place)

        engine.listen(place, Listening(KEY, "internal"))
        assert engine.is_listening(place)

        engine.forwarder.listeners[place].socket.shutdown(socket.SHUT_RDWR)
        assert engine.listening() == {}
        assert not engine.has(place)
        engine.close()

    asyncio.run(test())


def test_who_is_here_is_told_to_listeners_that_let_in_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Here] = []

    async def test() -> None:
        engine, first, second = Engine(ForwarderSettings()), free_place(), free_place()
        engine.set_here(frozenset(["192.0.2.1"]), ())
        engine.serve(KEY, serving())
        engine.listen(first, Listening(KEY, "external", Admission(only_here=True)))
        engine.listen(second, Listening(KEY, "external"))
        monkeypatch.setattr(
            "backends.userspace.engine.admit", lambda *arguments: told.append(arguments[3])
        )

        engine.set_here(frozenset(["192.0.2.1"]), ("10.244.0.0/24",))
        engine.set_here(frozenset(["192.0.2.2"]), ("10.244.0.0/24",))

        assert engine.forwarder.here.holds("192.0.2.2", "")
        assert engine.forwarder.here.holds("10.244.0.7", "")
        engine.close()

    asyncio.run(test())
    assert [each.ranges for each in told] == [("10.244.0.0/24",)]


def test_many_listeners_are_told_who_is_here_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Place] = []

    async def test() -> None:
        engine = Engine(ForwarderSettings())
        engine.serve(KEY, serving())
        places = [free_place() for _ in range(5)]
        for place in places:
            engine.listen(place, Listening(KEY, "external", Admission(only_here=True)))
        monkeypatch.setattr("backends.userspace.engine.AT_ONCE", 2)
        monkeypatch.setattr(
            "backends.userspace.engine.admit", lambda *arguments: told.append(arguments[1])
        )

        engine.set_here(frozenset(), ("10.244.0.0/24",))
        assert told == [places[4], places[3]]
        engine.stop(places[1])
        await until(lambda: told[-1] == places[0])

        assert told == [places[each] for each in (4, 3, 2, 0)]
        engine.close()

    asyncio.run(test())


def test_that_it_cannot_begin_is_what_the_kernel_refuses() -> None:
    kernel = LinksKernel()
    made: list[Forwarder] = []

    def make(settings: ForwarderSettings) -> Forwarder:
        if not made:
            raise OSError(errno.EMFILE, "Too many open files")
        return made[0]

    async def test() -> None:
        detector = Detector(mode="InterfaceNamePrefix", interface="veth")
        settings = ForwarderSettings(detector=detector)
        engine = Engine(settings, make=make)
        with kernel.entered():
            with pytest.raises(KernelError, match="begin to forward: Too many open files"):
                engine.serve(KEY, serving())
            made.append(Forwarder(settings))
            engine.serve(KEY, serving())
        assert engine.serving() == {KEY: serving()}
        engine.close()

    asyncio.run(test())


def test_listeners_leave_files_to_their_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))  # which are 48 sockets

    async def test() -> None:
        engine = Engine(ForwarderSettings())
        async with endpoint(naming(b"a")) as target:
            engine.serve(KEY, serving(target))
            places = [free_place() for _ in range(24)]
            for place in places:
                engine.listen(place, Listening(KEY, "internal"))
            with pytest.raises(OSError, match="Too many open files: listeners") as refused:
                engine.listen(free_place(), Listening(KEY, "internal"))
            assert refused.value.errno == errno.EMFILE
            assert await asyncio.gather(*map(ask, places)) == [b"a"] * 24

            engine.listen(places[0], Listening(KEY, "external"))
            engine.stop(places[0])
            engine.listen(places[0], Listening(KEY, "internal"))
        engine.close()

    asyncio.run(test())


def test_a_socket_that_cannot_be_watched_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        shared, place = Listeners(), free_place()
        engine = Engine(ForwarderSettings(), shared)
        engine.serve(KEY, serving())
        full = OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as refusing:
            refusing.setattr(engine.forwarder, "_epoll", Refusing(full))
            with pytest.raises(OSError, match="No space left"):
                engine.listen(place, Listening(KEY, "internal"))
        assert not engine.has(place)
        assert list(shared._offered()) == []

        engine.listen(place, Listening(KEY, "internal"))
        assert engine.is_listening(place)
        engine.close()

    asyncio.run(test())


class Refusing:
    """An epoll object that takes nobody."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def register(self, _descriptor: int, _mask: int) -> None:
        raise self.error


@pytest.mark.parametrize("is_refused", [False, True])
def test_pods_behind_a_new_interface_are_let_in_from_the_next_tick_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_refused: bool
) -> None:
    kernel = LinksKernel()
    old = kernel.add("veth1")
    told: list[frozenset[int]] = []

    def admit(_: object, __: object, ___: object, here: Here) -> None:
        told.append(here.interfaces)
        if is_refused:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    async def test() -> None:
        detector = Detector(mode="InterfaceNamePrefix", interface="veth")
        engine = Engine(ForwarderSettings(detector=detector))
        engine.set_here(frozenset(["192.0.2.1"]), ())
        with kernel.entered():
            engine.serve(KEY, serving())
        engine.listen(free_place(), Listening(KEY, "external", Admission(only_here=True)))
        engine.listen(free_place(), Listening(KEY, "external"))
        monkeypatch.setattr("backends.userspace.engine.admit", admit)

        new = kernel.add("veth2")
        kernel.add("eth1")
        await until(lambda: told)

        assert told == [{old, new}]
        assert engine.forwarder.here.holds("203.0.113.9", "", new)
        assert engine.forwarder.here.holds("192.0.2.1", "")
        engine.set_here(frozenset(["192.0.2.9"]), ())
        assert engine.forwarder.here.interfaces == {old, new}
        engine.close()

    listed = [(1, "lo"), (old, "veth1")]
    monkeypatch.setattr(
        "backends.userspace.engine.PodInterfaces",
        lambda detector: PodInterfaces(detector, listed=lambda: listed),
    )
    asyncio.run(test())
    assert ("Cannot allocate memory" in caplog.text) is is_refused


def test_draining_leaves_nobody_listening() -> None:
    async def test() -> None:
        engine, place = Engine(ForwarderSettings()), free_place()
        engine.serve(KEY, serving())
        engine.listen(place, Listening(KEY, "internal"))

        assert await engine.drain(1.0) == 0
        assert not engine.has(place)
        engine.close()

    asyncio.run(test())


def test_another_engine_of_this_process_goes_on_at_the_same_place() -> None:
    async def test() -> None:
        shared, place = Listeners(), free_place()
        first = Engine(ForwarderSettings(), shared)
        second = Engine(ForwarderSettings(), shared)
        async with endpoint(naming(b"a")) as old, endpoint(naming(b"b")) as new:
            first.serve(KEY, serving(old))
            first.listen(place, Listening(KEY, "internal"))
            assert await ask(place) == b"a"

            shared.lend()
            await first.drain(0.0)
            between = asyncio.create_task(ask(place))
            await asyncio.sleep(0)
            second.serve(KEY, serving(new))
            second.listen(place, Listening(KEY, "internal"))

            assert await between == b"b"
            assert [await ask(place) for _ in range(5)] == [b"b"] * 5
            assert (first.listening(), shared.inherited) == ({}, [])
            second.stop(place)
            assert list(shared._offered()) == []
        second.close()
        first.close()

    asyncio.run(test())


def test_what_has_been_drained_is_not_passed_on() -> None:
    async def test() -> None:
        shared = Listeners()
        engine = Engine(ForwarderSettings(), shared)
        engine.serve(KEY, serving())
        engine.listen(free_place(), Listening(KEY, "internal"))

        await engine.drain(0.0)

        assert list(shared._offered()) == []
        engine.close()

    asyncio.run(test())


def test_a_socket_that_lives_on_in_another_process_keeps_nobody_awake_here() -> None:
    async def test() -> None:
        engine, place = Engine(ForwarderSettings()), free_place()
        engine.serve(KEY, serving())
        engine.listen(place, Listening(KEY, "internal"))
        passed = engine.forwarder.listeners[place].socket.dup()

        await engine.drain(0.0)

        with passed, socket.create_connection((place.address, place.port)):
            assert engine.forwarder._epoll.poll(0) == []
        engine.close()

    asyncio.run(test())
