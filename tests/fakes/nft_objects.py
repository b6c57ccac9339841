"""What the fake of nf_tables is made of: tables, chains, rules, sets and elements, and requests taken apart."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from backends.kernel import nft_messages
from backends.kernel.nft_elements import Data
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import VerdictCode
from backends.kernel.nft_userdata import VERDICT_TYPE
from proxy.netlink import codec
from proxy.netlink.codec import HEADER_LENGTH, NLA_HEADER_LENGTH, Message

_GENMSG: Final = 4  # what stands before the attributes
JUMPS: Final = (VerdictCode.JUMP, VerdictCode.GOTO)


class RefusalError(Exception):
    """The kernel would not do it. `at` is the byte it blames, counted from the message's header."""

    def __init__(self, number: int, at: int | None) -> None:
        super().__init__(number, at)
        self.number = number
        self.at = at


class Attrs:
    """The attributes of a request, and where each stands."""

    def __init__(self, message: Message) -> None:
        self.payload = bytes(message.payload)
        self.family = self.payload[0]
        self._values: dict[int, memoryview] = {}
        self._places: dict[int, int] = {}
        position = HEADER_LENGTH + _GENMSG
        for kind, value in codec.iter_attrs(self.payload, _GENMSG):
            self._values[kind], self._places[kind] = value, position
            position += _space(value)

    def __contains__(self, kind: int) -> bool:
        return kind in self._values

    @property
    def content(self) -> bytes:
        """All of them, packed."""
        return self.payload[_GENMSG:]

    def name(self, kind: int) -> str:
        return codec.read_string(self._values[kind])

    def number(self, kind: int) -> int:
        return codec.read_be32(self._values[kind])

    def entries(self, kind: int) -> Iterator[tuple[int, memoryview]]:
        """Where each entry of a list stands, and what is in it."""
        position = self._places[kind] + NLA_HEADER_LENGTH
        for _, value in codec.iter_attrs(self._values[kind]):
            yield position, value
            position += _space(value)

    def refuse(self, number: int, kind: int) -> RefusalError:
        """A refusal that blames an attribute."""
        return RefusalError(number, self._places[kind])


@dataclass
class Rule:
    listed: bytes
    jumps: frozenset[str]
    sets: frozenset[str]


@dataclass
class Chain:
    """`content` is what it was made with: the kernel lists the same, but for a policy that was changed."""

    content: bytes
    base: BaseChain | None
    handle: bytes
    rules: list[Rule] = field(default_factory=list)

    @property
    def listed(self) -> bytes:
        policy = b"" if self.base is None else codec.attr_be32(5, self.base.policy)
        return self.content + policy + self.handle


@dataclass
class Element:
    listed: bytes
    data: Data


@dataclass
class Set:
    content: bytes
    shape: nft_messages.Set
    size: int
    handle: bytes
    elements: dict[bytes, Element] = field(default_factory=dict)

    @property
    def listed(self) -> bytes:
        size = codec.nested(9, codec.attr_be32(1, self.size)) if self.size else b""
        return self.content + size + self.handle

    @property
    def is_of_verdicts(self) -> bool:
        return self.shape.data_type == VERDICT_TYPE

    def takes(self, data: Data) -> bool:
        """Whether an element may map to that."""
        if self.shape.data_type is None or data is None:
            return self.shape.data_type is None and data is None
        if self.is_of_verdicts:
            return not isinstance(data, bytes)
        return isinstance(data, bytes) and len(data) == self.shape.data_length

    def is_like(self, other: nft_messages.Set) -> bool:
        """Whether another one may be added over it."""
        mine, its = self.shape, other
        return (mine.key_type, mine.key_length, mine.data_type, mine.data_length, mine.flags) == (
            its.key_type,
            its.key_length,
            its.data_type,
            its.data_length,
            its.flags,
        )


@dataclass
class Table:
    content: bytes
    flags: int
    handle: bytes
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)
    is_being_changed: bool = False
    has_changed_chains: bool = False

    @property
    def listed(self) -> bytes:
        return self.content + codec.attr_be32(2, self.flags) + self.handle

    def is_chain_used(self, name: str) -> bool:
        """Whether another chain's rule or any element leads there."""
        others = [chain for other, chain in self.chains.items() if other != name]
        if any(name in rule.jumps for chain in others for rule in chain.rules):
            return True
        verdicts = [each for each in self.sets.values() if each.is_of_verdicts]
        return any(target(e.data) == name for each in verdicts for e in each.elements.values())

    def is_set_used(self, name: str) -> bool:
        """Whether a rule looks it up."""
        return any(name in rule.sets for chain in self.chains.values() for rule in chain.rules)


def target(data: Data) -> str:
    """Return the chain a verdict leads to, if it leads anywhere."""
    return data[1] if isinstance(data, tuple) else ""


def _space(value: memoryview) -> int:
    return NLA_HEADER_LENGTH + ((len(value) + 3) & ~3)
