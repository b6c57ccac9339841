"""From belief and desire to transactions. Pure.

A plan first works out the value each concerned element should have, then compares it with belief: whatever
differs becomes an operation, whatever does not costs nothing. Moving a frontend from one service to another
in one plan is therefore the same as changing it.

What keeps every live frontend answered (see proxy.backend, L5):

- Endpoints keep their slots. New ones fill holes, then extend the pool; when a pool shrinks, its last
  endpoints move into the holes. So one replaced endpoint is one changed slot.
- The verdict names a capacity, a power of two, not a count: it changes only when a pool crosses one. That
  matters because the kernel looks at every verdict of a map again when one changes.
- Everything is one transaction. A packet in flight that finds a slot empty draws another one (see `layout`).
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from backends.nftables.belief import Observed, TableFacts
from backends.nftables.layout import Layout, capacity_for, is_picking, picking_chain
from backends.nftables.model import (
    ENDPOINTS,
    REFUSED,
    SERVICES,
    Batch,
    ChainSpec,
    Data,
    Element,
    NftPlan,
    Rendered,
    SetSpec,
    SharedMember,
    Target,
    Transaction,
)
from backends.nftables.render import (
    RenderedFrontend,
    render_frontends,
    render_shared,
    slot_key,
    slot_range,
)
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey


def plan(
    desired: Mapping[PortKey, DesiredPort],
    observed: Observed,
    changed: Collection[PortKey],
    tables: Layout,
) -> NftPlan:
    """Return what brings the ServicePorts in `changed` from belief to desire."""
    draft = _Draft(observed, tables)
    rendered: dict[PortKey, Rendered | None] = {}
    wanted: list[tuple[PortKey, tuple[RenderedFrontend, ...]]] = []
    for key in changed:
        if key.family not in tables.families:
            continue  # this host does not have the family; the backend has said so
        old = observed.rendered.get(key)
        port = desired.get(key)
        frontends = render_frontends(port) if port is not None else ()
        shared = render_shared(port) if port is not None else frozenset()
        draft.share(key, old.shared if old else frozenset(), shared)
        if old:
            draft.withdraw(key, old.targets, frontends)
        if port is not None:
            wanted.append((key, frontends))
            rendered[key] = Rendered(targets=tuple([f.target for f in frontends]), shared=shared)
        elif old:
            rendered[key] = None
    for key, frontends in wanted:
        for frontend in frontends:
            draft.put(key, frontend)
    return NftPlan(draft.transactions(), rendered, draft.reference_changes)


def prune(desired: Mapping[PortKey, DesiredPort], observed: Observed, tables: Layout) -> NftPlan:
    """Return what removes everything in our tables that no ServicePort occupies. A full walk.

    What an earlier process left for a ServicePort whose new state the kernel refuses stays: old is better than none.
    """
    draft = _Draft(observed, tables)
    occupied: dict[Family, dict[str, set[bytes]]] = {family: {} for family in tables.families}
    held_back = [
        _left_for(port, observed) for key, port in desired.items() if key not in observed.rendered
    ]
    for family, rendered in (
        *[(key.family, rendered) for key, rendered in observed.rendered.items()],
        *[left for left in held_back if left[0] in tables.families],
    ):
        in_family = occupied[family]
        for target in rendered.targets:
            for set_name in (SERVICES, REFUSED):
                in_family.setdefault(set_name, set()).add(target.services_key)
            in_family.setdefault(ENDPOINTS[target.protocol], set()).update(slot_keys(target))
        for set_name, member in rendered.shared:
            in_family.setdefault(set_name, set()).add(member)
    for family, facts in observed.tables.items():
        for spec in tables.sets(family):
            needed = occupied[family].get(spec.name, set())
            surplus = facts.elements.get(spec.name, {}).keys() - needed
            draft.values(family, spec.name).update(dict.fromkeys(surplus, (_ABSENT, None)))
    return NftPlan((*draft.transactions(), *_without_strangers(observed, tables)), {}, {})


def _left_for(port: DesiredPort, observed: Observed) -> tuple[Family, Rendered]:
    """Return what a ServicePort that is not programmed occupies, should the kernel hold it from before."""
    family = port.key.family
    facts = observed.tables.get(family, TableFacts())
    targets = [
        target._replace(
            slots=len(_believed_slots(facts.elements.get(ENDPOINTS[target.protocol], {}), target))
        )
        for target in [frontend.target for frontend in render_frontends(port)]
    ]
    return family, Rendered(targets=tuple(targets), shared=render_shared(port))


def _without_strangers(observed: Observed, layout: Layout) -> Iterator[Transaction]:
    """Yield what removes chains and sets we do not make, and chains that pick an endpoint in another way.

    They may refer to each other: rules to chains and sets, elements of sets to chains.
    """
    tables = [
        (family, facts)
        for family, facts in observed.tables.items()
        if not needs_rebuild(facts, layout, family)
    ]
    chains = [
        (family, name)
        for family, facts in tables
        for name, chain in facts.chains.items()
        if not layout.is_ours(family, name, chain)
    ]
    sets = [
        (family, name)
        for family, facts in tables
        for name in facts.sets.keys() - {spec.name for spec in layout.sets(family)}
    ]
    if chains or sets:
        emptied = tuple([(family, ChainSpec(name, None, ())) for family, name in chains])
        yield Transaction(chains=emptied, gone_sets=tuple(sets))
    if chains:
        yield Transaction(gone_chains=tuple(chains))


class _Absent(enum.Enum):
    """The value of an element that should not exist; None is the data of a plain set's member."""

    ABSENT = 0


