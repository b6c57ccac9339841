"""Background verification: compare belief with the kernel, and take back what proves wrong. Shell.

A thread reads everything while changes go on, so what it finds different is only suspected. What is found so once more is read
a third time, between two of our writes, before it counts as drift. Chains are compared by their mark and number of rules.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

from backends.iptables import kernel, sets
from backends.iptables.belief import Observed
from backends.iptables.canary import Canary, Stamp
from backends.iptables.kernel import Doors, Part
from backends.iptables.model import Facts, Table
from backends.iptables.tree import tree_of
from backends.kernel.ipset_objects import IpSet, Member
from proxy.backend import Drift
from proxy.model import Family, PortKey
from proxy.threads import to_thread

K = TypeVar("K")
V = TypeVar("V")

SINGLE_CORRECTIONS: Final = 1000
"""With more differences than this everything is observed anew."""


class ChainPlace(NamedTuple):
    """A chain of ours in a table."""

    family: Family
    table: Table
    name: str

    def __str__(self) -> str:
        return f"chain {self.name} of {self.table} ({self.family})"


class JumpPlace(NamedTuple):
    """A rule of ours in a built-in chain of a table, by that chain and its mark."""

    family: Family
    table: Table
    jump: tuple[str, str]

    def __str__(self) -> str:
        return f"rule that leads from {self.jump[0]} of {self.table} to us ({self.family})"


class SetPlace(NamedTuple):
    """A set, but for its members."""

    family: Family
    set: str

    def __str__(self) -> str:
        return f"set {self.set}"


class MemberPlace(NamedTuple):
    """A member of a set."""

    family: Family
    set: str
    member: Member

    def __str__(self) -> str:
        return f"member {self.member} of set {self.set}"


Place = ChainPlace | JumpPlace | SetPlace | MemberPlace


class Seen(NamedTuple):
    """What was found somewhere and what was believed; None for nothing."""

    found: object
    believed: object

    @property
    def how(self) -> str:
        if self.found is None:
            return "missing"
        return "foreign" if self.believed is None else "changed"


Differences = dict[Place, Seen]


def part_of(place: Place) -> Part:
    """Return what has to be read to see a place."""
    return place.family, place.table if isinstance(place, ChainPlace | JumpPlace) else None


async def verify(
    doors: Doors,
    background: Doors,
    canary: Canary,
    lock: asyncio.Lock,
    observed: Observed,
    stamp: Stamp,
) -> list[Drift]:
    """Return confirmed drift, with belief corrected. A drift without a key means that everything must be observed anew."""
    async with lock:
        # who changes something from here on is seen by the next look
        stamp.update(canary.look())
    parts = kernel.all_parts(doors.tables)
    seen_first, suspects = await to_thread(find, background, observed, parts)
    for unread in sorted(seen_first.unread - observed.unread):
        kernel.say_unread(*unread)
    observed.unread = seen_first.unread
    if suspects:
        _, again = await to_thread(find, background, observed, _parts(suspects))
        suspects = {place: seen for place, seen in suspects.items() if again.get(place) == seen}
    if not suspects:
        return []
    async with lock:
        found, there = await to_thread(find, background, observed, _parts(suspects))
        differences = {place: seen for place, seen in there.items() if place in suspects}
        if len(differences) > SINGLE_CORRECTIONS:
            return [Drift(key=None, what=f"{len(differences)} objects")]
        owners = Owners(observed, differences)
        drifts = []
        for place, seen in differences.items():
            is_misshapen = isinstance(seen.found, IpSet) and sets.is_misshapen(seen.found)
            key = None if is_misshapen else owners.of(place)
            drifts.append(Drift(key=key, what=f"{seen.how} {place}"))
            _correct(place, found, observed)
    return drifts


def find(
    doors: Doors, observed: Observed, parts: Collection[Part]
) -> tuple[Observed, Differences]:
    """Read parts and note what differs from belief, which may change meanwhile. Raises KernelError.

    Of a table that cannot be read, belief is kept.
    """
    found = kernel.read(doors, parts).observed()
    return found, compare(found, observed, [part for part in parts if part not in found.unread])


def compare(found: Observed, believed: Observed, parts: Iterable[Part]) -> Differences:
    """Return where two beliefs differ in some parts; the second may change meanwhile. A full walk of these."""
    differences: Differences = {}
    for family, table in parts:
        there, known = found.facts[family], believed.facts[family]
        if table is None:
            differences |= _compare_sets(family, there, known)
            continue
        chains = _unequal(there.chains[table], dict(known.chains[table]))
        differences |= {ChainPlace(family, table, name): seen for name, seen in chains.items()}
        # the text of a rule is that which was saved, in one version's words or another's
        one, other = (dict.fromkeys(each.jumps[table], "") for each in (there, known))
        jumps = _unequal(one, other)
        differences |= {JumpPlace(family, table, jump): seen for jump, seen in jumps.items()}
    return differences


def _compare_sets(family: Family, there: Facts, known: Facts) -> Differences:
    believed = dict(known.sets)
    differences: Differences = {
        SetPlace(family, name): seen for name, seen in _unequal(there.sets, believed).items()
    }
    for name in there.sets.keys() & believed.keys():
        one, other = (
            dict.fromkeys(set(each.members.get(name, ())), "") for each in (there, known)
        )
        members = _unequal(one, other)
        differences |= {MemberPlace(family, name, each): seen for each, seen in members.items()}
    return differences


def _unequal(one: Mapping[K, V], other: Mapping[K, V]) -> dict[K, Seen]:
    return {
        key: Seen(one.get(key), other.get(key))
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    }


def _parts(differences: Iterable[Place]) -> list[Part]:
    return list(dict.fromkeys([part_of(place) for place in differences]))


def _correct(place: Place, found: Observed, observed: Observed) -> None:
    """Believe of a place what was read."""
    facts = found.facts[place.family]
    match place:
        case ChainPlace(family, table, name):
            observed.correct_chain(family, table, name, facts.chains[table].get(name))
        case JumpPlace(family, table, jump):
            observed.correct_jump(family, table, jump, facts.jumps[table].get(jump))
        case SetPlace(family, name):
            observed.correct_set(family, name, facts.sets.get(name))
            observed.correct_members(family, name, facts.members.get(name, ()))
        case MemberPlace(family, name, member):
            is_there = member in facts.members[name]
            there, gone = ((member,), ()) if is_there else ((), (member,))
            observed.correct_members(family, name, there, gone)


class Owners:
    """Whose some places are. Of several who need a member of a set, any one will do."""

    def __init__(self, observed: Observed, places: Iterable[Place]) -> None:
        self._observed = observed
        self._members: dict[tuple[str, Member], PortKey] = {}
        wanted = {(each.set, each.member) for each in places if isinstance(each, MemberPlace)}
        if wanted:
            for key, rendered in observed.rendered.items():
                for shared in rendered.members & wanted:
                    self._members[shared] = key

    def of(self, place: Place) -> PortKey | None:
        """Return a ServicePort whose plan puts it right, None for what is nobody's."""
        match place:
            case ChainPlace(family, "nat", name) if tree_of(name) is not None:
                # written again with the next plan, whoever it is for
                return next((key for key in self._observed.rendered if key.family == family), None)
            case ChainPlace(family, _, name) | SetPlace(family, name):
                return self._observed.owners.get((family, name))
            case MemberPlace(_, name, member):
                return self._members.get((name, member))
            case JumpPlace():
                return None
