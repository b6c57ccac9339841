"""What a source tells the rest of the program: objects that came, changed or went, and what was wrong with them.

Pure. Sources differ in where bytes come from; from here on nobody can tell them apart. Events are states, not
increments: an `Upsert` carries the whole object, and delivering an event twice changes nothing.
"""

import typing
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from proxy.model import EndpointSlice, NodeInfo, Rejected, Service

ObjectKind = Literal["Service", "EndpointSlice", "Node"]
KINDS: Final[tuple[ObjectKind, ...]] = ("Service", "EndpointSlice", "Node")


class Upsert(NamedTuple):
    """The object is now this, whether or not it was known before."""

    object: Service | EndpointSlice | NodeInfo


class Delete(NamedTuple):
    """The object is gone, or nothing of it can be used any more. It may never have been known."""

    kind: ObjectKind
    namespace: str
    name: str


class Synced(NamedTuple):
    """Every object of this kind has been delivered once, even if there is none."""

    kind: ObjectKind


class Problems(NamedTuple):
    """All that is wrong with one object now; replaces what was said of it before, and an empty tuple takes it back.

    `object` is `kind namespace/name`; for what concerns no single object it is `File path` or `Stream path`.
    """

    object: str
    rejected: tuple[Rejected, ...]


Event = Upsert | Delete | Synced | Problems

Deliver = Callable[[Sequence[Event], float], None]
"""Takes a batch of events and the time.monotonic() at which their bytes were received; called on the event loop."""


class Source(typing.Protocol):
    """Where objects come from."""

    async def run(self, deliver: Deliver) -> None:
        """Deliver events until there can be no more; most sources never return."""
        ...