_ABSENT: Final = _Absent.ABSENT
_Values = dict[bytes, tuple[Data | _Absent, PortKey | None]]


class _Draft:
    """The values elements should have, collected before they are compared with belief."""

    def __init__(self, observed: Observed, layout: Layout) -> None:
        self._layout = layout
        self._references = observed.references
        self._holders = observed.holders
        self._rebuild = tuple(
            [
                family
                for family in layout.families
                if needs_rebuild(observed.tables[family], layout, family)
            ]
        )
        self._facts = observed.tables | {family: TableFacts() for family in self._rebuild}
        self._sets: dict[tuple[Family, str], _Values] = {}
        self._chains: dict[tuple[Family, str], None] = {}
        self._has_withdrawn = False
        self.reference_changes: dict[tuple[Family, str, bytes], int] = {}

    def values(self, family: Family, set_name: str) -> _Values:
        """Return the wanted values of one set, to be added to."""
        return self._sets.setdefault((family, set_name), {})

    def share(
        self, owner: PortKey, old: frozenset[SharedMember], new: frozenset[SharedMember]
    ) -> None:
        """Count a ServicePort's references to shared members; the last one to leave removes a member."""
        for change, members in ((1, new - old), (-1, old - new)):
            for set_name, member in members:
                reference = (owner.family, set_name, member)
                total = self.reference_changes.get(reference, 0) + change
                self.reference_changes[reference] = total
                left = self._references.get(reference, 0) + total
                self.values(owner.family, set_name)[member] = (
                    None if left > 0 else _ABSENT,
                    owner,
                )
        for set_name, member in new & old:
            self.values(owner.family, set_name).setdefault(member, (None, owner))

    def withdraw(
        self, owner: PortKey, targets: Iterable[Target], kept: Sequence[RenderedFrontend]
    ) -> None:
        """Remove frontends and slots a ServicePort no longer has, unless another one puts them again or has done so."""
        keep = {frontend.target.services_key: frontend.target.slots for frontend in kept}
        gone = (_ABSENT, owner)
        for target in targets:
            slots_left = keep.get(target.services_key)
            if self._holders.get((owner.family, target.services_key)) != owner:
                continue
            if slots_left is None:
                self._has_withdrawn = True
                self.values(owner.family, SERVICES)[target.services_key] = gone
                self.values(owner.family, REFUSED)[target.services_key] = gone
            if target.slots > (slots_left or 0):
                self.values(owner.family, ENDPOINTS[target.protocol]).update(
                    dict.fromkeys(slot_keys(target)[slots_left or 0 :], gone)
                )

    def put(self, owner: PortKey, frontend: RenderedFrontend) -> None:
        """Ask for a frontend: its verdict and its slots, leaving in place the slots that can stay."""
        family, target = owner.family, frontend.target
        set_name = ENDPOINTS[target.protocol]
        facts = self._facts[family].elements
        old = _believed_slots(facts.get(set_name, {}), target)
        changes = changed_slots(old, frontend.pool)
        if self._has_withdrawn:  # perhaps these very slots, for which another owner is found now
            changes = dict(enumerate(old[: target.slots])) | changes
        slots = self.values(family, set_name)
        for number, data in changes.items():
            slots[slot_key(target.slots_prefix, number)] = (data, owner)
        for number in range(target.slots, len(old)):
            slots[slot_key(target.slots_prefix, number)] = (_ABSENT, owner)
        refused = None if frontend.is_refused else _ABSENT
        self.values(family, REFUSED)[target.services_key] = (refused, owner)
        chain = picking_chain(target.protocol, capacity_for(target.slots))
        if not target.slots:  # an empty pool keeps the verdict it had: it will be filled again
            believed = facts.get(SERVICES, {}).get(target.services_key)
            if isinstance(believed, str) and is_picking(
                believed.removeprefix("goto "), target.protocol
            ):
                chain = believed.removeprefix("goto ")
        self.values(family, SERVICES)[target.services_key] = (f"goto {chain}", owner)
        self._chains[family, chain] = None

    def transactions(self) -> tuple[Transaction, ...]:
        """Compare what is wanted with what is believed."""
        tables, sets, chains = self._skeleton()
        for family, name in self._chains:
            spec = self._layout.chain(family, name)
            if self._facts[family].chains.get(name) != spec.facts:
                chains.append((family, spec))
        deletes: list[Batch] = []
        adds: list[Batch] = []
        for (family, set_name), values in self._sets.items():
            gone, new = _differences(values, self._facts[family].elements.get(set_name, {}))
            if gone:
                deletes.append(Batch(family, set_name, tuple(gone)))
            if new:
                adds.append(Batch(family, set_name, tuple(new)))
        only = Transaction(
            rebuild=self._rebuild,
            tables=tuple(tables),
            sets=tuple(sets),
            chains=tuple(chains),
            deletes=tuple(deletes),
            adds=tuple(adds),
        )
        return (only,) if only.size else ()

    def _skeleton(
        self,
    ) -> tuple[list[Family], list[tuple[Family, SetSpec]], list[tuple[Family, ChainSpec]]]:
        """Return what the fixed part of our tables lacks: tables, sets and chains."""
        tables: list[Family] = []
        sets: list[tuple[Family, SetSpec]] = []
        chains: list[tuple[Family, ChainSpec]] = []
        for family in self._layout.families:
            facts = self._facts[family]
            if is_whole(facts, self._layout, family):
                continue
            if not facts.is_present:
                tables.append(family)
            sets += [(family, s) for s in self._layout.sets(family) if s.name not in facts.sets]
            chains += [
                (family, spec)
                for spec in self._layout.skeleton(family)
                if facts.chains.get(spec.name) != spec.facts
            ]
        return tables, sets, chains


