"""What is in our tables and sets and nobody asks for: found by a full walk, and removed. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from backends.iptables import names
from backends.iptables.belief import Observed
from backends.iptables.draft import Draft
from backends.iptables.layout import JUMPS, Layout
from backends.iptables.model import (
    CHAINS,
    TABLES,
    IptablesPlan,
    Lead,
    Rendered,
    Step,
    Table,
    TableStep,
    fit_for_comment,
)
from backends.iptables.order import sweep
from backends.iptables.plan import finish, make_drafts, plan_node
from backends.iptables.render import render_port
from backends.iptables.sets import fixed_sets
from backends.kernel.ipset_objects import Member
from proxy.desired import Desired
from proxy.model import Family

_AFFINITY_CHAINS: Final = CHAINS + "A-"


class _Needed:
    """What of one family is needed: rules of trees, chains of nat and sets by name, and members.

    `stems` begin the names of chains and sets that stay whatever they are.
    """

    def __init__(self, family: Family, layout: Layout) -> None:
        self.chains = {chain.name for chain in layout.chains(family, "nat")}
        self.sets = set(fixed_sets(family))
        self.leads: set[Lead] = set()
        self.members: dict[str, set[Member]] = {}
        self.stems: list[str] = []

    def add(self, rendered: Rendered) -> None:
        self.leads.update(rendered.leads)
        self.chains |= rendered.chains
        self.sets |= rendered.sets
        for name, member in rendered.members:
            self.members.setdefault(name, set()).add(member)


def prune(desired: Desired, observed: Observed, settled: Layout) -> IptablesPlan:
    """Return what removes everything of ours that no ServicePort occupies. A full walk.

    What an earlier process left for a ServicePort whose new state the kernel refuses stays: old is better than none.
    """
    layout = settled.for_node(desired.node)
    drafts = make_drafts(observed, layout, layout.families)
    needed = _needed(desired, observed, layout)
    node = plan_node(drafts, observed, desired.node, is_settled=True)
    part = node or observed.node
    for family, name, member in part.members if part is not None else ():
        needed[family].members.setdefault(name, set()).add(member)
    after: list[Step] = []
    for family, draft in drafts.items():
        if not draft.is_rebuild:
            _withdraw(draft, needed[family])
            after += _without_strangers(draft, layout, needed[family])
    whole = finish(drafts, observed, layout, {}, node)
    staying = {family: each._replace(chains=frozenset()) for family, each in whole.leaving.items()}
    return IptablesPlan((*whole.steps, *after), {}, node=node, layout=layout, leaving=staying)


def _needed(desired: Desired, observed: Observed, layout: Layout) -> dict[Family, _Needed]:
    secret = layout.settings.secret
    needed = {family: _Needed(family, layout) for family in layout.families}
    for key, rendered in observed.rendered.items():
        needed[key.family].add(rendered)
    for key, port in desired.ports.items():
        if key in observed.rendered or key.family not in needed:
            continue
        each, rendered = needed[key.family], render_port(port, layout).rendered
        each.add(rendered)
        each.stems += names.relatives(names.list_chain(key, secret))
        about, own = observed.facts[key.family].about, fit_for_comment(str(key.name))
        for lead in rendered.leads:  # its chains may have other names by now
            target = observed.trees[key.family, lead.tree].target(lead.front)
            if target is not None and about.get(target) == own:
                each.stems += names.relatives(target)
        # which endpoints it had is not known
        each.stems += [_AFFINITY_CHAINS, names.affinity_prefix(key.family)]
    return needed


def _withdraw(draft: Draft, needed: _Needed) -> None:
    """Have trees lead to nothing else, and sets have no other members. All chains of trees are compared."""
    stems = tuple(needed.stems)
    for name, tree in draft.trees.items():
        for front, target in tree.fronts().items():
            if Lead(name, front, target) not in needed.leads and not target.startswith(stems):
                tree.remove(front)
        tree.dirty |= tree.chains()
    for of_all in fixed_sets(draft.family):
        for member in draft.facts.members.get(of_all, set()) - needed.members.get(of_all, set()):
            draft.put_member(of_all, member, is_wanted=False)


def _without_strangers(draft: Draft, layout: Layout, needed: _Needed) -> list[Step]:
    """Return what removes jumps, chains and sets that are not needed, all after the rules that led there."""
    family, facts, stems = draft.family, draft.facts, tuple(needed.stems)
    grown = set().union(*[tree.chains() for tree in draft.trees.values()])
    kept: Mapping[Table, Iterable[str]] = {
        "nat": needed.chains | grown,
        "filter": {chain.name for chain in layout.chains(family, "filter")},
    }
    steps: list[Step] = []
    for table in TABLES:
        jumps = {(jump.chain, jump.mark) for jump in JUMPS[table]}
        strange = [jump for place, jump in facts.jumps[table].items() if place not in jumps]
        if strange:
            steps.append(TableStep(family, table, gone_jumps=tuple(strange)))
        surplus = sorted(facts.chains[table].keys() - kept[table])
        removes = tuple(
            [name for name in surplus if not name.startswith(stems)] if stems else surplus
        )
        if removes:
            steps.append(TableStep(family, table, removes=removes))
    gone = sorted(facts.sets.keys() - needed.sets)
    return [*steps, *sweep(family, (), [n for n in gone if not (stems and n.startswith(stems))])]
