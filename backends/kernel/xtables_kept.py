"""Which `iptables-restore` is kept for the next text, and until when. Shell.

Most of what a small change costs is the start and the end of a program. One that is kept takes some 3 MiB, more where it has
had to read large tables of the legacy flavour.
"""

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from backends.kernel.xtables_fed import Ended, FedProgram
from proxy.closing import Closing
from proxy.errors import KernelError

log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0
"""A program that has read for so long without an answer reads everything before it begins, as iptables-nft 1.8.4 does."""
_LARGEST: Final = 16 << 20
"""One with more bytes is let go: reading such a table takes ten times as long as a start."""
_NAMESPACE: Final = Path("/proc/thread-self/ns/net")


class _Place(NamedTuple):
    """Which file a program was started from, and in which network namespace."""

    device: int
    inode: int
    modified_ns: int
    namespace: int


class KeptProgram(Closing):
    """At most one process, started when it is needed and once more whenever it has ended or would be another one by now."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._argv = argv
        self._environment = environment
        self._in_use = threading.Lock()
        self._fed: FedProgram | None = None
        self._leaving: FedProgram | None = None
        self._path: Path | None = None
        self._place: _Place | None = None
        self._reads_ahead: _Place | None = None

    def begin(self, request: str, text: str, limit_s: float, *, waits: bool) -> "Call | None":
        """Give a text to the program; None, and nothing was done, if there is none.

        If it `waits` a program is started that can be kept, and one that still has something to do is waited for.
        """
        if not self._in_use.acquire(blocking=waits):
            return None
        fed = self._ready()
        if fed is None and waits:
            fed = self._start()
        if fed is None:
            self._in_use.release()
            return None
        return Call(fed, request, text, limit_s, self._finished)

    def system_s(self) -> float:
        """Return how long the kernel has worked for the program that is there now (seconds)."""
        fed = self._fed  # a thread may be about to let it go
        return fed.system_s() if fed is not None else 0.0

    def close(self) -> None:
        with self._in_use:
            self._let_go()
            self._reap()

    def _finished(self, is_done: bool) -> None:
        """Take note that a call has come to its end; a program that was not done with it can take no other."""
        if not is_done or (self._fed is not None and self._fed.size() > _LARGEST):
            self._let_go()
        self._in_use.release()

    def _let_go(self) -> None:
        """Have the program end. That may take a while, so it is not waited for."""
        if self._fed is not None:
            self._reap()
            self._fed.leave()
            self._fed, self._leaving = None, self._fed

    def _reap(self) -> None:
        if self._leaving is not None:
            self._leaving.end()
        self._leaving = None

    def _ready(self) -> FedProgram | None:
        """Return the program that is there, if one that is started now would be the same."""
        if self._fed is None:
            return None
        if _place(self._path) != self._place or not self._fed.is_there():
            self._let_go()
        return self._fed

    def _start(self) -> FedProgram | None:
        """Start a program and have it answer; None if it does not: whoever starts one for one call will learn why."""
        self._reap()
        found = shutil.which(self._argv[0])
        self._path = Path(found) if found is not None else None
        self._place = _place(self._path)
        if self._path is None or self._place in {None, self._reads_ahead}:
            return None
        try:
            fed = FedProgram([str(self._path), *self._argv[1:]], self._environment)
            ended = Call(fed, f"start {self._path}", "", _ANSWER_S, lambda _: None).finish()
        except OSError:
            return None
        except KernelError as error:
            # one that has not even read is late, and may be there in time for the next text
            if error.errno == errno.ETIMEDOUT and fed.has_read():
                log.info("%s reads everything before it begins: one for each call", self._path)
                self._reads_ahead = self._place
            return None
        self._fed = None if ended.status else fed
        return self._fed


class Call:
    """A text that a program was given. Has to be finished, whatever comes of it."""

    def __init__(
        self,
        fed: FedProgram,
        request: str,
        text: str,
        limit_s: float,
        finished: Callable[[bool], None],
    ) -> None:
        self.limit_s = limit_s
        self._deadline_s = time.monotonic() + limit_s
        self._fed = fed
        self._request = request
        self._finished = finished
        self.talk = fed.give(text)

    def finish(self) -> Ended:
        """Wait for the end of it, at most for as long as it may take since it began; return how it ended.

        Raises KernelError when the outcome is unknown: see `FedProgram`.
        """
        try:
            self.talk.wait(max(self._deadline_s - time.monotonic(), 0))
            return self._fed.ended(self._request, self.talk, self.limit_s)
        finally:
            self._finished(self.talk.is_done)


def _place(path: Path | None) -> _Place | None:
    """Return what a program that is started now would be, in the network namespace of this thread; None if there is none."""
    if path is None:
        return None
    try:
        file, namespace = path.stat(), _NAMESPACE.stat()
    except OSError:
        return None
    return _Place(file.st_dev, file.st_ino, file.st_mtime_ns, namespace.st_ino)
