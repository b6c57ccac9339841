"""The messages that make, change, remove and list virtual servers and destinations of IPVS. Pure.

Builders return generic netlink messages; `backends.kernel.ipvs` sends them under the number the kernel gave the family.
Attributes are those of <linux/ip_vs.h>. Numbers are in host byte order, but ports, addresses and IPv4's netmask.

The kernel has no defaults: to change one thing of a virtual server or destination, all of it is sent. There is
no builder for IPVS_CMD_FLUSH, which cannot tell ours from others'.
"""

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

from backends.kernel.ipvs_objects import (
    Destination,
    Info,
    Load,
    ServerId,
    Timeouts,
    VirtualServer,
    marked,
)
from proxy.addresses import join_host_port, parse_ip, unpack_ip
from proxy.model import IPV4, IPV6, Family, Protocol
from proxy.netlink import codec, generic
from proxy.netlink.codec import Malformed, attr, attr_string, attr_u16, attr_u32, nested

FAMILY_NAME: Final = "IPVS"

_SERVER: Final = 1
_DESTINATION: Final = 2
_TIMEOUTS: Final = (4, 5, 6)  # TCP, TCP after a FIN, UDP

_FAMILY: Final = 1
_PROTOCOL: Final = 2
_ADDRESS: Final = 3
_PORT: Final = 4
_MARK: Final = 5
_SCHEDULER: Final = 6
_FLAGS: Final = 7
_TIMEOUT: Final = 8
_NETMASK: Final = 9
_ENGINE: Final = 11

_DEST_ADDRESS: Final = 1
_DEST_PORT: Final = 2
_DEST_FORWARDING: Final = 3
_DEST_WEIGHT: Final = 4
_DEST_UPPER: Final = 5
_DEST_LOWER: Final = 6
_DEST_LOAD: Final = (7, 8, 9)  # active, inactive, persistent
_DEST_FAMILY: Final = 11

_INFO_VERSION: Final = 1
_INFO_TABLE_SIZE: Final = 2

