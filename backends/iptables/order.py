"""In which order a plan is carried out, so that every live frontend is answered throughout (proxy.backend, L5). Pure.

A packet passes nat, then filter, and asks sets on its way, each as it is at that moment. So

- what becomes a member of a set does so before the rules that ask it, and what does not belong there any more goes after them. So
  what guards, refuses or drops is there as long as anything may get through untranslated; and an address is known as that of a
  service before its rules are there, which leads nowhere else;
- who has no endpoint any more is refused before his list is emptied, and is so until it is filled again: what is translated
  does not ask;
- who may come in is known before anybody is turned away, and as long as anybody is;
- ports are known before their cluster IP is, of which all others are refused: another data plane may still serve them.

All chains of nat are written in one commit.
"""

from collections.abc import Iterable

from backends.iptables.belief import Observed
from backends.iptables.draft import Draft
from backends.iptables.layout import JUMPS
from backends.iptables.model import (
    TABLES,
    ChainWrite,
    Lead,
    SetChange,
    SetStep,
    Step,
    TableStep,
    empty_chain,
)
from backends.iptables.sets import ALLOWED, CLUSTER_IPS, set_name
from backends.iptables.tree import ROOTS
from proxy.model import Family


def in_order(draft: Draft) -> list[Step]:
    """Return what a draft amounts to, but for what is swept."""
    family, keys = draft.family, tuple(draft.keys)
    first, last = _parted(draft)
    tables = [
        TableStep(
            family,
            table,
            tuple(draft.changed_chains(table)),
            tuple(draft.missing_jumps(table)),
            leads=tuple(draft.changed_leads()) if table == "nat" else (),
            keys=keys,
        )
        for table in TABLES
    ]
    steps: list[Step] = [
        SetStep(family, (*draft.changed_sets(), *first), keys),
        *[step for step in tables if step.size or step.leads],
        SetStep(family, tuple(last), keys),
    ]
    return [step for step in steps if isinstance(step, TableStep) or step.size]


def _parted(draft: Draft) -> tuple[list[SetChange], list[SetChange]]:
    """Return members that come before the chains of nat, and those that go after them."""
    changes = sorted(draft.changed_members(), key=lambda change: (change.name, change.item))
    allowed = set_name(draft.family, ALLOWED)
    cluster_ips = set_name(draft.family, CLUSTER_IPS)
    new = [change for change in changes if change.verb == "add"]
    gone = [change for change in changes if change.verb == "delete"]
    new.sort(key=lambda change: (change.name != allowed, change.name == cluster_ips))
    gone.sort(key=lambda change: change.name == allowed)
    return new, gone


def rebuild(family: Family, observed: Observed) -> list[Step]:
    """Return what removes all that we have: a set whose shape is wrong cannot go while any rule asks it.

    Our jumps ask none, and the programs delete no rule of a table that they cannot list: they stay, to chains that are empty.
    """
    facts = observed.facts[family]
    leads = [
        Lead(name, front, None)
        for name in ROOTS
        for front in observed.trees[family, name].fronts()
    ]
    steps: list[Step] = []
    for table in TABLES:
        there, jumps = facts.chains[table].keys(), facts.jumps[table]
        staying = {(j.chain, j.mark): j.target for j in JUMPS[table] if (j.chain, j.mark) in jumps}
        emptied = sorted(there & set(staying.values()))
        step = TableStep(
            family,
            table,
            tuple([ChainWrite(empty_chain(name)) for name in emptied]),
            gone_jumps=tuple([jumps[place] for place in jumps if place not in staying]),
            removes=tuple(sorted(there - set(emptied))),
            leads=tuple(leads) if table == "nat" else (),
        )
        if step.size:
            steps.append(step)
    return [*steps, *sweep(family, (), sorted(facts.sets))]


def sweep(family: Family, chains: Iterable[str], sets: Iterable[str]) -> list[Step]:
    """Return what removes chains of nat, and sets, that nothing leads to."""
    steps: list[Step] = [
        TableStep(family, "nat", removes=tuple(chains)),
        SetStep(family, tuple([SetChange("destroy", name) for name in sets])),
    ]
    return [step for step in steps if step.size]
