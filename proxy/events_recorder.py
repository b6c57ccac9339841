"""What operators must see, as Events of the Kubernetes API: noted here, sent by `sources.event_writer`.

Shell, for it asks the clock; nothing waits for anything. What happens again becomes a series of one Event, what is
about an object that all nodes see is one Event of the cluster, and however much happens, memory and requests stay
bounded: the queue is short, and the pace a burst first and little afterwards. What has no place is dropped and counted.

Events are about this program and say so: `reportingController` is `sliceproxy`. Their reasons are kube-proxy's words where it
has one, so that alerts by reason go on working.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from proxy.model import Value

CONTROLLER: Final = "sliceproxy"
Result = Literal["sent", "failed", "dropped"]
RESULTS: Final[tuple[Result, ...]] = get_args(Result)

QUEUE: Final = 256
BURST: Final = 25
PER_S: Final = 0.2
"""Requests a second, once the burst is used up."""
SERIES_S: Final = 360.0
"""What happens again within that time belongs to the same Event."""
PATCH_EVERY_S: Final = 60.0
_REMEMBERED: Final = 1024
_LONGEST_NOTE: Final = 1024  # bytes, by the API's validation
_LONGEST_NAME: Final = 220
_NODE_EVENTS: Final = "default"  # where Events of objects without a namespace live


class Regarding(Value, frozen=True, kw_only=True):
    """The object an Event is about."""

    kind: str
    name: str
    namespace: str = ""
    api_version: str = "v1"
    uid: str = ""


def node_reference(name: str) -> Regarding:
    """Return the own Node. Its name stands for its uid, as with the kubelet: `kubectl describe node` looks for that."""
    return Regarding(kind="Node", name=name, uid=name)


class Occurrence(Value, frozen=True, kw_only=True):
    """Something that happened. Two that are equal are one that happened twice."""

    regarding: Regarding
    is_warning: bool
    reason: str
    action: str
    note: str
    is_shared: bool = False
    """Every node sees the same and one Event is enough: whoever comes second finds it there."""


class Record(msgspec.Struct, kw_only=True):
    """An Event as it is known here. Times are unix nanoseconds, but `sent_s` (monotonic)."""

    occurrence: Occurrence
    name: str
    first_ns: int
    last_ns: int
    count: int = 1
    sent_s: float | None = None
    """When it was sent last; None before that."""
    attempts: int = 0


class Message(NamedTuple):
    """One request: a new Event, or (`is_patch`) the series of one that is there."""

    record: Record
    is_patch: bool
    path: str
    body: dict[str, object]


class Recorder:
    """Takes note of what happened, and keeps it until it is sent."""

    def __init__(
        self,
        node_name: str,
        *,
        is_on: bool = True,
        clock: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`is_on` is False where nobody sends: then nothing is kept, nor counted."""
        self.results: Counter[Result] = Counter(dict.fromkeys(RESULTS, 0))
        self.on_news: Callable[[], None] = lambda: None
        self._node_name = node_name
        self._is_on = is_on
        self._clock = clock
        self._unix_ns = unix_ns
        self._records: dict[Occurrence, Record] = {}
        self._queue: dict[Occurrence, Record] = {}
        self._tokens = float(BURST)
        self._filled_s = clock()

    def normal(self, regarding: Regarding, reason: str, note: str, *, action: str) -> None:
        """Note something that is as it should be."""
        self._note(regarding, reason, note, action, is_warning=False, is_shared=False)

    def warn(
        self,
        regarding: Regarding,
        reason: str,
        note: str,
        *,
        action: str = "Sync",
        is_shared: bool = False,
    ) -> None:
        """Note something that somebody should look at."""
        self._note(regarding, reason, note, action, is_warning=True, is_shared=is_shared)

    def _note(
        self,
        regarding: Regarding,
        reason: str,
        note: str,
        action: str,
        *,
        is_warning: bool,
        is_shared: bool,
    ) -> None:
        if not self._is_on:
            return
        occurrence = Occurrence(
            regarding=regarding,
            is_warning=is_warning,
            reason=reason,
            action=action,
            note=_short(note),
            is_shared=is_shared,
        )
        now_ns = self._unix_ns()
        record = self._records.pop(occurrence, None)
        if record is None or now_ns - record.last_ns > SERIES_S * 1e9:
            name = _name(occurrence, now_ns)
            record = Record(occurrence=occurrence, name=name, first_ns=now_ns, last_ns=now_ns)
        else:
            record.count += 1
            record.last_ns = now_ns
        self._records[occurrence] = record  # the last in the row again
        if len(self._records) > _REMEMBERED:
            self._records.pop(next(iter(self._records)))
        is_fresh = record.sent_s is not None and self._clock() - record.sent_s < PATCH_EVERY_S
        if not is_fresh and not (is_shared and record.sent_s is not None):
            self._enqueue(record)

    def _enqueue(self, record: Record) -> None:
        if record.occurrence not in self._queue and len(self._queue) >= QUEUE:
            self.results["dropped"] += 1
            self._records.pop(record.occurrence, None)
            return
        self._queue[record.occurrence] = record
        self.on_news()

    def due_s(self) -> float | None:
        """Return in how many seconds the next may be sent; None if there is nothing to send."""
        if not self._queue:
            return None
        self._refill()
        return max(0.0, (1.0 - self._tokens) / PER_S)

    def take(self) -> Message | None:
        """Return what is to be sent now, if anything. To be settled with `sent`, `retry` or `failed`."""
        self._refill()
        if not self._queue or self._tokens < 1.0:
            return None
        self._tokens -= 1.0
        occurrence = next(iter(self._queue))
        return _message(self._queue.pop(occurrence), self._node_name)

    def sent(self, message: Message) -> None:
        """Take note that it is there now."""
        message.record.sent_s, message.record.attempts = self._clock(), 0
        self.results["sent"] += 1

    def failed(self, message: Message) -> None:
        """Take note that it never will be."""
        self._records.pop(message.record.occurrence, None)
        self.results["failed"] += 1

    def retry(self, message: Message, *, at_most: int, is_gone: bool = False) -> None:
        """Have it sent again, after everything else, unless it has been tried often enough.

        `is_gone`: the Event that should have become a series is no longer there, and has to be made anew.
        """
        record = message.record
        record.attempts += 1
        if is_gone:
            record.sent_s, record.first_ns = None, record.last_ns
            record.name = _name(record.occurrence, record.last_ns)
        if record.attempts >= at_most:
            self.failed(message)
        else:
            self._enqueue(record)

    def _refill(self) -> None:
        now_s = self._clock()
        self._tokens = min(BURST, self._tokens + (now_s - self._filled_s) * PER_S)
        self._filled_s = now_s


