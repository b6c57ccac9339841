"""Listening sockets that are passed from one process to the next, over a real Unix socket."""

import asyncio
import math
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from proxy import listeners
from proxy.listeners import (
    AT_ONCE,
    Listeners,
    _send,
    bind_freely,
    listener_key,
    place_to_ask,
)


def make_listener(
    kind: int = socket.SOCK_STREAM, address: str = "127.0.0.1"
) -> tuple[str, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        listener.listen()
    port = listener.getsockname()[1]
    return listener_key("TCP" if kind == socket.SOCK_STREAM else "UDP", address, port), listener


@pytest.fixture
def old() -> Iterator[Listeners]:
    kept = Listeners()
    yield kept
    for each in kept._kept.values():
        each.close()


async def inherit(old: Listeners, path: Path) -> Listeners:
    """What a new process gets from `old`."""
    with place_to_ask(path) as asked:
        passing = asyncio.create_task(old.pass_on(asked))
        try:
            return await asyncio.to_thread(Listeners.inherited_from, path, answer_s=60.0)
        finally:
            passing.cancel()


def run(old: Listeners, path: Path) -> Listeners:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(inherit(old, path))


def test_a_key_names_protocol_and_place() -> None:
    assert listener_key("TCP", "10.96.0.1", 80) == "tcp 10.96.0.1:80"
    assert listener_key("UDP", "fd00::1", 53) == "udp [fd00::1]:53"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_has_connected_before_is_accepted_by_the_next_process(
    old: Listeners, tmp_path: Path, address: str
) -> None:
    key, listener = make_listener(address=address)
    old.keep(key, listener)
    with socket.create_connection(listener.getsockname()[:2]) as client:
        new = run(old, tmp_path / "socket")
        listener.close()
        inherited = new.take(key)
        assert inherited is not None
        assert not inherited.getblocking()
        with inherited, inherited.accept()[0] as server:
            assert server.getpeername() == client.getsockname()


def test_datagrams_that_wait_are_read_by_the_next_process(old: Listeners, tmp_path: Path) -> None:
    key, listener = make_listener(socket.SOCK_DGRAM)
    old.keep(key, listener)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"waiting", listener.getsockname())
        new = run(old, tmp_path / "socket")
    inherited = new.take(key)
    assert inherited is not None
    with inherited:
        assert inherited.recv(100) == b"waiting"


def test_more_than_one_message_holds_are_passed_on(old: Listeners, tmp_path: Path) -> None:
    for _ in range(2 * AT_ONCE + 1):
        old.keep(*make_listener(socket.SOCK_DGRAM))
    new = run(old, tmp_path / "socket")
    assert new.inherited == sorted(old._kept)
    new.close_rest()
    assert new.inherited == []


def test_what_was_taken_is_kept_for_the_process_after(old: Listeners, tmp_path: Path) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    second = run(old, tmp_path / "socket")
    mine = second.take(key)
    assert mine is not None
    assert second.inherited == []
    with mine:
        third = run(second, tmp_path / "socket")
        assert third.inherited == [key]
        third.close_rest()


def test_what_was_dropped_is_not_passed_on(old: Listeners, tmp_path: Path) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    old.drop(key)
    listener.close()
    assert run(old, tmp_path / "socket").inherited == []


def test_what_was_not_taken_yet_is_passed_on_too(old: Listeners, tmp_path: Path) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    second = run(old, tmp_path / "socket")
    third = run(second, tmp_path / "socket")
    assert second.inherited == third.inherited == [key]
    second.close_rest()
    third.close_rest()


def test_as_many_come_as_this_process_may_open_at_all(old: Listeners, tmp_path: Path) -> None:
    for _ in range(40):
        old.keep(*make_listener(socket.SOCK_DGRAM))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(each.fileno() for each in old._kept.values()) + 30
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        new = run(old, tmp_path / "socket")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert new.inherited == sorted(old._kept)
    new.close_rest()


def test_programs_that_are_started_do_not_have_them(old: Listeners, tmp_path: Path) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    inherited = run(old, tmp_path / "socket").take(key)
    assert inherited is not None
    with inherited:
        assert not inherited.get_inheritable()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_no_service_has_any_more_is_closed_and_pages_are_not(
    old: Listeners, tmp_path: Path, address: str
) -> None:
    page, listener = make_listener(address=address)
    old.keep(page, listener)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        gone, of_service = make_listener(kind, address)
        bind_freely(of_service)
        old.keep(gone, of_service)
    new = run(old, tmp_path / "socket")
    assert len(new.inherited) == 3

    new.close_rest(is_for_services=True)
    assert new.inherited == [page]
    new.close_rest()
    assert new.inherited == []


