"""Firewall marks by which mode ipvs finds virtual servers: which are ours, and what each says. Pure.

IPVS compares a mark as a whole, so ours take all 32 bits: 7 that say that a mark is ours, a number that stands for one
ServicePort, and the role. The masquerade bit stays where it is configured, and all others lie around it; it is part of the mark
of what is masqueraded, so that one look at a packet that IPVS has translated tells whether to.
"""

from typing import Final, Literal

from backends.kernel.ipvs_objects import ServerId, marked
from proxy.model import Family

Role = Literal["cluster", "local", "here"]
"""From outside to the whole cluster, masqueraded; from outside to this node only; from here past policy Local."""

NUMBERS: Final = 1 << 22
_ROLES: Final[tuple[Role, ...]] = ("cluster", "local", "here")
_PREFIX: Final = 0x53
_ALL: Final = 0xFFFFFFFF


class Marks:
    """The marks there are with one masquerade bit, given as a mask."""

    def __init__(self, masquerade_mark: int) -> None:
        self._bit = masquerade_mark
        self.mask: Final = self._spread(0x7F << 24)
        """The bits that say that a mark is ours."""
        self.value: Final = self._spread(_PREFIX << 24)
        self.refused: Final = self._spread(_PREFIX << 24 | len(_ROLES))
        """The one that no virtual server has: whoever bears it is refused."""

    def mark(self, number: int, role: Role) -> int:
        """Return the mark of one role of a ServicePort."""
        spread = self._spread(_PREFIX << 24 | number << 2 | _ROLES.index(role))
        return spread | self._bit if role == "cluster" else spread

    def number(self, mark: int) -> int | None:
        """Return the ServicePort's number in a mark, None for one that is not ours."""
        if mark & self.mask != self.value:
            return None
        low = self._bit - 1
        rest = mark & low | (mark & ~(low | self._bit)) >> 1
        return (rest & 0xFFFFFF) >> 2

    def servers(self, family: Family, number: int) -> tuple[ServerId, ...]:
        """Return the virtual servers that a number can stand for."""
        return tuple([marked(family, self.mark(number, role)) for role in _ROLES])

    def _spread(self, value: int) -> int:
        """Make room for the masquerade bit."""
        low = self._bit - 1
        return (value & low | (value & ~low) << 1) & _ALL
