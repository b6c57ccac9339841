"""Messages about routes: those that make an address local to this host, and those that lead nowhere. Pure.

<linux/rtnetlink.h>. A route names the protocol of whoever made it; the kernel keeps that and never asks what it means.
"""

import struct
from typing import Final, Literal, NamedTuple

from proxy.addresses import pack_ip, unpack_ip
from proxy.model import IPV4, IPV6, Family
from proxy.netlink import codec
from proxy.netlink.codec import Malformed, Request, attr, attr_u32

RTNLGRP_IPV4_ROUTE: Final = 7
RTNLGRP_IPV6_ROUTE: Final = 11

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
LOOPBACK: Final = 1
"""The number of the loopback interface, the first in every namespace."""

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_PRIORITY: Final = 6
_RTA_TABLE: Final = 15
_KINDS: Final = {"local": (2, 255, 254), "blackhole": (6, 254, 0)}
"""Type, table (local, main) and scope (host, universe)."""
_TYPES: Final[dict[tuple[int, int], "Kind"]] = {(2, 255): "local", (6, 254): "blackhole"}
_METRIC: Final = 2048
"""Of our IPv6 routes: two to a range have to differ in it, and others' have 0 (the kernel's) or 1024 (unless they say so)."""
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NUMBERS: Final[dict[Family, int]] = {IPV4: 2, IPV6: 10}
_FAMILIES: Final = {number: family for family, number in _NUMBERS.items()}

Kind = Literal["local", "blackhole"]


class Route(NamedTuple):
    """A route to a canonical range: its addresses are this host's (AnyIP), or what goes there is lost without a word."""

    kind: Kind
    cidr: str
    protocol: int


def new_route(route: Route) -> Request:
    """Make a route, beside one of somebody else to the same range. EEXIST if it is there already."""
    if ":" not in route.cidr:
        return Request(RTM_NEWROUTE, codec.NLM_F_CREATE | codec.NLM_F_APPEND, _pack(route))
    payload = _pack(route) + attr_u32(_RTA_PRIORITY, _METRIC)
    return Request(RTM_NEWROUTE, codec.NLM_F_CREATE | codec.NLM_F_EXCL, payload)


def del_route(route: Route) -> Request:
    """Remove a route of that protocol. ESRCH if there is none."""
    return Request(RTM_DELROUTE, 0, _pack(route))


def list_routes(family: Family) -> Request:
    """Ask for all routes of a family, in all tables."""
    return Request(RTM_GETROUTE, 0, _ROUTE.pack(_NUMBERS[family], 0, 0, 0, 0, 0, 0, 0, 0))


def parse_route(payload: bytes | memoryview) -> Route | None:
    """Read a route; None for one of a kind that is not made here. Raises Malformed."""
    if len(payload) < _ROUTE.size:
        raise Malformed(f"a route in {len(payload)} bytes")
    number, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(payload)
    name, family = _TYPES.get((kind, table)), _FAMILIES.get(number)
    if name is None or family is None:
        return None
    attrs = codec.parse_attrs(payload, _ROUTE.size)
    destination = bytes(attrs.get(_RTA_DST, b""))
    if len(destination) != (4 if family == IPV4 else 16):
        return None  # the default route, which has no destination
    return Route(name, f"{unpack_ip(destination).text}/{length}", protocol)


def _pack(route: Route) -> bytes:
    address, _, length = route.cidr.partition("/")
    family = IPV6 if ":" in address else IPV4
    kind, table, scope = _KINDS[route.kind]
    if family == IPV6:
        scope = 0  # IPv6 has no scopes of routes
    head = _ROUTE.pack(_NUMBERS[family], int(length), 0, 0, table, route.protocol, scope, kind, 0)
    interface = attr_u32(_RTA_OIF, LOOPBACK) if route.kind == "local" else b""
    return head + attr(_RTA_DST, pack_ip(address)) + attr_u32(_RTA_TABLE, table) + interface
