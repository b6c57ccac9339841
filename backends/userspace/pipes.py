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


class Pipe(NamedTuple):
    """Its two ends, which do not block."""

    out_of: int
    into: int


class Pipes:
    """A stock of empty pipes."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """Return an empty pipe, None if the process may open no more files."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
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
        for end in pipe:
            os.close(end)

    def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            self.destroy(self._idle.pop())
