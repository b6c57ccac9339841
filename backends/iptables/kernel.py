"""The kernel's side: the doors, what is read through them, and the words for what it refuses. Shell."""

import errno
import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from backends.iptables.adopt import adopt
from backends.iptables.belief import Observed
from backends.iptables.layout import JUMPS
from backends.iptables.model import CHAINS, SETS, TABLES, Table
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables import Incompatible, Xtables
from backends.kernel.xtables_text import Chain
from proxy.errors import KernelError
from proxy.model import Family

log = logging.getLogger(__name__)


class Doors(NamedTuple):
    """What one thread at a time talks to the kernel through: the sets, and the tables of one flavour by family."""

    ipset: Ipset
    tables: Mapping[Family, Xtables]


Saved = dict[Table, dict[str, Chain]]
"""The chains of our tables in one family, foreign ones too, as they were saved."""


Listed = dict[str, tuple[IpSet, set[Member]]]
"""Our sets of one family by name, with the members of those that no rule writes to."""


def read_sets(ipset: Ipset, family: Family) -> Listed:
    """Read our sets of one family. One that goes meanwhile is not there. Raises KernelError."""
    found: Listed = {}
    for state in ipset.list_sets():
        if not state.set.name.startswith(SETS[family]):
            continue
        members = read_members(ipset, state.set)
        if members is not None:
            found[state.set.name] = state.set, members
    return found


def read_members(ipset: Ipset, of: IpSet) -> set[Member] | None:
    """Read the members of a set, none where rules write them; None if it is gone. Raises KernelError."""
    if of.timeout_s is not None:
        return set()
    try:
        return {each for piece in ipset.members(of.name) for each in piece}
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


class Found(NamedTuple):
    """What was read: tables as they were saved, and sets; of families, tables and sets that were asked for.

    Tables in `unread` have a rule that the programs have no words for, so they list nothing.
    """

    tables: dict[Family, Saved]
    sets: dict[Family, Listed]
    unread: set[tuple[Family, Table]]

    def observed(self) -> Observed:
        observed = adopt(self.tables, self.sets)
        observed.unread |= self.unread
        return observed


Part = tuple[Family, Table | None]
"""One of our tables in a family, or its sets."""


def all_parts(families: Iterable[Family]) -> list[Part]:
    return [(family, part) for family in families for part in (*TABLES, None)]


def read(doors: Doors, parts: Iterable[Part]) -> Found:
    """Read parts of what is ours. A large table takes a second or two. Raises KernelError."""
    found = Found({}, {}, set())
    for family, table in parts:
        found.tables.setdefault(family, {})
        if table is None:
            found.sets[family] = read_sets(doors.ipset, family)
            continue
        try:
            found.tables[family][table] = doors.tables[family].save(table)
        except Incompatible:
            found.unread.add((family, table))
    return found


def observe(doors: Doors) -> Observed:
    """Read all that is ours. Raises KernelError.

    What cannot be read is not needed: chains are written as a whole, and whether a built-in one leads to us can be asked.
    """
    found = read(doors, all_parts(doors.tables))
    for family, table in found.unread:
        say_unread(family, table)
        found.tables[family][table] = outline(doors.tables[family], table)
    observed = found.observed()
    observed.is_tree_unknown = any(table == "nat" for _, table in found.unread)
    return observed


def outline(door: Xtables, table: Table) -> dict[str, Chain]:
    """Return what can be told of a table that cannot be read: our chains, with a rule that is never the wanted one, and
    those of our jumps that are there. Raises KernelError.
    """
    own = [name for name in door.chain_names(table) if name.startswith(CHAINS)]
    found = dict.fromkeys(own, Chain(None, ("",)))
    for jump in JUMPS[table]:
        if door.has_comment(table, jump.chain, jump.mark):
            found[jump.chain] = Chain("ACCEPT", (jump.rule,))
    return found


def say_unread(family: Family, table: Table) -> None:
    of = {"IPv4": "ip", "IPv6": "ip6"}[family]
    log.warning(
        "table %s (%s) has a rule that only nft can list, so nobody sees whether ours are as they should be; it should be"
        " in a table of its own: nft -a list table %s %s",
        *(table, family, of, table),
    )
