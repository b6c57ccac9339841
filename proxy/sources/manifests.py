"""Objects from a directory of manifests, or from one file: found, read and compared with the last time.

Shell, but synchronous: `load` is all that an offline command needs, and importing this module brings in no
event loop. `manifests_watch` reads again whenever something changes.

As with `kubectl -f`, a directory means the files directly in it whose names end in .yaml, .yml or .json. Hidden
files are left out, since editors and volume mounts keep theirs there.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from proxy.sources import documents, intake
from proxy.sources.events import KINDS, Event, Synced
from proxy.sources.manifest_set import Change, Entry, ManifestSet

SUFFIXES: Final = (".yaml", ".yml", ".json")
# What kubectl does for an object that names no namespace.
_DEFAULT_NAMESPACE: Final = "default"


def load(path: Path, node_name: str) -> tuple[list[Event], tuple[str, ...]]:
    """Read everything once. Return the events and warnings that concern no single object.

    Files that cannot be read or parsed become `Problems`. Raises OSError if `path` itself cannot be read.
    """
    change = Manifests(path, node_name).read_all()
    return [*change.events, *map(Synced, KINDS)], tuple(change.warnings)


class Signature(NamedTuple):
    """What tells one state of a file from another without reading it."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


_UNKNOWN: Final = Signature(0, 0, 0, 0, 0)


class Manifests:
    """The manifests under one path, as they were read last. Not to be used by two threads at once."""

    def __init__(self, path: Path, node_name: str) -> None:
        self._path = path
        self._node_name = node_name
        self._set = ManifestSet()
        self._signatures: dict[str, Signature] = {}
        # The files that are symbolic links: they can change without anything happening in this directory.
        self.links: frozenset[str] = frozenset()

    def read_all(self) -> Change:
        """Read every file that differs from the last time. Raises OSError if the path itself cannot be read."""
        return self.read(self.differences())

    def read(self, files: Iterable[str]) -> Change:
        """Read these files again, and forget those that are gone."""
        change = Change([], [])
        for file in sorted(files, key=os.fsencode):
            part = self._read_file(file)
            change.events.extend(part.events)
            change.warnings.extend(part.warnings)
        return change

    def differences(self) -> dict[str, Signature | None]:
        """Return the files that differ from what was read last, with None for those that are gone.

        Raises OSError if the path itself cannot be read.
        """
        found = self._scan()
        gone: dict[str, Signature | None] = dict.fromkeys(self._signatures.keys() - found.keys())
        return gone | {
            file: signature
            for file, signature in found.items()
            if signature != self._signatures.get(file)
        }

    def _scan(self) -> dict[str, Signature]:
        if not self._path.is_dir():
            signature = _signature(self._path.stat())
            self.links = frozenset([str(self._path)] if self._path.is_symlink() else [])
            return {str(self._path): signature}
        found: dict[str, Signature] = {}
        links: list[str] = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                if is_manifest(entry.name):
                    signature_or_none = _regular_signature(entry.path)
                    if signature_or_none is not None:
                        found[entry.path] = signature_or_none
                        links += [entry.path] * entry.is_symlink()
        self.links = frozenset(links)
        return found

    def _read_file(self, file: str) -> Change:
        try:
            # What is given may be a pipe, as in `--manifests <(kubectl get …)`.
            is_given = file == str(self._path)
            signature = _signature(Path(file).stat()) if is_given else _regular_signature(file)
            if signature is None:
                self._signatures.pop(file, None)
                return self._set.remove(file)
            self._signatures[file] = signature
            entries = list(self._parse(file, Path(file).read_bytes()))
        except OSError as error:
            return self._set.keep(file, f"cannot be read: {error.strerror}")
        except documents.UnreadableError as error:
            return self._set.keep(file, str(error), error.line)
        return self._set.replace(file, entries)

    def _parse(self, file: str, data: bytes) -> Iterator[Entry]:
        for document in documents.parse(data, is_json=file.endswith(".json")):
            reading = intake.read(document.decoded, self._node_name, _DEFAULT_NAMESPACE)
            item = "" if document.item is None else f" item {document.item}"
            yield Entry(reading, f"{file}:{document.line}{item}")


def is_manifest(name: str) -> bool:
    """Whether a file of this name is read when its directory is given."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _regular_signature(file: str) -> Signature | None:
    """Return the signature of a regular file, or None if there is none of this name."""
    try:
        status = Path(file).stat()
    except FileNotFoundError:
        return None
    except OSError:
        return _UNKNOWN  # it is there; reading it will tell what is the matter
    return _signature(status) if stat.S_ISREG(status.st_mode) else None


def _signature(status: os.stat_result) -> Signature:
    if not stat.S_ISREG(status.st_mode):
        return _UNKNOWN  # a pipe can be read once, so it must never look changed
    return Signature(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
