"""Elements of our sets as members of sets of ipset, and back. Pure.

Mostly one is the other in other words. But ipset has no ranges, only prefixes; none of the length zero; and no set of ports alone
with marks, so that a NodePort is a port at each half of all addresses.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final

from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    ELSEWHERE,
    HAIRPIN,
    HEALTH_PORTS,
    MARKING,
    NODEPORT_SHORTCUTS,
    NODEPORTS,
    NODEPORTS_DROPPED,
    NODEPORTS_REFUSED,
)
from backends.ipvs.xt_layout import set_name
from backends.kernel.ipset_objects import (
    NETWORK_NETWORK,
    NETWORK_PORT,
    IpSet,
    Member,
    SetKind,
)
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_phrases import read_word, word
from backends.kernel.nft_ranges import END, interval_keys, merged_ranges
from backends.kernel.nft_table import Data
from proxy.addresses import bounds_of, unpack_ip
from proxy.model import Family

_NODE_PORTS: Final = frozenset(
    [NODEPORTS, NODEPORT_SHORTCUTS, NODEPORTS_DROPPED, NODEPORTS_REFUSED, HEALTH_PORTS]
)
_KINDS: Final[dict[str, str]] = {
    **dict.fromkeys([BOUND, ELSEWHERE, NODEPORT_IPS], SetKind.ADDRESS),
    **dict.fromkeys(_NODE_PORTS, NETWORK_PORT),
    ALLOWED: SetKind.ADDRESS_PORT_NETWORK,
    SERVICE_CIDRS: SetKind.NETWORK,
    HAIRPIN: NETWORK_NETWORK,
}
_MOST: Final = 1 << 20
_WIDTHS: Final[dict[Family, int]] = {"IPv4": 4, "IPv6": 16}
_HALVES: Final[dict[Family, tuple[str, str]]] = {
    "IPv4": ("0.0.0.0/1", "128.0.0.0/1"),
    "IPv6": ("::/1", "8000::/1"),
}
_DAMAGED: Final = bytes(4)
"""The data of an element that is not as we make it: of which there is but a part, or without a mark, or not with a whole one."""
_STRANGE: Final = b"member "
"""What the key begins with for a member that somebody else has added, and that no key of ours stands for."""


def ip_set(family: Family, name: str) -> IpSet:
    """Return the set of ipset that one of our sets is."""
    kind = _KINDS.get(name, SetKind.ADDRESS_PORT)
    return IpSet(set_name(family, name), kind, family, None, _MOST, name in MARKING)


def members_of(family: Family, name: str, key: bytes, data: Data) -> list[Member]:
    """Return what one element of our sets is; nothing for the bound of a range, which is no range by itself."""
    width = _WIDTHS[family]
    mark = read_word(data) if isinstance(data, bytes) and len(data) == 4 else None
    if key.startswith(_STRANGE):
        address, protocol_text, port_text, other = key.removeprefix(_STRANGE).decode().split(",")
        return [Member(address, int(protocol_text), int(port_text), other)]
    if name in _NODE_PORTS:
        protocol, port = _port(key)
        return [Member(half, protocol, port, mark=mark) for half in _HALVES[family]]
    if name == ALLOWED:
        half = len(key) // 2
        address, (protocol, port) = _text(key[width : 2 * width]), _port(key[2 * width : half])
        return [
            Member(address, protocol, port, prefix)
            for prefix in _prefixes(family, key[:width], key[half : half + width])
        ]
    if name == HAIRPIN:
        one, other = (f"{_text(each)}/{8 * width}" for each in (key[:width], key[width:]))
        return [Member(one, other=other)]
    if len(key) == width:
        return [Member(_text(key))]
    protocol, port = _port(key[width:])
    return [Member(_text(key[:width]), protocol, port, mark=mark)]


def members_of_bounds(family: Family, keys: Iterable[bytes]) -> list[Member]:
    """Return the ranges that bounds make up: all the elements of SERVICE_CIDRS."""
    width, members = _WIDTHS[family], list[Member]()
    first: bytes | None = None
    for key in sorted(keys):
        if key[width:] == END and first is not None:
            last = (int.from_bytes(key[:width]) - 1).to_bytes(width)
            members += [Member(prefix) for prefix in _prefixes(family, first, last)]
            first = None
        else:
            first = key[:width]
    if first is not None:
        members += [Member(prefix) for prefix in _prefixes(family, first, b"\xff" * width)]
    return members


def elements_of(family: Family, name: str, members: Iterable[Member]) -> dict[bytes, Data]:
    """Return the elements that are all the members of a set."""
    if name == SERVICE_CIDRS:
        keys = interval_keys(family, [member.address for member in members])
        return dict.fromkeys(keys)
    if name == ALLOWED:
        return dict.fromkeys(_ranges(family, members))
    if name in _NODE_PORTS:
        return _node_ports(family, name, members)
    is_map = name in MARKING
    return {_key(family, member): _data(member.mark) if is_map else None for member in members}


def _key(family: Family, member: Member) -> bytes:
    if member.other:  # HAIRPIN
        alone = f"/{8 * _WIDTHS[family]}"
        if not (member.address.endswith(alone) and member.other.endswith(alone)):
            return _strange_key(member)
        return _packed(member.address) + _packed(member.other)
    if not member.protocol:
        return _packed(member.address)
    return _packed(member.address) + _port_key(member)


def _strange_key(member: Member) -> bytes:
    address, protocol, port, other, _ = member
    return _STRANGE + f"{address},{protocol},{port},{other}".encode()


def _node_ports(family: Family, name: str, members: Iterable[Member]) -> dict[bytes, Data]:
    halves: dict[bytes, dict[str, int | None]] = {}
    found: dict[bytes, Data] = {}
    for member in members:
        if member.address in _HALVES[family]:
            halves.setdefault(_port_key(member), {})[member.address] = member.mark
        else:
            found[_strange_key(member)] = _DAMAGED
    for key, marks in halves.items():
        is_whole = set(marks) == set(_HALVES[family]) and len(set(marks.values())) == 1
        mark = next(iter(marks.values()))
        found[key] = _DAMAGED if not is_whole else _data(mark) if name in MARKING else None
    return found


def _ranges(family: Family, members: Iterable[Member]) -> Iterator[bytes]:
    prefixes: dict[bytes, list[str]] = {}
    for member in members:
        to = _packed(member.address) + _port_key(member)
        prefixes.setdefault(to, []).append(member.other)
    for to, each in prefixes.items():
        for first, last in merged_ranges(family, each):
            yield first + to + last + to


def _prefixes(family: Family, first: bytes, last: bytes) -> list[str]:
    """Return the prefixes that make up a range; the whole of all addresses in halves."""
    if (first, last) == (bytes(len(first)), b"\xff" * len(first)):
        return list(_HALVES[family])
    found = ipaddress.summarize_address_range(
        ipaddress.ip_address(first), ipaddress.ip_address(last)
    )
    return [f"{_text(each.network_address.packed)}/{each.prefixlen}" for each in found]


def _data(mark: int | None) -> Data:
    return _DAMAGED if mark is None or mark >= 1 << 32 else word(mark)


def _port(part: bytes) -> tuple[int, int]:
    return part[0], int.from_bytes(part[4:6], "big")


def _port_key(member: Member) -> bytes:
    return bytes([member.protocol, 0, 0, 0]) + member.port.to_bytes(2, "big") + b"\0\0"


def _packed(place: str) -> bytes:
    return ipaddress.ip_address(place.partition("/")[0]).packed


def _text(packed: bytes) -> str:
    text = unpack_ip(packed).text
    return f"::ffff:{text}" if len(packed) == 16 and ":" not in text else text


def leaving(family: Family, keys: Iterable[bytes], there: Iterable[Member]) -> list[Member]:
    """Return which members of ALLOWED lie within the ranges of some elements."""
    width, ranges = _WIDTHS[family], dict[bytes, list[tuple[int, int]]]()
    for key in keys:
        half = len(key) // 2
        bounds = int.from_bytes(key[:width]), int.from_bytes(key[half : half + width])
        ranges.setdefault(key[width:half], []).append(bounds)
    found: list[Member] = []
    for member in there:
        start, beyond = bounds_of(member.other)
        to = _packed(member.address) + _port_key(member)
        if any(first <= start and beyond - 1 <= last for first, last in ranges.get(to, ())):
            found.append(member)
    return found
