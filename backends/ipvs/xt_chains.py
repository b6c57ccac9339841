"""Our chains as texts for `iptables-restore`, and read out of what `iptables-save` says. Pure.

A rule is told by its comment, which ends in a digest of its text: the programs write words in their own way.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from backends.ipvs.xt_layout import CHAINS, is_own, split_name
from backends.kernel.nft_table import ChainFacts, ChainSpec
from backends.kernel.xtables_text import Chain, split_rule

Saved = Mapping[str, Chain]
"""A table as it was saved: chains by name, also those of others."""


def lines(
    table: str, chains: Sequence[ChainSpec], saved: Saved, surplus: Collection[str]
) -> list[str]:
    """Return what writes chains of one table, those that lead to ours last, and removes others of ours."""
    named = [
        (split_name(spec.name)[1], spec) for spec in chains if split_name(spec.name)[0] == table
    ]
    own = [(name, spec) for name, spec in named if is_own(name)]
    jumps = [(name, spec) for name, spec in named if not is_own(name)]
    gone = [name for name in surplus if is_own(name)]
    led_from = [*[name for name, _ in jumps], *[name for name in surplus if not is_own(name)]]
    return [
        *[f"-D {name} {rule}" for name in led_from for rule in _leading(saved, name)],
        *[f":{name} - [0:0]" for name in (*[name for name, _ in own], *gone)],
        *[f"-A {name} {rule}" for name, spec in own for rule in _texts(spec)],
        *[f"-X {name}" for name in gone],
        *[f"-I {name} 1 {rule}" for name, spec in jumps for rule in _texts(spec)],
    ]  # fmt: skip


def removal(saved: Saved) -> list[str]:
    """Return what removes all of ours from a table. A chain stays, empty, while a rule of somebody else's leads to it."""
    own = [name for name in saved if is_own(name)]
    held = _held(saved)
    return [
        *[f"-D {name} {rule}" for name in saved if not is_own(name) and saved[name].policy is not None for rule in _leading(saved, name)],
        *[f":{name} - [0:0]" for name in own],
        *[f"-X {name}" for name in own if name not in held],
    ]  # fmt: skip


def read(table: str, saved: Saved, known: Collection[str]) -> dict[str, ChainFacts]:
    """Return our chains in a table, and those in which rules lead to us, named with the table.

    What is not `known` and cannot go, since somebody else leads there, is left out.
    """
    held = _held(saved)
    found: dict[str, ChainFacts] = {}
    for name, chain in saved.items():
        full = f"{table}/{name}"
        if is_own(name):
            if full in known or name not in held:
                found[full] = _facts(chain.rules)
        elif chain.policy is not None and (leading := list(_leading(saved, name))):
            found[full] = _facts(leading)
    return found


def _texts(spec: ChainSpec) -> Iterator[str]:
    for rule in spec.rules:
        yield f'-m comment --comment "{rule.comment}" {rule.expressions.decode()}'


def _facts(rules: Iterable[str]) -> ChainFacts:
    return ChainFacts(None, tuple([_comment(rule) for rule in rules]))


def _comment(rule: str) -> str:
    """Return a rule's comment, empty without one."""
    _, found, rest = rule.partition("--comment ")
    if not found:
        return ""
    return rest[1:].partition('"')[0] if rest.startswith('"') else split_rule(rest)[0]


def _leading(saved: Saved, name: str) -> Iterator[str]:
    """Yield the rules of a chain that lead to chains of ours."""
    for rule in saved[name].rules if name in saved else ():
        if CHAINS in rule and any(map(is_own, _targets(rule))):
            yield rule


def _held(saved: Saved) -> set[str]:
    """Return the chains that others lead to in chains of their own; in built-in ones such a rule is ours."""
    return {
        target
        for name, chain in saved.items()
        if chain.policy is None and not is_own(name)
        for rule in chain.rules
        if CHAINS in rule
        for target in _targets(rule)
    }


def _targets(rule: str) -> Iterator[str]:
    for option, value in itertools.pairwise(split_rule(rule)):
        if option in {"-j", "-g"}:
            yield value
