"""The values that elements of sets should have, and what leads to them from those they have. Pure."""

import enum
from collections.abc import Mapping
from typing import Final

from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Element, Form
from proxy.model import PortKey


class Absent(enum.Enum):
    """The value of an element that should not exist; None is the data of a plain set's member."""

    ABSENT = 0


ABSENT: Final = Absent.ABSENT
Values = dict[bytes, tuple[Data | Absent, PortKey | None]]
"""By key; each with the ServicePort it is for."""


def differences(
    values: Values, believed: Mapping[bytes, Data], form: Form
) -> tuple[list[Element], list[Element]]:
    """Return the elements of one set to delete, as believed, and to add. A changed element is in both."""
    if form is not Form.BOUNDS and believed.keys().isdisjoint(values):  # as at start
        wanted = values.items()
        return [], [
            Element(key, data, owner) for key, (data, owner) in wanted if data is not ABSENT
        ]
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
    if (gone or new) and form is Form.BOUNDS:
        return _anew(values, believed)
    return gone, new


def _anew(values: Values, believed: Mapping[bytes, Data]) -> tuple[list[Element], list[Element]]:
    """Return all elements of a set of ranges to delete, and all to add.

    A bound that stays would make the kernel find overlaps with what is added (EEXIST), or not find what is deleted (ENOENT), and refuse
    that (6.18).
    """
    after = {key: (data, None) for key, data in believed.items()} | values
    gone = [Element(key, data, after[key][1]) for key, data in believed.items()]
    new = [Element(key, data, owner) for key, (data, owner) in after.items() if data is not ABSENT]
    return gone, new
