"""The kernel's side: the doors, what is read through them, and the words for what it refuses. Shell."""

import errno
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from backends.iptables.adopt import adopt
from backends.iptables.belief import Observed
from backends.iptables.model import SETS, TABLES, Table
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_text import Chain
from proxy.errors import KernelError
from proxy.model import Family


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
    """What was read: tables as they were saved, and sets; of families, tables and sets that were asked for."""

    tables: dict[Family, Saved]
    sets: dict[Family, Listed]

    def observed(self) -> Observed:
        return adopt(self.tables, self.sets)


Part = tuple[Family, Table | None]
"""One of our tables in a family, or its sets."""


def all_parts(families: Iterable[Family]) -> list[Part]:
    return [(family, part) for family in families for part in (*TABLES, None)]


def read(doors: Doors, parts: Iterable[Part]) -> Found:
    """Read parts of what is ours. A large table takes a second or two. Raises KernelError."""
    found = Found({}, {})
    for family, table in parts:
        found.tables.setdefault(family, {})
        if table is None:
            found.sets[family] = read_sets(doors.ipset, family)
        else:
            found.tables[family][table] = doors.tables[family].save(table)
    return found
