"""One direction of a connection, between two pairs of sockets."""

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from backends.userspace.halves import PORTION, Half, SourceBrokenError
from backends.userspace.pipes import Pipes

_RESET = struct.pack("ii", 1, 0)


class Ends:
    """Who says something, a direction, and who hears it. Neither waits."""

    def __init__(self) -> None:
        self.pipes = Pipes()
        (self.says, self.source), (self.sink, self.hears) = _pair(), _pair()
        self.half = Half(self.pipes, self.source, self.sink, is_open=True)

    def heard(self) -> bytes:
        """What the other end has now."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := self.hears.recv(1 << 20):
                data += piece
        return data

    def move_all(self, data: bytes) -> bytes:
        """Say so much, a bit at a time, and return what is heard."""
        left, heard = memoryview(data), b""
        for _ in range(100_000):
            with contextlib.suppress(BlockingIOError):
                left = left[self.says.send(left) if left else 0 :]
            self.half.is_blocked = False
            self.half.move()
            heard += self.heard()
            if len(heard) >= len(data):
                break
        return heard

    def close(self) -> None:
        self.half.close()
        self.pipes.close()
        for end in (self.source, self.sink, self.says, self.hears):
            end.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for each in (one, other):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setblocking(False)
    return one, other


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    made.hears.setblocking(False)
    yield made
    made.close()


def _await(end: socket.socket) -> None:
    """Wait until there is something to be read."""
    end.settimeout(10.0)
    end.recv(1, socket.MSG_PEEK)
    end.settimeout(None)


def test_a_little_is_copied_without_a_pipe(ends: Ends) -> None:
    ends.says.send(b"a little")
    _await(ends.source)

    assert not ends.half.move()

    assert (ends.heard(), ends.half.moved, ends.half.is_bulk) == (b"a little", 8, False)


def test_much_is_spliced_and_the_pipe_is_given_back(ends: Ends) -> None:
    said = bytes(range(256)) * (4 * PORTION // 256)

    assert ends.move_all(said) == said

    assert ends.half.moved == len(said)
    assert not ends.half.piped
    assert len(ends.pipes._idle) == 1


def test_without_a_pipe_much_is_copied(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends.pipes, "take", lambda: None)
    said = bytes(4 * PORTION)

    assert ends.move_all(said) == said


@pytest.mark.parametrize("size", [40_000, 1 << 20])
def test_a_sink_that_takes_no_more_stops_the_source(ends: Ends, size: int) -> None:
    data, said = bytes(size), 0
    while not ends.half.is_blocked:
        with contextlib.suppress(BlockingIOError):
            said += ends.says.send(data)
        ends.half.move()
    before = ends.half.moved
    assert before < said
    assert len(ends.half.waiting) <= PORTION
    assert ends.half.piped <= 1 << 20

    heard = len(ends.heard())
    ends.half.move()

    assert heard + len(ends.heard()) > before


def test_an_end_is_passed_on_after_all_that_was_said(ends: Ends) -> None:
    ends.says.send(b"last words")
    ends.says.shutdown(socket.SHUT_WR)
    _await(ends.source)
    ends.half.is_ending = True

    assert not ends.half.move()

    assert ends.half.is_ended
    assert ends.half.is_done
    assert ends.heard() == b"last words"


def test_what_is_said_to_nobody_waits_for_the_next_sink(ends: Ends) -> None:
    half = ends.half
    half.aim(None)
    ends.says.send(b"early")
    ends.says.shutdown(socket.SHUT_WR)
    _await(ends.source)

    assert not half.move()
    assert half.is_blocked
    half.aim(ends.sink)
    assert (half.is_open, half.is_blocked) == (False, False)
    assert not half.move()
    assert (half.is_open, half.is_blocked) == (True, False)
    assert ends.heard() == b"early"
    half.move()
    assert half.is_done


def test_nobody_is_told_of_an_end_before_the_sink_is_connected(ends: Ends) -> None:
    half = ends.half
    half.aim(ends.sink)
    ends.says.shutdown(socket.SHUT_WR)
    _await(ends.source)

    half.move()
    assert (half.is_ended, half.is_done, half.is_blocked) == (True, False, True)
    half.is_open = True
    half.move()
    assert half.is_done


@pytest.mark.parametrize("is_bulk", [False, True])
def test_that_the_source_broke_off_is_told_from_that_the_sink_did(
    ends: Ends, *, is_bulk: bool
) -> None:
    ends.half.is_bulk = is_bulk
    ends.source.setblocking(False)
    ends.says.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    ends.says.close()

    with pytest.raises(SourceBrokenError):
        ends.half.move()


@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_sink_that_broke_off_is_an_error(ends: Ends, *, is_bulk: bool) -> None:
    ends.half.is_bulk = is_bulk
    ends.hears.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    ends.hears.close()
    ends.says.send(b"?")
    _await(ends.source)

    with pytest.raises(ConnectionResetError):
        ends.half.move()
    ends.half.give_up()
    assert ends.half.is_done
    assert not ends.half.waiting


@pytest.mark.parametrize("is_bulk", [False, True])
def test_others_have_a_turn_after_so_much(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, *, is_bulk: bool
) -> None:
    monkeypatch.setattr("backends.userspace.halves.TURN", 1)
    ends.half.is_bulk, ends.half.is_ending = is_bulk, True
    ends.says.send(b"more than that")
    _await(ends.source)

    assert ends.half.move()

    assert ends.heard() == b"more than that"
    assert not ends.half.move()
