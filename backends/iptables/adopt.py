"""Belief about what was found: saved tables and listed sets, read as what an earlier process of ours has left. Pure."""

import itertools
from collections.abc import Iterable, Mapping

from backends.iptables.belief import Observed
from backends.iptables.model import (
    CHAINS,
    ChainState,
    Facts,
    Jump,
    Table,
    parse_about,
    parse_mark,
)
from backends.iptables.tree import parse_lead, tree_of
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables_text import Chain, split_rule
from proxy.model import Family

Saved = Mapping[str, Chain]
"""A table as it was saved: chains by name, also those of others."""


def adopt(
    tables: Mapping[Family, Mapping[Table, Saved]],
    sets: Mapping[Family, Mapping[str, tuple[IpSet, Iterable[Member]]]],
) -> Observed:
    """Return belief about what was read. Sets are ours alone, by name; those of session affinity have no members here.

    Rules of trees are read one by one: they say which frontends are served, before anybody has said which are wanted.
    """
    facts: dict[Family, Facts] = {}
    for family, saved in tables.items():
        known = facts[family] = Facts()
        for table, found in saved.items():
            known.chains[table] = read_chains(found)
            known.jumps[table] = {(jump.chain, jump.mark): jump for jump in read_jumps(found)}
        for name, (made, members) in sets.get(family, {}).items():
            known.sets[name] = made
            known.members[name] = set(members)
    observed = Observed(facts)
    for family, saved in tables.items():
        _plant(observed, family, saved.get("nat", {}))
    return observed


def read_chains(saved: Saved) -> dict[str, ChainState]:
    """Return our chains in a table, as they are compared."""
    return {name: read_state(chain) for name, chain in saved.items() if name.startswith(CHAINS)}


def read_state(chain: Chain) -> ChainState:
    """Return by what a chain is compared."""
    mark = parse_mark(_comment(chain.rules[0])) if chain.rules else ""
    return ChainState(mark, len(chain.rules))


def read_jumps(saved: Saved) -> list[Jump]:
    """Return the rules in built-in chains that lead to chains of ours, with the text that would delete them.

    Of two that are the same the later one has no mark, so that nobody wants it.
    """
    jumps: list[Jump] = []
    places: set[tuple[str, str]] = set()
    for name, chain in saved.items():
        for rule in chain.rules if chain.policy is not None else ():
            if CHAINS not in rule or not _leads_to_us(rule):
                continue
            mark = parse_mark(_comment(rule))
            while (name, mark) in places:
                mark += "?"
            places.add((name, mark))
            jumps.append(Jump(name, mark, rule))
    return jumps


def _plant(observed: Observed, family: Family, saved: Saved) -> None:
    about = observed.facts[family].about
    for name, chain in saved.items():
        tree = tree_of(name)
        if tree is None:
            if name.startswith(CHAINS) and chain.rules:
                about[name] = parse_about(_comment(chain.rules[0]))
            continue
        for rule in chain.rules:
            found = parse_lead(family, _words(rule))
            if found is not None and bool(found[0].address) == (tree != "N"):
                observed.trees[family, tree].put(*found)
    for (of, _), each in observed.trees.items():
        if of == family:
            each.settle()


def _leads_to_us(rule: str) -> bool:
    words = split_rule(rule)
    return any(
        option in {"-j", "-g"} and target.startswith(CHAINS)
        for option, target in itertools.pairwise(words)
    )


def _comment(rule: str) -> str:
    """Return a rule's comment, empty without one."""
    _, found, rest = rule.partition("--comment ")
    if not found:
        return ""
    return split_rule(rest)[0] if not rest.startswith('"') else rest[1:].partition('"')[0]


def _words(rule: str) -> list[str]:
    return split_rule(rule) if '"' in rule else rule.split()
