"""Elements of nftables sets and maps: packed, put into messages, and read back. Pure; the hot path.

A change of an endpoint is nothing but elements, and a cold start is 100,000 of them: headers are made once for each
length, and a listed block of equally long elements is taken apart at once. An element's data are raw bytes, a
verdict `(code, chain)`, or None in a plain set.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

from backends.kernel import nft_messages
from backends.kernel.nft_data import pack_value, pack_verdict, parse_value, parse_verdict
from backends.kernel.nft_numbers import MessageKind, VerdictCode
from proxy.netlink import codec
from proxy.netlink.codec import HEADER_LENGTH, NLA_HEADER_LENGTH, Malformed, Request

Data = bytes | tuple[int, str] | None

_LIST_TABLE: Final = 1
_LIST_SET: Final = 2
_LIST_ELEMENTS: Final = 3
_LIST_ELEM: Final = 1

_KEY: Final = 1
_DATA: Final = 2
_FLAGS: Final = 3
_TIMEOUT: Final = 4
_KEY_END: Final = 10
_FLAG_INTERVAL_END: Final = 1
_FLAG_CATCH_ALL: Final = 2

_MAX_CONTENT: Final = codec.NLA_MAX_LENGTH - NLA_HEADER_LENGTH
_U16: Final = struct.Struct("=H")
_FRAME: Final = struct.Struct("=HHHHHH")  # headers of the element, of its key, of the key's value
_DATA_FRAME: Final = struct.Struct("=HHHH")  # headers of its data, of the data's value
_FLAGS_SIZE: Final = len(codec.attr_be32(_FLAGS, 0))
_VERDICT_FRAMES: Final = 1 << 14


class Element(NamedTuple):
    """An element with all that we ever give one.

    A range is `key` to `key_end` in an interval set of concatenations; in a plain interval set it is two elements, its
    first address, and one beyond its last with `is_interval_end`. A catch-all element has an empty key.
    """

    key: bytes
    data: Data = None
    key_end: bytes | None = None
    is_interval_end: bool = False
    timeout_ms: int = 0


def pack_element(element: Element) -> bytes:
    """Pack any element. The functions below pack the common ones several times faster."""
    parts: list[bytes] = []
    flags = (_FLAG_INTERVAL_END if element.is_interval_end else 0) | (
        0 if element.key else _FLAG_CATCH_ALL
    )
    if flags:
        parts.append(codec.attr_be32(_FLAGS, flags))
    if element.timeout_ms:
        parts.append(codec.attr_be64(_TIMEOUT, element.timeout_ms))
    if element.key:
        parts.append(pack_value(_KEY, element.key))
    if element.key_end is not None:
        parts.append(pack_value(_KEY_END, element.key_end))
    if isinstance(element.data, bytes):
        parts.append(pack_value(_DATA, element.data))
    elif element.data is not None:
        parts.append(codec.nested(_DATA, pack_verdict(*element.data)))
    return codec.nested(_LIST_ELEM, *parts)


def pack_data_element(key: bytes, data: bytes) -> bytes:
    """Pack an element of a map from data to data."""
    head, middle, tail = _data_frame(len(key), len(data))
    return b"".join((head, key, middle, data, tail))


def pack_data_elements(keys: Sequence[bytes], data: Sequence[bytes]) -> list[bytes]:
    """Pack elements of one map from data to data, where all keys are equally long, and so are all data."""
    head, middle, tail = _data_frame(len(keys[0]), len(data[0]))
    return [head + key + middle + value + tail for key, value in zip(keys, data, strict=True)]


def pack_verdict_element(key: bytes, goto_chain: str) -> bytes:
    """Pack an element of a verdict map: go to this chain."""
    head, tail = _goto_frame(len(key), goto_chain)
    return head + key + tail


def pack_key_element(key: bytes) -> bytes:
    """Pack an element of a plain set, or name an element of a map that is to be deleted."""
    head, tail = _key_frame(len(key))
    return head + key + tail


def pack_bound_element(key: bytes, *, is_end: bool) -> bytes:
    """Pack an element of a plain interval set: where a range begins, or what is next to its end."""
    head, tail = _key_frame(len(key), is_end)
    return head + key + tail


@cache
def _data_frame(key_length: int, data_length: int) -> tuple[bytes, bytes, bytes]:
    """Return what stands before, between and after key and data of these lengths."""
    packed = pack_element(Element(bytes(key_length), bytes(data_length)))
    key_end = _FRAME.size + key_length
    data_start = ((key_end + 3) & ~3) + 2 * NLA_HEADER_LENGTH
    return packed[: _FRAME.size], packed[key_end:data_start], packed[data_start + data_length :]


@lru_cache(maxsize=_VERDICT_FRAMES)
def _goto_frame(key_length: int, chain: str) -> tuple[bytes, bytes]:
    packed = pack_element(Element(bytes(key_length), (VerdictCode.GOTO, chain)))
    return packed[: _FRAME.size], packed[_FRAME.size + key_length :]


@cache
def _key_frame(key_length: int, is_interval_end: bool = False) -> tuple[bytes, bytes]:
    packed = pack_element(Element(bytes(key_length), is_interval_end=is_interval_end))
    key_start = _FRAME.size + (_FLAGS_SIZE if is_interval_end else 0)
    return packed[:key_start], packed[key_start + key_length :]


def new_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[Request]:
    """Add packed elements to a set or map, in as few messages as the 16-bit length of an attribute allows.

    An element that is there already is no error if it is equal, but EEXIST if its data differ: delete and add it in
    one transaction.
    """
    return _requests(MessageKind.NEWSETELEM, codec.NLM_F_CREATE, family, table, name, elements)


def del_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[Request]:
    """Delete packed elements; the data need not be given. ENOENT for a missing one refuses the whole transaction."""
    return _requests(MessageKind.DELSETELEM, 0, family, table, name, elements)


def flush_set(family: int, table: str, name: str) -> Request:
    """Delete all elements of a set or map."""
    return nft_messages.request(MessageKind.DELSETELEM, family, _owner(table, name))


def list_elements(family: int, table: str, name: str) -> Request:
    """Ask for all elements (a dump). Refused with ENOENT if there is no such set."""
    return nft_messages.request(MessageKind.GETSETELEM, family, _owner(table, name))


def get_elements(family: int, table: str, name: str, keys: Sequence[bytes]) -> list[Request]:
    """Ask for single elements, one request and one reply for each: ENOENT where there is none."""
    prefix = _owner(table, name)
    return [
        nft_messages.request(
            MessageKind.GETSETELEM,
            family,
            prefix,
            codec.nested(_LIST_ELEMENTS, pack_key_element(key)),
        )
        for key in keys
    ]


def _owner(table: str, name: str) -> bytes:
    return codec.attr_string(_LIST_TABLE, table) + codec.attr_string(_LIST_SET, name)


def _requests(
    kind: int, flags: int, family: int, table: str, name: str, elements: Sequence[bytes]
) -> list[Request]:
    prefix = _owner(table, name)
    return [
        nft_messages.request(
            kind, family, prefix, codec.nested(_LIST_ELEMENTS, *part), flags=flags
        )
        for part in _split(elements)
    ]


def _split(elements: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for position, element in enumerate(elements):
        size += len(element)
        if size > _MAX_CONTENT:
            yield elements[start:position]
            start, size = position, len(element)
    if start < len(elements):
        yield elements[start:]


def element_at(request: Request, offset: int) -> int | None:
    """Return which element of a message stands at an offset that the kernel blames; None if none does.

    The offset is counted from the message's header, as in an acknowledgement.
    """
    if request.kind not in {MessageKind.NEWSETELEM, MessageKind.DELSETELEM}:
        return None
    content = nft_messages.attributes(request.payload).get(_LIST_ELEMENTS, b"")
    # the list stands last in the messages made here
    position = HEADER_LENGTH + len(request.payload) - ((len(content) + 3) & ~3)
    for index, (_, element) in enumerate(codec.iter_attrs(content)):
        end = position + NLA_HEADER_LENGTH + ((len(element) + 3) & ~3)
        if position <= offset < end:
            return index
        position = end
    return None


def parse_elements(payload: bytes | memoryview) -> list[tuple[bytes, Data]]:
    """Return key and data of the elements in one message of a dump. Raises Malformed.

    `parse_all_elements` also returns ranges and timeouts, and takes its time.
    """
    raw = bytes(_entries(payload))
    if len(raw) < _FRAME.size:
        return [_key_and_data(entry) for _, entry in codec.iter_attrs(raw)]
    length, _, key_length, key_kind, value_length, value_kind = _FRAME.unpack_from(raw)
    key_end = _FRAME.size + value_length - NLA_HEADER_LENGTH
    is_plain = (
        key_kind & ~codec.NLA_F_NESTED == _KEY
        and value_kind == 1
        and key_length == value_length + NLA_HEADER_LENGTH
        and _FRAME.size <= key_end <= length <= len(raw)
        and length % 4 == key_end % 4 == 0
    )
    if not is_plain:
        return [_key_and_data(entry) for _, entry in codec.iter_attrs(raw)]
    return _parse_uniform(raw, length, key_end) or _parse_similar(raw, key_end)


def parse_element(entry: bytes | memoryview) -> Element:
    """Read one element, given the payload of its list entry. Raises Malformed."""
    attrs = codec.parse_attrs(entry)
    key, data = _key_and_data(entry)
    return Element(
        key,
        data,
        parse_value(attrs[_KEY_END]) if _KEY_END in attrs else None,
        bool(codec.read_be32(attrs[_FLAGS]) & _FLAG_INTERVAL_END) if _FLAGS in attrs else False,
        codec.read_be64(attrs[_TIMEOUT]) if _TIMEOUT in attrs else 0,
    )


def parse_all_elements(payload: bytes | memoryview) -> list[Element]:
    """Return all there is to know about the elements in one message of a dump. Raises Malformed."""
    return [parse_element(entry) for _, entry in codec.iter_attrs(_entries(payload))]


def split_elements(payload: bytes | memoryview) -> list[bytes]:
    """Return the elements in one message of a dump as they are, to be told from one another. Raises Malformed."""
    raw = bytes(_entries(payload))
    length = _U16.unpack_from(raw)[0] if len(raw) >= _U16.size else 0
    if length > NLA_HEADER_LENGTH and length % 4 == len(raw) % length == 0:
        head = raw[: _U16.size]
        parts = [raw[start : start + length] for start in range(0, len(raw), length)]
        if all(part.startswith(head) for part in parts):
            return [part[NLA_HEADER_LENGTH:] for part in parts]
    return [bytes(entry) for _, entry in codec.iter_attrs(raw)]


def _entries(payload: bytes | memoryview) -> bytes | memoryview:
    return nft_messages.attributes(payload).get(_LIST_ELEMENTS, b"")


def _key_and_data(entry: bytes | memoryview) -> tuple[bytes, Data]:
    attrs = codec.parse_attrs(entry)
    key = parse_value(attrs[_KEY]) if _KEY in attrs else b""
    return key, _data(attrs.get(_DATA))


def _data(content: memoryview | None) -> Data:
    if content is None:
        return None
    try:
        return parse_value(content)
    except Malformed:
        return parse_verdict(content)


def _parse_uniform(raw: bytes, length: int, key_end: int) -> list[tuple[bytes, Data]]:
    """Take apart a block in which all elements look like the first one but for key and raw data; nothing if one differs."""
    head, key_length, rest = raw[: _FRAME.size], key_end - _FRAME.size, length - key_end
    if len(raw) % length or (rest and rest < _DATA_FRAME.size):
        return []
    found: list[tuple[bytes, Data]]
    if not rest:
        keys = struct.iter_unpack(f"{_FRAME.size}s{key_length}s", raw)
        found = [(key, None) for frame, key in keys if frame == head]
    else:
        middle = raw[key_end : key_end + _DATA_FRAME.size]
        data_length, data_kind, value_length, value_kind = _DATA_FRAME.unpack(middle)
        if data_kind & ~codec.NLA_F_NESTED != _DATA or value_kind != 1:
            return []
        if data_length != rest or value_length != rest - NLA_HEADER_LENGTH:
            return []
        rows = struct.iter_unpack(
            f"{_FRAME.size}s{key_length}s{_DATA_FRAME.size}s{rest - _DATA_FRAME.size}s", raw
        )
        found = [(key, data) for frame, key, mid, data in rows if frame == head and mid == middle]
    return found if len(found) == len(raw) // length else []


def _parse_similar(raw: bytes, key_end: int) -> list[tuple[bytes, Data]]:
    """Take apart a block of elements with equally long keys. What follows the key is mostly one of few verdicts."""
    frame = raw[NLA_HEADER_LENGTH : _FRAME.size]
    tails: dict[bytes, Data] = {}
    found: list[tuple[bytes, Data]] = []
    offset, end = 0, len(raw)
    while offset < end:
        length = _U16.unpack_from(raw, offset)[0] if end - offset >= NLA_HEADER_LENGTH else 0
        stop = offset + length
        if length < NLA_HEADER_LENGTH or stop > end:
            raise Malformed(f"an element of length {length}, {end - offset} bytes are left")
        if raw[offset + NLA_HEADER_LENGTH : offset + _FRAME.size] == frame and length >= key_end:
            tail = raw[offset + key_end : stop]
            if tail not in tails:
                tails[tail] = _data(codec.parse_attrs(tail).get(_DATA))
            found.append((raw[offset + _FRAME.size : offset + key_end], tails[tail]))
        else:
            found.append(_key_and_data(raw[offset + NLA_HEADER_LENGTH : stop]))
        offset += (length + 3) & ~3
    return found
