"""What waits to be programmed: ServicePorts in a row for the kernel, and those it refused. Pure.

The reconciler puts keys in here and takes them out when the kernel has answered. What must not be lost on the way,
however often the kernel refuses or fails, is kept with each key: why, since when, and what in the cluster caused it.
"""

import math
from collections.abc import Iterable, Iterator

from proxy.changes import MOST_TRIGGERS, Change, Trigger
from proxy.model import Cause, PortKey, ServiceName, Value


class Waiting(Value, frozen=True):
    """Why a ServicePort has to be planned, and since when it has stood in the row (monotonic seconds)."""

    change: Change
    queued_s: float

    def after(self, earlier: "Waiting | None") -> "Waiting":
        """Return this and an earlier one that was not programmed as one."""
        if earlier is None:
            return self
        return Waiting(self.change.after(earlier.change), earlier.queued_s)


class Quarantined(Value, frozen=True, kw_only=True):
    """A ServicePort the kernel refused: why, how often in a row, when it is tried again, and what waits for that."""

    reason: str
    failures: int
    retry_s: float
    waiting: Waiting | None = None


class Backlog:
    """The ServicePorts to be planned, in the order in which they came, and `quarantine`, those set aside."""

    def __init__(self) -> None:
        self.quarantine: dict[PortKey, Quarantined] = {}
        self.retry_s = math.inf  # when the first of them is tried again
        self._waiting: dict[PortKey, Waiting] = {}
        self._triggers: dict[ServiceName, tuple[Trigger, ...]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[PortKey]:
        return iter(self._waiting)

    def add(
        self, service: ServiceName, keys: Iterable[PortKey], change: Change, now_s: float
    ) -> None:
        """Put at the end of the row, in their order, what a change of a service made different, be it nothing."""
        waiting = Waiting(change, now_s)
        for key in keys:
            before = self._waiting.pop(key, None) or self._refused(key)
            self._waiting[key] = waiting.after(before)
        if change.triggers:
            earlier = self._triggers.get(service, ())
            self._triggers[service] = (earlier + change.triggers)[:MOST_TRIGGERS]

    def add_again(self, why: str, key: PortKey, now_s: float) -> None:
        """Put in the row what has not changed, unless it stands there already."""
        if key not in self._waiting:
            cause = Cause(kind=why, namespace="", name="")
            change = Change(cause=cause, received_s=now_s, decoded_s=now_s)
            self._waiting[key] = Waiting(change, now_s).after(self._refused(key))

    def add_refused(self, now_s: float) -> None:
        """Put in the row what was set aside long enough."""
        if now_s < self.retry_s:
            return
        self.retry_s = math.inf
        for key, refused in self.quarantine.items():
            if now_s >= refused.retry_s:
                self.add_again("retry", key, now_s)
            else:
                self.retry_s = min(self.retry_s, refused.retry_s)

    def set_aside(self, key: PortKey, reason: str, retry_s: float) -> Waiting | None:
        """Take out what the kernel refused, until later; return what is known of it."""
        waiting = self._waiting.pop(key, None)
        self.quarantine[key] = Quarantined(
            reason=reason, failures=self.failures(key) + 1, retry_s=retry_s, waiting=waiting
        )
        self.retry_s = min(self.retry_s, retry_s)
        return waiting

    def done(self, key: PortKey) -> Waiting | None:
        """Take out what was programmed; return what is known of it."""
        self.quarantine.pop(key, None)
        return self._waiting.pop(key, None)

    def failures(self, key: PortKey) -> int:
        """How often in a row the kernel has refused a ServicePort."""
        return self.quarantine[key].failures if key in self.quarantine else 0

    def take_triggers(self) -> tuple[Trigger, ...]:
        """Return, once, the triggers of everything that was programmed; those of refused services wait with them."""
        if not self._triggers:
            return ()
        triggers, self._triggers = self._triggers, {}
        if self.quarantine:
            for name in {key.name.service for key in self.quarantine} & triggers.keys():
                self._triggers[name] = triggers.pop(name)
        return tuple([trigger for of_service in triggers.values() for trigger in of_service])

    def _refused(self, key: PortKey) -> Waiting | None:
        refused = self.quarantine.get(key)
        return refused.waiting if refused is not None else None