def test_pages_that_nobody_serves_any_more_are_closed_in_time_and_services_are_not(
    old: Listeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "CLOSE_REST_S", 0.0)
    old.keep(*make_listener())
    key, of_service = make_listener()
    bind_freely(of_service)
    old.keep(key, of_service)

    async def live(new: Listeners) -> None:
        is_synced = asyncio.Event()
        life = asyncio.create_task(listeners.run(new, tmp_path / "socket", is_synced))
        await asyncio.sleep(0)
        assert len(new.inherited) == 2
        is_synced.set()
        async with asyncio.timeout(60):
            while len(new.inherited) > 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
        life.cancel()

    new = run(old, tmp_path / "socket")
    asyncio.run(live(new))
    assert new.inherited == [key]
    new.close_rest()


def test_what_is_lent_is_taken_by_another_owner_in_this_process(
    old: Listeners, tmp_path: Path
) -> None:
    key, listener = make_listener()
    listener.setblocking(False)
    old.keep(key, listener)
    old.lend()
    old.lend()
    with socket.create_connection(listener.getsockname()) as client:
        old.drop(key)
        listener.close()
        lent = old.take(key)
        assert lent is not None
        assert not lent.getblocking()
        with lent.accept()[0] as server:
            assert server.getpeername() == client.getsockname()
    new = run(old, tmp_path / "socket")
    assert new.inherited == [key]
    new.close_rest()


def test_who_ends_in_the_middle_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, listener = make_listener()

    async def begin() -> Listeners:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            asked.bind(str(tmp_path / "socket"))
            asked.listen()
            asking = asyncio.create_task(
                asyncio.to_thread(Listeners.inherited_from, tmp_path / "socket", answer_s=60.0)
            )
            answering, _ = await asyncio.to_thread(asked.accept)
            with answering:
                _send(answering, {key: listener})
                await asyncio.to_thread(answering.recv, 1)
            return await asking

    with listener:
        new = asyncio.run(begin())
    assert new.inherited == [key]
    assert "it ended before it had passed all" in caplog.text
    new.close_rest()


def test_where_nobody_can_be_asked_it_says_where_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ("x" * 108)

    async def main() -> None:
        living = asyncio.create_task(listeners.run(Listeners(), path, asyncio.Event()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not living.done()
        living.cancel()

    asyncio.run(main())
    assert f"no socket at {path} (--state-dir)" in caplog.text


def test_what_was_lent_and_not_taken_is_listened_at_by_nobody(old: Listeners) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    old.lend()
    old.drop(key)
    listener.close()

    old.take_back()

    assert old.take(key) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(key.rpartition(":")[2])))


def test_a_socket_that_is_not_what_its_key_says_is_closed(old: Listeners, tmp_path: Path) -> None:
    _, listener = make_listener()
    old.keep("tcp 10.96.0.1:443", listener)
    assert run(old, tmp_path / "socket").inherited == []


def test_nobody_to_ask_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Listeners.inherited_from(tmp_path / "socket").inherited == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(tmp_path / "socket"))
    nobody = Listeners.inherited_from(tmp_path / "socket")
    assert (nobody.inherited, nobody.met_s) == ([], -math.inf)
    assert not caplog.records


def test_who_hangs_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hung:
        hung.bind(str(tmp_path / "socket"))
        hung.listen()
        before_s = time.monotonic()
        met = Listeners.inherited_from(tmp_path / "socket", answer_s=0.05)
        assert met.inherited == []
        assert met.met_s >= before_s, "it may run for a while yet"
    assert "timed out" in caplog.text


def test_only_the_own_user_may_ask(old: Listeners, tmp_path: Path) -> None:
    run(old, tmp_path / "socket")
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600


def test_after_a_successor_that_ended_the_next_one_finds_this_process_again(
    old: Listeners, tmp_path: Path
) -> None:
    key, listener = make_listener()
    old.keep(key, listener)
    path = tmp_path / "socket"

    async def live() -> list[str]:
        life = asyncio.create_task(listeners.run(old, path, asyncio.Event(), look_s=0.01))
        try:
            async with asyncio.timeout(60):
                while not path.exists():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
                with await asyncio.to_thread(place_to_ask, path):
                    pass  # a successor, and its end
                while True:
                    found = await asyncio.to_thread(Listeners.inherited_from, path)
                    if inherited := found.inherited:
                        found.close_rest()
                        return inherited
        finally:
            life.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live()) == [key]
