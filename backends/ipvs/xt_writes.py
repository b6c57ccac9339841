"""A transaction on our sets as messages to ipset, which are carried out each by itself. Pure.

Nobody sees them all at once, so their order is chosen such that no frontend is lost on the way: what is added comes before
what goes. What a packet asks about first comes after what it may be asked about next.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    DROPPED,
    ELSEWHERE,
    EXTERNALS,
    GUARDED,
    HAIRPIN,
    HEALTH_PORTS,
    NODEPORT_SHORTCUTS,
    NODEPORTS,
    NODEPORTS_DROPPED,
    NODEPORTS_REFUSED,
    REFUSED,
    SERVICES,
    SHORTCUTS,
)
from backends.ipvs.xt_layout import set_name
from backends.ipvs.xt_members import leaving, members_of, members_of_bounds
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_transaction import Batch, Element, Transaction
from proxy.model import FAMILIES, Family, PortKey
from proxy.netlink.codec import Request

_ORDER: Final = (
    HAIRPIN, HEALTH_PORTS, NODEPORT_IPS, ELSEWHERE, BOUND, ALLOWED, GUARDED, SHORTCUTS, NODEPORT_SHORTCUTS,
    SERVICES, EXTERNALS, NODEPORTS, DROPPED, REFUSED, NODEPORTS_DROPPED, NODEPORTS_REFUSED, SERVICE_CIDRS,
)  # fmt: skip
"""In which order members are added; they are removed the other way round."""
RANGES: Final = (ALLOWED, SERVICE_CIDRS)
"""Sets of ranges: an element is several members, or together with others."""

Counts = Mapping[str, tuple[int, IpSet]]
"""How many members sets have, by their name for ipset, and what they are."""
List = Callable[[str], Iterable[Member]]
"""Lists a set of ipset, which takes time for each of its members."""
Ask = Callable[[Sequence[tuple[str, Member]]], Sequence[bool]]
"""Tells of members, each with the name of its set, whether they are there."""


class Message(NamedTuple):
    """A message about a set, and whose it is."""

    request: Request
    owner: PortKey | None = None


def additions(step: Transaction) -> list[Message]:
    """Return what adds all that is to be added; a mark that changes is changed in place."""
    adds = _by_set(step.adds)
    return [
        Message(ipset_messages.add(set_name(family, name), member), owner)
        for name in _ORDER
        for family in FAMILIES
        for member, owner in _members(family, name, adds.get((family, name), ()))
    ]


def removals(step: Transaction, listed: List, has: Ask) -> list[Message]:
    """Return what removes the rest; of a family that is made anew, all that is not to be there."""
    adds, deletes = _by_set(step.adds), _by_set(step.deletes)
    messages: list[Message] = []
    for name in reversed(_ORDER):
        for family in FAMILIES:
            whole, elements = set_name(family, name), deletes.get((family, name), [])
            stay = _members(family, name, adds.get((family, name), ()))
            kept = {member._replace(mark=None) for member, _ in stay}
            gone: Iterable[tuple[Member, PortKey | None]] = ()
            if family in step.rebuild or (elements and name == SERVICE_CIDRS):
                gone = [(member, None) for member in listed(whole)]
            elif elements and name == ALLOWED:
                gone = _of_ranges(family, elements, listed, has)
            elif elements:
                gone = _members(family, name, elements)
            messages += [
                Message(ipset_messages.delete(whole, member), owner)
                for member, owner in gone
                if member._replace(mark=None) not in kept
            ]
    return messages


def _of_ranges(
    family: Family, elements: Sequence[Element], listed: List, has: Ask
) -> Iterable[tuple[Member, PortKey | None]]:
    """Return the members that ranges are: those we make of them, unless somebody has made others of them."""
    whole, ours = set_name(family, ALLOWED), list(_members(family, ALLOWED, elements))
    if all(has([(whole, member) for member, _ in ours])):
        return ours
    within = leaving(family, [each.key for each in elements], listed(whole))
    return [(member, elements[0].owner) for member in within]


def counted(step: Transaction, before: Counts) -> Counts | None:
    """Return how many members there are after a step; None where that is not known beforehand."""
    batches = (*step.adds, *step.deletes)
    is_fixed = step.rebuild or step.sets or step.chains
    if is_fixed or any(batch.set == SERVICE_CIDRS for batch in batches):
        return None
    after = dict(before)
    adds, deletes = _by_set(step.adds), _by_set(step.deletes)
    for sign, these, others in ((1, adds, deletes), (-1, deletes, adds)):
        for (family, short), elements in these.items():
            name = set_name(family, short)
            if name not in after:
                return None
            besides = {each.key for each in others.get((family, short), ())}
            moved = [each for each in elements if each.key not in besides]
            count, made = after[name]
            after[name] = count + sign * len(list(_members(family, short, moved))), made
    return after


def _by_set(batches: Iterable[Batch]) -> dict[tuple[Family, str], list[Element]]:
    found: dict[tuple[Family, str], list[Element]] = {}
    for batch in batches:
        found.setdefault((batch.family, batch.set), []).extend(batch.elements)
    return found


def _members(
    family: Family, name: str, elements: Sequence[Element]
) -> Iterator[tuple[Member, PortKey | None]]:
    """Yield the members that elements are, each with its owner."""
    if name == SERVICE_CIDRS:
        for member in members_of_bounds(family, [each.key for each in elements]):
            yield member, None
        return
    for each in elements:
        for member in members_of(family, name, each.key, each.data):
            yield member, each.owner
