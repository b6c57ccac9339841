"""Messages to the kernel's connection tracking: a filtered dump, what it says, and the deletion of one entry. Pure.

Attributes are those of <linux/netfilter/nfnetlink_conntrack.h>. Addresses and ports are in network byte order.

A filtered dump walks the kernel's whole table, 0.3 µs an entry, but only what fits comes back, 4 µs an entry. Filters
are honoured from Linux 5.8 on, that for translated entries from 5.16. What comes back can be more than was asked for:
readers look for themselves. The kernel can also delete by a filter in one message (6.12). That is not used: it does
not tell how much it deleted, it cannot say "none of these endpoints", and kernels that do not know it either refuse or,
for some filters, delete everything there is.
"""

import struct
from typing import Final, NamedTuple

from proxy.model import IPV4, IPV6, Family
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_be32, nested

IPPROTO_UDP: Final = 17
IPPROTO_TCP: Final = 6

_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE: Final = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE
_NUMBERS: Final[dict[Family, int]] = {IPV4: 2, IPV6: 10}  # AF_INET, AF_INET6
_GENERAL_LENGTH: Final = 4  # struct nfgenmsg: family, version, resource id

_CTA_TUPLE_ORIG: Final = 1
_CTA_TUPLE_REPLY: Final = 2
_CTA_STATUS: Final = 3
_CTA_ID: Final = 12
_CTA_ZONE: Final = 18
_CTA_FILTER: Final = 25
_CTA_STATUS_MASK: Final = 26
_CTA_FILTER_ORIG_FLAGS: Final = 1
_CTA_FILTER_REPLY_FLAGS: Final = 2
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_IP_SRC: Final[dict[Family, int]] = {IPV4: 1, IPV6: 3}
_CTA_IP_DST: Final[dict[Family, int]] = {IPV4: 2, IPV6: 4}
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_SRC_PORT: Final = 2
_CTA_PROTO_DST_PORT: Final = 3
_IPS_DST_NAT: Final = 1 << 5
# which parts of a tuple a filter compares; these two numbers are in host byte order, unlike all others
_BY_SRC, _BY_DST, _BY_PROTOCOL, _BY_SRC_PORT, _BY_DST_PORT = 1, 2, 8, 16, 32
_U32: Final = struct.Struct("=I")

# How the kernel begins an entry: a tuple with source, destination, protocol, both ports, and nothing else (no zone).
# Then the destination stands where it always does.
_HEAD_V4: Final = struct.pack("=HH", 56 - _GENERAL_LENGTH, _CTA_TUPLE_ORIG | codec.NLA_F_NESTED)
_HEAD_V6: Final = struct.pack("=HH", 80 - _GENERAL_LENGTH, _CTA_TUPLE_ORIG | codec.NLA_F_NESTED)


class Entry(NamedTuple):
    """A tracked flow: where the client sent to, and from where answers come.

    Both are an address followed by its port; where nothing was translated they are equal. `identity` holds the attributes
    by which the kernel finds this entry, and no later one between the same two.
    """

    family: Family
    destination: bytes
    source: bytes
    identity: bytes


class Filter(NamedTuple):
    """Which flows of a family and protocol to dump. What is empty may be anything.

    `destination` is an address, `port` its port, two bytes. `source`, an address followed by its port or a port alone, is
    where answers come from. `is_translated`: only flows whose destination was translated.
    """

    family: Family
    destination: bytes = b""
    port: bytes = b""
    source: bytes = b""
    is_translated: bool = False
    protocol: int = IPPROTO_UDP


def dump(wanted: Filter) -> Request:
    """Ask for the flows that fit.

    IPv6 addresses are left to the reader: the kernel has the comparison the wrong way round and returns all others
    (seen on 6.18, in ctnetlink_filter_match_tuple; e2e/test_conntrack.py).
    """
    knows_addresses = wanted.family is IPV4
    target = wanted.destination if knows_addresses else b""
    parts = [
        _tuple(
            _CTA_TUPLE_ORIG,
            wanted.protocol,
            (_CTA_IP_DST[wanted.family], target),
            (_CTA_PROTO_DST_PORT, wanted.port),
        )
    ]
    flags = _BY_PROTOCOL | (_BY_DST if target else 0) | (_BY_DST_PORT if wanted.port else 0)
    filters = [attr(_CTA_FILTER_ORIG_FLAGS, _U32.pack(flags))]
    if wanted.source:
        source = wanted.source[:-2] if knows_addresses else b""
        parts.append(
            _tuple(
                _CTA_TUPLE_REPLY,
                wanted.protocol,
                (_CTA_IP_SRC[wanted.family], source),
                (_CTA_PROTO_SRC_PORT, wanted.source[-2:]),
            )
        )
        flags = _BY_PROTOCOL | _BY_SRC_PORT | (_BY_SRC if source else 0)
        filters.append(attr(_CTA_FILTER_REPLY_FLAGS, _U32.pack(flags)))
    if wanted.is_translated:
        parts.append(attr_be32(_CTA_STATUS, _IPS_DST_NAT))
        parts.append(attr_be32(_CTA_STATUS_MASK, _IPS_DST_NAT))
    return Request(
        _GET, 0, b"".join([_general(wanted.family), *parts, nested(_CTA_FILTER, *filters)])
    )


