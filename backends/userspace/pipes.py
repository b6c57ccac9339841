"""Pipes through which the kernel moves data from one socket to another without copying it. Shell.

One is needed only while data is on its way, so few serve many connections. A pipe that is still full belongs to its connection.
"""

import contextlib
import fcntl
import os
from typing import Final, NamedTuple

SIZE: Final = 1 << 20
"""What one holds at most: bytes on their way in one direction of a connection."""
IDLE: Final = 64
"""Pipes kept for later."""
MOST: Final = 65_536
"""How many there are at most unless fewer are wanted."""


class Pipe(NamedTuple):
    """Its two ends, which do not block."""

    out_of: int
    into: int


class Pipes:
    """A stock of empty pipes, `most` of them at most, with those that are in use."""

    def __init__(self, most: int = MOST) -> None:
        self._idle: list[Pipe] = []
        self._left = most

    def take(self) -> Pipe | None:
        """Return an empty pipe, None if all are in use or the process may open no more files."""
        if self._idle:
            return self._idle.pop()
        if self._left <= 0:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        self._left -= 1
        # without CAP_SYS_RESOURCE it may stay smaller: then data goes in smaller portions
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.into, fcntl.F_SETPIPE_SZ, SIZE)
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back a pipe that is empty."""
        if len(self._idle) < IDLE:
            self._idle.append(pipe)
        else:
            self.destroy(pipe)

    def destroy(self, pipe: Pipe) -> None:
        """Close a pipe, with what is in it."""
        self._left += 1
        for end in pipe:
            os.close(end)

    def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            self.destroy(self._idle.pop())
