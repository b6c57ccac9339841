"""Netlink messages and attributes as bytes. Pure: packs and takes apart, sends nothing.

A message is a 16-byte header and a payload; a payload ends in attributes; an attribute is a 4-byte header and a
value, padded to 4 bytes. Headers are in host byte order, what is inside an attribute is up to the subsystem.
What the attributes mean is the business of the doors in backends/kernel, sending that of `proxy.netlink.socket`.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NETLINK_GENERIC: Final = 16

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
# with requests that create something
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
# with acknowledgements
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200

NLA_F_NESTED: Final = 0x8000
NLA_HEADER_LENGTH: Final = 4
NLA_MAX_LENGTH: Final = 0xFFFF
"""The length of an attribute, header included, is a 16-bit field."""
HEADER_LENGTH: Final = 16

_NLA_TYPE_MASK: Final = 0x3FFF  # the two upper bits are "nested" and "network byte order"
_NLMSGERR_ATTR_MSG: Final = 1
_NLMSGERR_ATTR_OFFS: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_NLA_HEADER: Final = struct.Struct("=HH")
_I32: Final = struct.Struct("=i")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_BE32: Final = struct.Struct(">I")
_BE64: Final = struct.Struct(">Q")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class Malformed(ValueError):  # noqa: N818 (names the bytes, as Rejected names an object)
    """Bytes that are no netlink message or attribute. Never seen from a kernel; the fuzz tests make them."""


class Request(NamedTuple):
    """A message to send. The socket adds length and sequence number; `flags` need not hold NLM_F_REQUEST."""

    kind: int
    flags: int
    payload: bytes


class Message(NamedTuple):
    """A received message. `payload` is a view into the received datagram."""

    kind: int
    flags: int
    seq: int
    payload: memoryview


class NetlinkAck(NamedTuple):
    """What the kernel says about a request: `errno` 0 is success, otherwise the positive error number.

    `text` is the kernel's explanation, often empty. `offset` is where in the request, counted from its header,
    the attribute stands that was at fault; None where the kernel does not say.
    """

    errno: int
    text: str
    offset: int | None


def attr(kind: int, payload: bytes) -> bytes:
    """Pack one attribute with its padding. Raises ValueError when it does not fit the 16-bit length."""
    length = NLA_HEADER_LENGTH + len(payload)
    if length > NLA_MAX_LENGTH:
        raise ValueError(
            f"attribute {kind & _NLA_TYPE_MASK} of {length} bytes exceeds {NLA_MAX_LENGTH}"
        )
    return _NLA_HEADER.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *children: bytes) -> bytes:
    """Pack an attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(children))


def attr_u16(kind: int, value: int) -> bytes:
    """Pack a 16-bit number in host byte order."""
    return attr(kind, _U16.pack(value))


def attr_u32(kind: int, value: int) -> bytes:
    """Pack a 32-bit number in host byte order."""
    return attr(kind, _U32.pack(value))


def attr_be32(kind: int, value: int) -> bytes:
    """Pack a 32-bit number in network byte order, as netfilter has them. Negative numbers wrap."""
    return attr(kind, _BE32.pack(value & 0xFFFFFFFF))


def attr_be64(kind: int, value: int) -> bytes:
    """Pack a 64-bit number in network byte order, as netfilter has them."""
    return attr(kind, _BE64.pack(value))


def attr_string(kind: int, text: str) -> bytes:
    """Pack a string with the NUL that ends it."""
    return attr(kind, text.encode() + b"\0")


def read_u16(payload: bytes | memoryview) -> int:
    """Read what `attr_u16` packs. Raises Malformed."""
    if len(payload) != _U16.size:
        raise Malformed(f"a 16-bit number of {len(payload)} bytes")
    (value,) = _U16.unpack(payload)
    return int(value)


def read_u32(payload: bytes | memoryview) -> int:
    """Read what `attr_u32` packs. Raises Malformed."""
    if len(payload) != _U32.size:
        raise Malformed(f"a 32-bit number of {len(payload)} bytes")
    (value,) = _U32.unpack(payload)
    return int(value)


def read_be32(payload: bytes | memoryview) -> int:
    """Read what `attr_be32` packs. Raises Malformed."""
    if len(payload) != 4:
        raise Malformed(f"a 32-bit number of {len(payload)} bytes")
    return int.from_bytes(payload, "big")


def read_be64(payload: bytes | memoryview) -> int:
    """Read what `attr_be64` packs. Raises Malformed."""
    if len(payload) != 8:
        raise Malformed(f"a 64-bit number of {len(payload)} bytes")
    return int.from_bytes(payload, "big")


