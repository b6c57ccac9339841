"""What we believe is in the kernel: facts about our tables, and which ServicePort occupies what. Pure.

Belief is changed in three ways only: a transaction the kernel confirmed is folded in, single elements are
corrected by what was read back, or everything is read anew and a new belief begins.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from backends.kernel.nft_node import NodePart
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.nftables.affinity import LAST_SERVICE, next_service, parse_service
from backends.nftables.model import AFFINITY_NODEPORTS, AFFINITY_SERVICES, Rendered, Sticky, Target
from backends.nftables.names import timeout_of
from backends.nftables.planned import NftPlan
from backends.nftables.ranges import LENGTHS
from proxy.model import IPV4, Family, PortKey

Place = tuple[Family, str]
"""A chain or a set of one family's table, by its name."""


class Leaving:
    """What is not needed any more, but stays for packets that may be on their way to it: chains, and elements of sets.

    A packet reads a verdict, and a moment later the chain and the slots it leads to. When its processor is taken away
    in between, by an interrupt or by the host of a virtual machine, that moment lasts longer than a transaction.
    """

    def __init__(self) -> None:
        self.chains: dict[Place, None] = {}
        self.elements: dict[Place, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self.chains) + sum(map(len, self.elements.values()))

    def stay(self, family: Family, set_name: str, keys: Iterable[bytes]) -> None:
        """Some elements are needed again, or gone already."""
        found = self.elements.get((family, set_name))
        if found is not None:
            found.difference_update(keys)
            if not found:
                del self.elements[family, set_name]

    def forget(self, chains: Iterable[Place]) -> None:
        """Some chains are gone."""
        for place in chains:
            self.chains.pop(place, None)


