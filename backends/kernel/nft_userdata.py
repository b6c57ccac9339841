"""What the stock `nft` tool leaves in the kernel for itself: comments, and how a set was declared. Pure.

The kernel stores these bytes unread, so that `nft list` can print a comment, or `typeof ip daddr` where the kernel only
knows a key of 4 bytes. Type-length-value triples with one byte each for type and length, numbers in host byte
order. We write the bytes that `nft` 1.0.6 writes (pinned by tests with bytes taken from it), hence its oddities,
such as an empty list of parts for a concatenation declared with `type`.
"""

import struct
from typing import Final, NamedTuple

from proxy.netlink.codec import Malformed

TABLE_COMMENT: Final = 0
CHAIN_COMMENT: Final = 0
RULE_COMMENT: Final = 0
SET_COMMENT: Final = 7

VERDICT_TYPE: Final = 0xFFFFFF00
"""The kernel's own number for data that are verdicts; the other type numbers mean something to `nft` only."""

_KEY_BYTE_ORDER: Final = 0
_DATA_BYTE_ORDER: Final = 1
_KEY_TYPEOF: Final = 3
_DATA_TYPEOF: Final = 4
_DATA_INTERVAL: Final = 6

_TYPEOF_KIND: Final = 0
_TYPEOF_CONTENT: Final = 1
_PAYLOAD: Final = 7
_META: Final = 9
_CONCATENATION: Final = 13
_NUMGEN: Final = 23

_MIXED: Final = 0  # nor for a single byte
_HOST_ORDER: Final = 1
_NETWORK_ORDER: Final = 2

_TYPE_BITS: Final = 6
# of `nft`'s header descriptions: the number of the header, then that of the field
_HEADERS: Final = {"ip": 12, "ip6": 13, "tcp": 8, "udp": 6, "sctp": 10, "th": 11}
_FIELDS: Final = {
    "ip saddr": 11, "ip daddr": 12, "ip6 saddr": 8, "ip6 daddr": 9,
    "tcp sport": 1, "tcp dport": 2, "udp sport": 1, "udp dport": 2,
    "sctp sport": 1, "sctp dport": 2, "th sport": 1, "th dport": 2,
}  # fmt: skip

_META_KEYS: Final = {
    "meta priority": (2, "classid"),
    "meta mark": (3, "mark"),
    "meta l4proto": (16, "inet_proto"),
}


class _Type(NamedTuple):
    number: int
    length: int
    byte_order: int


_TYPES: Final = {
    "verdict": _Type(VERDICT_TYPE, 0, _MIXED),
    "integer": _Type(4, 4, _HOST_ORDER),
    "ipv4_addr": _Type(7, 4, _NETWORK_ORDER),
    "ipv6_addr": _Type(8, 16, _NETWORK_ORDER),
    "inet_proto": _Type(12, 1, _MIXED),
    "inet_service": _Type(13, 2, _NETWORK_ORDER),
    "mark": _Type(19, 4, _HOST_ORDER),
    "classid": _Type(23, 4, _HOST_ORDER),
}


class Declared(NamedTuple):
    """A key or data type as it was declared: the number `nft` gives it, and its length in registers.

    `field_lengths` are the bytes of each part before they are filled up to 4; only interval sets need to be told.
    """

    type: int
    length: int
    field_lengths: tuple[int, ...]
    byte_order: int
    typeof: bytes


class _Part(NamedTuple):
    type: _Type
    typeof: bytes


def declare(text: str) -> Declared:
    """Return what a declaration in `nft`'s words means: `ipv4_addr . inet_service`, or `ip daddr . tcp dport`.

    Types follow `type`, packet fields and `numgen random mod N` follow `typeof`. Raises ValueError for words not known
    here and for a mixture of both.
    """
    parts = [_part(word.strip()) for word in text.split(" . ")]
    typeofs = [part.typeof for part in parts if part.typeof]
    if typeofs and len(typeofs) < len(parts):
        raise ValueError(f"{text!r} mixes types and packet fields")
    if len(parts) == 1:
        kind = parts[0].type
        return Declared(kind.number, kind.length, (kind.length,), kind.byte_order, parts[0].typeof)
    number = length = 0
    for part in parts:
        number = number << _TYPE_BITS | part.type.number
        length += (part.type.length + 3) & ~3
    content = b"".join([_tlv(index, typeof) for index, typeof in enumerate(typeofs)])
    lengths = tuple([part.type.length for part in parts])
    return Declared(number, length, lengths, _MIXED, _typeof(_CONCATENATION, content))


def set_userdata(key: Declared, data: Declared | None = None, comment: str = "") -> bytes:
    """Return the userdata of a set with such keys, or of a map to such data."""
    parts = [_tlv(_KEY_BYTE_ORDER, _u32(key.byte_order))]
    if data is not None:
        parts.append(_tlv(_DATA_BYTE_ORDER, _u32(data.byte_order)))
    if key.typeof:
        parts.append(_tlv(_KEY_TYPEOF, key.typeof))
    if data is not None:
        if data.typeof:
            parts.append(_tlv(_DATA_TYPEOF, data.typeof))
        parts.append(_tlv(_DATA_INTERVAL, _u32(0)))
    return b"".join(parts) + comment_userdata(SET_COMMENT, comment)


def comment_userdata(kind: int, comment: str) -> bytes:
    """Return a comment as userdata, nothing for an empty one. `nft` itself takes at most 128 bytes."""
    return _tlv(kind, comment.encode() + b"\0") if comment else b""


def parse_comment(userdata: bytes | memoryview, kind: int) -> str:
    """Return the comment in the userdata of a foreign or own object, empty if there is none. Never raises."""
    try:
        comment = dict(iter_userdata(userdata)).get(kind, b"")
    except Malformed:
        return ""  # another program may store there what it likes
    return comment.partition(b"\0")[0].decode(errors="replace")


def iter_userdata(userdata: bytes | memoryview) -> list[tuple[int, bytes]]:
    """Return types and values. Raises Malformed."""
    raw = bytes(userdata)
    found: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(raw):
        if offset + 2 > len(raw) or offset + 2 + raw[offset + 1] > len(raw):
            raise Malformed("userdata end within a value")
        end = offset + 2 + raw[offset + 1]
        found.append((raw[offset], raw[offset + 2 : end]))
        offset = end
    return found


def _part(word: str) -> _Part:
    if word in _TYPES:
        return _Part(_TYPES[word], b"")
    if word in _META_KEYS:
        key, kind = _META_KEYS[word]
        return _Part(_TYPES[kind], _typeof(_META, _tlv(0, _u32(key))))
    if word in _FIELDS:
        header = word.partition(" ")[0]
        address = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
        content = _tlv(0, _u32(_HEADERS[header])) + _tlv(1, _u32(_FIELDS[word]))
        return _Part(_TYPES[address.get(header, "inet_service")], _typeof(_PAYLOAD, content))
    if word.startswith("numgen random mod "):
        modulus = int(word.rpartition(" ")[2])
        content = _tlv(0, _u32(1)) + _tlv(1, _u32(modulus)) + _tlv(2, _u32(0))
        return _Part(_TYPES["integer"], _typeof(_NUMGEN, content))
    raise ValueError(f"{word!r} is neither a type nor a packet field known here")


def _typeof(kind: int, content: bytes) -> bytes:
    return _tlv(_TYPEOF_KIND, _u32(kind)) + _tlv(_TYPEOF_CONTENT, content)


def _tlv(kind: int, value: bytes) -> bytes:
    if len(value) > 255:
        raise ValueError(f"userdata of {len(value)} bytes exceed 255")
    return bytes((kind, len(value))) + value


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)
