"""Our chains in the tables of iptables, by the programs of one flavour: written, read, removed. Shell.

Once somebody has put a rule into a table that only nft can list, the programs list nothing of it. They still write there, and
whether a chain has rules of ours, which are told by their comments anyway, can be asked; whether it has others cannot.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.xt_chains import lines, read, removal
from backends.ipvs.xt_layout import TABLES, XtLayout, is_own, split_name
from backends.kernel.nft_table import ChainFacts, ChainSpec
from backends.kernel.xtables import Incompatible, Refused, Xtables
from backends.kernel.xtables_text import Chain
from proxy.model import FAMILIES, Family

log = logging.getLogger(__name__)

_CHAINS: Final = XtLayout(IpvsSettings(families=FAMILIES)).chain_facts
"""Our chains have the same names whatever the settings; and our rules in built-in ones are the same."""
_CLOSED: Final = {spec.name: spec.facts for spec in XtLayout.closed_chains()}
_CHANGED: Final = ChainFacts(None, ("",))
"""A chain that is there, but not as anybody knows it."""


class Known:
    """What our chains were when they were last seen or written, and which tables cannot be listed now."""

    def __init__(self) -> None:
        self.chains: dict[tuple[Family, str], ChainFacts] = {}
        self.unlisted: set[tuple[Family, str]] = set()

    def note(self, family: Family, chains: Iterable[tuple[str, ChainFacts]]) -> None:
        for name, facts in chains:
            # a rule of somebody else's cannot be asked for, nor whether there is none
            if facts.comments and all(facts.comments):
                self.chains[family, name] = facts

    def candidates(self, family: Family, name: str) -> list[ChainFacts]:
        """Return what may be in a chain of ours, or which rules of ours in a built-in one."""
        if not is_own(split_name(name)[1]):
            return [_CHAINS[family][name]]
        found = self.chains.get((family, name)), _CLOSED.get(name)
        return [facts for facts in found if facts is not None]


def read_chains(door: Xtables, known: Known) -> dict[str, ChainFacts]:
    """Return our chains, and those in which rules lead to them, named with their tables. Raises KernelError."""
    family, found = door.programs.family, dict[str, ChainFacts]()
    for table in TABLES:
        saved = _save(door, table, known)
        if saved is None:
            found |= _ask(door, table, known)
        else:
            there = read(table, saved, _CHAINS[family])
            known.note(family, there.items())
            found |= there
    return found


def write_chains(
    door: Xtables, chains: Sequence[ChainSpec], known: Known, *, is_all: bool
) -> None:
    """Write chains; if they are all that there are to be, others of ours go. Raises KernelError."""
    names = {spec.name for spec in chains}
    for table in TABLES:
        own = [spec for spec in chains if split_name(spec.name)[0] == table]
        if not own and not is_all:
            continue
        saved = _save(door, table, known)
        if saved is None:
            due = [
                spec for spec in own if is_own(split_name(spec.name)[1]) or not _has(door, spec)
            ]
            door.restore(table, lines(table, due, {}, ()))
        else:
            found = read(table, saved, names)
            surplus = [split_name(full)[1] for full in found if is_all and full not in names]
            door.restore(table, lines(table, own, saved, surplus))
        known.note(door.programs.family, [(spec.name, spec.facts) for spec in own])
    door.close()  # it may be long until the next rule is written


def remove_chains(doors: Iterable[Xtables], known: Known) -> int:
    """Remove all rules of ours; return how many. Raises KernelError: then sets may still be asked."""
    count = 0
    for door in doors:
        for table in reversed(TABLES):
            saved = _save(door, table, known)
            if saved is None:
                count += _remove_unlisted(door, table)
                continue
            going = removal(saved)
            door.restore(table, going)
            count += len([line for line in going if not line.startswith(":")])
        door.close()
    return count


def _save(door: Xtables, table: str, known: Known) -> dict[str, Chain] | None:
    """Return a table, None if it cannot be listed, which is said once."""
    place = door.programs.family, table
    try:
        saved = door.save(table)
    except Incompatible:
        if place not in known.unlisted:
            known.unlisted.add(place)
            of = {"IPv4": "ip", "IPv6": "ip6"}[door.programs.family]
            log.warning(
                "table %s (%s) has a rule that only nft can list, so that not all is seen that others do to ours; it should be"
                " in a table of its own: nft -a list table %s %s",
                *(table, door.programs.family, of, table),
            )
        return None
    known.unlisted.discard(place)
    return saved


def _ask(door: Xtables, table: str, known: Known) -> dict[str, ChainFacts]:
    """Return what can be told of our chains in a table that cannot be listed."""
    family, there = door.programs.family, set(door.chain_names(table))
    found: dict[str, ChainFacts] = {}
    for name in _CHAINS[family]:
        of, chain = split_name(name)
        if of != table or chain not in there:
            continue
        for facts in known.candidates(family, name):
            if all(door.has_comment(table, chain, comment) for comment in facts.comments):
                found[name] = facts
                break
        else:
            if is_own(chain):
                found[name] = _CHANGED
    return found


def _has(door: Xtables, spec: ChainSpec) -> bool:
    return all(
        door.has_comment(*split_name(spec.name), comment) for comment in spec.facts.comments
    )


def _remove_unlisted(door: Xtables, table: str) -> int:
    """Remove our rules by their comments, since the programs delete none in a table that they cannot list."""
    count = 0
    for name, facts in _CHAINS[door.programs.family].items():
        of, chain = split_name(name)
        if of == table and not is_own(chain):
            count += sum([door.remove_commented(table, chain, each) for each in facts.comments])
    own = [name for name in door.chain_names(table) if is_own(name)]
    door.restore(table, [f":{name} - [0:0]" for name in own])
    for name in own:
        try:
            door.restore(table, [f"-X {name}"])
            count += 1
        except Refused as refused:
            log.warning("stays, empty, since rules of others lead there: %s", refused)
    return count
