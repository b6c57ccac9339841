"""What is in our tables and nobody asks for: found by a full walk, and removed. Pure."""

from collections.abc import Iterator
from typing import Final

from backends.kernel.nft_node import plan_node
from backends.kernel.nft_table import ChainSpec, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.kernel.nft_values import ABSENT
from backends.nftables.affinity import pack_service, parse_service
from backends.nftables.belief import Observed
from backends.nftables.draft import Draft
from backends.nftables.layout import Layout
from backends.nftables.model import (
    AFFINITY_SLOTS,
    FIREWALL,
    GUARDED,
    PLACES,
    VERDICTS,
    Rendered,
    Row,
    Sticky,
)
from backends.nftables.names import is_former_chain, is_picking, timeout_of
from backends.nftables.picking import leads_to
from backends.nftables.plan import refresh
from backends.nftables.planned import NftPlan
from backends.nftables.ranges import LENGTHS, set_of_ranges
from backends.nftables.render import RenderedPort, render_port
from backends.nftables.sets import former_firewall
from backends.nftables.slots import believed_slots, slot_keys
from backends.nftables.sticky import LISTS, believed_rows
from proxy.desired import Desired, DesiredPort
from proxy.model import Family


class Occupied:
    """What of one table is needed: elements by set, some chains, and the timeouts of session affinity for which there have
    to be chains."""

    def __init__(self, family: Family) -> None:
        self.family: Final = family
        self.elements: dict[str, set[bytes]] = {}
        self.chains: set[str] = set()
        self.timeouts = {0}

    def add(self, rendered: Rendered) -> None:
        for name, key in rendered.places():
            self.elements.setdefault(name, set()).add(key)
        for row in rendered.rows():
            self.elements.setdefault(row.set, set()).update(slot_keys(row))
        if rendered.sticky is not None:
            self.timeouts.update(rendered.sticky.timeouts)


def prune(desired: Desired, observed: Observed, tables: Layout) -> NftPlan:
    """Return what removes everything in our tables that no ServicePort occupies. A full walk.

    What an earlier process left for a ServicePort whose new state the kernel refuses stays: old is better than none.
    """
    layout = tables.for_node(desired.node)
    draft = Draft(observed, layout)
    is_new = observed.layout is not None and observed.layout is not layout
    if is_new:
        refresh(draft)
    occupied = _occupied(desired, observed, layout)
    node = plan_node(draft.values, layout.families, observed.node, desired.node, is_settled=True)
    part = node or observed.node
    for family, name, member in part.members if part is not None else ():
        occupied[family].elements.setdefault(name, set()).add(member)
    for family, needed in occupied.items():
        facts = observed.tables[family]
        ranges = LENGTHS[family].keys() & facts.sets.keys()
        for name in (*[spec.name for spec in layout.sets(family)], *sorted(ranges)):
            surplus = facts.elements.get(name, {}).keys() - needed.elements.get(name, set())
            draft.values(family, name).update(dict.fromkeys(surplus, (ABSENT, None)))
        for chain in _led_to(facts, layout, needed):
            draft.demand(family, chain)
        if is_new:  # all chains that pick are just made anew
            needed.chains.update([name for name in facts.chains if is_picking(name)])
    strangers = [
        transaction
        for family, needed in occupied.items()
        for transaction in _without_strangers(observed.tables[family], layout, needed)
    ]
    return draft.plan({}, node, strangers, is_pruned=True)


def _occupied(desired: Desired, observed: Observed, layout: Layout) -> dict[Family, Occupied]:
    """Return what ServicePorts occupy, and what packets may still be on their way through."""
    occupied = {family: Occupied(family) for family in layout.families}
    for key, rendered in observed.rendered.items():
        occupied[key.family].add(rendered)
    for key, port in desired.ports.items():
        if key not in observed.rendered and key.family in occupied:
            _keep_for(port, observed, occupied[key.family])
    for each in (observed.leaving, observed.due):
        for family, name in each.chains:
            occupied[family].chains.add(name)
        for (family, name), keys in each.elements.items():
            occupied[family].elements.setdefault(name, set()).update(keys)
    return occupied


