"""Listening sockets that are passed from one process to the next, over a real Unix socket."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from proxy.listeners import AT_ONCE, Listeners, listener_key, place_to_ask


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
    listeners = Listeners()
    yield listeners
    for each in listeners._kept.values():
        each.close()


async def inherit(old: Listeners, path: Path) -> Listeners:
    """What a new process gets from `old`."""
    with place_to_ask(path) as asked:
        passing = asyncio.create_task(old.pass_on(asked))
        try:
            return await asyncio.to_thread(Listeners.inherited_from, path)
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


def test_a_socket_that_is_not_what_its_key_says_is_closed(old: Listeners, tmp_path: Path) -> None:
    _, listener = make_listener()
    old.keep("tcp 10.96.0.1:443", listener)
    assert run(old, tmp_path / "socket").inherited == []


def test_nobody_to_ask_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Listeners.inherited_from(tmp_path / "socket").inherited == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(tmp_path / "socket"))
    assert Listeners.inherited_from(tmp_path / "socket").inherited == []
    assert not caplog.records


def test_who_hangs_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hung:
        hung.bind(str(tmp_path / "socket"))
        hung.listen()
        assert Listeners.inherited_from(tmp_path / "socket", answer_s=0.05).inherited == []
    assert "timed out" in caplog.text


def test_only_the_own_user_may_ask(old: Listeners, tmp_path: Path) -> None:
    run(old, tmp_path / "socket")
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
