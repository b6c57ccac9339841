"""What is known of a ServicePort while it is served: its pools, its connections, and what is counted. Shell's state, without I/O."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from backends.userspace.balancing import Balancer, Pool
from backends.userspace.model import Serving, Target

if TYPE_CHECKING:
    from backends.userspace.datagrams import Flow
    from backends.userspace.streams import Connection

COUNTED: Final = ("accepted", "received", "sent", "failures", "refused")
"""What is counted, as attributes of a Service."""


class Service:
    """One ServicePort. Changed in place, so that what is open or in the middle of being opened goes on.

    `accepted` are connections and flows, `received` are bytes from clients, `sent` bytes to them; `failures` are attempts at endpoints that did not accept,
    `refused` the connections for which there was no endpoint left.
    """

    def __init__(self, serving: Serving, balancer: Balancer, offset: int = 0) -> None:
        self.serving = serving
        self.balancer = balancer
        self.connections: set[Connection] = set()
        self.flows: set[Flow] = set()
        self.accepted = 0
        self.received = self.sent = 0
        self.failures = self.refused = 0
        self._offset = offset
        self.internal, self.here = Pool((), offset), Pool((), offset)
        self.outside = self.here
        self.members: frozenset[Target] = frozenset()
        self._describe()

    def update(self, serving: Serving) -> frozenset[Target]:
        """Serve otherwise from now on; return the endpoints that nobody leads to any more."""
        before = self.members
        self.serving = serving
        self._describe()
        return before - self.members

    def _describe(self) -> None:
        serving = self.serving
        self.balancer.affinity_s = serving.affinity_s
        if serving.is_split and self.outside is self.here:
            self.outside = Pool((), self._offset)
        self.internal.replace(serving.internal)
        self.outside.replace(serving.outside)
        self.here.replace(serving.here)
        if not serving.is_split:
            self.outside = self.here
        self.members = self.internal.members | self.here.members | self.outside.members
        self.balancer.keep_only(self.members)

    def leaving(self, gone: Collection[Target]) -> list["Connection"]:
        """Return the connections to endpoints that have gone."""
        return [each for each in self.connections if each.target in gone] if gone else []

    @property
    def is_idle(self) -> bool:
        return not (self.connections or self.flows)

    @property
    def counted(self) -> dict[str, int]:
        """What was counted so far, by name. Bytes of a connection are counted when it ends."""
        return {name: getattr(self, name) for name in COUNTED}
