"""What a plan is made of: the values objects should have, collected before they are compared with belief. Pure.

`order` puts the differences in order.
"""

from collections.abc import Iterable, Mapping

from backends.ipvs.belief import Observed
from backends.ipvs.layout import Layout
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    PLACES,
    Frontend,
    Operation,
    Place,
    SharedMember,
    WantedServer,
    has_drains,
)
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_values import ABSENT, Absent, Values
from proxy.addresses import unpack_ip
from proxy.model import Family, PortKey


class Draft:
    """The values objects should have.

    Virtual servers are wanted, or not wanted: then their destinations drain if `is_graceful`, else all goes at once.
    """

    def __init__(self, observed: Observed, layout: Layout) -> None:
        self.observed = observed
        self.layout = layout
        self.rebuild = tuple(
            [family for family in layout.families if observed.tables[family].has_to_go]
        )
        self.facts = observed.tables | {family: TableFacts() for family in self.rebuild}
        self.sets: dict[tuple[Family, str], Values] = {}
        self.addresses: dict[str, tuple[bool, PortKey | None]] = {}
        self.make: list[Operation] = []
        self.end: list[Operation] = []
        self.drains: list[tuple[ServerId, Place]] = []
        self._changed_references: dict[tuple[Family, str, bytes], int] = {}
        self._servers: dict[ServerId, tuple[WantedServer | None, PortKey | None, bool]] = {}
        self._numbers: dict[tuple[Family, int], PortKey] = {}

    def values(self, family: Family, set_name: str) -> Values:
        """Return the wanted values of one set, to be added to."""
        return self.sets.setdefault((family, set_name), {})

    def is_number_taken(self, place: tuple[Family, int], key: PortKey) -> bool:
        """Whether a number in marks stands for another ServicePort."""
        return (self._numbers.get(place) or self.observed.numbers.get(place, key)) != key

    def is_number_free(self, key: PortKey, number: int) -> bool:
        """Whether a number in marks stands for nobody else, and no virtual server is left under it."""
        if self.is_number_taken((key.family, number), key):
            return False
        servers = self.layout.marks.servers(key.family, number)
        return not any(server in self.observed.servers for server in servers)

    def take_number(self, key: PortKey, number: int) -> None:
        self._numbers[key.family, number] = key

    def share(
        self, owner: PortKey, old: frozenset[SharedMember], new: frozenset[SharedMember]
    ) -> None:
        """Count a ServicePort's references to shared members; the last one to leave removes a member."""
        for change, members in ((1, new - old), (-1, old - new)):
            for name, member in members:
                reference = (owner.family, name, member)
                total = self._changed_references.get(reference, 0) + change
                self._changed_references[reference] = total
                left = self.observed.references.get(reference, 0) + total
                self._member(owner, name, member, is_wanted=left > 0)
        for name, member in new & old:
            if member not in self.values(owner.family, name):
                self._member(owner, name, member, is_wanted=True)

    def _member(self, owner: PortKey, name: str, member: bytes, *, is_wanted: bool) -> None:
        self.values(owner.family, name)[member] = (None if is_wanted else ABSENT, owner)
        if name == BOUND:
            self.addresses[unpack_ip(member).text] = (is_wanted, owner)

    def withdraw(
        self,
        owner: PortKey,
        frontends: Iterable[Frontend],
        kept: Iterable[bytes],
        *,
        is_gone: bool,
    ) -> None:
        """Remove frontends a ServicePort no longer has, and the sources that may come in, unless they are another's."""
        keep = set(kept)
        for frontend in frontends:
            if self.observed.holders.get((owner.family, frontend.key)) != owner:
                continue
            self._allow(owner, frontend.allowed, is_wanted=False)
            if frontend.key not in keep:
                self._clear(owner, frontend, is_graceful=not is_gone)

    def _clear(self, owner: PortKey, frontend: Frontend, *, is_graceful: bool) -> None:
        for name in PLACES[frontend.kind].all:
            self.values(owner.family, name)[frontend.key] = (ABSENT, owner)
        if frontend.server is not None:
            self._servers[frontend.server] = (None, owner, is_graceful)

    def put(self, owner: PortKey, frontend: Frontend, elements: Mapping[str, Data]) -> None:
        """Ask for a frontend's elements; whatever else may stand in its place goes."""
        holder = self.observed.holders.get((owner.family, frontend.key), owner)
        if holder != owner and holder in self.observed.rendered:
            for other in self.observed.rendered[holder].frontends:
                if other.key == frontend.key:
                    self._allow(owner, other.allowed, is_wanted=False)
        for name in PLACES[frontend.kind].all:
            data: Data | Absent = elements.get(name, ABSENT)
            self.values(owner.family, name)[frontend.key] = (data, owner)
        self._allow(owner, frontend.allowed, is_wanted=True)
        if frontend.server is not None:
            self._servers[frontend.server] = (None, owner, True)

    def _allow(self, owner: PortKey, allowed: Iterable[bytes], *, is_wanted: bool) -> None:
        values = self.values(owner.family, ALLOWED) if allowed else {}
        for key in allowed:
            values[key] = (None if is_wanted else ABSENT, owner)

    def put_server(
        self,
        owner: PortKey | None,
        server: ServerId,
        wanted: WantedServer | None,
        *,
        is_graceful: bool = True,
    ) -> None:
        """Ask for a virtual server, or that there be none."""
        self._servers[server] = (wanted, owner, is_graceful)

    def compare_servers(self) -> None:
        """Turn what is wanted of virtual servers into operations: what is made, and what ends.

        At an address that leaves our device nothing drains: no packet gets there, and nobody could tell that it is ours.
        """
        leaving = {address for address, (is_wanted, _) in self.addresses.items() if not is_wanted}
        for server in self.observed.draining if leaving else ():
            if server.address in leaving:
                self._servers.setdefault(server, (None, self.addresses[server.address][1], False))
        for server, (wanted, owner, is_graceful) in self._servers.items():
            if wanted is not None:
                self._make(wanted, owner)
                continue
            believed, there = self._believed(server)
            if believed is not None:
                can_drain = is_graceful and server.address not in leaving
                if can_drain and owner is not None and has_drains(owner.name.protocol):
                    for place, destination in there.items():
                        self._drain(server, place, owner, destination)
                    if there:
                        continue
                self.end.append(Operation("del server", server, None, owner))

    def _believed(self, server: ServerId) -> tuple[VirtualServer | None, dict[Place, Destination]]:
        """Return what is there, or will be ours as soon as its address is on our device.

        Where the address stays another interface's, so does the virtual server.
        """
        believed = self.observed.servers.get(server)
        is_bound, _ = self.addresses.get(server.address, (False, None))
        stranger = self.observed.strangers.get(server.address, {}).get(server)
        if believed is None and stranger is not None and is_bound:
            return stranger
        return believed, self.observed.destinations.get(server, {})

    def _make(self, wanted: WantedServer, owner: PortKey | None) -> None:
        server = wanted.server.id
        believed, there = self._believed(server)
        if believed is None:
            self.make.append(Operation("add server", server, wanted.server, owner))
        elif believed != wanted.server:
            self.make.append(Operation("set server", server, wanted.server, owner))
        for place, destination in wanted.destinations.items():
            if place not in there:
                self.make.append(Operation("add destination", server, destination, owner))
            elif there[place] != destination:
                self.make.append(Operation("set destination", server, destination, owner))
        for place in there:
            if place not in wanted.destinations:
                self._drain(server, place, owner, there[place])

    def _drain(
        self, server: ServerId, place: Place, owner: PortKey | None, destination: Destination
    ) -> None:
        """Have a destination go: once it is idle where that can be seen, else at once."""
        if owner is None or not has_drains(owner.name.protocol):
            self.end.append(Operation("del destination", server, destination, owner))
        elif destination.weight:
            idle = destination._replace(weight=0)
            self.end.append(Operation("set destination", server, idle, owner, is_draining=True))
        elif place not in self.observed.draining.get(server, {}):
            self.drains.append((server, place))
