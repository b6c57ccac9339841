"""One direction of a forwarded connection: what its source says is moved to its sink. Shell.

What is said in small portions is received and sent; as soon as it comes in large ones, the kernel moves it through a pipe (splice)
and it is never copied here. At most one pipe full, or one portion, waits for a sink that takes no more: then the source is
not read either. Nothing is heard of an edge twice, so whoever stops before there is nothing more to do must be called again.
"""

import os
import socket
from typing import Final

from backends.userspace.pipes import SIZE, Pipe, Pipes

PORTION: Final = 1 << 16
"""What is received at once; as much is bulk data, and what follows is spliced."""
TURN: Final = 4 << 20
"""Bytes after which others have their turn."""

_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_WAIT_NOT: Final = socket.MSG_DONTWAIT


class SourceBrokenError(Exception):
    """Whoever sends has broken the connection off."""


class Half:
    """One direction. `waiting` is data that the sink did not take yet, `piped` how much of it is in the pipe, `moved` what it took.

    `is_open`: the sink is connected. `is_blocked`: until the sink takes more. `is_ending`: an end may stand behind what is to be
    read, of which nobody will be told again. `is_urgent`: urgent data has come, at which each reading stops, and splicing for good:
    so all is copied from now on. The urgent byte itself is lost. `is_ended`: the source has said all; `is_done`: so the sink is to be told.
    """

    __slots__ = (
        "_pipe", "_pipes", "is_blocked", "is_bulk", "is_done", "is_ended", "is_ending", "is_open", "is_urgent", "moved", "piped",
        "sink", "source", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        pipes: Pipes,
        source: socket.SocketType,
        sink: socket.SocketType | None,
        *,
        is_open: bool = False,
    ) -> None:
        self._pipes = pipes
        self._pipe: Pipe | None = None
        self.source = source
        self.sink = sink
        self.is_open = is_open
        self.waiting: bytes | memoryview = b""
        self.piped = 0
        self.moved = 0
        self.is_blocked = self.is_bulk = self.is_urgent = False
        self.is_ending = self.is_ended = self.is_done = False

    def aim(self, sink: socket.SocketType | None) -> None:
        """Have another sink, which is not connected yet; or none for now."""
        self.sink, self.is_open, self.is_blocked = sink, False, False

    def move(self) -> bool:
        """Move what there is; return whether there may be more. Raises OSError when the sink is broken, or that the source is.

        A sink that is not connected yet is when it has taken something.
        """
        if (self.waiting or self.piped) and not self._flush():
            return False
        if self.is_ended:
            self._end()
            return False
        is_spliced = self.is_bulk and not self.is_urgent
        return self._splice() if is_spliced else self._copy(is_alone=self.is_urgent)

    def give_up(self) -> None:
        """Forget what waits, and take nothing more."""
        self.waiting = b""
        self.is_ended = self.is_done = True

    def close(self) -> None:
        """Give the pipe back, with what is in it. The sockets are others'."""
        if self._pipe is not None:
            self._pipes.destroy(self._pipe)
            self._pipe = None

    def _copy(self, *, is_alone: bool = False) -> bool:
        """Receive and send. `is_alone`: go on with this whatever the portions, as there is no pipe."""
        budget = TURN
        while budget > 0:
            try:
                data = self.source.recv(PORTION, _WAIT_NOT)
            except BlockingIOError:
                return False
            except OSError as error:
                raise SourceBrokenError from error
            if not data:
                self._end()
                return False
            size = len(data)
            self.waiting = data
            if not self._flush():
                return False
            budget -= size
            if size == PORTION and not is_alone:
                self.is_bulk = True
                return self._splice()
            if size < PORTION and not (self.is_ending or self.is_urgent):
                return False
        return True

    def _flush(self) -> bool:
        """Pass on what waits; return whether nothing is left."""
        if self.sink is None:
            self.is_blocked = True
            return False
        if self.waiting:
            try:
                sent = self.sink.send(self.waiting, _WAIT_NOT)
            except BlockingIOError:
                sent = 0
            else:
                self.is_open = True
            self.moved += sent
            if sent < len(self.waiting):
                self.waiting = memoryview(self.waiting)[sent:]
                self.is_blocked = True
                return False
            self.waiting = b""
        return not self.piped or self._empty()

    def _splice(self) -> bool:
        """Have the kernel move data."""
        pipe = self._pipe
        if pipe is None:
            pipe = self._pipe = self._pipes.take()
            if pipe is None or self.sink is None:  # too many open files
                self.is_bulk = False
                return self._copy(is_alone=True)
            # it heeds the sockets' own flag that says not to wait, which what was accepted lacks until now
            self.source.setblocking(False)
            self.sink.setblocking(False)
        budget, into, source = TURN, pipe.into, self.source.fileno()
        try:
            while budget > 0:
                try:
                    count = os.splice(source, into, SIZE, flags=_SPLICE)
                except BlockingIOError:
                    return False
                except OSError as error:
                    raise SourceBrokenError from error
                if not count:
                    self._end()
                    return False
                self.piped = count
                budget -= count
                if not self._empty():
                    return False
            return True
        finally:
            if not self.piped:
                self._pipes.give_back(pipe)
                self._pipe = None
                self.is_bulk = TURN - budget >= PORTION // 4

    def _empty(self) -> bool:
        """Pass on what is in the pipe; return whether nothing is left in it."""
        if self._pipe is None or self.sink is None:
            return not self.piped
        out_of, sink = self._pipe.out_of, self.sink.fileno()
        while self.piped:
            try:
                count = os.splice(out_of, sink, self.piped, flags=_SPLICE)
            except BlockingIOError:
                self.is_blocked = True
                return False
            self.moved += count
            self.piped -= count
        return True

    def _end(self) -> None:
        """The source has said all, and the sink has it; before it is connected it cannot be told so."""
        self.is_ended = True
        if self.is_open:
            self.is_done = True
        else:
            self.is_blocked = True