def _tuple(kind: int, protocol: int, address: tuple[int, bytes], port: tuple[int, bytes]) -> bytes:
    """Pack the parts of a tuple that are not empty."""
    ip = nested(_CTA_TUPLE_IP, attr(*address)) if address[1] else b""
    ports = attr(*port) if port[1] else b""
    number = attr(_CTA_PROTO_NUM, bytes([protocol]))
    return nested(kind, ip, nested(_CTA_TUPLE_PROTO, number, ports))


def delete(entry: Entry) -> Request:
    """Delete this entry and no other. ENOENT: it has ended by itself.

    A refusal is always told; the last of several has to ask for an acknowledgement besides.
    """
    return Request(_DELETE, 0, _general(entry.family) + entry.identity)


def destination(payload: memoryview, protocol: int = IPPROTO_UDP) -> bytes:
    """Return where the client sent to, address and port; empty for what is of another protocol. Raises Malformed.

    For looking through many entries of which few matter; `parse` tells all.
    """
    head = payload[4:8]
    if head == _HEAD_V4 and len(payload) >= 56:
        return bytes(payload[24:28]) + payload[52:54] if payload[36] == protocol else b""
    if head == _HEAD_V6 and len(payload) >= 80:
        return bytes(payload[36:52]) + payload[76:78] if payload[60] == protocol else b""
    entry = parse(payload, protocol)
    return b"" if entry is None else entry.destination


def is_translated(payload: memoryview) -> bool:
    """Whether connection tracking itself leads an entry of a dump elsewhere than where the client sent to."""
    status = codec.parse_attrs(payload, _GENERAL_LENGTH).get(_CTA_STATUS)
    return status is not None and bool(codec.read_be32(status) & _IPS_DST_NAT)


def parse(payload: bytes | memoryview, protocol: int = IPPROTO_UDP) -> Entry | None:
    """Read one entry of a dump; None for what is no flow of that protocol over IP. Raises Malformed."""
    view = memoryview(payload)
    if len(view) < _GENERAL_LENGTH:
        raise Malformed(f"an entry of {len(view)} bytes")
    family = IPV4 if view[0] == _NUMBERS[IPV4] else IPV6
    attributes = codec.parse_attrs(view, _GENERAL_LENGTH)
    original, reply = attributes.get(_CTA_TUPLE_ORIG), attributes.get(_CTA_TUPLE_REPLY)
    if view[0] not in _NUMBERS.values() or original is None or reply is None:
        return None
    there = _end(original, protocol, _CTA_IP_DST[family], _CTA_PROTO_DST_PORT)
    back = _end(reply, protocol, _CTA_IP_SRC[family], _CTA_PROTO_SRC_PORT)
    if there is None or back is None:
        return None
    identity = attr(_CTA_TUPLE_ORIG | codec.NLA_F_NESTED, bytes(original))
    for kind in (_CTA_ZONE, _CTA_ID):
        if kind in attributes:
            identity += attr(kind, bytes(attributes[kind]))
    return Entry(family, there, back, identity)


def _end(tuple_: memoryview, number: int, address_kind: int, port_kind: int) -> bytes | None:
    """Return one end of a tuple; None if it is of another protocol or not whole."""
    parts = codec.parse_attrs(tuple_)
    if _CTA_TUPLE_IP not in parts or _CTA_TUPLE_PROTO not in parts:
        return None
    addresses = codec.parse_attrs(parts[_CTA_TUPLE_IP])
    protocol = codec.parse_attrs(parts[_CTA_TUPLE_PROTO])
    if bytes(protocol.get(_CTA_PROTO_NUM, b"")) != bytes([number]):
        return None
    address, port = addresses.get(address_kind), protocol.get(port_kind)
    return None if address is None or port is None else bytes(address) + port


def _general(family: Family) -> bytes:
    return bytes([_NUMBERS[family], 0, 0, 0])
