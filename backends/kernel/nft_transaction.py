"""Transactions on tables of ours: as values, and as messages to the kernel, and which element it blames. Pure.

A backend says what stands in its sets by keys and data; `Form` says what a key is where elements are ranges.
"""

import enum
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, TypeGuard

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_numbers import MessageKind, VerdictCode
from backends.kernel.nft_table import (
    NUMBERS,
    ChainSpec,
    Data,
    SetSpec,
    TableFacts,
    pack_chain,
    pack_set,
)
from proxy.model import Family, PortKey, Value
from proxy.netlink.codec import Request

ELEMENTS_PER_MESSAGE: Final = 500
"""So many of the largest elements there are fit the 16-bit length of an attribute."""
COMMENT: Final = "Kubernetes services, kept by sliceproxy; changes made here are undone"

_WORDS: Final = {
    "jump": VerdictCode.JUMP,
    "goto": VerdictCode.GOTO,
    "drop": VerdictCode.DROP,
}
_VERDICTS: Final[dict[int, str]] = {code: word for word, code in _WORDS.items()}
_OF_ELEMENTS: Final = (MessageKind.NEWSETELEM, MessageKind.DELSETELEM)
_NFT: Final[dict[Family, str]] = {"IPv4": "ip", "IPv6": "ip6"}
_Verb = Callable[[int, str, str, Sequence[bytes]], list[Request]]


class Form(enum.Enum):
    """What the key of a set's element is.

    PLAIN: that of the kernel. RANGES, of concatenations: the first and the last value, one after the other. BOUNDS, of single
    values: a range is two elements, where it begins and (unless it ends with the last value) where the next thing begins; one
    byte follows the value, 1 for such an end. FILLED: packets put the elements into it, and nobody compares them.
    """

    PLAIN = enum.auto()
    RANGES = enum.auto()
    BOUNDS = enum.auto()
    FILLED = enum.auto()

    @property
    def is_interval(self) -> bool:
        return self in (Form.RANGES, Form.BOUNDS)


FormOf = Callable[[str], Form]
"""Tells the form of a set by its name."""


class Element(Value, frozen=True, gc=False):
    """An element of one of our sets or maps, and the ServicePort it is there for (None: nobody's)."""

    key: bytes
    data: Data
    owner: PortKey | None


class Batch(NamedTuple):
    """Elements of one set."""

    family: Family
    set: str
    elements: tuple[Element, ...]


class Transaction(NamedTuple):
    """What is committed at once. In order: tables, sets, chains, deletes, adds, then what nothing refers to.

    `rebuild` names families whose table is unusable as it stands and is made anew in this transaction.
    """

    rebuild: tuple[Family, ...] = ()
    tables: tuple[Family, ...] = ()
    sets: tuple[tuple[Family, SetSpec], ...] = ()
    chains: tuple[tuple[Family, ChainSpec], ...] = ()
    deletes: tuple[Batch, ...] = ()
    adds: tuple[Batch, ...] = ()
    gone_chains: tuple[tuple[Family, str], ...] = ()
    gone_sets: tuple[tuple[Family, str], ...] = ()

    @property
    def size(self) -> int:
        """The number of objects written."""
        elements = sum(len(batch.elements) for batch in (*self.deletes, *self.adds))
        fixed = (self.rebuild, self.tables, self.sets, self.chains)
        return elements + sum(map(len, (*fixed, self.gone_chains, self.gone_sets)))

    @property
    def owners(self) -> set[PortKey]:
        """The ServicePorts of which it has elements."""
        batches = (*self.deletes, *self.adds)
        return {e.owner for batch in batches for e in batch.elements if e.owner is not None}

    def fold(self, tables: dict[Family, TableFacts]) -> None:
        """Take it into what is believed, once the kernel has confirmed it."""
        for family in self.rebuild:
            tables[family] = TableFacts()
        for family in self.tables:
            tables[family].is_present = True
        for family, spec in self.sets:
            tables[family].sets[spec.name] = spec.facts
            tables[family].elements[spec.name] = {}
        for family, chain in self.chains:
            tables[family].chains[chain.name] = chain.facts
        for batch in self.deletes:
            elements = tables[batch.family].elements[batch.set]
            for element in batch.elements:
                del elements[element.key]
        for batch in self.adds:
            elements = tables[batch.family].elements[batch.set]
            elements.update([(element.key, element.data) for element in batch.elements])
        for family, name in self.gone_chains:
            del tables[family].chains[name]
        for family, name in self.gone_sets:
            del tables[family].sets[name]
            tables[family].elements.pop(name, None)

    def describe(self, table: str, words: Callable[[Family, str, bytes, Data], str]) -> list[str]:
        """Return a line for each object, much as the stock tool would be told. `words` are those for an element and its set."""
        lines = [f"delete table {_NFT[family]} {table}" for family in self.rebuild]
        lines += [f"add table {_NFT[family]} {table}" for family in self.tables]
        lines += [f"add set {_NFT[family]} {table} {spec.name}" for family, spec in self.sets]
        lines += [
            f"write chain {_NFT[family]} {table} {spec.name}" for family, spec in self.chains
        ]
        for verb, batches in (("delete", self.deletes), ("add", self.adds)):
            lines += [
                f"{verb} element {_NFT[batch.family]} {table} "
                f"{words(batch.family, batch.set, element.key, element.data)}{_whose(element)}"
                for batch in batches
                for element in batch.elements
            ]
        lines += [
            f"delete chain {_NFT[family]} {table} {name}" for family, name in self.gone_chains
        ]
        lines += [f"delete set {_NFT[family]} {table} {name}" for family, name in self.gone_sets]
        return lines


