"""Generic netlink: the header its messages have, and how a family's number is found by its name. Pure.

Families of commands such as "IPVS" get their number when the kernel or a module registers them; it serves as the
message type. <linux/genetlink.h>.
"""

import struct
from typing import Final

from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request

HEADER_LENGTH: Final = 4

_HEADER: Final = struct.Struct("=BBH")  # command, version, reserved
_CONTROL: Final = 16  # GENL_ID_CTRL, the family that knows the others
_GETFAMILY: Final = 3
_FAMILY_ID: Final = 1
_FAMILY_NAME: Final = 2


def header(command: int, version: int = 1) -> bytes:
    """Pack what stands before the attributes."""
    return _HEADER.pack(command, version, 0)


def parse(payload: bytes | memoryview) -> tuple[int, dict[int, memoryview]]:
    """Return command and attributes. Raises Malformed."""
    if len(payload) < HEADER_LENGTH:
        raise Malformed(f"a generic netlink message of {len(payload)} bytes")
    return payload[0], codec.parse_attrs(payload, HEADER_LENGTH)


def get_family(name: str) -> Request:
    """Ask for a family. The kernel refuses with ENOENT if there is none."""
    return Request(_CONTROL, 0, header(_GETFAMILY) + codec.attr_string(_FAMILY_NAME, name))


def parse_family(payload: bytes | memoryview) -> int:
    """Return a family's number from the answer. Raises Malformed."""
    _, attrs = parse(payload)
    if _FAMILY_ID not in attrs:
        raise Malformed("a family without a number")
    return codec.read_u16(attrs[_FAMILY_ID])