_FAMILY_NUMBERS: Final[dict[Family, int]] = {IPV4: 2, IPV6: 10}  # AF_INET, AF_INET6
_FAMILIES: Final = {number: family for family, number in _FAMILY_NUMBERS.items()}
_PROTOCOL_NUMBERS: Final[dict[Protocol, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOLS: Final = {number: protocol for protocol, number in _PROTOCOL_NUMBERS.items()}
_ADDRESS_LENGTH: Final = 16  # union nf_inet_addr, of which IPv4 fills the first four
_ADDRESS_LENGTHS: Final[dict[Family, int]] = {IPV4: 4, IPV6: 16}
_FLAGS_AND_MASK: Final = struct.Struct("=II")
# Five attributes, each with length and kind, at once: there are many destinations, and this takes half the time.
_DEST_SETTINGS: Final = struct.Struct("=HHH2x" + 4 * "HHI")
_MASK: Final = struct.Struct(">I")
_PREFIX: Final = struct.Struct("=I")
# The kernel's own mark on a virtual server that is in its table. It shows in lists, and is not ours to set.
_IN_TABLE: Final = 0x2
_EVERY_FLAG: Final = 0xFFFFFFFF


class Command(IntEnum):
    """IPVS_CMD_*, as far as they are used."""

    NEW_SERVER = 1
    SET_SERVER = 2
    DEL_SERVER = 3
    GET_SERVER = 4
    NEW_DESTINATION = 5
    SET_DESTINATION = 6
    DEL_DESTINATION = 7
    GET_DESTINATION = 8
    SET_CONFIG = 12
    GET_CONFIG = 13
    SET_INFO = 14
    GET_INFO = 15


_VERBS: Final = {
    Command.NEW_SERVER: "add virtual server",
    Command.SET_SERVER: "change virtual server",
    Command.DEL_SERVER: "remove virtual server",
    Command.NEW_DESTINATION: "add destination",
    Command.SET_DESTINATION: "change destination",
    Command.DEL_DESTINATION: "remove destination",
    Command.SET_CONFIG: "set timeouts",
}


def new_server(server: VirtualServer) -> bytes:
    """Add a virtual server. EEXIST if it is there, ENOENT if the kernel has no such scheduler or engine."""
    return _whole_server(Command.NEW_SERVER, server)


def set_server(server: VirtualServer) -> bytes:
    """Change a virtual server, which keeps its destinations and connections. ESRCH if it is not there."""
    return _whole_server(Command.SET_SERVER, server)


def del_server(server: ServerId) -> bytes:
    """Remove a virtual server and its destinations. ESRCH if it is not there."""
    return _about(Command.DEL_SERVER, server)


def get_server(server: ServerId) -> bytes:
    """Ask for one virtual server. ESRCH if it is not there."""
    return _about(Command.GET_SERVER, server)


def list_servers() -> bytes:
    """Ask for all virtual servers of the network namespace."""
    return generic.header(Command.GET_SERVER)


def new_destination(server: ServerId, destination: Destination) -> bytes:
    """Add a destination. EEXIST if it is there, ESRCH if its virtual server is not."""
    return _about(Command.NEW_DESTINATION, server, _pack_destination(server.family, destination))


def set_destination(server: ServerId, destination: Destination) -> bytes:
    """Change a destination, which keeps its connections. ENOENT if it is not there, ESRCH if its server is not."""
    return _about(Command.SET_DESTINATION, server, _pack_destination(server.family, destination))


def del_destination(server: ServerId, address: str, port: int) -> bytes:
    """Remove a destination. ENOENT if it is not there, ESRCH if its virtual server is not."""
    place = _pack_place(server.family, address, port)
    return _about(Command.DEL_DESTINATION, server, nested(_DESTINATION, place))


def list_destinations(server: ServerId) -> bytes:
    """Ask for the destinations of a virtual server. There are none, and no error, if it is not there."""
    return _about(Command.GET_DESTINATION, server)


def set_timeouts(timeouts: Timeouts) -> bytes:
    """Set the timeouts that are not 0. EINVAL if one is longer than the kernel can count."""
    pairs = zip(_TIMEOUTS, timeouts, strict=True)
    numbers = [attr_u32(kind, seconds) for kind, seconds in pairs]
    return generic.header(Command.SET_CONFIG) + b"".join(numbers)


def get_timeouts() -> bytes:
    return generic.header(Command.GET_CONFIG)


def get_info() -> bytes:
    return generic.header(Command.GET_INFO)


def parse_server(payload: bytes | memoryview) -> VirtualServer | None:
    """Read a listed virtual server; None if it is of another protocol than ours. Raises Malformed."""
    attrs = _content(payload, _SERVER)
    identity = _parse_id(attrs)
    if identity is None:
        return None
    flags = _get(attrs, _FLAGS)
    if len(flags) != _FLAGS_AND_MASK.size:
        raise Malformed(f"flags and their mask in {len(flags)} bytes")
    return VirtualServer(
        identity,
        codec.read_string(_get(attrs, _SCHEDULER)),
        _FLAGS_AND_MASK.unpack(flags)[0] & ~_IN_TABLE,
        codec.read_u32(_get(attrs, _TIMEOUT)),
        _parse_netmask(identity.family, _get(attrs, _NETMASK)),
        codec.read_string(attrs.get(_ENGINE, b"")),
    )


def parse_destination(payload: bytes | memoryview) -> tuple[Destination, Load]:
    """Read a listed destination. Raises Malformed."""
    attrs = _content(payload, _DESTINATION)
    destination = Destination(
        _parse_address(_parse_family(_get(attrs, _DEST_FAMILY)), _get(attrs, _DEST_ADDRESS)),
        _parse_port(_get(attrs, _DEST_PORT)),
        codec.read_u32(_get(attrs, _DEST_WEIGHT)),
        codec.read_u32(_get(attrs, _DEST_FORWARDING)),
        codec.read_u32(_get(attrs, _DEST_UPPER)),
        codec.read_u32(_get(attrs, _DEST_LOWER)),
    )
    return destination, Load(*[codec.read_u32(_get(attrs, kind)) for kind in _DEST_LOAD])


def parse_timeouts(payload: bytes | memoryview) -> Timeouts:
    """Read the answer to `get_timeouts`; 0 for a protocol the kernel's IPVS does not know. Raises Malformed."""
    _, attrs = generic.parse(payload)
    return Timeouts(*[codec.read_u32(attrs.get(kind, bytes(4))) for kind in _TIMEOUTS])


def parse_info(payload: bytes | memoryview) -> Info:
    """Read the answer to `get_info`. Raises Malformed."""
    _, attrs = generic.parse(payload)
    version = codec.read_u32(_get(attrs, _INFO_VERSION))
    return Info(
        (version >> 16 & 0xFF, version >> 8 & 0xFF, version & 0xFF),
        codec.read_u32(_get(attrs, _INFO_TABLE_SIZE)),
    )


def describe(message: bytes) -> str:
    """Return in words what a builder's message asks for."""
    command, attrs = generic.parse(message)
    verb = _VERBS.get(Command(command), "read")
    if _SERVER not in attrs:
        return verb
    server = codec.parse_attrs(attrs[_SERVER])
    if _DESTINATION not in attrs:
        return f"{verb} {_parse_id(server)}"
    place = codec.parse_attrs(attrs[_DESTINATION])
    address = _parse_address(_parse_family(server[_FAMILY]), place[_DEST_ADDRESS])
    return (
        f"{verb} {join_host_port(address, _parse_port(place[_DEST_PORT]))} of {_parse_id(server)}"
    )


def _about(command: Command, server: ServerId, *more: bytes) -> bytes:
    return b"".join([generic.header(command), nested(_SERVER, _pack_id(server)), *more])


def _whole_server(command: Command, server: VirtualServer) -> bytes:
    engine = attr_string(_ENGINE, server.engine) if server.engine else b""
    content = nested(
        _SERVER,
        _pack_id(server.id),
        attr_string(_SCHEDULER, server.scheduler),
        attr(_FLAGS, _FLAGS_AND_MASK.pack(server.flags & ~_IN_TABLE, _EVERY_FLAG)),
        attr_u32(_TIMEOUT, server.timeout_s),
        attr(_NETMASK, _pack_netmask(server.id.family, server.host_bits)),
        engine,
    )
    return generic.header(command) + content


@lru_cache(
    maxsize=256
)  # each destination says whose it is, and most come in the company of others
def _pack_id(server: ServerId) -> bytes:
    family = attr_u16(_FAMILY, _FAMILY_NUMBERS[server.family])
    if server.protocol is None:
        if not server.mark:  # the kernel would make one of TCP, address 0.0.0.0, port 0
            raise ValueError("a virtual server of neither a protocol nor a mark")
        return family + attr_u32(_MARK, server.mark)
    protocol = attr_u16(_PROTOCOL, _PROTOCOL_NUMBERS[server.protocol])
    address = attr(_ADDRESS, _pack_address(server.family, server.address))
    return family + protocol + address + attr(_PORT, server.port.to_bytes(2, "big"))


def _pack_destination(family: Family, destination: Destination) -> bytes:
    address, port, weight, forwarding, upper, lower = destination
    settings = _DEST_SETTINGS.pack(
        *(6, _DEST_FAMILY, _FAMILY_NUMBERS[family]),
        *(8, _DEST_FORWARDING, forwarding),
        *(8, _DEST_WEIGHT, weight),
        *(8, _DEST_UPPER, upper),
        *(8, _DEST_LOWER, lower),
    )
    return nested(_DESTINATION, _pack_place(family, address, port), settings)


def _pack_place(family: Family, address: str, port: int) -> bytes:
    packed = attr(_DEST_ADDRESS, _pack_address(family, address))
    return packed + attr(_DEST_PORT, port.to_bytes(2, "big"))


def _pack_address(family: Family, text: str) -> bytes:
    address = parse_ip(text)
    if address is None or address.family != family:
        raise ValueError(f"{text} is no {family} address")
    return address.packed.ljust(_ADDRESS_LENGTH, b"\0")


def _pack_netmask(family: Family, host_bits: int) -> bytes:
    """Pack what of a client's address persistence looks at: for IPv4 a mask, for IPv6 the length of a prefix."""
    bits = 8 * _ADDRESS_LENGTHS[family]
    if not 0 <= host_bits <= bits:
        raise ValueError(f"{host_bits} of the {bits} bits of an {family} address")
    if family == IPV6:
        return _PREFIX.pack(bits - host_bits)
    return _MASK.pack(0xFFFFFFFF >> host_bits << host_bits)


def _parse_id(attrs: dict[int, memoryview]) -> ServerId | None:
    family = _parse_family(_get(attrs, _FAMILY))
    if _MARK in attrs:
        return marked(family, codec.read_u32(attrs[_MARK]))
    protocol = _PROTOCOLS.get(codec.read_u16(_get(attrs, _PROTOCOL)))
    if protocol is None:
        return None
    address = _parse_address(family, _get(attrs, _ADDRESS))
    # an IPv4-mapped address, which we never write as IPv6
    if family == IPV6 and ":" not in address:
        return None
    return ServerId(family, protocol, address, _parse_port(_get(attrs, _PORT)))


def _parse_netmask(family: Family, data: memoryview) -> int:
    bits = 8 * _ADDRESS_LENGTHS[family]
    if len(data) != _MASK.size:
        raise Malformed(f"a netmask of {len(data)} bytes")
    if family == IPV6:
        (length,) = _PREFIX.unpack(data)
        return bits - length if length <= bits else -1
    (mask,) = _MASK.unpack(data)
    host_bits = bits - mask.bit_count()
    return host_bits if mask == 0xFFFFFFFF >> host_bits << host_bits else -1


def _parse_family(data: memoryview) -> Family:
    number = codec.read_u16(data)
    if number not in _FAMILIES:
        raise Malformed(f"address family {number}")
    return _FAMILIES[number]


def _parse_address(family: Family, data: memoryview) -> str:
    if len(data) != _ADDRESS_LENGTH:
        raise Malformed(f"an address of {len(data)} bytes")
    return unpack_ip(bytes(data[: _ADDRESS_LENGTHS[family]])).text


def _parse_port(data: memoryview) -> int:
    if len(data) != 2:
        raise Malformed(f"a port of {len(data)} bytes")
    return int.from_bytes(data, "big")


def _content(payload: bytes | memoryview, kind: int) -> dict[int, memoryview]:
    _, attrs = generic.parse(payload)
    return codec.parse_attrs(_get(attrs, kind))


def _get(attrs: dict[int, memoryview], kind: int) -> memoryview:
    if kind not in attrs:
        raise Malformed(f"no attribute {kind}")
    return attrs[kind]
