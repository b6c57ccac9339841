"""A table of ours in words: chains with their rules, and sets, as they should be and as they are found. Pure.

What tells two rules apart is their comment, which ends in a digest of their expressions: the kernel gives it back as it
was, so equal comments mean equal rules.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.kernel import nft_messages
from backends.kernel.nft_expressions import Expression
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6, SetFlag
from backends.kernel.nft_userdata import Declared, declare, set_userdata
from proxy.model import Family
from proxy.netlink.codec import Request

NUMBERS: Final[dict[Family, int]] = {"IPv4": NFPROTO_IPV4, "IPv6": NFPROTO_IPV6}


Data = bytes | str | None
"""What an element maps to: raw bytes, a verdict in the stock tool's words (`goto pick-tcp-4`), or None for a
member of a plain set."""


class RuleSpec(NamedTuple):
    """A rule: its packed expressions, and a comment that ends in a digest of them."""

    expressions: bytes
    comment: str


class ChainFacts(NamedTuple):
    """What identifies the content of a chain, the same whether described here or read back."""

    base: BaseChain | None
    comments: tuple[str, ...]


class ChainSpec(NamedTuple):
    """A chain as it should be."""

    name: str
    base: BaseChain | None
    rules: tuple[RuleSpec, ...]

    @property
    def facts(self) -> ChainFacts:
        return ChainFacts(self.base, tuple([rule.comment for rule in self.rules]))


class SetFacts(NamedTuple):
    """What identifies a set or map: the kernel's numbers for key and data. `size` 0: no limit."""

    flags: int
    key_type: int
    key_length: int
    data_type: int | None
    data_length: int
    size: int = 0


class SetSpec(NamedTuple):
    """A set or map as it should be: its declaration, and what of it can be compared with the kernel."""

    name: str
    key: Declared
    data: Declared | None
    facts: SetFacts


class TableFacts:
    """What there is in one table, as read or believed. No packet sees one that `is_dormant`.

    `has_to_go`: the kernel does not let us make it what it should be, so that it is made anew. Found out when it is read.
    """

    def __init__(self) -> None:
        self.is_present = False
        self.is_dormant = False
        self.has_to_go = False
        self.chains: dict[str, ChainFacts] = {}
        self.sets: dict[str, SetFacts] = {}
        self.elements: dict[str, dict[bytes, Data]] = {}

    @property
    def structure(self) -> tuple[object, ...]:
        """All but the elements, to be compared."""
        return self.is_present, self.is_dormant, self.chains, self.sets


def rule(expressions: Sequence[Expression], why: str) -> RuleSpec:
    """Return a rule. `why` is what `nft list` shows beside it."""
    packed = b"".join([_packed(expression) for expression in expressions])
    digest = hashlib.blake2b(packed, digest_size=4).hexdigest()
    return RuleSpec(packed, f"{why} [{digest}]")


@functools.lru_cache(maxsize=1024)
def _packed(expression: Expression) -> bytes:
    """Return the bytes of an expression: most stand in many rules."""
    return expression.pack()


def declared(
    name: str,
    key: str,
    data: str | None = None,
    *,
    flags: int = 0,
    size: int = 0,
) -> SetSpec:
    """Return a set, or with data a map, with key and data in the words of the stock tool."""
    declared_key = declare(key)
    declared_data = declare(data) if data is not None else None
    if data is not None:
        flags |= SetFlag.MAP
    if flags & SetFlag.INTERVAL and len(declared_key.field_lengths) > 1:
        flags |= SetFlag.CONCAT
    facts = SetFacts(
        flags=flags,
        key_type=declared_key.type,
        key_length=declared_key.length,
        data_type=declared_data.type if declared_data else None,
        data_length=declared_data.length if declared_data else 0,
        size=size,
    )
    return SetSpec(name, declared_key, declared_data, facts)


def pack_set(family: Family, spec: SetSpec, table: str) -> Request:
    """Pack a set or map, with what the stock tool needs to print its keys."""
    facts = spec.facts
    return nft_messages.new_set(
        NUMBERS[family],
        table,
        spec.name,
        key_type=facts.key_type,
        key_length=facts.key_length,
        data_type=facts.data_type,
        data_length=facts.data_length,
        flags=facts.flags,
        size=facts.size,
        field_lengths=spec.key.field_lengths if facts.flags & SetFlag.INTERVAL else (),
        userdata=set_userdata(spec.key, spec.data),
    )


def pack_chain(family: Family, chain: ChainSpec, table: str) -> list[Request]:
    """Write a chain with all its rules, whether or not there is one already."""
    number = NUMBERS[family]
    return [
        nft_messages.new_chain(number, table, chain.name, chain.base),
        nft_messages.flush_chain(number, table, chain.name),
        *[
            nft_messages.new_rule(number, table, chain.name, each.expressions, each.comment)
            for each in chain.rules
        ],
    ]
