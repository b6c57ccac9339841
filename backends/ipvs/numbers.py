"""Which number stands for a ServicePort in firewall marks: what only depends on its name, as far as nobody else has it. Pure."""

import hashlib
from collections.abc import Callable
from typing import Final

from backends.kernel.ipvs_marks import NUMBERS
from proxy.model import PortKey

_NEAR: Final = 64


def choose_number(key: PortKey, is_free: Callable[[int], bool]) -> int:
    """Return a free number for a ServicePort, the same one after every start unless another has it.

    The last one is the probe's.
    """
    number = _first_number(key)
    while not is_free(number):
        number = (number + 1) % (NUMBERS - 1)
    return number


def is_chosen(key: PortKey, number: int) -> bool:
    """Whether a number can have been chosen for a ServicePort: its first one, or one of those soon after.

    One found in the kernel that is not was somebody's who may still have it, and only lost a frontend to this one.
    """
    return (number - _first_number(key)) % (NUMBERS - 1) < _NEAR


def _first_number(key: PortKey) -> int:
    digest = hashlib.blake2b("/".join(key.name).encode(), digest_size=4).digest()
    return int.from_bytes(digest) % (NUMBERS - 1)
