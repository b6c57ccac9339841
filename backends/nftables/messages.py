"""A transaction as netlink messages, and back: which element the kernel meant when it refused one. Pure."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_numbers import MessageKind, VerdictCode
from backends.kernel.nft_table import NUMBERS, ChainSpec, SetSpec, pack_chain, pack_set
from backends.nftables.model import TABLE, Batch, Data, Element, Transaction
from backends.nftables.names import holds_intervals
from proxy.netlink.codec import Request

ELEMENTS_PER_MESSAGE: Final = 500
"""So many of our largest elements fit the 16-bit length of an attribute."""
COMMENT: Final = "Kubernetes services, kept by sliceproxy; changes made here are undone"


_VERDICTS: Final = {
    "jump": VerdictCode.JUMP,
    "goto": VerdictCode.GOTO,
    "drop": VerdictCode.DROP,
}
_WORDS: Final[dict[int, str]] = {code: word for word, code in _VERDICTS.items()}
_OF_ELEMENTS: Final = (MessageKind.NEWSETELEM, MessageKind.DELSETELEM)
_Verb = Callable[[int, str, str, Sequence[bytes]], list[Request]]


class Messages(NamedTuple):
    """The messages of a transaction; `elements` holds for each the elements in it, in order (often none).

    For a set or a chain that is there for one ServicePort, it is one without a key.
    """

    requests: list[Request]
    elements: list[tuple[Element, ...]]

    def element_at(self, index: int, offset: int | None) -> Element | None:
        """Return the element the kernel blames, by message and offset; None if it blames something else or nothing."""
        elements = self.elements[index]
        if offset is None or self.requests[index].kind not in _OF_ELEMENTS:
            return elements[0] if len(elements) == 1 else None
        position = nft_elements.element_at(self.requests[index], offset)
        return None if position is None else elements[position]


def pack(transaction: Transaction, table: str = TABLE) -> Messages:
    """Pack a transaction in the order in which the kernel can work it off."""
    fixed = [nft_messages.del_table(NUMBERS[family], table) for family in transaction.rebuild]
    fixed += [
        nft_messages.new_table(NUMBERS[family], table, COMMENT) for family in transaction.tables
    ]
    fixed += [pack_set(family, spec, table) for family, spec in transaction.sets]
    blamed: list[tuple[Element, ...]] = [()] * (len(fixed) - len(transaction.sets))
    blamed += [_whose(spec) for _, spec in transaction.sets]
    for family, chain in transaction.chains:
        packed_chain = pack_chain(family, chain, table)
        fixed += packed_chain
        blamed += [_whose(chain)] * len(packed_chain)
    messages = Messages(fixed, blamed)
    for batch in map(_in_order, transaction.deletes):
        pack_key = pack_bound if holds_intervals(batch.set) else nft_elements.pack_key_element
        keys = [pack_key(e.key) for e in batch.elements]
        _extend(messages, nft_elements.del_elements, table, batch, keys)
    for batch in map(_in_order, transaction.adds):
        if holds_intervals(batch.set):
            packed = [pack_bound(key) for key, _, _ in batch.elements]
        else:
            packed = [pack_element(key, data) for key, data, _ in batch.elements]
        _extend(messages, nft_elements.new_elements, table, batch, packed)
    last = [
        nft_messages.del_chain(NUMBERS[family], table, name)
        for family, name in transaction.gone_chains
    ]
    last += [
        nft_messages.del_set(NUMBERS[family], table, name)
        for family, name in transaction.gone_sets
    ]
    messages.requests.extend(last)
    messages.elements.extend([()] * len(last))
    return messages


def pack_bound(key: bytes) -> bytes:
    """Pack where a range begins or ends, from its key as `names.holds_intervals` describes it."""
    bound = nft_elements.Element(key[:-1], is_interval_end=key[-1:] == b"\1")
    return nft_elements.pack_element(bound)


def parse_bound(element: nft_elements.Element) -> bytes:
    """Return the key of where a range begins or ends."""
    return element.key + (b"\1" if element.is_interval_end else b"\0")


def pack_element(key: bytes, data: Data) -> bytes:
    """Pack an element with its data."""
    if isinstance(data, bytes):
        return nft_elements.pack_data_element(key, data)
    if data is None:
        return nft_elements.pack_key_element(key)
    word, _, chain = data.partition(" ")
    if word == "goto":
        return nft_elements.pack_verdict_element(key, chain)
    return nft_elements.pack_element(nft_elements.Element(key, (_VERDICTS[word], chain)))


def parse_data(data: nft_elements.Data) -> Data:
    """Read what the kernel says an element maps to."""
    if not isinstance(data, tuple):
        return data
    code, chain = data
    word = _WORDS.get(code, f"verdict {code}")
    return f"{word} {chain}" if chain else word


def _in_order(batch: Batch) -> Batch:
    """Return a batch in an order the kernel takes: of ranges each bound after those before it.

    Otherwise it may find that a new range begins within one whose end it does not know yet, and refuse it (6.18).
    """
    if not holds_intervals(batch.set):
        return batch
    return batch._replace(elements=tuple(sorted(batch.elements, key=_key)))


def _key(element: Element) -> bytes:
    return element.key


def _whose(spec: SetSpec | ChainSpec) -> tuple[Element, ...]:
    return () if spec.owner is None else (Element(b"", None, spec.owner),)


def _extend(
    messages: Messages, verb: _Verb, table: str, batch: Batch, packed: list[bytes]
) -> None:
    for start in range(0, len(packed), ELEMENTS_PER_MESSAGE):
        end = start + ELEMENTS_PER_MESSAGE
        messages.requests.extend(verb(NUMBERS[batch.family], table, batch.set, packed[start:end]))
        messages.elements.append(batch.elements[start:end])
