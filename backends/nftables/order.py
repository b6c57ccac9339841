"""In which order elements are written, so that every live frontend is answered throughout (proxy.backend, L5). Pure.

A packet reads one element after the other, and a commit may fall between two reads, but a later read never sees an older
state. So

- within a pool nothing needs an order, because what is missing is drawn again (see `picking`);
- what a verdict leads to comes in the same transaction or an earlier one, and goes in a later one;
- what marks a packet for masquerading after its endpoint was chosen goes in a later one, too;
- what diverts or stops a packet before the verdict comes one transaction before it, and goes one after.

Most plans need no more than one transaction.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from backends.nftables.belief import TableFacts
from backends.nftables.model import (
    DIVERTING,
    EXTERNAL_IPS,
    HAIRPIN,
    PLACES,
    Batch,
    Data,
    Element,
)
from proxy.model import Family, PortKey


class Absent(enum.Enum):
    """The value of an element that should not exist; None is the data of a plain set's member."""

    ABSENT = 0


ABSENT: Final = Absent.ABSENT
Values = dict[bytes, tuple[Data | Absent, PortKey | None]]
_OUTER: Final = frozenset([PLACES["external-ip"].verdicts, PLACES["node-port"].verdicts])
_LAST_IN: Final = _OUTER | {EXTERNAL_IPS}


class Step:
    """Elements of one transaction."""

    def __init__(self) -> None:
        self.deletes: list[Batch] = []
        self.adds: list[Batch] = []

    def note(
        self, family: Family, set_name: str, gone: Sequence[Element], new: Sequence[Element]
    ) -> None:
        if gone:
            self.deletes.append(Batch(family, set_name, tuple(gone)))
        if new:
            self.adds.append(Batch(family, set_name, tuple(new)))

    def __bool__(self) -> bool:
        return bool(self.deletes or self.adds)

    def merge(self, other: "Step") -> None:
        self.deletes += other.deletes
        self.adds += other.adds


def in_order(
    sets: Mapping[tuple[Family, str], Values],
    facts: Mapping[Family, TableFacts],
    late: Mapping[tuple[Family, str], Collection[bytes]],
) -> tuple[Step, Step, Step]:
    """Compare wanted values with belief, and return what to write first, then, and last.

    `late` are the elements that may go only when the verdicts that lead to them have changed.
    """
    first, middle, last = Step(), Step(), Step()
    is_diverting = False
    for (family, set_name), values in sets.items():
        gone, new = _differences(values, facts[family].elements.get(set_name, {}))
        if set_name in _LAST_IN:
            middle.note(family, set_name, gone, new)
            continue
        waiting = late.get((family, set_name), ())
        if set_name in DIVERTING:
            added = {element.key for element in new}
            waiting = {element.key for element in gone} - added
            is_diverting = is_diverting or bool(new)
        elif (
            set_name == HAIRPIN
        ):  # a pod that is on its way to itself is masqueraded after its slot was read
            waiting = {element.key for element in gone} - {element.key for element in new}
        if waiting:
            last.note(family, set_name, [e for e in gone if e.key in waiting], [])
            gone = [element for element in gone if element.key not in waiting]
        first.note(family, set_name, gone, new)
    if not (is_diverting and middle.adds):
        first.merge(middle)
        middle = Step()
    return first, middle, last


def _differences(
    values: Values, believed: Mapping[bytes, Data]
) -> tuple[list[Element], list[Element]]:
    """Return elements to delete, as believed, and to add. A changed element is in both."""
    gone: list[Element] = []
    new: list[Element] = []
    for key, (data, owner) in values.items():
        old = believed.get(key, ABSENT)
        if old is data or old == data:
            continue
        if old is not ABSENT:
            gone.append(Element(key, old, owner))
        if data is not ABSENT:
            new.append(Element(key, data, owner))
    return gone, new