def _whose(element: Element) -> str:
    return f"  # {element.owner}" if element.owner else ""


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


def pack(transaction: Transaction, table: str, form_of: FormOf) -> Messages:
    """Pack a transaction in the order in which the kernel can work it off."""
    fixed = [nft_messages.del_table(NUMBERS[family], table) for family in transaction.rebuild]
    fixed += [
        nft_messages.new_table(NUMBERS[family], table, COMMENT) for family in transaction.tables
    ]
    fixed += [pack_set(family, spec, table) for family, spec in transaction.sets]
    for family, chain in transaction.chains:
        fixed += pack_chain(family, chain, table)
    messages = Messages(fixed, [()] * len(fixed))
    for batch in transaction.deletes:
        _extend(messages, nft_elements.del_elements, table, batch, form_of(batch.set))
    for batch in transaction.adds:
        _extend(messages, nft_elements.new_elements, table, batch, form_of(batch.set))
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


def _packed(elements: Sequence[Element]) -> list[bytes]:
    """Pack elements of one set or map, some or all at once."""
    data = [element.data for element in elements]
    if _are_raw(data):
        return nft_elements.pack_data_elements([element.key for element in elements], data)
    return [pack_element(element.key, element.data) for element in elements]


def _are_raw(data: Sequence[Data]) -> TypeGuard[Sequence[bytes]]:
    """Whether a map leads to raw data: all its elements do, or none."""
    return bool(data) and isinstance(data[0], bytes)


def pack_element(key: bytes, data: Data) -> bytes:
    """Pack an element with its data."""
    if isinstance(data, bytes):
        return nft_elements.pack_data_element(key, data)
    if data is None:
        return nft_elements.pack_key_element(key)
    word, _, chain = data.partition(" ")
    if word == "goto":
        return nft_elements.pack_verdict_element(key, chain)
    return nft_elements.pack_element(nft_elements.Element(key, (_WORDS[word], chain)))


def parse_data(data: nft_elements.Data) -> Data:
    """Read what the kernel says an element maps to."""
    if not isinstance(data, tuple):
        return data
    code, chain = data
    word = _VERDICTS.get(code, f"verdict {code}")
    return f"{word} {chain}" if chain else word


def pack_interval(form: Form, key: bytes) -> bytes:
    """Pack an element of a set of ranges."""
    if form is Form.BOUNDS:
        return nft_elements.pack_bound_element(key[:-1], is_end=key[-1:] == b"\1")
    half = len(key) // 2
    return nft_elements.pack_element(nft_elements.Element(key[:half], key_end=key[half:]))


def parse_interval(form: Form, element: nft_elements.Element) -> bytes:
    """Return the key of an element of a set of ranges."""
    if form is Form.BOUNDS:
        return element.key + (b"\1" if element.is_interval_end else b"\0")
    return element.key + (element.key_end or element.key)


def _extend(messages: Messages, verb: _Verb, table: str, batch: Batch, form: Form) -> None:
    elements = batch.elements
    if form.is_interval:
        # Each bound after those before it: otherwise the kernel may find that a new range begins within one whose end it
        # does not know yet, and refuse it (6.18).
        elements = tuple(sorted(elements, key=attrgetter("key")))
        packed = [pack_interval(form, element.key) for element in elements]
    elif verb is nft_elements.del_elements:
        packed = [nft_elements.pack_key_element(element.key) for element in elements]
    else:
        packed = _packed(elements)
    for start in range(0, len(packed), ELEMENTS_PER_MESSAGE):
        end = start + ELEMENTS_PER_MESSAGE
        messages.requests.extend(verb(NUMBERS[batch.family], table, batch.set, packed[start:end]))
        messages.elements.append(elements[start:end])
