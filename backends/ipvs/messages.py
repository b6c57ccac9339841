"""Steps as netlink messages, and back: which element the kernel meant when it refused one. Pure."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from backends.ipvs.model import (
    ALLOWED,
    SERVICE_CIDRS,
    TABLE,
    Batch,
    Data,
    Element,
    NftStep,
    Operation,
)
from backends.kernel import ipvs_messages, nft_elements, nft_messages
from backends.kernel.ipvs_objects import Destination, VirtualServer
from backends.kernel.nft_numbers import MessageKind
from backends.kernel.nft_table import NUMBERS, pack_chain, pack_set
from proxy.netlink.codec import Request

ELEMENTS_PER_MESSAGE: Final = 300
"""So many of our largest elements fit the 16-bit length of an attribute."""
COMMENT: Final = "Kubernetes services, kept by sliceproxy; changes made here are undone"
INTERVALS: Final = frozenset([ALLOWED, SERVICE_CIDRS])

_OF_ELEMENTS: Final = (MessageKind.NEWSETELEM, MessageKind.DELSETELEM)
_Verb = Callable[[int, str, str, Sequence[bytes]], list[Request]]


class Messages(NamedTuple):
    """The messages of a transaction; `elements` holds for each the elements in it, in order (often none)."""

    requests: list[Request]
    elements: list[tuple[Element, ...]]

    def element_at(self, index: int, offset: int | None) -> Element | None:
        """Return the element the kernel blames, by message and offset; None if it blames something else or nothing."""
        elements = self.elements[index]
        if offset is None or self.requests[index].kind not in _OF_ELEMENTS:
            return elements[0] if len(elements) == 1 else None
        position = nft_elements.element_at(self.requests[index], offset)
        return None if position is None else elements[position]


def pack(step: NftStep, table: str = TABLE) -> Messages:
    """Pack a transaction in the order in which the kernel can work it off."""
    fixed = [nft_messages.del_table(NUMBERS[family], table) for family in step.rebuild]
    fixed += [nft_messages.new_table(NUMBERS[family], table, COMMENT) for family in step.tables]
    fixed += [pack_set(family, spec, table) for family, spec in step.sets]
    for family, chain in step.chains:
        fixed += pack_chain(family, chain, table)
    messages = Messages(fixed, [()] * len(fixed))
    for batch in step.deletes:
        packed = [_pack_key(batch.set, element.key) for element in batch.elements]
        _extend(messages, nft_elements.del_elements, table, batch, packed)
    for batch in step.adds:
        packed = [_pack_element(batch.set, element) for element in batch.elements]
        _extend(messages, nft_elements.new_elements, table, batch, packed)
    return messages


def pack_operation(operation: Operation) -> bytes:
    """Pack a message to IPVS."""
    server, spec = operation.server, operation.spec
    match operation.verb, spec:
        case "add server", VirtualServer():
            return ipvs_messages.new_server(spec)
        case "set server", VirtualServer():
            return ipvs_messages.set_server(spec)
        case "add destination", Destination():
            return ipvs_messages.new_destination(server, spec)
        case "set destination", Destination():
            return ipvs_messages.set_destination(server, spec)
        case "del destination", Destination():
            return ipvs_messages.del_destination(server, spec.address, spec.port)
        case _:
            return ipvs_messages.del_server(server)


def parse_interval(set_name: str, element: nft_elements.Element) -> bytes:
    """Return the key by which we know an element of a set of ranges."""
    if set_name == SERVICE_CIDRS:
        return element.key + (b"\1" if element.is_interval_end else b"\0")
    return element.key + (element.key_end or element.key)


def parse_data(data: nft_elements.Data) -> Data:
    """Read what the kernel says an element maps to; we have no verdicts."""
    return data if isinstance(data, bytes) else None


def _pack_key(set_name: str, key: bytes) -> bytes:
    if set_name in INTERVALS:
        return nft_elements.pack_element(_interval(set_name, key))
    return nft_elements.pack_key_element(key)


def _pack_element(set_name: str, element: Element) -> bytes:
    if element.data is not None:
        return nft_elements.pack_data_element(element.key, element.data)
    return _pack_key(set_name, element.key)


def _interval(set_name: str, key: bytes) -> nft_elements.Element:
    if set_name == SERVICE_CIDRS:
        return nft_elements.Element(key[:-1], is_interval_end=key[-1:] == b"\1")
    half = len(key) // 2
    return nft_elements.Element(key[:half], key_end=key[half:])


def _extend(
    messages: Messages, verb: _Verb, table: str, batch: Batch, packed: list[bytes]
) -> None:
    for start in range(0, len(packed), ELEMENTS_PER_MESSAGE):
        end = start + ELEMENTS_PER_MESSAGE
        messages.requests.extend(verb(NUMBERS[batch.family], table, batch.set, packed[start:end]))
        messages.elements.append(batch.elements[start:end])
