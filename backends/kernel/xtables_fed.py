"""One `iptables-restore` that stays and takes one text after the other. Shell.

The programs are made to be fed through a pipe by who keeps them (since 1.6.2): the lock is taken at the name of a table and
given back with its COMMIT, and what others did meanwhile is read anew for each. With --verbose a program repeats comments at
once; so one that stands behind a COMMIT comes back when that has been done. Whatever fails ends the program.

On legacy, waiting for the lock sets an alarm that nobody takes back: it interrupts the reading, and so a program ends, with status 0,
as long after its last text as it would have waited. Until then it is there for the next one.

On the nft flavour it comes back some 10 ms before a program can end: the kernel has whoever closes its socket wait until no
processor can still be reading what was replaced.
"""

import array
import contextlib
import errno
import fcntl
import os
import select
import subprocess
import termios
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from proxy.errors import KernelError

_ENDING_S: Final = 2.0
_PIECE: Final = 1 << 16
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SYSTEM_TICKS: Final = (
    12  # field stime of /proc/PID/stat, counted from the first one behind the name
)


class Ended(NamedTuple):
    """How a call ended: the status of a program, below zero for a signal; its words; and the lines that it had read before."""

    status: int
    said: str
    lines_before: int = 0


class FedProgram:
    """One process, which ends with this object at the latest. It ends with its input, so it cannot outlive us however we end.

    For use by one thread at a time. Raises OSError if it cannot be started.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*argv, "--verbose"], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=environment
        )
        self._finish = weakref.finalize(self, _end, process)
        self._process = process
        self._ends = [_descriptor(end) for end in (process.stdin, process.stdout, process.stderr)]
        for end in self._ends:
            os.set_blocking(end, False)
        self._memory = os.open(f"/proc/{process.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._memory)
        self._lines = 0
        self._texts = 0

    def is_there(self) -> bool:
        return self._process.poll() is None

    def give(self, text: str) -> "Talk":
        """Give it a text, of which as much is written as there is room for. The one before has to be done."""
        self._texts += 1
        mark = f"# {self._texts} done\n".encode()
        given = text.encode(errors="surrogateescape") + mark
        talk = Talk(self._ends, given, mark, self._lines)
        self._lines += given.count(b"\n")
        talk.write()
        return talk

    def ended(self, request: str, talk: "Talk", limit_s: float) -> Ended:
        """Return how a text ended; if it is not done the program has ended by now, or is killed since it was not in time.

        Raises KernelError if it may be done or not.
        """
        if talk.is_done:
            return Ended(0, talk.said, talk.lines_before)
        try:
            status = self._process.wait(_ENDING_S if talk.is_over else 0)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()  # what is read back has to be what it leaves
            why = f"no end within {limit_s:.0f} s"
            raise KernelError(request, errno.ETIMEDOUT, why) from error
        if not status:
            raise KernelError(request, errno.EPIPE, "it ended before it had said that it was done")
        return Ended(status, talk.said, talk.lines_before)

    def has_read(self) -> bool:
        """Tell whether nothing of what it was given is left for it to read, also when it has ended."""
        left = array.array("i", [0])
        fcntl.ioctl(self._ends[0], termios.FIONREAD, left)
        return not left[0]

    def size(self) -> int:
        """Return how many bytes of memory it has, 0 if it has ended."""
        with contextlib.suppress(OSError):
            return int(os.pread(self._memory, _PIECE, 0).split()[1]) * _PAGE
        return 0

    def system_s(self) -> float:
        """Return how long the kernel has worked for it (seconds, in steps of 10 ms), 0 if it has ended."""
        with contextlib.suppress(OSError):
            facts = Path("/proc", str(self._process.pid), "stat").read_text()
            return int(facts.rpartition(")")[2].split()[_SYSTEM_TICKS]) / _TICKS
        return 0.0

    def leave(self) -> None:
        """Have it end, by the end of its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def end(self) -> None:
        """Have it end and wait for that."""
        self._finish()


class Talk:
    """A text on its way to a program, and what comes back until the mark does or both outputs have ended. Never waits."""

    def __init__(self, ends: Sequence[int], given: bytes, mark: bytes, lines_before: int) -> None:
        self._input, *self.outputs = ends
        self._left = memoryview(given)
        self._mark = mark
        self._told = b""
        self._said = b""
        self._open = set(self.outputs)
        self.lines_before = lines_before
        self.is_done = False

    @property
    def is_over(self) -> bool:
        return self.is_done or not self._open

    @property
    def is_given(self) -> bool:
        """Whether all of the text has been written."""
        return not self._left

    @property
    def said(self) -> str:
        """Its words on the second output."""
        return self._said.decode(errors="surrogateescape")

    def write(self) -> None:
        """Write what there is room for."""
        self._left = self._left[self._written() :]

    def go_on(self) -> bool:
        """Write and read what can be; return whether it is over."""
        self.write()
        told, said = map(self._read, self.outputs)
        self._said += said
        self._told = (self._told + told)[-len(self._mark) :]
        self.is_done = self._told == self._mark
        return self.is_over

    def wait(self, limit_s: float) -> None:
        """Wait until it is over, but no longer than so many seconds."""
        deadline_s = time.monotonic() + limit_s
        while not self.is_over:
            poller = select.poll()
            for output in self._open:
                poller.register(output, select.POLLIN)
            if not self.is_given:
                poller.register(self._input, select.POLLOUT)
            if not poller.poll(max(deadline_s - time.monotonic(), 0) * 1e3):
                return
            self.go_on()

    def _written(self) -> int:
        """Write; return how many bytes are not to be written any more, which is all where nobody reads."""
        try:
            return os.write(self._input, self._left) if self._left else 0
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(self._left)

    def _read(self, output: int) -> bytes:
        if output not in self._open:
            return b""
        try:
            piece = os.read(output, _PIECE)
        except BlockingIOError:
            return b""
        if not piece:
            self._open.remove(output)
        return piece


def _descriptor(end: IO[bytes] | None) -> int:
    return -1 if end is None else end.fileno()


def _end(process: "subprocess.Popen[bytes]") -> None:
    for end in (process.stdin, process.stdout, process.stderr):
        if end is not None:
            end.close()
    try:
        process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
