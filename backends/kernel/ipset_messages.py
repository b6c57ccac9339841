"""The messages that make, fill, swap, list and destroy sets of `ipset`. Pure.

Builders return netlink requests; `backends.kernel.ipset` sends them. Attributes are those of
<linux/netfilter/ipset/ip_set.h>; numbers longer than a byte are in network byte order, and say so by a bit of their kind.

All of them say what should be, not what should happen: making a set that is there already, adding a member that is
in it and deleting one that is not are no errors (`ipset -exist`). Commands without a name, which the kernel would carry
out on every set there is, have no builder.
"""

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

from backends.kernel.ipset_objects import (
    MEMBERS,
    NAME_LENGTH,
    NETWORK_NETWORK,
    NETWORK_PORT,
    IpSet,
    Member,
    SetKind,
    SetState,
)
from proxy.addresses import parse_cidr, parse_ip, unpack_ip
from proxy.model import IPV4, IPV6, Family
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_string, nested

_SUBSYSTEM: Final = 6  # NFNL_SUBSYS_IPSET
_GENERAL: Final = b"\x02\0\0\0"  # struct nfgenmsg; the family in it is not looked at
# IPSET_ATTR_PROTOCOL: 6. Kernels from 4.20 on speak 7 as well, which adds two commands that are not used here.
_VERSIONED: Final = _GENERAL + attr(1, b"\x06")

# at the level of commands
_NAME: Final = 2
_TYPE: Final = 3  # when swapping, the other name
_REVISION: Final = 4
_FAMILY: Final = 5
_FLAGS: Final = 6
_DATA: Final = 7
_MEMBERS: Final = 8
# in the data of a member, or of a set
_ADDRESS: Final = 1
_PREFIX: Final = 3
_PORT: Final = 4
_PORT_TO: Final = 5
_TIMEOUT: Final = 6
_PROTOCOL: Final = 7
_OPTIONS: Final = 8  # IPSET_ATTR_CADT_FLAGS
_ADDRESS_IPV4: Final = 1
_ADDRESS_IPV6: Final = 2
_OTHER: Final = 20
_OTHER_PREFIX: Final = 21
_MAX_MEMBERS: Final = 19
_COUNT: Final = 24
_REFERENCES: Final = 25
_MARK: Final = 27  # value and mask

_HEADER_ONLY: Final = 4  # IPSET_FLAG_LIST_HEADER
_WITH_MARKS: Final = 1 << 6  # IPSET_FLAG_WITH_SKBINFO
_WHOLE: Final = 0xFFFFFFFF
_NET_BYTEORDER: Final = 0x4000
_LAST_PORT: Final = 0xFFFF
_MAPPED: Final = bytes(10) + b"\xff\xff"
# Parts of a member at once, headers and padding included: there are many members, and this takes a third of the time.
_IPV4: Final = struct.Struct("=4H4s")
_IPV6: Final = struct.Struct("=4H16s")
_PROTOCOL_AND_PORT: Final = struct.Struct("=HHB3xHH2s2x")
_FAMILY_NUMBERS: Final[dict[Family | None, int]] = {None: 0, IPV4: 2, IPV6: 10}  # AF_…
_FAMILIES: Final = {number: family for family, number in _FAMILY_NUMBERS.items()}
# The oldest revisions of each kind that know all of what is used here (SCTP came with 1). A newer one might be
# unknown to the installed `ipset`, which then refuses to list any set.
_REVISIONS: Final[dict[str, int]] = {
    SetKind.ADDRESS: 0,
    SetKind.NETWORK: 0,
    SetKind.ADDRESS_PORT: 1,
    SetKind.ADDRESS_PORT_ADDRESS: 1,
    SetKind.ADDRESS_PORT_NETWORK: 1,
    SetKind.PORT: 0,
    NETWORK_PORT: 1,
    NETWORK_NETWORK: 0,
}
_REVISIONS_WITH_MARKS: Final[dict[str, int]] = {SetKind.ADDRESS_PORT: 5, NETWORK_PORT: 7}


class Command(IntEnum):
    """IPSET_CMD_*, as far as they are used."""

    CREATE = 2
    DESTROY = 3
    FLUSH = 4
    SWAP = 6
    LIST = 7
    ADD = 9
    DEL = 10
    TEST = 11


def create(made: IpSet) -> Request:
    """Make a set. EEXIST if another one has its name, FIND_TYPE if the kernel has no such kind.

    Another one differs in kind, timeout or number of members. One of the other family counts as the same, and stays.
    """
    kind = made.kind
    revisions = _REVISIONS_WITH_MARKS if made.has_marks else _REVISIONS
    if kind not in revisions or (kind == SetKind.PORT) != (made.family is None):
        raise ValueError(f"set {made.name} of {kind} and family {made.family}")
    if kind == SetKind.PORT:
        settings = _u16(_PORT, 0) + _u16(_PORT_TO, _LAST_PORT)
    else:
        settings = _u32(_MAX_MEMBERS, made.max_members)
    if made.timeout_s is not None:
        settings += _u32(_TIMEOUT, made.timeout_s)
    if made.has_marks:
        settings += _u32(_OPTIONS, _WITH_MARKS)
    return _request(
        Command.CREATE,
        made.name,
        attr_string(_TYPE, kind),
        _u8(_REVISION, revisions[kind]),
        _u8(_FAMILY, _FAMILY_NUMBERS[made.family]),
        nested(_DATA, settings),
    )


