"""Messages to the kernel's connection tracking: dump with a filter, delete one entry, and what a dump says. Pure.

Attributes are those of <linux/netfilter/nfnetlink_conntrack.h>; addresses and ports are in network byte order.

A filtered dump walks the kernel's whole table, but only what fits comes back. Filters are honoured from Linux 5.8 on,
that for the status from 5.16; an older kernel returns more than was asked for, so a reader must look for itself.
There is also a filtered delete (6.12), which is not used: it does not say how many entries it deleted, it cannot say
"not one of these endpoints", and kernels that do not know a filter delete everything there is.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxy.model import IPV4, IPV6, Family
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_be32, nested

IPPROTO_UDP: Final = 17
IPS_DST_NAT: Final = 1 << 5
"""The destination was translated."""

_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE: Final = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE
_UNSPEC, _INET, _INET6 = 0, 2, 10

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 12, 18, 25, 26
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_ORIG_FLAGS, _REPLY_FLAGS = 1, 2
# bits of these flags: which part of a tuple has to be equal (the kernel's CTA_FILTER_F_*)
_BY_SRC, _BY_DST, _BY_PROTOCOL, _BY_SRC_PORT, _BY_DST_PORT = 1, 2, 8, 16, 32


class Entry(NamedTuple):
    """A tracked UDP flow.

    `destination` is where the client sent to and `source` from where answers come, each an address followed by its
    port. Where nothing was translated they are equal. `identity` holds the attributes that name this entry and no
    later one between the same hosts.
    """

    family: Family
    destination: bytes
    source: bytes
    is_translated: bool
    identity: bytes


class Filter(NamedTuple):
    """Which UDP flows to dump; what is None may be anything. Addresses are packed, ports two bytes."""

    family: Family | None = None
    destination: bytes | None = None
    destination_port: bytes | None = None
    source: bytes | None = None
    """Whence answers come: an address followed by its port."""
    is_translated_only: bool = False


def dump(wanted: Filter) -> Request:
    """Ask for the flows that fit. With an address the family has to be given."""
    destination, port, source = wanted.destination, wanted.destination_port, wanted.source
    flags = _BY_PROTOCOL
    ip = b""
    proto = attr(_PROTO_NUM, bytes([IPPROTO_UDP]))
    if destination is not None:
        flags |= _BY_DST
        ip = nested(_TUPLE_IP, attr(_V4_DST if len(destination) == 4 else _V6_DST, destination))
    if port is not None:
        flags |= _BY_DST_PORT
        proto += attr(_PROTO_DST_PORT, port)
    parts = [nested(_TUPLE_ORIG, ip, nested(_TUPLE_PROTO, proto))]
    # numbers of the host's byte order, unlike all others
    filters = [attr(_ORIG_FLAGS, flags.to_bytes(4, "little"))]
    if source is not None:
        kind = _V4_SRC if len(source) == 6 else _V6_SRC
        parts.append(
            nested(
                _TUPLE_REPLY,
                nested(_TUPLE_IP, attr(kind, source[:-2])),
                nested(
                    _TUPLE_PROTO,
                    attr(_PROTO_NUM, bytes([IPPROTO_UDP])),
                    attr(_PROTO_SRC_PORT, source[-2:]),
                ),
            )
        )
        filters.append(
            attr(_REPLY_FLAGS, (_BY_SRC | _BY_PROTOCOL | _BY_SRC_PORT).to_bytes(4, "little"))
        )
    if wanted.is_translated_only:
        parts += (attr_be32(_STATUS, IPS_DST_NAT), attr_be32(_STATUS_MASK, IPS_DST_NAT))
    parts.append(nested(_FILTER, *filters))
    return Request(_GET, 0, _general(_number(wanted.family)) + b"".join(parts))
def _number(family):
    return {None: 0, "IPv4": 2, "IPv6": 10}[family]
def _general(n, version=0):
    return bytes((n, version, 0, 0))