def read_string(payload: bytes | memoryview) -> str:
    """Read a string up to its NUL. Bytes that are not UTF-8 are kept as surrogates: foreign names are not ours to judge."""
    return bytes(payload).partition(b"\0")[0].decode(errors="surrogateescape")


def header(kind: int, flags: int, seq: int, payload_length: int) -> bytes:
    """Pack a message header. The port number stays 0: the kernel is the only one we talk to."""
    return _HEADER.pack(HEADER_LENGTH + payload_length, kind, flags, seq, 0)


def message(kind: int, flags: int, seq: int, payload: bytes) -> bytes:
    """Pack a whole message, padded so that another may follow it."""
    return header(kind, flags, seq, len(payload)) + payload + _PADDING[len(payload) & 3]


def iter_attrs(view: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and value of each attribute from `offset` to the end. Raises Malformed."""
    data = memoryview(view)
    end = len(data)
    while offset < end:
        if end - offset < NLA_HEADER_LENGTH:
            raise Malformed(f"{end - offset} bytes are left after the last attribute")
        length, kind = _NLA_HEADER.unpack_from(data, offset)
        if length < NLA_HEADER_LENGTH or offset + length > end:
            raise Malformed(
                f"attribute {kind & _NLA_TYPE_MASK} has length {length}, {end - offset} bytes are left"
            )
        yield kind & _NLA_TYPE_MASK, data[offset + NLA_HEADER_LENGTH : offset + length]
        offset += (length + 3) & ~3


def parse_attrs(view: bytes | memoryview, offset: int = 0) -> dict[int, memoryview]:
    """Return the attributes by kind; of several of one kind the last. Raises Malformed."""
    return dict(iter_attrs(view, offset))


def iter_messages(data: bytes | memoryview) -> Iterator[Message]:
    """Yield the messages of one datagram. Raises Malformed."""
    view = memoryview(data)
    end = len(view)
    offset = 0
    while offset < end:
        if end - offset < HEADER_LENGTH:
            raise Malformed(f"{end - offset} bytes are left after the last message")
        length, kind, flags, seq, _ = _HEADER.unpack_from(view, offset)
        if length < HEADER_LENGTH or offset + length > end:
            raise Malformed(f"message {kind} has length {length}, {end - offset} bytes are left")
        yield Message(kind, flags, seq, view[offset + HEADER_LENGTH : offset + length])
        offset += (length + 3) & ~3


def parse_error(payload: bytes | memoryview, flags: int) -> NetlinkAck:
    """Read the payload of an NLMSG_ERROR message with the given header flags. Raises Malformed.

    The failed request follows the error number, whole, or only its header when it was "capped"; the extended
    acknowledgement comes after it.
    """
    view = memoryview(payload)
    if len(view) < _I32.size + HEADER_LENGTH:
        raise Malformed(f"an acknowledgement of {len(view)} bytes")
    (error,) = _I32.unpack_from(view)
    extended = _I32.size + HEADER_LENGTH
    if error and not flags & NLM_F_CAPPED:
        (request_length,) = _U32.unpack_from(view, _I32.size)
        extended = _I32.size + max(HEADER_LENGTH, (request_length + 3) & ~3)
    return _extended_ack(-error, view, extended if flags & NLM_F_ACK_TLVS else len(view))


def parse_done(payload: bytes | memoryview, flags: int) -> NetlinkAck:
    """Read the payload of the NLMSG_DONE message that ends a dump; a dump may end in an error. Raises Malformed."""
    view = memoryview(payload)
    if len(view) < _I32.size:  # old kernels end a few dumps without a number
        return NetlinkAck(0, "", None)
    (error,) = _I32.unpack_from(view)
    return _extended_ack(-min(error, 0), view, _I32.size if flags & NLM_F_ACK_TLVS else len(view))


def _extended_ack(errno: int, view: memoryview, offset: int) -> NetlinkAck:
    attrs = parse_attrs(view, offset)
    text = read_string(attrs[_NLMSGERR_ATTR_MSG]) if _NLMSGERR_ATTR_MSG in attrs else ""
    position = attrs.get(_NLMSGERR_ATTR_OFFS)
    if position is None:
        return NetlinkAck(errno, text, None)
    if len(position) != _U32.size:
        raise Malformed(f"an attribute offset of {len(position)} bytes")
    return NetlinkAck(errno, text, _U32.unpack(position)[0])
