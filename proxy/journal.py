"""The latest changes and how long each took: a bounded ring, written by the reconciler, read by views."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from proxy.model import Cause, PortKey, Value

CAPACITY: Final = 4096


class Entry(Value, frozen=True, kw_only=True):
    """One change of one ServicePort. Times are monotonic seconds.

    `received_s`: the bytes of the first event were read. `planned_s`: the plan was ready.
    `acknowledged_s`: the kernel had confirmed it. `error` is empty when it was programmed.
    """

    key: PortKey
    cause: Cause
    received_s: float
    planned_s: float
    acknowledged_s: float
    error: str = ""


class Journal:
    """The last `capacity` entries and the number of all entries ever made."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self.total = 0

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.total += 1

    def __iter__(self) -> Iterator[Entry]:
        """Iterate oldest first."""
        return iter(self._entries)
