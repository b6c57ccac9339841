"""Which objects of one kind the server is known to have, and what a complete list says of the others.

Pure. Every object carries the number of the list that named it last. When a list is complete, what it did not name is
gone; when a part of it could not be read, nobody knows which object that was, so nothing is.
"""

from proxy.model import Rejected
from proxy.sources import intake
from proxy.sources.decode import Decoded
from proxy.sources.events import CLUSTER_KINDS, Event, Problems
from proxy.sources.intake import ObjectKey
from proxy.sources.resources import Resource


class Known:
    """The known objects, and the problem with what could not be read instead of one."""

    def __init__(self, resource: Resource, node_name: str) -> None:
        self._resource = resource
        self._node_name = node_name
        self._intake = intake.Intake()
        self._rounds: dict[ObjectKey, int] = {}
        self._round = 0
        self._has_problem = False
        self.is_complete = True
        """Whether all of the list so far could be read."""

    def __len__(self) -> int:
        return len(self._rounds)

    def begin_list(self) -> None:
        """Take note that everything there is will be named now."""
        self._round += 1
        self.is_complete = True

    def put(self, decoded: Decoded) -> list[Event] | None:
        """Return the events of an object that is there; None if this names no object of ours."""
        reading = intake.read(decoded, self._node_name)
        if not self._is_ours(reading.key):
            return None
        self._rounds[reading.key] = self._round
        return self._intake.apply(reading)

    def drop(self, decoded: Decoded) -> list[Event] | None:
        """Return the events of an object that went; None if this names no object of ours."""
        key = ObjectKey(decoded.kind, decoded.namespace, decoded.name)
        if not self._is_ours(key):
            return None
        self._rounds.pop(key, None)
        return self._intake.forget(key)

    def miss(self, reason: str) -> list[Event]:
        """Report what came instead of an object. No list of which it is a part deletes anything."""
        self.is_complete = False
        self._has_problem = True
        rejected = Rejected(kind="Watch", name=self._resource.plural, field="", reason=reason)
        return [Problems(self._subject, (rejected,))]

    def end_list(self) -> list[Event]:
        """Return the events of everything that was not named, if the list is complete."""
        if not self.is_complete:
            return []
        events: list[Event] = []
        for key in [key for key, number in self._rounds.items() if number != self._round]:
            del self._rounds[key]
            events += self._intake.forget(key)
        if self._has_problem:
            self._has_problem = False
            events.append(Problems(self._subject, ()))
        return events

    @property
    def _subject(self) -> str:
        return f"Watch {self._resource.plural}"

    def _is_ours(self, key: ObjectKey) -> bool:
        kind = self._resource.kind
        return key.kind == kind and bool(key.name and (key.namespace or kind in CLUSTER_KINDS))