def destroy(name: str) -> Request:
    """Remove a set. ENOENT, but not by newer kernels, if there is none; BUSY while a rule names it or it is being listed."""
    return _request(Command.DESTROY, name)


def flush(name: str) -> Request:
    """Remove all members of a set. ENOENT if there is none."""
    return _request(Command.FLUSH, name)


def swap(one: str, other: str) -> Request:
    """Let two sets of one kind change their names: rules that name one of them ask the other from then on."""
    return _request(Command.SWAP, one, attr_string(_TYPE, _checked(other)))


def add(name: str, member: Member, timeout_s: int | None = None) -> Request:
    """Add a member; one that is there gets the new time and mark. HASH_FULL if the set has as many as it can."""
    time = b"" if timeout_s is None else _u32(_TIMEOUT, timeout_s)
    mark = b"" if member.mark is None else _pack_mark(member.mark)
    return _request(Command.ADD, name, nested(_DATA, _pack_member(member), time, mark))


def delete(name: str, member: Member) -> Request:
    """Remove a member."""
    return _request(Command.DEL, name, nested(_DATA, _pack_member(member)))


def test(name: str, member: Member) -> Request:
    """Ask whether something is a member. EXIST if not. A set of ranges is asked about the very range."""
    return _request(Command.TEST, name, nested(_DATA, _pack_member(member)))


def list_sets(name: str = "") -> Request:
    """Ask for sets without their members: one, ENOENT if there is none, or without a name all."""
    flags = _u32(_FLAGS, _HEADER_ONLY)
    return _request(Command.LIST, name, flags) if name else _bare(Command.LIST, flags)


def list_members(name: str) -> Request:
    """Ask for the members of a set. ENOENT if there is none."""
    return _request(Command.LIST, name)


def parse_state(payload: bytes | memoryview) -> SetState:
    """Read an answer to `list_sets`. Raises Malformed."""
    attrs = _attrs(payload)
    data = codec.parse_attrs(_get(attrs, _DATA))
    made = IpSet(
        codec.read_string(_get(attrs, _NAME)),
        codec.read_string(_get(attrs, _TYPE)),
        _parse_family(_get(attrs, _FAMILY)),
        codec.read_be32(data[_TIMEOUT]) if _TIMEOUT in data else None,
        codec.read_be32(data[_MAX_MEMBERS]) if _MAX_MEMBERS in data else MEMBERS,
        bool(_OPTIONS in data and codec.read_be32(data[_OPTIONS]) & _WITH_MARKS),
    )
    count = codec.read_be32(_get(data, _COUNT))
    return SetState(made, count, codec.read_be32(_get(data, _REFERENCES)))


def parse_members(payload: bytes | memoryview) -> list[Member]:
    """Read one of the answers to `list_members`: some of the members, or none. Raises Malformed."""
    listed = _attrs(payload).get(_MEMBERS, b"")
    return [_parse_member(codec.parse_attrs(data)) for _, data in codec.iter_attrs(listed)]


def describe(request: Request) -> str:
    """Return in words what a builder's request asks for."""
    command = Command(request.kind & 0xFF)
    attrs = _attrs(request.payload)
    name = codec.read_string(attrs.get(_NAME, b""))
    match command:
        case Command.ADD | Command.DEL | Command.TEST:
            member = _parse_member(codec.parse_attrs(attrs[_DATA]))
            return f"{_VERBS[command].format(member)} set {name}"
        case Command.CREATE:
            return f"create set {name} ({codec.read_string(attrs[_TYPE])})"
        case Command.SWAP:
            return f"swap sets {name} and {codec.read_string(attrs[_TYPE])}"
        case _:
            return f"{command.name.lower()} set {name}" if name else "list sets"


_VERBS: Final = {
    Command.ADD: "add {} to",
    Command.DEL: "delete {} from",
    Command.TEST: "look for {} in",
}


def kind_of(command: Command) -> int:
    """Return the kind of netlink message of a command."""
    return _SUBSYSTEM << 8 | command


def _bare(command: Command, *attributes: bytes) -> Request:
    return Request(kind_of(command), 0, b"".join([_VERSIONED, *attributes]))


def _request(command: Command, name: str, *attributes: bytes) -> Request:
    return Request(kind_of(command), 0, b"".join([_named(name), *attributes]))


@lru_cache(maxsize=256)
def _named(name: str) -> bytes:
    """Pack how a message about a set begins; most come in the company of others about the same."""
    return _VERSIONED + attr_string(_NAME, _checked(name))


