"""The latest changes and how long each took: a bounded ring, written by the reconciler, read by views. Pure.

A change passes these stages, and the journal keeps the time of each:

    triggered → received → decoded → queued → planned → acknowledged
    (a pod      (bytes     (objects  (selected,  (kernel   (the kernel
     changed)    read)      known)    in a row    messages  has confirmed)
                                      for the     ready)
                                      kernel)

From decoded to queued a change waits for the round before it, and is merged and selected; from queued to planned it
waits for its neighbours, with which it shares a transaction. Where several changes became one, and where one had to
be tried again, the first times count.
"""

import heapq
import operator
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from proxy.changes import Trigger
from proxy.histogram import Histogram, doubling
from proxy.model import Cause, Family, PortKey, ServiceName, Value

CAPACITY: Final = 4096
STAGES: Final = ("decoded", "queued", "planned", "acknowledged")
"""What each change passes after it was received. A stage's duration is the time since the one before."""
_BOUNDS_S: Final = doubling(0.0001, 18)


class Entry(Value, frozen=True, kw_only=True):
    """One change of one ServicePort. Times are monotonic seconds, but `triggered_s`, which are unix seconds.

    `triggered_s`: something changed in the cluster, as the slice's author states it; None where it does not, and
    where that was before this process began. `received_s`: the bytes of the first event were read. `decoded_s`: they
    had become objects. `queued_s`: what should be was known. `planned_s`: the plan was ready. `acknowledged_s`: the
    kernel had confirmed it, or refused it. `error` is empty when it was programmed.
    """

    key: PortKey
    cause: Cause
    received_s: float
    decoded_s: float
    queued_s: float
    planned_s: float
    acknowledged_s: float
    triggered_s: float | None = None
    error: str = ""

    @property
    def took_s(self) -> float:
        """How long it took from the first byte to the kernel's answer."""
        return self.acknowledged_s - self.received_s


class Round(Value, frozen=True, kw_only=True):
    """One round of the reconciler, as listeners are told of it. Times are monotonic seconds.

    `families` are those with something to do. `is_full`: every ServicePort was looked at, not only what changed.
    `error` is empty when the round ended well; what the kernel refused of single ServicePorts stands in `entries`.
    `trouble` says why nothing can be programmed: the kernel was out of reach, or has refused every ServicePort there is.
    `triggers` are the changes of slices that count as programmed by now, each named once, in whichever round that was.
    """

    started_s: float
    ended_s: float
    is_full: bool
    families: tuple[Family, ...]
    error: str = ""
    trouble: str = ""
    entries: tuple[Entry, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    operations: int = 0
    transactions: int = 0


class Journal:
    """The last `capacity` entries, the number of all entries ever made, and how long they took.

    The durations are those of changes that came from a source and were programmed: neither of what was refused nor of
    what was found at start, repaired or tried again for no new reason.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.total = 0
        self.stages = {stage: Histogram(_BOUNDS_S) for stage in STAGES}
        self.durations = Histogram(_BOUNDS_S)
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._observe = [histogram.observe for histogram in self.stages.values()]
        self._made_at_start = 0

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.total += 1
        if entry.error or not entry.cause.name:
            return
        decoded, queued, planned, acknowledged = self._observe
        decoded(entry.decoded_s - entry.received_s)
        queued(entry.queued_s - entry.decoded_s)
        planned(entry.planned_s - entry.queued_s)
        acknowledged(entry.acknowledged_s - entry.planned_s)
        self.durations.observe(entry.acknowledged_s - entry.received_s)

    def started(self) -> None:
        """Note that what was there at start is programmed: it took as long as it took, and is not slow."""
        self._made_at_start = self.total

    def __iter__(self) -> Iterator[Entry]:
        """Iterate oldest first."""
        return iter(self._entries)

    def latest(self, n: int) -> list[Entry]:
        """Return the last `n` entries, newest first."""
        return list(islice(reversed(self._entries), n))

    def slowest(self, n: int) -> list[Entry]:
        """Return the `n` entries that took longest since the start, slowest first and, of equals, newest first."""
        since_start = max(0, self.total - self._made_at_start)
        return heapq.nlargest(n, islice(reversed(self._entries), since_start), key=_took_s)

    def of(self, service: ServiceName) -> list[Entry]:
        """Return the entries of a service's ports, newest first."""
        return [entry for entry in reversed(self._entries) if entry.key.name[:2] == service]


_took_s = operator.attrgetter("took_s")
