"""The objects of a set of files, where a file may change and an object may stand in several.

Pure. The last one wins: files in bytewise order of their names, objects in order within a file. Reading a file
again costs as much as that file holds, however many others there are, and yields only what it changed.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from proxy.model import Rejected
from proxy.sources.events import Event, Problems
from proxy.sources.intake import Intake, ObjectKey, Reading

FILE: Final = "File"
"""The kind of what is rejected when a whole file cannot be read."""


class Entry(NamedTuple):
    """One object and the place at which it stands, as a person would look for it."""

    reading: Reading
    place: str


class Change(NamedTuple):
    """What a re-read led to."""

    events: list[Event]
    warnings: list[str]


class ManifestSet:
    """The current objects of all files."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[ObjectKey, Entry]] = {}
        self._files: dict[ObjectKey, set[str]] = {}
        self._troubled: set[str] = set()
        self._intake = Intake()

    def replace(self, file: str, entries: Iterable[Entry]) -> Change:
        """Take in all that `file` holds now."""
        warnings: list[str] = []
        nameless: list[Rejected] = []
        new: dict[ObjectKey, Entry] = {}
        for entry in entries:
            key = entry.reading.key
            if not key.name:
                nameless += entry.reading.rejected
            elif entry.reading.value is not None or entry.reading.rejected:
                if key in new:
                    warnings.append(_several(key, [new[key], entry]))
                new[key] = entry
        old = self._entries.get(file, {})
        events = self._exchange(file, old, new)
        warnings += [
            _several(key, self._holders(key))
            for key in new
            if key not in old and len(self._files[key]) > 1
        ]
        events += self._report(file, tuple(nameless))
        return Change(events, warnings)

    def remove(self, file: str) -> Change:
        """Take in that `file` is gone."""
        events = self._exchange(file, self._entries.get(file, {}), {})
        self._entries.pop(file, None)
        return Change(events + self._report(file, ()), [])

    def keep(self, file: str, reason: str, line: int | None = None) -> Change:
        """Take in that `file` cannot be read now: what it held last stays, and the reason is shown."""
        where = "" if line is None else f"line {line}"
        held = "; its last good content stays" if self._entries.get(file) else ""
        rejected = Rejected(kind=FILE, name=file, field=where, reason=f"{reason}{held}")
        return Change(self._report(file, (rejected,)), [])

    def _exchange(
        self, file: str, old: dict[ObjectKey, Entry], new: dict[ObjectKey, Entry]
    ) -> list[Event]:
        touched = list(dict.fromkeys([*old, *new]))
        before = [self._winner(key) for key in touched]
        self._entries[file] = new
        for key in touched:
            files = self._files.setdefault(key, set())
            if key in new:
                files.add(file)
            else:
                files.discard(file)
            if not files:
                del self._files[key]
        events: list[Event] = []
        for key, previous in zip(touched, before, strict=True):
            entry = self._winner(key)
            if entry is None:
                events += self._intake.forget(key)
            elif previous is None or previous.reading != entry.reading:
                events += self._intake.apply(entry.reading)
        return events

    def _winner(self, key: ObjectKey) -> Entry | None:
        files = self._files.get(key)
        return self._entries[max(files, key=_bytewise)][key] if files else None

    def _holders(self, key: ObjectKey) -> list[Entry]:
        """Return the entries of the object in all files, the winner last."""
        return [self._entries[file][key] for file in sorted(self._files[key], key=_bytewise)]

    def _report(self, file: str, rejected: tuple[Rejected, ...]) -> list[Event]:
        if not rejected and file not in self._troubled:
            return []
        if rejected:
            self._troubled.add(file)
        else:
            self._troubled.discard(file)
        return [Problems(f"{FILE} {file}", rejected)]


def _several(key: ObjectKey, entries: list[Entry]) -> str:
    *others, last = (entry.place for entry in entries)
    if len(others) == 1:
        return f"{key} stands both in {others[0]} and in {last}: the latter is used"
    return f"{key} stands in {', '.join(others)} and in {last}: the last one is used"


def _bytewise(file: str) -> bytes:
    return file.encode(errors="surrogateescape")