def _checked(name: str) -> str:
    if not 0 < len(name.encode()) <= NAME_LENGTH:
        raise ValueError(f"{name!r} is no name of a set: it has 1 to {NAME_LENGTH} bytes")
    return name


def _pack_member(member: Member) -> bytes:
    address, protocol, port, other, _ = member
    if not address:
        return _u16(_PORT, port)
    packed = _pack_place(address, _ADDRESS, _PREFIX)
    if protocol:
        packed += _PROTOCOL_AND_PORT.pack(
            *(5, _PROTOCOL, protocol),
            *(6, _PORT | _NET_BYTEORDER, port.to_bytes(2, "big")),
        )
    return packed + _pack_place(other, _OTHER, _OTHER_PREFIX) if other else packed


def _pack_mark(mark: int) -> bytes:
    """Pack a mark as the whole of one, unless it is what the kernel said of one that is not."""
    full = mark << 32 | _WHOLE if mark <= _WHOLE else mark
    return attr(_MARK | _NET_BYTEORDER, full.to_bytes(8, "big"))


def _pack_place(text: str, address_kind: int, prefix_kind: int) -> bytes:
    """Pack an address, or a range with its prefix length."""
    host, slash, _ = text.partition("/")
    packed = _pack_address(host)
    kind = address_kind | codec.NLA_F_NESTED
    if len(packed) == 4:
        address = _IPV4.pack(12, kind, 8, _ADDRESS_IPV4 | _NET_BYTEORDER, packed)
    else:
        address = _IPV6.pack(24, kind, 20, _ADDRESS_IPV6 | _NET_BYTEORDER, packed)
    if not slash:
        return address
    cidr = parse_cidr(text)
    if cidr is None or cidr.text != text:
        raise ValueError(f"{text} is no range of addresses in canonical form")
    return address + _u8(prefix_kind, cidr.prefix_length)


def _pack_address(text: str) -> bytes:
    address = parse_ip(text)
    if address is None:
        raise ValueError(f"{text} is no address")
    # never written by us, but found where somebody else did, and then it has to go
    is_mapped = ":" in text and address.family is IPV4
    return _MAPPED + address.packed if is_mapped else address.packed


def _parse_member(attrs: dict[int, memoryview]) -> Member:
    return Member(
        _parse_place(attrs, _ADDRESS, _PREFIX),
        _read_u8(attrs[_PROTOCOL]) if _PROTOCOL in attrs else 0,
        _read_be16(attrs[_PORT]) if _PORT in attrs else 0,
        _parse_place(attrs, _OTHER, _OTHER_PREFIX),
        _parse_mark(attrs[_MARK]) if _MARK in attrs else None,
    )


def _parse_mark(data: memoryview) -> int:
    if len(data) != 8:
        raise Malformed(f"a mark of {len(data)} bytes")
    full = int.from_bytes(data, "big")
    return full >> 32 if full & _WHOLE == _WHOLE else full


def _parse_place(attrs: dict[int, memoryview], address_kind: int, prefix_kind: int) -> str:
    if address_kind not in attrs:
        return ""
    values = codec.parse_attrs(attrs[address_kind])
    packed = bytes(values.get(_ADDRESS_IPV4) or values.get(_ADDRESS_IPV6) or b"")
    if len(packed) not in {4, 16}:
        raise Malformed(f"an address of {len(packed)} bytes")
    address = unpack_ip(packed)
    text = address.text if len(address.packed) == len(packed) else f"::ffff:{address.text}"
    return f"{text}/{_read_u8(attrs[prefix_kind])}" if prefix_kind in attrs else text


def _parse_family(data: memoryview) -> Family | None:
    number = _read_u8(data)
    if number not in _FAMILIES:
        raise Malformed(f"address family {number}")
    return _FAMILIES[number]


def _attrs(payload: bytes | memoryview) -> dict[int, memoryview]:
    return codec.parse_attrs(payload, len(_GENERAL))


def _get(attrs: dict[int, memoryview], kind: int) -> memoryview:
    if kind not in attrs:
        raise Malformed(f"no attribute {kind}")
    return attrs[kind]


def _u8(kind: int, value: int) -> bytes:
    return attr(kind, bytes([value]))


def _u16(kind: int, value: int) -> bytes:
    return attr(kind | _NET_BYTEORDER, value.to_bytes(2, "big"))


def _u32(kind: int, value: int) -> bytes:
    return attr(kind | _NET_BYTEORDER, value.to_bytes(4, "big"))


def _read_u8(data: memoryview) -> int:
    if len(data) != 1:
        raise Malformed(f"a number of {len(data)} bytes, where there should be one")
    return data[0]


def _read_be16(data: memoryview) -> int:
    if len(data) != 2:
        raise Malformed(f"a port of {len(data)} bytes")
    return int.from_bytes(data, "big")
