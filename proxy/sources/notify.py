"""Which files under a path have changed, as inotify tells it.

Shell; the only importer of inotify_simple. Knows how editors, `kubectl` users and volume mounts replace files, and
nothing of what is in them.

A file is reported as complete when its writer closes it, or when a finished file is renamed or linked into
place; never while it is being written. A name that vanished may be about to return (that is how many editors save), and a
file whose mode changed may just have been created: such files are unsettled, and the caller waits a moment.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

# The library has no type hints; nothing of it leaves this module.
from inotify_simple import Event, INotify, flags, parse_events  # type: ignore[import-untyped]

_LOG = logging.getLogger(__name__)

_COMPLETE: Final = flags.CLOSE_WRITE | flags.MOVED_TO
_VANISHED: Final = flags.DELETE | flags.MOVED_FROM
_LOST: Final = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT
_INSIDE: Final = (
    _COMPLETE | _VANISHED | flags.CREATE | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF
)
# Around the path only names that come and go matter; MASK_ADD because it may be the same directory.
_OUTSIDE: Final = flags.CREATE | flags.MOVED_TO | _VANISHED | flags.MASK_ADD
_ELSEWHERE: Final = _INSIDE | flags.MASK_ADD
_READ_BYTES: Final = 65536


class Hints(NamedTuple):
    """What may have changed since the last time."""

    complete: set[str]
    unsettled: set[str]
    must_rescan: bool


class PathWatch:
    """Watches one path: a directory and the files in it that are wanted, or a single file.

    Raises OSError if the kernel gives no more inotify instances.
    """

    def __init__(self, path: Path, is_wanted: Callable[[str], bool]) -> None:
        self._path = path
        self._is_wanted = is_wanted
        self._inotify = INotify(nonblocking=True)
        self._is_directory = False
        self._inside = -1
        # Watch descriptor to the one name that matters there; None if all do.
        self._outside: dict[int, str | None] = {}
        self._has_warned = False

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def close(self) -> None:
        self._inotify.close()

    def renew(self, links: Iterable[str]) -> None:
        """Watch what the path leads to now, and the directories that the symbolic `links` lead into."""
        old = {self._inside, *self._outside}
        path = self._path
        self._outside = {}
        self._is_directory = path.is_dir()
        if self._is_directory:
            self._inside = self._add(path, _INSIDE)
            self._add_outside(path.parent, _OUTSIDE, path.name)
        else:
            self._inside = self._add(path.parent, _INSIDE)
        for directory in {os.path.dirname(os.path.realpath(link)) for link in links}:  # noqa: PTH120
            self._add_outside(Path(directory), _ELSEWHERE, None)
        for descriptor in old - {self._inside, *self._outside, -1}:
            # The kernel may have dropped it already, with the directory it was for.
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(descriptor)

    def take(self) -> Hints:
        """Return what happened since the last call, without waiting."""
        hints = Hints(set(), set(), must_rescan=False)
        while True:
            try:
                data = os.read(self._inotify.fileno(), _READ_BYTES)
            except BlockingIOError:
                return hints
            for event in parse_events(data):
                if self._note(event, hints):
                    hints = hints._replace(must_rescan=True)

    def _note(self, event: Event, hints: Hints) -> bool:
        """Add what one event says to the hints. Return whether only a rescan can tell what changed."""
        if event.mask & flags.Q_OVERFLOW:
            return True
        if event.wd in self._outside and self._outside[event.wd] in (None, event.name):
            return True
        if event.wd != self._inside:
            return False
        has_become_directory = not self._is_directory and self._path.is_dir()
        if event.mask & _LOST or (has_become_directory and event.name == self._path.name):
            return True
        file = self._file(event.name)
        if file is None:
            return self._is_switch(event)
        if event.mask & _VANISHED:
            hints.unsettled.add(file)
            hints.complete.discard(file)
        elif event.mask & _COMPLETE or (event.mask & flags.CREATE and _is_linked(file)):
            hints.complete.add(file)
            hints.unsettled.discard(file)
        elif event.mask & flags.ATTRIB and file not in hints.complete:
            hints.unsettled.add(file)
        return False

    def _file(self, name: str) -> str | None:
        if self._is_directory:
            return str(self._path / name) if self._is_wanted(name) else None
        return str(self._path) if name == self._path.name else None

    def _is_switch(self, event: Event) -> bool:
        """Whether the entry is a link by which files change all at once, as `..data` in a mounted ConfigMap."""
        if not event.mask & (flags.CREATE | flags.MOVED_TO):
            return False
        directory = self._path if self._is_directory else self._path.parent
        return Path(directory, event.name).is_symlink()

    def _add_outside(self, directory: Path, mask: int, name: str | None) -> None:
        descriptor = self._add(directory, mask)
        if descriptor >= 0:
            self._outside[descriptor] = None if descriptor in self._outside else name

    def _add(self, directory: Path, mask: int) -> int:
        """Return a watch descriptor, the same for the same directory; -1 if it cannot be watched."""
        try:
            return int(self._inotify.add_watch(directory, mask | flags.ONLYDIR))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) and not self._has_warned:
                self._has_warned = True
                _LOG.warning(
                    "cannot watch %s (%s): changes there are noticed late",
                    directory,
                    error.strerror,
                )
            return -1


def _is_linked(file: str) -> bool:
    """Whether a new name is that of a finished file: a link of either sort."""
    try:
        status = os.lstat(file)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1
