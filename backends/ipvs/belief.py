"""What we believe is in the kernel, and which ServicePort occupies what. Pure.

Belief is changed in three ways only: a step the kernel confirmed is folded in, single objects are corrected by what was
read back, or everything is read anew and a new belief begins.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from backends.ipvs.model import AddressStep, Frontend, IpvsStep, Operation, Place, Rendered, Step
from backends.ipvs.planned import IpvsPlan
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft_node import NodePart
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.model import Family, PortKey

DRAIN_S: Final = 900.0
"""After so long a destination goes with whatever connections it has, unless told otherwise."""

Stranger = tuple[VirtualServer, dict[Place, Destination]]


class Observed:
    """Belief about everything we own, and which ServicePort occupies what.

    `device` is our device's index, None without one; `bound` are the addresses on it, `elsewhere` those of all other
    interfaces. `destinations` has an entry for each of `servers`. `draining` says until when a destination that nobody
    wants may keep its connections, `deadlines` what an earlier process has said about it;
    `is_drain_news`: there is more or less of that than was last saved.
    `strangers` are virtual servers of others by address, as of the last reading of everything: those at an address that we
    put on our device are ours from then on, with their connections.
    `references` counts how many ServicePorts need an element that several may share, `holders` says which one occupies a
    frontend, `numbers` which one a number in firewall marks stands for.
    `left` are tables of side rules that an earlier process wrote and this one does not: numbers are kept.
    `generation` is the ruleset generation our belief stands for, `commits` how many of them were ours.
    """

    worth_a_commit: Final = 0

    def __init__(
        self,
        tables: dict[Family, TableFacts],
        *,
        generation: int = 0,
        device: int | None = None,
        bound: Iterable[str] = (),
        elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        self.tables: Final = tables
        self.left: list[dict[Family, TableFacts]] = []
        self.generation = generation
        self.commits = 0
        self.device = device
        self.bound: dict[str, None] = dict.fromkeys(bound)
        self.elsewhere = elsewhere
        self.servers: dict[ServerId, VirtualServer] = {}
        self.destinations: dict[ServerId, dict[Place, Destination]] = {}
        self.strangers: dict[str, dict[ServerId, Stranger]] = {}
        self.draining: dict[ServerId, dict[Place, float]] = {}
        self.is_drain_news = False
        self.deadlines: dict[tuple[ServerId, Place], float] = {}
        self.rendered: dict[PortKey, Rendered] = {}
        self.references: dict[tuple[Family, str, bytes], int] = {}
        self.holders: dict[tuple[Family, bytes], PortKey] = {}
        self.numbers: dict[tuple[Family, int], PortKey] = {}
        self.node: NodePart | None = None
        self.layout: object = None

    @property
    def is_rebuild_due(self) -> bool:
        """Whether a table must be made anew as a whole."""
        return any(facts.has_to_go for facts in self.tables.values())

    def fold(self, step: Step, until_s: float) -> None:
        """Take in a step of which nothing was refused; what drains from now on may do so until then."""
        if isinstance(step, Transaction):
            self.fold_nft(step)
        elif isinstance(step, IpvsStep):
            for operation in step.operations:
                self.fold_operation(operation, until_s)
        else:
            if self.device is None:
                self.device = 0  # no interface has this index
            self.fold_addresses(step, ())

    def fold_nft(self, step: Transaction) -> None:
        """Take in a transaction that the kernel has confirmed."""
        step.fold(self.tables)
        self.generation += 1
        self.commits += 1

    def fold_addresses(self, step: AddressStep, refused: Collection[str]) -> None:
        """Take in what was bound and unbound, but for what the kernel would not."""
        for address, _ in step.bind:
            if address not in refused:
                self.bound[address] = None
                for server, (found, destinations) in self.strangers.pop(address, {}).items():
                    self.servers[server], self.destinations[server] = found, destinations
        for address, _ in step.unbind:
            if address not in refused:
                self.bound.pop(address, None)

    def fold_operation(self, operation: Operation, until_s: float) -> None:
        """Take in a message to IPVS that the kernel has confirmed; what drains from now on may do so until then."""
        server, spec = operation.server, operation.spec
        if operation.verb == "del server":
            self.forget_server(server)
        elif isinstance(spec, VirtualServer):
            self.servers[server] = spec
            self.destinations.setdefault(server, {})
        elif isinstance(spec, Destination):
            place = spec.address, spec.port
            if operation.verb == "del destination":
                self.destinations[server].pop(place, None)
                self._stay(server, place)
                return
            self.destinations[server][place] = spec
            if operation.is_draining:
                # it took connections until now: what was said of it before a restart was of another time
                self.deadlines.pop((server, place), None)
                self.drain(server, place, until_s)
            else:
                self._stay(server, place)

    def drain(self, server: ServerId, place: Place, until_s: float) -> None:
        """Note that a destination nobody wants keeps its connections for some time, begun perhaps before a restart.

        It may be gone since this was planned, and found so while the plan waited for its turn.
        """
        if place not in self.destinations.get(server, ()):
            return
        until_s = min(until_s, self.deadlines.pop((server, place), until_s))
        self.draining.setdefault(server, {}).setdefault(place, until_s)
        self.is_drain_news = True

    @property
    def all_deadlines(self) -> dict[ServerId, dict[Place, float]]:
        """Until when destinations may drain, also those of an earlier process that were not planned yet."""
        found = {server: dict(places) for server, places in self.draining.items()}
        for (server, place), until_s in self.deadlines.items():
            if place in self.destinations.get(server, ()):
                found.setdefault(server, {})[place] = until_s
        return found

    def _stay(self, server: ServerId, place: Place) -> None:
        self.deadlines.pop((server, place), None)
        if server in self.draining:
            self.draining[server].pop(place, None)
            self.is_drain_news = True
            if not self.draining[server]:
                del self.draining[server]

    def forget_server(self, server: ServerId) -> None:
        self.servers.pop(server, None)
        self.destinations.pop(server, None)
        if self.draining.pop(server, None) is not None:
            self.is_drain_news = True

    def correct_server(
        self, server: ServerId, found: VirtualServer | None, destinations: Iterable[Destination]
    ) -> None:
        """Replace what is believed of a virtual server by what was read. What has a weight does not drain."""
        if found is None:
            self.forget_server(server)
            return
        self.servers[server] = found
        there = {(each.address, each.port): each for each in destinations}
        self.destinations[server] = there
        for place in list(self.draining.get(server, ())):
            if place not in there or there[place].weight:
                self._stay(server, place)

    def correct_elements(
        self, family: Family, set_name: str, keys: Collection[bytes], actual: Mapping[bytes, Data]
    ) -> None:
        """Replace what is believed of some elements by what was read; those missing in `actual` do not exist."""
        elements = self.tables[family].elements.setdefault(set_name, {})
        for key in keys:
            if key in actual:
                elements[key] = actual[key]
            else:
                elements.pop(key, None)

    # --- who occupies what

    def begin(self, plan: IpvsPlan) -> None:
        """Note what ServicePorts occupy while a plan is being carried out: the old and the new."""
        for key, rendered in plan.rendered.items():
            old = self.rendered.get(key)
            both = rendered if old is None else old if rendered is None else old.joined(rendered)
            if both is not None:
                self._occupy(key, both, rendered.frontends if rendered is not None else ())

    def occupy(self, plan: IpvsPlan) -> None:
        """Note what ServicePorts and the node occupy now that a plan has taken effect."""
        for key in plan.rendered:
            old = self.rendered.get(key)
            for frontend in old.frontends if old else ():
                if self.holders.get((key.family, frontend.key)) == key:
                    del self.holders[key.family, frontend.key]
        for key, rendered in plan.rendered.items():
            self._occupy(key, rendered, rendered.frontends if rendered is not None else ())
        if plan.node is not None:
            self.node = plan.node
        if plan.layout is not None:
            self.layout = plan.layout

    def _occupy(self, key: PortKey, rendered: Rendered | None, held: Iterable[Frontend]) -> None:
        old = self.rendered.pop(key, None)
        before = old.shared if old is not None else frozenset()
        after = rendered.shared if rendered is not None else frozenset()
        for name, member in after - before:
            reference = (key.family, name, member)
            self.references[reference] = self.references.get(reference, 0) + 1
        for name, member in before - after:
            reference = (key.family, name, member)
            self.references[reference] -= 1
            if not self.references[reference]:
                del self.references[reference]
        if old is not None and old.number is not None:
            self.numbers.pop((key.family, old.number), None)
        if rendered is not None:
            self.rendered[key] = rendered
            if rendered.number is not None:
                self.numbers[key.family, rendered.number] = key
        for frontend in held:
            self.holders[key.family, frontend.key] = key