def _keep_for(port: DesiredPort, observed: Observed, occupied: Occupied) -> None:
    """Keep what a ServicePort that is not programmed occupies, should the kernel hold it from before."""
    facts = observed.tables.get(port.key.family, TableFacts())
    rendered = render_port(port)
    # an earlier layout's firewall goes: what it guarded is not left open to everybody
    former = facts.elements.get(FIREWALL, {})
    targets = [each.target for each in rendered.frontends if each.target.key not in former]
    sticky = _found_sticky(rendered, facts)
    occupied.add(Rendered(targets=tuple(targets), sticky=sticky, shared=rendered.shared))
    for target in targets:
        whole = target._replace(slots=1, local_slots=1)
        for row in whole.rows():
            left = believed_slots(facts.elements.get(row.set, {}), row)
            keys = slot_keys(row._replace(length=len(left)))
            occupied.elements.setdefault(row.set, set()).update(keys)
    guarded = tuple([t.key for t in targets if t.key in facts.elements.get(GUARDED, ())])
    for name in LENGTHS[port.key.family].keys() & facts.elements.keys() if guarded else ():
        kept = [key for key in facts.elements[name] if key.startswith(guarded)]
        occupied.elements.setdefault(name, set()).update(kept)


def _found_sticky(port: RenderedPort, facts: TableFacts) -> Sticky | None:
    """Return what the kernel holds of a ServicePort's session affinity."""
    for target in [frontend.target for frontend in port.frontends] if port.affinity else ():
        found = facts.elements.get(PLACES[target.kind].affinity, {}).get(target.key)
        service = parse_service(found)
        if port.affinity is not None and service is not None:
            rows = believed_rows(facts.elements.get(AFFINITY_SLOTS, {}), service)
            return Sticky(
                service,
                (port.affinity.timeout_s,),
                tuple([(name, rows[first]) for name, first in LISTS]),
                tuple(
                    [
                        Row(AFFINITY_SLOTS, pack_service(service), first, len(numbers))
                        for first, numbers in rows.items()
                    ]
                ),
                0,
            )
    return None


def _without_strangers(
    facts: TableFacts, layout: Layout, occupied: Occupied
) -> Iterator[Transaction]:
    """Yield what removes chains and sets that are not needed, and chains that pick an endpoint in another way.

    They may refer to each other: rules to chains and sets, elements of sets to chains. Rules of ours no longer ask what goes.
    """
    if facts.has_to_go:
        return
    family = occupied.family
    kept = occupied.chains | _led_to(facts, layout, occupied)
    chains = [
        (family, name)
        for name, chain in facts.chains.items()
        if name not in kept
        and (timeout_of(name) not in occupied.timeouts or not layout.is_ours(family, name, chain))
    ]
    known = {*LENGTHS[family], *[spec.name for spec in layout.sets(family)]}
    sets = [(family, name) for name in facts.sets.keys() - known]
    if chains or sets:
        before = layout.skeleton(family, facts.sets)
        after = layout.skeleton(family, facts.sets.keys() & known)
        rewritten = [spec for spec, old in zip(after, before, strict=True) if spec != old]
        rewritten += [ChainSpec(name, None, ()) for _, name in chains]
        yield Transaction(
            chains=tuple([(family, spec) for spec in rewritten]), gone_sets=tuple(sets)
        )
    if chains:
        yield Transaction(gone_chains=tuple(chains))


def _led_to(facts: TableFacts, layout: Layout, occupied: Occupied) -> set[str]:
    """Return the chains that pick to which others, which stay, lead."""
    staying = [
        name
        for name, found in facts.chains.items()
        if is_picking(name)
        and timeout_of(name) in occupied.timeouts
        and layout.is_ours(occupied.family, name, found)
    ]
    return {target for name in staying for target in leads_to(name)}


def is_entangled(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether rules we have to write could make a loop with foreign chains or verdicts. A full walk."""
    fixed = layout.fixed(family, facts.sets)
    if all(layout.is_fixed(family, n, facts.chains.get(n), fixed) for n in fixed.chains):
        return False
    leads_to = {
        str(verdict).partition(" ")[2]
        for name in (*VERDICTS, FIREWALL)
        for verdict in set(facts.elements.get(name, {}).values())
    }
    return not all(layout.is_our_name(family, name) for name in facts.chains) or any(
        name and not is_picking(name) and not is_former_chain(name) for name in leads_to
    )


def judge(facts: TableFacts, layout: Layout, family: Family) -> None:
    """Note whether a table that was read has to be made anew. A full walk.

    Sets and hooks cannot be changed, a table cannot be woken and given hooks in one transaction, and loops are refused.
    """
    facts.has_to_go = (
        facts.is_dormant
        or is_entangled(facts, layout, family)
        or is_unusable(facts, layout, family)
    )


def is_unusable(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Tell whether sets of a table are of another shape, or chains at hooks where they do not belong. A full walk."""
    specs = [*layout.sets(family), former_firewall(family)]
    specs += [set_of_ranges(family, name) for name in LENGTHS[family].keys() & facts.sets.keys()]
    return any(facts.sets.get(spec.name, spec.facts) != spec.facts for spec in specs) or any(
        layout.is_misplaced(family, name, chain) for name, chain in facts.chains.items()
    )