class Observed:
    """Belief about everything we own, and which ServicePort occupies what.

    `references` counts how many ServicePorts need an element that several may share, `holders` says which
    one occupies a frontend: after one has moved, its former owner must not take it down.
    `services` are the numbers of ServicePorts with session affinity, `services_found` those there were when everything
    was read: they are adopted, and not given to others until all ServicePorts have been planned once.
    `ranges_found` are likewise the source ranges by frontend: whoever has it now says which of them stay.
    `generation` is the ruleset generation our belief stands for, `commits` how many of them were ours.
    `leaving` is what was left for packets on their way since the last sweep, `due` what goes with the next one.
    `node` is what the tables hold for the node itself, None as long as nothing is known of it.
    `layout` identifies the rules that were planned last.
    """

    worth_a_commit: Final = 0

    def __init__(self, tables: dict[Family, TableFacts], generation: int = 0) -> None:
        self.tables: Final = tables
        self.generation = generation
        self.commits = 0
        self.rendered: dict[PortKey, Rendered] = {}
        self.references: dict[tuple[Family, str, bytes], int] = {}
        self.holders: dict[tuple[Family, bytes], PortKey] = {}
        self.services: dict[tuple[Family, int], PortKey] = {}
        self.services_found = {family: _services(facts) for family, facts in tables.items()}
        self.ranges_found = _ranges(tables)
        self._next_services: dict[Family, int] = {}
        self._timeouts: dict[tuple[Family, int], int] = {}
        self.leaving = Leaving()
        self.due = Leaving()
        self.node: NodePart | None = None
        self.layout: object = None

    @property
    def is_rebuild_due(self) -> bool:
        """Whether a table must be made anew as a whole."""
        return any(facts.has_to_go for facts in self.tables.values())

    @property
    def is_sweep_due(self) -> bool:
        """Whether anything is only left for packets on their way."""
        return bool(self.leaving or self.due)

    def is_leaving(self, family: Family, set_name: str, key: bytes) -> bool:
        """Whether an element is only left for packets on their way."""
        place = family, set_name
        return any(key in each.elements.get(place, ()) for each in (self.leaving, self.due))

    def has_leaving(self, family: Family, set_name: str) -> bool:
        """Whether any elements of a set are only left for packets on their way."""
        place = family, set_name
        return place in self.leaving.elements or place in self.due.elements

    def next_service(self, family: Family) -> int:
        """Return the number for the next ServicePort with session affinity: those that became free come last."""
        found = self.services_found.get(family, ())
        return self._next_services.get(family) or next_service(max(found, default=LAST_SERVICE))

    def fold(self, transaction: Transaction) -> None:
        """Take in a transaction that the kernel has confirmed."""
        if transaction.rebuild:
            self.leaving, self.due = Leaving(), Leaving()
        transaction.fold(self.tables)
        for batch in transaction.deletes if self.is_sweep_due else ():
            self._stay(batch.family, batch.set, [element.key for element in batch.elements])
        for each in (self.leaving, self.due):
            each.forget(transaction.gone_chains)
        self.generation += 1
        self.commits += 1

    def begin(self, plan: NftPlan) -> None:
        """Note what ServicePorts occupy now that the first of a plan's transactions has taken effect: old and new."""
        for key, rendered in plan.rendered.items():
            old = self.rendered.get(key)
            both = rendered if old is None else old if rendered is None else old.joined(rendered)
            if both is not None:
                taken = tuple(self._taken_over(key, rendered)) if rendered is not None else ()
                both = both.joined(Rendered(targets=taken)) if taken else both
                self._occupy(key, both, rendered.targets if rendered is not None else ())

    def _taken_over(self, key: PortKey, rendered: Rendered) -> Iterator[Target]:
        """Yield what others have at addresses that are this one's from now on: whoever owns them cleans up there."""
        for target in rendered.targets:
            holder = self.holders.get((key.family, target.key), key)
            if holder != key and holder in self.rendered:
                yield from [t for t in self.rendered[holder].targets if t.key == target.key]

    def occupy(self, plan: NftPlan) -> None:
        """Note what ServicePorts and the node occupy now that a plan has taken effect."""
        # What is new, `begin` has noted already.
        changed = [
            (key, self.rendered.get(key), rendered)
            for key, rendered in plan.rendered.items()
            if rendered is None or self.rendered.get(key) is not rendered
        ]
        for key, old, _ in changed:
            for target in old.targets if old else ():
                if self.holders.get((key.family, target.key)) == key:
                    del self.holders[key.family, target.key]
        for key, _, rendered in changed:
            self._occupy(key, rendered, rendered.targets if rendered is not None else ())
        for family, name, keys in plan.staying:
            self._stay(family, name, keys)
        if plan.node is not None:
            self.node = plan.node
        if plan.layout is not None:
            self.layout = plan.layout
        if plan.is_sweep:
            self.leaving, self.due = Leaving(), self.leaving
        self._number_on(plan)
        for family, name, keys in plan.leaving:
            self.leaving.elements.setdefault((family, name), set()).update(keys)

    def _number_on(self, plan: NftPlan) -> None:
        self._next_services |= plan.next_services
        if plan.is_pruned:
            self._next_services = {f: self.next_service(f) for f in self.tables}
            self.services_found, self.ranges_found = {}, {}

    def sweep_away(self, family: Family, set_name: str, key: bytes) -> None:
        """Have the next sweep remove an element that is somebody else's."""
        self.due.elements.setdefault((family, set_name), set()).add(key)

    def _stay(self, family: Family, set_name: str, keys: Iterable[bytes]) -> None:
        self.leaving.stay(family, set_name, keys)
        self.due.stay(family, set_name, keys)

    def _occupy(self, key: PortKey, rendered: Rendered | None, held: Iterable[Target]) -> None:
        """Note what a ServicePort occupies, and the frontends that are its own from now on."""
        old = self.rendered.pop(key, None)
        before = old.shared if old is not None else frozenset()
        after = rendered.shared if rendered is not None else frozenset()
        if before != after:
            for name, member in after - before:
                reference = (key.family, name, member)
                self.references[reference] = self.references.get(reference, 0) + 1
            for name, member in before - after:
                reference = (key.family, name, member)
                self.references[reference] -= 1
                if not self.references[reference]:
                    del self.references[reference]
        sticky = rendered.sticky if rendered is not None else None
        if sticky is not None or (old is not None and old.sticky is not None):
            self._stick(key, old.sticky if old is not None else None, sticky)
        if rendered is not None:
            self.rendered[key] = rendered
        for target in held:
            self.holders[key.family, target.key] = key

    def _stick(self, key: PortKey, old: Sticky | None, new: Sticky | None) -> None:
        """Note whose number is whose, and which chains for session affinity nobody needs any more."""
        family = key.family
        if old is not None and self.services.get((family, old.service)) == key:
            del self.services[family, old.service]
        if new is not None:
            self.services[family, new.service] = key
        for timeout_s in new.timeouts if new is not None else ():
            total = self._timeouts.get((family, timeout_s), 0)
            self._timeouts[family, timeout_s] = total + 1
            if not total:
                for each in (self.leaving, self.due):
                    for place in [p for p in each.chains if _is_for(p, family, timeout_s)]:
                        del each.chains[place]
        for timeout_s in old.timeouts if old is not None else ():
            self._timeouts[family, timeout_s] -= 1
            if not self._timeouts[family, timeout_s]:
                del self._timeouts[family, timeout_s]
                there = [(family, name) for name in self.tables[family].chains]
                unused = [place for place in there if _is_for(place, family, timeout_s)]
                self.leaving.chains.update(dict.fromkeys(unused))

    def correct(
        self, family: Family, set_name: str, keys: Collection[bytes], actual: Mapping[bytes, Data]
    ) -> None:
        """Replace what is believed of some elements by what was read; those missing in `actual` do not exist."""
        elements = self.tables[family].elements.setdefault(set_name, {})
        for key in keys:
            if key in actual:
                elements[key] = actual[key]
            else:
                elements.pop(key, None)
                self._stay(family, set_name, [key])


def _services(facts: TableFacts) -> frozenset[int]:
    """Return the numbers of ServicePorts with session affinity to which frontends lead."""
    words = [
        word
        for name in (AFFINITY_SERVICES, AFFINITY_NODEPORTS)
        for word in facts.elements.get(name, {}).values()
    ]
    return frozenset([number for word in words if (number := parse_service(word)) is not None])


def _ranges(
    tables: Mapping[Family, TableFacts],
) -> dict[tuple[Family, bytes], list[tuple[str, bytes]]]:
    """Return the source ranges that were found, by the frontend to which they let in."""
    found: dict[tuple[Family, bytes], list[tuple[str, bytes]]] = {}
    for family, facts in tables.items():
        width = 4 if family == IPV4 else 16
        for name, keys in facts.elements.items():
            for key in keys if name in LENGTHS[family] else ():
                found.setdefault((family, key[:-width]), []).append((name, key))
    return found


def _is_for(place: Place, family: Family, timeout_s: int) -> bool:
    """Whether this is a chain for session affinity that lasts so long."""
    return place[0] == family and timeout_of(place[1]) == timeout_s
