"""Programs that decide which packets a listening socket is shown: classic BPF, as <linux/filter.h> has it. Pure.

What a filter rejects is dropped before the socket knows of it: a SYN is not answered at all, as by a rule that drops. That
takes neither netfilter nor a privilege. A program sees the packet from its transport header on; what comes before is
found at SKF_NET_OFF.
"""

import struct
from collections.abc import Iterable
from typing import Final

from backends.userspace.here import Here
from backends.userspace.model import Admission
from proxy.addresses import bounds_of, parse_cidr
from proxy.model import IPV4, Family

MOST: Final = 4096
"""Instructions that the kernel takes (BPF_MAXINSNS): a thousand ranges of IPv4, three hundred of IPv6, two thousand interfaces.

Where net.core.optmem_max is 20480, as it was by default for long, memory ends before (ENOMEM): at some 230, 120 and 620.
"""

_NET: Final = -0x100000  # SKF_NET_OFF
_INTERFACE: Final = -0x1000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX
_SOURCE: Final[dict[Family, int]] = {"IPv4": 12, "IPv6": 8}
_LOAD, _AND, _IS, _JUMP, _RETURN = (
    0x20,
    0x54,
    0x15,
    0x05,
    0x06,
)  # ld [k], and #k, jeq #k, ja, ret #k
_ALL: Final = 0xFFFFFFFF
_LOOPBACK: Final = 1  # LOOPBACK_IFINDEX, in every namespace
_INSTRUCTION: Final = struct.Struct("=HBBI")
WIDTH: Final = _INSTRUCTION.size
"""Bytes of one instruction."""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, and the number k."""
_SUCCESS: Final[Instruction] = (_JUMP, 0, 0, _ALL)


def program(family: Family, admission: Admission, here: Here) -> list[Instruction]:
    """Return what lets in whom `admission` says; nothing where that is everybody.

    Packets of the node itself come by its loopback interface, whatever their addresses.
    """
    made: list[Instruction] = []
    if admission.ranges is not None:
        own = [_interfaces([_LOOPBACK])] if admission.takes_node else []
        made += _only([*own, *[_range(family, cidr) for cidr in admission.ranges]])
    if admission.only_here:
        own = [_interfaces([_LOOPBACK, *sorted(here.interfaces)])]
        made += _only([*own, *[_range(family, cidr) for cidr in here.ranges]])
    return [*made, (_RETURN, 0, 0, _ALL)] if made else []


def pack(instructions: Iterable[Instruction]) -> bytes:
    """Return instructions as the kernel reads them (struct sock_filter)."""
    return b"".join([_INSTRUCTION.pack(*each) for each in instructions])


def _only(tests: Iterable[list[Instruction]]) -> list[Instruction]:
    """Return what goes on behind itself if one of the tests succeeds, and drops the packet if none does.

    A test that fails goes on behind its last instruction, in the place of which success gets a jump of any length.
    """
    made = [instruction for test in tests for instruction in test]
    made.append((_RETURN, 0, 0, 0))
    return [
        (_JUMP, 0, 0, len(made) - at - 1) if each == _SUCCESS else each
        for at, each in enumerate(made)
    ]


def _interfaces(numbers: Iterable[int]) -> list[Instruction]:
    """Return the test whether the packet came in by one of some interfaces."""
    made: list[Instruction] = [(_LOAD, 0, 0, _INTERFACE & _ALL)]
    for number in numbers:
        made += [(_IS, 0, 1, number), _SUCCESS]
    return made


def _range(family: Family, cidr: str) -> list[Instruction]:
    """Return the test whether the source is in a range; none for a range of the other family."""
    parsed = parse_cidr(cidr)
    if parsed is None or parsed.family != family:
        return []
    width = 4 if family == IPV4 else 16
    packed = bounds_of(parsed.text)[0].to_bytes(width)
    made: list[Instruction] = []
    for at in range(0, width, 4):
        length = min(parsed.prefix_length - 8 * at, 32)
        if length > 0:
            made.append((_LOAD, 0, 0, (_NET + _SOURCE[family] + at) & _ALL))
            made += [(_AND, 0, 0, _ALL << 32 - length & _ALL)] if length < 32 else []
            made.append((_IS, 0, 0, int.from_bytes(packed[at : at + 4])))
    # what is not equal ends the test: it jumps over all that follows, and over the success
    return [
        (code, 0, len(made) - at, number) if code == _IS else (code, 0, 0, number)
        for at, (code, _, _, number) in enumerate(made)
    ] + [_SUCCESS]
