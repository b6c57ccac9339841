"""What the nftables backend knows of its tables: chains, sets and elements as plain values. Pure.

One table of our own in each family, `ip sliceproxy` and `ip6 sliceproxy`. README.md shows the layout.
Not compared with the kernel: rule handles, counters, the clients that session affinity remembers, and load-balancing
chains no service needs any more (they are shared, hold no state, and stay until cleanup).
"""

from collections.abc import Collection, Iterator
from typing import Final, Literal, NamedTuple

from proxy.model import Family, Protocol, Value

TABLE: Final = "sliceproxy"
PROBE_TABLE: Final = "sliceproxy-probe"
SERVICES: Final = "services"
EXTERNALS: Final = "externals"
GUARDED: Final = "guarded"
FIREWALL: Final = "firewall"
"""Of an earlier layout: by this verdict map a VIP with source ranges was led to a chain of its own."""
NODEPORTS: Final = "nodeports"
REFUSED: Final = "refused"
NODEPORTS_REFUSED: Final = "nodeports-refused"
CLUSTER_IPS: Final = "cluster-ips"
EXTERNAL_IPS: Final = "external-ips"
HAIRPIN: Final = "hairpin"
AFFINITY_CLIENTS: Final = "affinity-clients"
AFFINITY_SERVICES: Final = "affinity-services"
AFFINITY_NODEPORTS: Final = "affinity-nodeports"
AFFINITY_SLOTS: Final = "affinity-slots"
AFFINITY_ENDPOINTS: Final = "affinity-endpoints"
AFFINITY_ENDPOINTS_LOCAL: Final = "affinity-endpoints-local"
ENDPOINTS: Final[dict[Protocol, str]] = {
    "TCP": "endpoints-tcp",
    "UDP": "endpoints-udp",
    "SCTP": "endpoints-sctp",
}
NODEPORT_ENDPOINTS: Final[dict[Protocol, str]] = {
    "TCP": "nodeport-endpoints-tcp",
    "UDP": "nodeport-endpoints-udp",
    "SCTP": "nodeport-endpoints-sctp",
}
REFUSE: Final = "refuse"
CLUSTER_IP: Final = "cluster-ip"
EXTERNAL_IP: Final = "external-ip"
NODE_PORT: Final = "node-port"
SOURCES: Final = "sources"
LOCAL_FROM: Final = 65536
"""The number of the first slot of a local list; those of the list of the whole cluster begin at 0."""

Kind = Literal["cluster-ip", "external-ip", "node-port"]
"""The classes of frontends: each has its own chain in which verdicts are looked up."""


class Places(NamedTuple):
    """The sets in which a frontend of one class has elements."""

    verdicts: str
    refused: str
    slots: dict[Protocol, str]
    affinity: str
    """Holds the number of the frontend's ServicePort where that has session affinity."""


PLACES: Final[dict[Kind, Places]] = {
    "cluster-ip": Places(SERVICES, REFUSED, ENDPOINTS, AFFINITY_SERVICES),
    "external-ip": Places(EXTERNALS, REFUSED, ENDPOINTS, AFFINITY_SERVICES),
    "node-port": Places(NODEPORTS, NODEPORTS_REFUSED, NODEPORT_ENDPOINTS, AFFINITY_NODEPORTS),
}
VERDICTS: Final = tuple([places.verdicts for places in PLACES.values()])
"""All verdict maps."""

Keys = tuple[Family, str, Collection[bytes]]
"""Elements of one set, by their keys."""

SharedMember = tuple[str, bytes]
"""A member of a plain set that several ServicePorts may need: the set's name and the key."""


class Target(NamedTuple):
    """One frontend as rendered: its class, its key, how many slots each of its lists has, and who may come in.

    `prefix` is what the keys of its slots begin with. `ranges` are the sets and keys of its source ranges.
    """

    kind: Kind
    key: bytes
    prefix: bytes
    protocol: Protocol
    slots: int = 0
    local_slots: int = 0
    ranges: tuple[tuple[str, bytes], ...] = ()

    def places(self) -> list[tuple[str, bytes]]:
        """Return where this frontend may have elements of its own, slots apart: set and key."""
        places = PLACES[self.kind]
        found = [(n, self.key) for n in (places.verdicts, places.refused, places.affinity)]
        if self.kind != "external-ip":
            return found
        return [*found, (GUARDED, self.key), *self.ranges]

    def rows(self) -> list["Row"]:
        """Return the slots of this frontend."""
        name = PLACES[self.kind].slots[self.protocol]
        rows = (
            Row(name, self.prefix, 0, self.slots),
            Row(name, self.prefix, LOCAL_FROM, self.local_slots),
        )
        return [row for row in rows if row.length]


class Row(NamedTuple):
    """Slots that follow one another: keys of a map that begin alike and end in numbers."""

    set: str
    prefix: bytes
    first: int
    length: int


class Sticky(NamedTuple):
    """What session affinity occupies for one ServicePort besides its frontends' elements.

    `service` is the ServicePort's number, `members` are its endpoints by their numbers, `next_number` is for the next
    new endpoint: clients remember numbers. `timeouts` (in seconds) name the chains it needs.
    """

    service: int
    timeouts: tuple[int, ...]
    members: tuple[tuple[str, Collection[bytes]], ...]
    rows: tuple[Row, ...]
    next_number: int

    def joined(self, other: "Sticky | None") -> "Sticky":
        if other is None:
            return self
        return Sticky(
            other.service,
            tuple(dict.fromkeys([*self.timeouts, *other.timeouts])),
            self.members + other.members,
            self.rows + other.rows,
            other.next_number,
        )


class Rendered(Value, frozen=True, kw_only=True):
    """What a ServicePort occupies in its table: its frontends, and the set members it shares with others."""

    targets: tuple[Target, ...] = ()
    sticky: Sticky | None = None
    shared: frozenset[SharedMember] = frozenset()

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Yield set and key of every element but slots, also of those there are only sometimes."""
        for target in self.targets:
            yield from target.places()
        for name, keys in self.sticky.members if self.sticky is not None else ():
            for key in keys:
                yield name, key
        yield from self.shared

    def rows(self) -> Iterator[Row]:
        """Yield all slots."""
        for target in self.targets:
            yield from target.rows()
        if self.sticky is not None:
            yield from self.sticky.rows

    def joined(self, other: "Rendered") -> "Rendered":
        """Return what is occupied between two transactions that lead from this to the other."""
        return Rendered(
            targets=self.targets + other.targets,
            sticky=self.sticky.joined(other.sticky) if self.sticky else other.sticky,
            shared=self.shared | other.shared,
        )