def _message(record: Record, node_name: str) -> Message:
    occurrence = record.occurrence
    regarding = occurrence.regarding
    namespace = regarding.namespace or _NODE_EVENTS
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    series = {"count": record.count, "lastObservedTime": micro_time(record.last_ns)}
    if record.sent_s is not None:
        return Message(record, True, f"{path}/{record.name}", {"series": series})
    reference = {
        "apiVersion": regarding.api_version,
        "kind": regarding.kind,
        "name": regarding.name,
        "namespace": regarding.namespace,
        "uid": regarding.uid,
    }
    body: dict[str, object] = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": record.name, "namespace": namespace},
        "eventTime": micro_time(record.first_ns),
        "reportingController": CONTROLLER,
        "reportingInstance": node_name[:128],
        "action": occurrence.action,
        "reason": occurrence.reason,
        "regarding": {name: value for name, value in reference.items() if value},
        "note": occurrence.note,
        "type": "Warning" if occurrence.is_warning else "Normal",
    }
    if record.count > 1:  # the API allows no series of one
        body["series"] = series
    return Message(record, False, path, body)


def micro_time(unix_ns: int) -> str:
    """Return a time as the API's type MicroTime has it."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanoseconds // 1000:06d}Z"


def _name(occurrence: Occurrence, now_ns: int) -> str:
    """Return a name for an Event: of the object, and of the moment, or of the content if all nodes share it."""
    ending = f"{now_ns:x}"
    if occurrence.is_shared:
        text = f"{occurrence.regarding.kind}\0{occurrence.regarding.uid}\0{occurrence.reason}\0{occurrence.note}"
        ending = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{occurrence.regarding.name[:_LONGEST_NAME].rstrip('-.')}.{ending}"


def _short(note: str) -> str:
    encoded = note.encode()
    if len(encoded) <= _LONGEST_NOTE:
        return note
    return encoded[: _LONGEST_NOTE - 3].decode(errors="ignore") + "..."
