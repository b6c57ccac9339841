"""What a plan is made of: the values elements should have, collected before they are compared with belief. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from backends.kernel.nft_node import NodePart
from backends.kernel.nft_table import ChainSpec, Data, SetSpec, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.kernel.nft_values import ABSENT, Absent, Values
from backends.nftables.affinity import pack_service
from backends.nftables.belief import Observed, Place
from backends.nftables.layout import Layout
from backends.nftables.model import (
    HAIRPIN,
    LOCAL_FROM,
    PLACES,
    Keys,
    Rendered,
    Row,
    SharedMember,
    Target,
)
from backends.nftables.names import is_picking, parse_picking
from backends.nftables.order import Going, Step, in_order, laid_first, swept
from backends.nftables.picking import leads_to
from backends.nftables.planned import NftPlan
from backends.nftables.ranges import LENGTHS, set_of_ranges
from backends.nftables.render import Lead, RenderedFrontend
from backends.nftables.slots import believed_slots, changed_slots, slot_key, slot_keys
from proxy.model import Family, PortKey


class Draft:
    """The values elements should have, collected before they are compared with belief."""

    def __init__(self, observed: Observed, layout: Layout) -> None:
        self.layout = layout
        self._observed = observed
        self._references = observed.references
        self._changed_references: dict[tuple[Family, str, bytes], int] = {}
        self._holders = observed.holders
        self._rendered = observed.rendered
        self._rebuild = tuple(
            [family for family in layout.families if observed.tables[family].has_to_go]
        )
        self.facts = observed.tables | {family: TableFacts() for family in self._rebuild}
        self._sets: dict[Place, Values] = {}
        self._going = Going({}, {})
        self._staying: list[Keys] = []
        self._is_sweep = False
        self._chains: dict[tuple[Family, str], None] = {}
        self._has_withdrawn = False

    def values(self, family: Family, set_name: str) -> Values:
        """Return the wanted values of one set, to be added to."""
        return self._sets.setdefault((family, set_name), {})

    def believed(self, family: Family, set_name: str) -> Mapping[bytes, Data]:
        return self.facts[family].elements.get(set_name, {})

    def share(
        self, owner: PortKey, old: frozenset[SharedMember], new: frozenset[SharedMember]
    ) -> None:
        """Count a ServicePort's references to shared members; the last one to leave removes a member."""
        for change, members in ((1, new - old), (-1, old - new)):
            for set_name, member in members:
                reference = (owner.family, set_name, member)
                total = self._changed_references.get(reference, 0) + change
                self._changed_references[reference] = total
                left = self._references.get(reference, 0) + total
                self.values(owner.family, set_name)[member] = (
                    None if left > 0 else ABSENT,
                    owner,
                )
                if set_name == HAIRPIN and left <= 0:
                    self._going.leaving.setdefault((owner.family, set_name), set()).add(member)
        for set_name, member in new & old:
            self.values(owner.family, set_name).setdefault(member, (None, owner))

    def withdraw(
        self, owner: PortKey, targets: Iterable[Target], kept: Sequence[RenderedFrontend]
    ) -> None:
        """Remove frontends and slots a ServicePort no longer has, unless another one puts them again or has done so."""
        keep = {(f.target.kind, f.target.key): f for f in kept}
        gone = (ABSENT, owner)
        for target in targets:
            if self._holders.get((owner.family, target.key)) != owner:
                continue
            left = keep.get((target.kind, target.key))
            lost: Iterable[tuple[str, bytes]] = target.ranges
            if left is None:
                self._has_withdrawn = True
                lost = target.places()
            for name, key in lost:  # `put` asks again for ranges that stay
                self.values(owner.family, name)[key] = gone
            for row in target.rows():
                pool = (left.local if row.first else left.cluster) if left is not None else ()
                if pool is not None and row.length <= len(pool):
                    continue
                keys = slot_keys(row)[len(pool or ()) :]
                self.values(owner.family, row.set).update(dict.fromkeys(keys, gone))
                if pool is None:
                    going = self._going.late if left is None else self._going.leaving
                    going.setdefault((owner.family, row.set), set()).update(keys)
            if left is None:
                self._withdraw_leaving(owner, target)

    def _withdraw_leaving(self, owner: PortKey, target: Target) -> None:
        """Remove the slots that were left for packets on their way to a frontend that goes altogether."""
        name = PLACES[target.kind].slots[target.protocol]
        for row in (Row(name, target.prefix, 0, 0), Row(name, target.prefix, LOCAL_FROM, 0)):
            if self._observed.is_leaving(owner.family, name, slot_key(row.prefix, row.first)):
                old = believed_slots(self.believed(owner.family, name), row)
                keys = slot_keys(row._replace(length=len(old)))
                self.values(owner.family, name).update(dict.fromkeys(keys, (ABSENT, owner)))

    def put(self, owner: PortKey, frontend: RenderedFrontend, service: int | None = None) -> None:
        """Ask for a frontend: its verdicts and its slots, leaving in place the slots that can stay.

        `service` is the number of a ServicePort with session affinity.
        """
        family, target = owner.family, frontend.target
        holder = self._holders.get((family, target.key), owner)
        if holder != owner:
            self._take_over(owner, holder, target.key)
        if frontend.cluster is not None:
            self._put_list(owner, target, 0, frontend.cluster)
        if frontend.local is not None:
            self._put_list(owner, target, LOCAL_FROM, frontend.local)
        places = PLACES[target.kind]
        for name, key in self._observed.ranges_found.get((family, target.key), ()):
            self.values(family, name)[key] = (ABSENT, owner)
        for name, key in target.places():
            data: Data | Absent = ABSENT
            if name == places.affinity:
                if service is None:
                    self.leave(owner, name, (key,))
                    continue
                data = pack_service(service)
            if name == places.verdicts:
                data = f"goto {self._lead(family, target, frontend.lead)}"
            elif name in frontend.members or name in LENGTHS[family]:
                data = None
            self.values(family, name)[key] = (data, owner)

    def _take_over(self, owner: PortKey, holder: PortKey, key: bytes) -> None:
        """Remove what another ServicePort has at an address, also where the new owner would have nothing."""
        self._has_withdrawn = True
        gone = (ABSENT, owner)
        for target in self._rendered[holder].targets if holder in self._rendered else ():
            if target.key != key:
                continue
            for name, place in target.places():
                self.values(owner.family, name)[place] = gone
            for row in target.rows():
                values = self.values(owner.family, row.set)
                values.update(dict.fromkeys(slot_keys(row), gone))

    def _put_list(self, owner: PortKey, target: Target, first: int, pool: Sequence[bytes]) -> None:
        name = PLACES[target.kind].slots[target.protocol]
        self.put_slots(owner, Row(name, target.prefix, first, len(pool)), pool)

    def put_slots(self, owner: PortKey, row: Row, pool: Sequence[bytes]) -> None:
        """Ask for a list in its slots. What can stay in its slot stays."""
        name = row.set
        old = believed_slots(self.believed(owner.family, name), row)
        if not old and pool:  # as for all of them at start
            filled = zip(slot_keys(row), [(data, owner) for data in pool], strict=True)
            self.values(owner.family, name).update(filled)
            return
        changes = changed_slots(old, pool)
        if self._has_withdrawn:  # perhaps these very slots, for which another owner is found now
            changes = dict(enumerate(old[: len(pool)])) | changes
        if not changes and len(old) == len(pool):
            slots: Values = {}
        else:
            slots = self.values(owner.family, name)
        for number, data in changes.items():
            slots[slot_key(row.prefix, row.first + number)] = (data, owner)
        for number in range(len(pool), len(old)):
            slots[slot_key(row.prefix, row.first + number)] = (ABSENT, owner)
        if self._observed.is_leaving(owner.family, name, slot_key(row.prefix, row.first)):
            self._staying.append((owner.family, name, slot_keys(row)))

    def _lead(self, family: Family, target: Target, lead: Lead) -> str:
        """Return where a verdict leads, and see to it that this is there."""
        chain = lead.chain
        if lead.empty:  # an empty pool keeps the verdict it had: it will be filled again
            verdict = self.believed(family, PLACES[target.kind].verdicts).get(target.key)
            if isinstance(verdict, str) and _is_alike(
                verdict.removeprefix("goto "), chain, lead.empty
            ):
                chain = verdict.removeprefix("goto ")
        if is_picking(chain):
            self.demand(family, chain)
        return chain

    def put_members(
        self, owner: PortKey, set_name: str, wanted: Mapping[bytes, Data], gone: Iterable[bytes]
    ) -> None:
        """Ask for some elements that are the ServicePort's own, and for others no more."""
        believed = self.believed(owner.family, set_name)
        changed: Values = {
            key: (data, owner) for key, data in wanted.items() if believed.get(key) != data
        }
        changed |= dict.fromkeys(gone, (ABSENT, owner))
        if changed:
            self.values(owner.family, set_name).update(changed)
        if self._observed.has_leaving(owner.family, set_name):
            self._staying.append((owner.family, set_name, wanted))

    def leave(self, owner: PortKey, set_name: str, keys: Iterable[bytes]) -> None:
        """Elements are not needed any more, and stay for a while."""
        family, believed = owner.family, self.believed(owner.family, set_name)
        left = [
            key
            for key in keys
            if key in believed and not self._observed.is_leaving(family, set_name, key)
        ]
        if left:
            self.values(family, set_name).update(dict.fromkeys(left, (ABSENT, owner)))
            self._going.leaving.setdefault((family, set_name), set()).update(left)

    def sweep(self) -> None:
        """Remove what was left, now that no packet can be on its way to it any more."""
        self._is_sweep = self._observed.is_sweep_due and not self._rebuild

    def demand(self, family: Family, chain: str) -> None:
        """Ask for a chain that picks, and for those it leads to."""
        for name in (*leads_to(chain), chain):
            self._chains[family, name] = None

    def refresh(self, family: Family) -> None:
        """Have the chains that pick made anew where their rules have changed, whoever may need them."""
        for name in self.facts[family].chains:
            if is_picking(name):
                self.demand(family, name)

    # --- the outcome

    def plan(
        self,
        rendered: dict[PortKey, Rendered | None],
        node: NodePart | None,
        more: Iterable[Transaction] = (),
        *,
        is_pruned: bool = False,
        refused: Mapping[PortKey, str] | None = None,
        next_services: Mapping[Family, int] | None = None,
    ) -> NftPlan:
        """Compare what is wanted with what is believed, and end with `more`."""
        first, middle, last, left = in_order(self._sets, self.facts, self._going)
        found = [
            *self._built(first),
            Transaction(deletes=tuple(middle.deletes), adds=tuple(middle.adds)),
            Transaction(deletes=tuple(last.deletes)),
            *(swept(self._observed.due, self.facts) if self._is_sweep else ()),
            *more,
        ]
        return NftPlan(
            tuple([transaction for transaction in found if transaction.size]),
            rendered,
            node,
            self.layout,
            leaving=left,
            staying=[*self._staying, *self._needed_again()],
            is_sweep=self._is_sweep,
            is_pruned=is_pruned,
            refused=refused,
            next_services=next_services,
        )

    def _needed_again(self) -> Iterator[Keys]:
        """Yield wanted elements of sets of which some are leaving."""
        places = {*self._observed.leaving.elements, *self._observed.due.elements}
        for family, name in places & self._sets.keys():
            values = self._sets[family, name]
            yield family, name, [key for key, (data, _) in values.items() if data is not ABSENT]

    def _built(self, first: Step) -> list[Transaction]:
        """Return what begins a plan: what nothing leads to yet, then all other chains, and the first elements."""
        tables, sets, chains = self._skeleton()
        picking = [
            (family, spec)
            for family, name in sorted(self._chains, key=_by_reference)
            if self.facts[family].chains.get(name)
            != (spec := self.layout.chain(family, name)).facts
        ]
        whole = Transaction(
            rebuild=self._rebuild,
            tables=tuple(tables),
            sets=tuple(sets),
            chains=(*chains, *picking),
            deletes=tuple(first.deletes),
            adds=tuple(first.adds),
        )
        if self._rebuild or tables:
            return [whole]  # nobody is served by what is not there
        return laid_first(whole, self.facts)

    def _skeleton(
        self,
    ) -> tuple[list[Family], list[tuple[Family, SetSpec]], list[tuple[Family, ChainSpec]]]:
        """Return what the fixed part of our tables lacks: tables, sets and chains."""
        tables: list[Family] = []
        sets: list[tuple[Family, SetSpec]] = []
        chains: list[tuple[Family, ChainSpec]] = []
        for family in self.layout.families:
            facts = self.facts[family]
            ranges = [
                set_of_ranges(family, name)
                for place, name in self._sets
                if place == family and name in LENGTHS[family] and name not in facts.sets
            ]
            if not ranges and is_whole(facts, self.layout, family):
                continue
            if not facts.is_present:
                tables.append(family)
            missing = [s for s in self.layout.sets(family) if s.name not in facts.sets] + ranges
            sets += [(family, spec) for spec in missing]
            names = facts.sets.keys() | {spec.name for spec in ranges}
            chains += [
                (family, spec)
                for spec in self.layout.skeleton(family, names)
                if facts.chains.get(spec.name) != spec.facts
            ]
        return tables, sets, chains


def _by_reference(place: Place) -> int:
    """Chains come after those they lead to: what remembers, what picks, what marks, what parts."""
    return ("remember", "pick", "external", "split").index(parse_picking(place[1]).act)


def _is_alike(believed: str, wanted: str, capacities: Sequence[str]) -> bool:
    """Whether two chains that pick differ in nothing but these capacities."""
    if not is_picking(believed) or not is_picking(wanted):
        return False
    ours = {name: getattr(parse_picking(believed), name) for name in capacities}
    return parse_picking(wanted)._replace(**ours).name == believed


def is_whole(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether the fixed part of a table is all there. Asked for every plan, hence by comparing whole indexes."""
    fixed = layout.fixed(family, facts.sets)
    return (
        facts.is_present
        and facts.sets.items() >= fixed.sets.items()
        and facts.chains.items() >= fixed.chains.items()
    )
