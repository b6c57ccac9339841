"""Messages about links and their addresses, and what listing returns: rtnetlink, as far as it is used. Pure.

Attributes are those of <linux/if_link.h> and <linux/if_addr.h>, in host byte order.
"""

import struct
from typing import Final, NamedTuple

from proxy.addresses import parse_ip, unpack_ip
from proxy.model import IPV4, IPV6, Family
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_string, attr_u32, nested

IFF_UP: Final = 0x1

RTNLGRP_LINK: Final = 1
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV6_IFADDR: Final = 9

IFA_F_NODAD: Final = 0x02
IFA_F_OPTIMISTIC: Final = 0x04
IFA_F_TENTATIVE: Final = 0x40
IFA_F_NOPREFIXROUTE: Final = 0x200

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_LINKINFO: Final = 18
_IFLA_IFALIAS: Final = 20
_IFLA_AF_SPEC: Final = 26
_IFLA_INFO_KIND: Final = 1
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_ADDR_GEN_NONE: Final = b"\1"

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8

_LINK: Final = struct.Struct(
    "=BxHiII"
)  # struct ifinfomsg: family, type, index, flags, which flags are meant
_ADDRESS: Final = struct.Struct(
    "=BBBBI"
)  # struct ifaddrmsg: family, prefix length, flags, scope, index
_NUMBERS: Final[dict[Family, int]] = {IPV4: 2, IPV6: 10}  # AF_INET, AF_INET6
_FAMILIES: Final = frozenset(_NUMBERS.values())


class Link(NamedTuple):
    """A network interface. `kind` is that of a virtual one ("dummy"); `hardware_address` may be empty."""

    ifindex: int
    name: str
    kind: str
    hardware_address: bytes
    alias: str
    is_up: bool


class InterfaceAddress(NamedTuple):
    """An address of this host, on the interface with that number. `address` is in canonical text."""

    ifindex: int
    address: str
    prefix_length: int
    flags: int = 0


def new_link(name: str, kind: str, hardware_address: bytes) -> Request:
    """Make a virtual interface, which is down. EEXIST if there is one of that name, EOPNOTSUPP if not of that kind."""
    return _link_request(
        RTM_NEWLINK,
        0,
        attr_string(_IFLA_IFNAME, name),
        attr(_IFLA_ADDRESS, hardware_address),
        nested(_IFLA_LINKINFO, attr_string(_IFLA_INFO_KIND, kind)),
    )._replace(flags=codec.NLM_F_CREATE | codec.NLM_F_EXCL)


def describe_link(index: int, alias: str) -> Request:
    """Give an interface an alias, and no IPv6 addresses that it makes up itself."""
    mode = attr(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE)
    return _link_request(
        RTM_SETLINK,
        index,
        attr_string(_IFLA_IFALIAS, alias),
        nested(_IFLA_AF_SPEC, nested(_NUMBERS[IPV6], mode)),
    )


def set_link_up(index: int) -> Request:
    return Request(RTM_SETLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))


def del_link(index: int) -> Request:
    """Remove a virtual interface with its addresses. ENODEV if it is not there."""
    return _link_request(RTM_DELLINK, index)


def get_link(name: str) -> Request:
    """Ask for one interface. ENODEV if there is none."""
    return _link_request(RTM_GETLINK, 0, attr_string(_IFLA_IFNAME, name))


def new_address(wanted: InterfaceAddress) -> Request:
    """Give an interface an address; one that it has already is no error."""
    flags = codec.NLM_F_CREATE | codec.NLM_F_REPLACE
    return Request(RTM_NEWADDR, flags, _pack_address(wanted, attr_u32(_IFA_FLAGS, wanted.flags)))


def del_address(unwanted: InterfaceAddress) -> Request:
    """Take an address from an interface. EADDRNOTAVAIL if it has none such."""
    return Request(RTM_DELADDR, 0, _pack_address(unwanted))


def list_addresses() -> Request:
    """Ask for the addresses of all interfaces."""
    return Request(RTM_GETADDR, 0, _ADDRESS.pack(0, 0, 0, 0, 0))


def parse_link(payload: bytes | memoryview) -> Link:
    """Read an interface. Raises Malformed."""
    if len(payload) < _LINK.size:
        raise Malformed(f"an interface in {len(payload)} bytes")
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    attrs = codec.parse_attrs(payload, _LINK.size)
    info = codec.parse_attrs(attrs.get(_IFLA_LINKINFO, b""))
    return Link(
        index,
        codec.read_string(attrs.get(_IFLA_IFNAME, b"")),
        codec.read_string(info.get(_IFLA_INFO_KIND, b"")),
        bytes(attrs.get(_IFLA_ADDRESS, b"")),
        codec.read_string(attrs.get(_IFLA_IFALIAS, b"")),
        bool(flags & IFF_UP),
    )


def parse_address(payload: bytes | memoryview) -> InterfaceAddress | None:
    """Read an address; None if it is not of IP, since other protocols answer `list_addresses` too. Raises Malformed."""
    if len(payload) < _ADDRESS.size:
        raise Malformed(f"an address in {len(payload)} bytes")
    family, prefix_length, flags, _, index = _ADDRESS.unpack_from(payload)
    if family not in _FAMILIES:
        return None
    attrs = codec.parse_attrs(payload, _ADDRESS.size)
    own_end, address = attrs.get(_IFA_LOCAL, b""), attrs.get(_IFA_ADDRESS, b"")
    # of a point-to-point link, IFA_ADDRESS is the other end
    packed = bytes(own_end or address)
    if len(packed) not in {4, 16}:
        raise Malformed(f"an address of {len(packed)} bytes")
    if _IFA_FLAGS in attrs:  # eight flags have become more
        flags = codec.read_u32(attrs[_IFA_FLAGS])
    return InterfaceAddress(index, unpack_ip(packed).text, prefix_length, flags)


def _link_request(kind: int, index: int, *attrs: bytes) -> Request:
    return Request(kind, 0, _LINK.pack(0, 0, index, 0, 0) + b"".join(attrs))


def _pack_address(each: InterfaceAddress, *more: bytes) -> bytes:
    address = parse_ip(each.address)
    if address is None:
        raise ValueError(f"{each.address} is no address")
    head = _ADDRESS.pack(_NUMBERS[address.family], each.prefix_length, 0, 0, each.ifindex)
    both_ends = [attr(kind, address.packed) for kind in (_IFA_LOCAL, _IFA_ADDRESS)]
    return b"".join([head, *both_ends, *more])
