"""Manifests as a source that never ends: read again whenever something changes.

Shell. inotify says what changed, at once, but it does not see everything: a network file system is silent, and
links can lead anywhere. So every few seconds file times are compared as well; a difference that only this
comparison sees has to be the same twice in a row, since the file may still be in the middle of being written.

What goes away is believed only after a moment: many editors save by moving the old file away first. While the
path itself is missing, everything stays as it was last.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.model import Rejected
from proxy.sources.events import KINDS, Deliver, Problems, Synced, WatchReport
from proxy.sources.manifest_set import Change
from proxy.sources.manifests import Manifests, Signature, is_manifest
from proxy.sources.notify import PathWatch

_LOG = logging.getLogger(__name__)

# YAML of this size takes a few milliseconds; larger files are read in a thread.
_INLINE_BYTES: Final = 8192
_BATCH: Final = 256


class ManifestSource:
    """Delivers the objects of a directory or file of manifests, and what changes in them.

    `poll_s` is the time between comparisons of file times, `settle_s` how long a name has to be gone.
    `open_watch` raises OSError where the kernel grants no watches; then only file times are compared.
    """

    def __init__(
        self,
        path: Path,
        node_name: str,
        *,
        poll_s: float = 3.0,
        settle_s: float = 0.25,
        open_watch: Callable[[Path, Callable[[str], bool]], PathWatch] = PathWatch,
    ) -> None:
        self._path = path
        self._manifests = Manifests(path, node_name)
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._wake = asyncio.Event()
        self._open_watch = open_watch
        self._watch: PathWatch | None = None
        self._must_rescan = True
        self._received = 0.0
        # File to the time at which it is to be read and the time at which we heard of it.
        self._due: dict[str, tuple[float, float]] = {}
        self._suspects: dict[str, Signature | None] = {}
        self._is_synced = False
        self._missing = ""
        self._next_poll = time.monotonic() + poll_s

    async def run(self, deliver: Deliver) -> None:
        """Deliver everything there is, then `Synced` for all kinds, then changes. Never returns."""
        loop = asyncio.get_running_loop()
        self._watch = self._try_watch()
        if self._watch is not None:
            loop.add_reader(self._watch.fileno(), self._on_notice)
        try:
            while True:
                if self._must_rescan:
                    await self._rescan(deliver)
                await self._read_due(deliver)
                if time.monotonic() >= self._next_poll:
                    await self._compare(deliver)
                await self._wait()
        finally:
            if self._watch is not None:
                loop.remove_reader(self._watch.fileno())
                self._watch.close()

    def report(self) -> tuple[WatchReport, ...]:
        """Return nothing: there is no server to report on."""
        return ()

    def _try_watch(self) -> PathWatch | None:
        try:
            return self._open_watch(self._path, is_manifest)
        except OSError as error:
            _LOG.warning(
                "inotify is not available (%s): %s is looked at every %g s",
                error.strerror,
                self._path,
                self._poll_s,
            )
            return None

    def _on_notice(self) -> None:
        now = time.monotonic()
        if self._watch is None:
            return
        hints = self._watch.take()
        for file in hints.unsettled:
            self._due[file] = (now + self._settle_s, now)
        for file in hints.complete:
            self._due[file] = (now, now)
        if hints.must_rescan:
            self._must_rescan = True
            self._received = self._received or now
        if hints.must_rescan or hints.unsettled or hints.complete:
            self._wake.set()

    async def _rescan(self, deliver: Deliver) -> None:
        """Find out what differs, after something of which inotify cannot say what it changed."""
        self._must_rescan = False
        self._suspects = {}
        received, self._received = self._received or time.monotonic(), 0.0
        self._renew_watch()  # before looking, so that nothing falls between
        try:
            differences = await asyncio.to_thread(self._manifests.differences)
        except OSError as error:
            self._say_missing(error, deliver)
            return
        self._say_missing(None, deliver)
        self._renew_watch()
        now = time.monotonic()
        for file, signature in differences.items():
            self._due[file] = (now if signature else now + self._settle_s, received)
        if not self._is_synced:
            await self._read_due(deliver)
            deliver([Synced(kind) for kind in KINDS], received)
            self._is_synced = True

    async def _read_due(self, deliver: Deliver) -> None:
        if self._missing:
            self._due.clear()  # its files went with it; what differs is found out when it is back
        now = time.monotonic()
        files = [file for file, (due, _) in self._due.items() if due <= now]
        if not files:
            return
        received = min(self._due.pop(file)[1] for file in files)
        if sum(map(_size, files)) > _INLINE_BYTES:
            change = await asyncio.to_thread(self._manifests.read, files)
        else:
            change = self._manifests.read(files)
        for warning in change.warnings:
            _LOG.warning("%s", warning)
        await _hand_over(change, received, deliver)
        if not self._manifests.links.isdisjoint(files):
            self._renew_watch()

    async def _compare(self, deliver: Deliver) -> None:
        """Look for differences that nobody reported, and believe those that were the same last time."""
        self._next_poll = time.monotonic() + self._poll_s
        self._renew_watch()
        try:
            differences = await asyncio.to_thread(self._manifests.differences)
        except OSError as error:
            self._say_missing(error, deliver)
            return
        if self._missing:
            self._must_rescan = (
                True  # it is back, and whatever was reported of it was for the old one
            )
        now = time.monotonic()
        confirmed = [
            file
            for file, signature in differences.items()
            if file in self._suspects and self._suspects[file] == signature
        ]
        for file in confirmed:
            self._due[file] = (now, now)
            del differences[file]
        self._suspects = differences

    async def _wait(self) -> None:
        """Wait until something is reported or due."""
        if self._must_rescan:
            return
        until = min([self._next_poll, *(due for due, _ in self._due.values())])
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _renew_watch(self) -> None:
        if self._watch is not None:
            self._watch.renew(self._manifests.links)

    def _say_missing(self, error: OSError | None, deliver: Deliver) -> None:
        """Report that the path cannot be read, once, and that it can be read again."""
        reason = "" if error is None else error.strerror or str(error)
        if reason == self._missing:
            return
        self._missing = reason
        rejected: tuple[Rejected, ...] = ()
        if reason:
            held = "; what was last read stays" if self._is_synced else ""
            rejected = (
                Rejected(kind="File", name=str(self._path), field="", reason=reason + held),
            )
        deliver([Problems(f"File {self._path}", rejected)], time.monotonic())


async def _hand_over(change: Change, received: float, deliver: Deliver) -> None:
    """Deliver in batches, so that whatever else runs on the loop has its turn."""
    for start in range(0, len(change.events), _BATCH):
        if start:
            await asyncio.sleep(0)
        deliver(change.events[start : start + _BATCH], received)


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
