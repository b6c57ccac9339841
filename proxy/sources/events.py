"""What a source tells the rest of the program: objects that came, changed or went, and what was wrong with them.

Pure. Sources differ in where bytes come from; from here on nobody can tell them apart. Events are states, not
increments: an `Upsert` carries the whole object, and delivering an event twice changes nothing.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from proxy.model import EndpointSlice, NodeInfo, Rejected, Service, ServiceCidrs, Value

ObjectKind = Literal["Service", "EndpointSlice", "Node", "ServiceCIDR"]
KINDS: Final[tuple[ObjectKind, ...]] = ("Service", "EndpointSlice", "Node")
"""What has to be listed before anything is done."""
OPTIONAL_KINDS: Final[tuple[ObjectKind, ...]] = ("ServiceCIDR",)
"""What is used if there is any: API servers before Kubernetes 1.33 need not have it."""
CLUSTER_KINDS: Final[frozenset[ObjectKind]] = frozenset({"Node", "ServiceCIDR"})
"""Kinds whose objects are in no namespace."""

Object = Service | EndpointSlice | NodeInfo | ServiceCidrs


class Upsert(NamedTuple):
    """The object is now this, whether or not it was known before."""

    object: Object


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
    uid: str = ""
    """The object's, if it is known: by it, tools find the Events about an object."""


Event = Upsert | Delete | Synced | Problems

Deliver = Callable[[Sequence[Event], float], None]
"""Takes a batch of events and the time.monotonic() at which their bytes were received; called on the event loop."""


Phase = Literal["listing", "watching", "waiting"]
Trouble = Literal[
    "connect", "timeout", "silent", "closed", "gone", "unauthorized", "forbidden", "throttled", "server", "malformed"
]  # fmt: skip
"""Why a request to the API server came to nothing; the words that metrics count by.

`connect`: no connection (name, route, refusal, TLS). `timeout`: a connection or an answer that took too long.
`silent`: an open watch on which nothing came any more. `closed`: a request that was cut off. `gone`: the server no
longer has the version we wanted to go on from. `unauthorized`, `forbidden`, `throttled`: 401, 403, 429.
`server`: any other status. `malformed`: an answer or event that cannot be read.
"""


class WatchReport(Value, frozen=True, kw_only=True):
    """How it stands with one kind of objects that an API server is watched for. Times are monotonic seconds."""

    kind: ObjectKind
    phase: Phase
    since_s: float
    """When the phase began."""
    heard_s: float
    """When bytes or an answer last came from the server; 0 for never."""
    resource_version: str
    """From where the watch goes on; empty while that is not known."""
    objects: int
    """How many the server has, as far as was heard."""
    lists: int
    """Lists begun, whether as pages or as a stream."""
    watches: int
    """Watches begun."""
    failures: int
    """Requests that came to nothing, in a row."""
    retry_s: float
    """When to try again; 0 unless waiting."""
    error: str
    """Why the last request came to nothing; empty once a watch has worked for a while."""
    errors: Mapping[Trouble, int]
    """How often each thing went wrong since the start."""


class Source(typing.Protocol):
    """Where objects come from."""

    def report(self) -> Sequence[WatchReport]:
        """Return how it stands with the API server, kind by kind; nothing where there is none."""
        ...

    async def run(self, deliver: Deliver) -> None:
        """Deliver events until there can be no more; most sources never return."""
        ...
