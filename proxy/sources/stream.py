"""Watch events from a pipe or file, one JSON object a line, as in the body of a Kubernetes watch response.

Shell. Events of all kinds may be mixed. A bookmark that ends the initial list marks its kind as listed; the end
of the stream ends the source, and what it delivered stays.

Bytes are read in large pieces and cut into lines wherever the pieces end. All lines that came together are
delivered together, but never more than a few milliseconds of work at once: in between the event loop has its
turn, and nothing more is read, so that a fast writer waits for us and not the other way round.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

from proxy.model import Rejected
from proxy.sources import decode, intake
from proxy.sources.events import KINDS, Deliver, Event, Problems, Synced, WatchReport
from proxy.sources.findings import quoted
from proxy.sources.lines import LONGEST_LINE_BYTES, LineCutter

_LOG = logging.getLogger(__name__)

STDIN: Final = "-"
_READ_BYTES: Final = 256 << 10
# The largest pipe that needs no privilege (fs.pipe-max-size); wakes us less often during the initial list.
_PIPE_BYTES: Final = 1 << 20
_BUDGET_S: Final = 0.003
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class StreamSource:
    """Delivers the events of one stream: a file, a named pipe, or standard input where `path` is `-`."""

    def __init__(self, path: str, node_name: str) -> None:
        self._path = path
        self._reader = EventReader(path, node_name)

    async def run(self, deliver: Deliver) -> None:
        """Deliver events until the stream ends. Raises OSError if it cannot be opened or read."""
        lines = LineCutter()
        with _opened(self._path) as descriptor:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            while True:
                # Polling knows no files: they are always readable.
                await (asyncio.sleep(0) if is_file else _readable(descriptor))
                try:
                    piece = os.read(descriptor, _READ_BYTES)
                except BlockingIOError:
                    continue
                received = time.monotonic()
                if not piece:
                    break
                await self._work(lines.cut(piece), received, deliver)
        await self._work(lines.rest(), time.monotonic(), deliver)
        _LOG.info(
            "the stream of watch events %s has ended: its objects stay as they are", self._path
        )

    def report(self) -> tuple[WatchReport, ...]:
        """Return nothing: there is no server to report on."""
        return ()

    async def _work(
        self, lines: Iterator[bytes | None], received: float, deliver: Deliver
    ) -> None:
        """Deliver what the lines say, in batches that each take a bounded time."""
        while True:
            batch: list[Event] = []
            deadline = time.monotonic() + _BUDGET_S
            for line in lines:
                batch += self._reader.read(line)
                if time.monotonic() >= deadline:
                    break
            else:
                if batch:
                    deliver(batch, received)
                return
            if batch:
                deliver(batch, received)
            await asyncio.sleep(0)


class EventReader:
    """Turns lines into events."""

    def __init__(self, path: str, node_name: str) -> None:
        self._path = path
        self._node_name = node_name
        self._intake = intake.Intake()
        self._line_number = 0

    def read(self, line: bytes | None) -> list[Event]:
        """Return the events of one line; None stands for a line that was too long to keep."""
        self._line_number += 1
        if line is None:
            return self._complain(f"longer than {LONGEST_LINE_BYTES >> 20} MiB")
        if not line or line.isspace():
            return []
        try:
            event = decode.decode_event(line)
        except decode.MalformedError as error:
            return self._complain(str(error))
        return self._events(event)

    def _events(self, event: decode.WatchEvent) -> list[Event]:
        decoded = event.decoded
        match event.type:
            case "ADDED" | "MODIFIED":
                return self._intake.apply(intake.read(decoded, self._node_name))
            case "DELETED":
                key = intake.ObjectKey(decoded.kind, decoded.namespace, decoded.name)
                return self._intake.forget(key)
            case "BOOKMARK" if event.ends_initial_list:
                return [Synced(kind) for kind in KINDS if kind == decoded.kind]
            case "BOOKMARK":
                return []
            case "ERROR":
                reasons = ", ".join(rejected.reason for rejected in decoded.rejected)
                return self._complain(f"the server ended the watch: {reasons}")
            case _:
                return self._complain(f"{quoted(event.type)} is no type of event")

    def _complain(self, reason: str) -> list[Event]:
        """Report a line that cannot be used. Only the last one is shown as a problem; the log has them all."""
        rejected = Rejected(
            kind="Stream", name=self._path, field=f"line {self._line_number}", reason=reason
        )
        _LOG.warning("%s", rejected)
        return [Problems(f"Stream {self._path}", (rejected,))]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open the stream for reading.

    A named pipe without a writer is opened at once; it becomes readable when a writer comes.
    """
    descriptor = _open_stdin() if path == STDIN else os.open(path, _OPEN_FLAGS)
    try:
        with contextlib.suppress(OSError):  # not a pipe, or larger than allowed
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_stdin() -> int:
    """Open standard input anew where that is possible.

    uvloop makes whatever it polls non-blocking (libuv, uv_poll_init), and that would reach everyone who shares
    the descriptor, a terminal's shell for one. A file is not polled, and its position has to be kept.
    """
    if not stat.S_ISREG(os.fstat(0).st_mode):
        with contextlib.suppress(OSError):  # a socket cannot be opened anew
            return os.open("/proc/self/fd/0", _OPEN_FLAGS)
    return os.dup(0)


async def _readable(descriptor: int) -> None:
    """Wait until a read does not block.

    The reader is removed before anyone reads: a stale wake-up would make the next read block the event loop.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
