"""What changed and was not programmed yet: by service, why and since when. Pure.

The cache notes changes here and the reconciler takes them. Several changes of a service are one: it is looked at once,
in its latest state, but what the first of them waits for is not forgotten.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from proxy.model import Cause, Family, ServiceName, Value

MOST_TRIGGERS: Final = 64
"""Of how many changes of one service's slices the time is remembered until they are programmed."""


class Trigger(NamedTuple):
    """When something changed in the cluster that led to a new version of a slice (unix seconds), and its family."""

    family: Family
    at_s: float


class Change(Value, frozen=True, kw_only=True):
    """Why a service must be looked at again.

    `cause` is the latest reason. `received_s` and `decoded_s` (monotonic seconds) are when the first one's bytes were
    read and when they had become objects. `triggers` are all that are known of, the oldest first.
    """

    cause: Cause
    received_s: float
    decoded_s: float
    triggers: tuple[Trigger, ...] = ()

    def after(self, earlier: "Change | None") -> "Change":
        """Return this change and an earlier one that was not programmed yet as one."""
        if earlier is None or earlier is self:
            return self
        return Change(
            cause=self.cause,
            received_s=earlier.received_s,
            decoded_s=earlier.decoded_s,
            triggers=(earlier.triggers + self.triggers)[:MOST_TRIGGERS],
        )

    @property
    def triggered_s(self) -> float | None:
        """When the first change in the cluster happened (unix seconds), if any is known."""
        return min([trigger.at_s for trigger in self.triggers]) if self.triggers else None


class Times(NamedTuple):
    """When a batch of events was received and decoded (monotonic seconds)."""

    received_s: float
    decoded_s: float


class Changes:
    """The services that changed, oldest first.

    `total` counts all changes ever. `slices` counts those of slices since changes were taken last. `latest_s` is when
    each family last had one (monotonic seconds).
    """

    def __init__(self) -> None:
        self.total = 0
        self.slices = 0
        self._changes: dict[ServiceName, Change] = {}
        self.latest_s: dict[Family, float] = {}
        self._queued_s: dict[Family, float] = {}

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def queued_s(self) -> Mapping[Family, float]:
        """Since when (monotonic seconds) a family has had changes that were not taken; only families that have."""
        return self._queued_s

    def mark(
        self,
        service: ServiceName,
        cause: Cause,
        times: Times,
        families: Iterable[Family],
        trigger: Trigger | None = None,
    ) -> None:
        """Note that a service has to be looked at again, because of what it is in these families."""
        self.total += 1
        change = Change(
            cause=cause,
            received_s=times.received_s,
            decoded_s=times.decoded_s,
            triggers=() if trigger is None else (trigger,),
        )
        self._changes[service] = change.after(self._changes.get(service))
        for family in families:
            self.latest_s[family] = times.decoded_s
            self._queued_s.setdefault(family, times.decoded_s)

    def take(self) -> dict[ServiceName, Change]:
        """Return what changed since the last call, oldest first, and forget it."""
        changes, self._changes = self._changes, {}
        self.slices, self._queued_s = 0, {}
        return changes
