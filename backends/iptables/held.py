"""What the kernel holds for ServicePorts at this moment, compared with belief: for somebody who looks. Shell.

A single chain costs legacy as much to read as the whole table, so table nat is read as a whole, in a thread, and told from there.
Where something differs from belief it is read once more between two of our writes, so that what we are just changing is
not taken for a difference.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from backends.iptables import kernel
from backends.iptables.belief import Observed
from backends.iptables.kernel import Doors, Found, Part
from backends.iptables.model import Rendered, SharedMember
from backends.iptables.tree import tree_of
from backends.iptables.verify import (
    Differences,
    MemberPlace,
    Owners,
    Seen,
    SetPlace,
    compare,
)
from proxy.backend import Held
from proxy.errors import KernelError
from proxy.model import Family, PortKey
from proxy.threads import to_thread

_STRANGERS_SHOWN: Final = 100
_NOTHING: Final = Rendered()


class Look:
    """One look at some ServicePorts, or at everything; first `read`, then ask. The lock keeps our own writes away."""

    def __init__(self, observed: Observed, keys: Collection[PortKey] | None) -> None:
        self._observed = observed
        self._keys = keys
        self._found = Found({}, {}, set())
        self._there = Observed({})
        self._members: set[SharedMember] = set()
        self._leads: dict[tuple[Family, str], list[str]] = {}
        self._owned: dict[PortKey | None, list[str]] = {}

    async def read(self, doors: Doors, lock: asyncio.Lock) -> None:
        """Read what there is, and once more between our own writes if it is not as believed. Raises KernelError."""
        differences = await to_thread(self._read, doors)
        if differences:
            async with lock:
                differences = await to_thread(self._read, doors)
        owners = Owners(self._observed, differences)
        for place, seen in differences.items():
            self._owned.setdefault(owners.of(place), []).append(f"{seen.how}: {place}")

    def _read(self, doors: Doors) -> Differences:
        parts = self._parts(doors.tables)
        self._found = kernel.read(doors, parts)
        for family, table in self._found.unread:
            raise KernelError(
                f"read table {table} ({family})", 0, "it has rules that only nft can list"
            )
        self._there = self._found.observed()
        self._leads = {}
        for family, chain, rule in _tree_rules(self._found):
            target = rule.rpartition(" ")[2]
            self._leads.setdefault((family, target), []).append(f"{chain}: {rule}")
        differences = compare(self._there, self._observed, parts)
        if self._keys is not None:
            return differences | self._ask(doors, self._keys)
        for facts in self._there.facts.values():
            for name, members in facts.members.items():
                self._members.update([(name, member) for member in members])
        return differences

    def _parts(self, families: Collection[Family]) -> list[Part]:
        """Return what is read as a whole: all of nat, but not all members of all sets for the sake of a few."""
        if self._keys is None:
            return kernel.all_parts(families)
        of = {key.family for key in self._keys}
        return [(family, "nat") for family in families if family in of]

    def _ask(self, doors: Doors, keys: Iterable[PortKey]) -> Differences:
        """Ask for the sets and members that some ServicePorts should have."""
        differences: Differences = {}
        for key in keys:
            rendered = self._observed.rendered.get(key, _NOTHING)
            for name in rendered.sets:
                state = doors.ipset.find_set(name)
                believed = self._observed.facts[key.family].sets.get(name)
                if believed != (state.set if state is not None else None):
                    seen = Seen(state and state.set, believed)
                    differences[SetPlace(key.family, name)] = seen
            places = sorted(rendered.members)
            for place, is_there in zip(places, doors.ipset.has(places), strict=True):
                if is_there:
                    self._members.add(place)
                elif place[1] in self._observed.facts[key.family].members.get(place[0], ()):
                    differences[MemberPlace(key.family, *place)] = Seen(None, "")
        return differences

    def at_port(self, key: PortKey) -> Held:
        """Return what was found of a ServicePort, and where that is not as believed."""
        rendered = self._observed.rendered.get(key, _NOTHING)
        missing = [
            f"missing: the rule of {lead.front} that leads to {lead.target}"
            for lead in rendered.leads
            if self._there.trees[key.family, lead.tree].target(lead.front) != lead.target
        ]
        return Held(
            key=key,
            lines=tuple(self._lines(key.family, rendered)),
            differences=(*self._owned.get(key, ()), *missing),
        )

    def _lines(self, family: Family, rendered: Rendered) -> Iterator[str]:
        for target in dict.fromkeys([lead.target for lead in rendered.leads if lead.target]):
            yield from self._leads.get((family, target), ())
        saved = self._found.tables.get(family, {}).get("nat", {})
        for name in sorted(rendered.chains):
            if name in saved:
                yield from [f"{name}: {rule}" for rule in saved[name].rules]
        for name, member in sorted(rendered.members & self._members):
            yield f"{name}: {member}"

    def at_strangers(self) -> Held:
        """Return what is there in all, and what differs of that which is nobody's."""
        lines: list[str] = []
        for family, facts in self._there.facts.items():
            for table, chains in facts.chains.items():
                rules = sum([state.rules for state in chains.values()])
                lines.append(f"{family}: {len(chains)} chains with {rules} rules in {table}")
            lines += [
                f"{family}: {len(facts.members[name])} members in {name}"
                for name, made in sorted(facts.sets.items())
                if made.timeout_s is None
            ]
        differences = self._owned.get(None, [])
        more = len(differences) - _STRANGERS_SHOWN
        shown = [*differences[:_STRANGERS_SHOWN], *([f"{more} more"] if more > 0 else [])]
        return Held(key=None, lines=tuple(lines), differences=tuple(shown))


def _tree_rules(found: Found) -> Iterator[tuple[Family, str, str]]:
    for family, tables in found.tables.items():
        for name, chain in tables.get("nat", {}).items():
            if tree_of(name) is not None:
                for rule in chain.rules:
                    yield family, name, rule