def is_whole(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether the fixed part of a table is all there. Asked for every plan, hence by comparing whole indexes."""
    fixed = layout.fixed(family)
    return (
        facts.is_present
        and facts.sets.items() >= fixed.sets.items()
        and facts.chains.items() >= fixed.chains.items()
    )


def needs_rebuild(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether a table has to be made anew: the kernel does not let us make it what it should be.

    Sets and hooks cannot be changed, a table cannot be woken and given hooks in one transaction, and loops are refused.
    """
    if facts.is_dormant or facts.is_entangled:
        return True
    if is_whole(facts, layout, family):  # then nothing but a hook where none belongs can be wrong
        hooked = [(name, chain) for name, chain in facts.chains.items() if chain.base is not None]
        return any(layout.is_misplaced(family, name, chain) for name, chain in hooked)
    return any(
        facts.sets.get(spec.name, spec.facts) != spec.facts for spec in layout.sets(family)
    ) or any(layout.is_misplaced(family, name, chain) for name, chain in facts.chains.items())


def is_entangled(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether rules we have to write could make a loop with foreign chains or verdicts. A full walk."""
    if all(facts.chains.get(spec.name) == spec.facts for spec in layout.skeleton(family)):
        return False
    verdicts = set(facts.elements.get(SERVICES, {}).values())
    leads_to = {str(verdict).partition(" ")[2] for verdict in verdicts}
    return not all(layout.is_our_name(family, name) for name in facts.chains) or any(
        name and not is_picking(name) for name in leads_to
    )


def _differences(
    values: _Values, believed: Mapping[bytes, Data]
) -> tuple[list[Element], list[Element]]:
    """Return elements to delete, as believed, and to add. A changed element is in both."""
    gone: list[Element] = []
    new: list[Element] = []
    for key, (data, owner) in values.items():
        old = believed.get(key, _ABSENT)
        if old is data or old == data:
            continue
        if old is not _ABSENT:
            gone.append(Element(key, old, owner))
        if data is not _ABSENT:
            new.append(Element(key, data, owner))
    return gone, new


def changed_slots(old: Sequence[bytes], pool: Sequence[bytes]) -> dict[int, bytes]:
    """Return what to write into which slots so that a pool fills the first of them.

    `old` are the slots as they are, `pool` the distinct endpoints wanted. What can stay in its slot stays.
    """
    size, wanted = len(pool), set(pool)
    kept = old[:size]
    missing = wanted.difference(kept)
    if not missing and len(kept) == size:
        return {}
    holes = [number for number, data in enumerate(kept) if data not in wanted]
    if len(holes) + size - len(kept) < len(missing):
        # somebody has put an endpoint into two slots: all but the first are holes
        first = {data: number for number, data in reversed(list(enumerate(kept)))}
        holes = [n for n, data in enumerate(kept) if data not in wanted or first[data] != n]
    holes += range(len(kept), size)
    return dict(zip(holes, [data for data in pool if data in missing], strict=True))


def slot_keys(target: Target) -> list[bytes]:
    """Return the keys of all slots a frontend occupies."""
    return [slot_key(target.slots_prefix, number) for number in range(target.slots)]


def _believed_slots(elements: Mapping[bytes, Data], target: Target) -> list[bytes]:
    """Return the slots from 0 on that we believe full, usually one more or less than wanted."""
    found: list[bytes] = []
    while True:
        # one size for pools that grow and shrink a little
        keys = slot_range(target.slots_prefix, len(found), (target.slots | 7) + 1)
        block: list[Any] = list(
            map(elements.get, keys)
        )  # bytes: an endpoint map holds nothing else
        if None in block:
            found += block[: block.index(None)]
            return found
        found += block
