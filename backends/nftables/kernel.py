"""The kernel's side of our tables: commits transactions, reads facts back, and translates its errors. Shell."""

import errno
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from backends.kernel import nft_messages, nft_table
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_table import ChainFacts, SetFacts
from backends.nftables import messages
from backends.nftables.belief import TableFacts
from backends.nftables.model import PROBE_TABLE, TABLE, Data, Transaction
from backends.nftables.names import holds_clients, holds_intervals
from proxy.errors import KernelError
from proxy.model import Family, PortKey
from proxy.netlink.socket import DumpInterrupted

_STRICT_ATTEMPTS: Final = 10
_LOOSE_ATTEMPTS: Final = 10
_DORMANT: Final = 1  # NFT_TABLE_F_DORMANT


class RefusedElements(KernelError):  # noqa: N818 - reads as a fact in `except`
    """The kernel refused a transaction because of elements; nothing of it was done.

    `owners` are the ServicePorts whose elements it named; empty when it did not say which.
    """

    def __init__(self, refused: Refused, owners: frozenset[PortKey]) -> None:
        super().__init__(refused.request, refused.errno, refused.message)
        self.owners = owners


def commit(nft: Nft, transaction: Transaction) -> None:
    """Carry out a transaction: all of it, or nothing.

    Raises RefusedElements when elements of ServicePorts are to blame, and KernelError for everything else:
    then what we believe of the tables themselves may be wrong, or the outcome is unknown.
    """
    packed = messages.pack(transaction)
    try:
        nft.commit(packed.requests)
    except Refused as refused:
        owners: set[PortKey] = set()
        for refusal in refused.refusals:
            if refusal.index is None or not packed.elements[refusal.index]:
                raise
            blamed = packed.element_at(refusal.index, refusal.offset)
            if blamed is None and refusal.offset is not None:
                raise  # the kernel points at something else than an element: the set or table is gone
            if blamed is None or blamed.owner is None:
                raise RefusedElements(refused, frozenset()) from refused
            owners.add(blamed.owner)
        raise RefusedElements(refused, frozenset(owners)) from refused


def read_tables(nft: Nft, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
    """Read everything in our tables, as of one generation of the ruleset.

    Where others change the ruleset all the time, a reading across their changes has to do: it stands for the
    generation before it, so that the next look at the generation leads to a comparison. Raises KernelError.
    """
    for attempt in range(_STRICT_ATTEMPTS + _LOOSE_ATTEMPTS):
        is_strict = attempt < _STRICT_ATTEMPTS
        generation = nft.generation()
        try:
            tables = {family: read_table(nft, family, is_strict=is_strict) for family in families}
        except DumpInterrupted:
            continue
        if nft.generation() == generation or not is_strict:
            return tables, generation
    raise KernelError("read our nftables tables", errno.EAGAIN, "the ruleset changes all the time")


def read_table(nft: Nft, family: Family, *, is_strict: bool = True) -> TableFacts:
    """Read one of our tables. Raises DumpInterrupted when the ruleset changes meanwhile."""
    facts = read_structure(nft, family)
    for name in facts.sets:
        facts.elements[name] = {
            key: data
            for block in list_elements(nft, family, name, is_strict=is_strict)
            for key, data in block
        }
    return facts


def list_elements(
    nft: Nft, family: Family, name: str, *, is_strict: bool = False
) -> Iterator[list[tuple[bytes, Data]]]:
    """Yield what we compare of a set's elements, in blocks: what packets put into it is left out.

    A set that is gone has none; if strict, that is a reason to begin anew. Raises DumpInterrupted.
    """
    try:
        yield from _list_elements(nft, family, name, is_strict=is_strict)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        if is_strict:
            raise DumpInterrupted("a set is gone meanwhile") from error


def _list_elements(
    nft: Nft, family: Family, name: str, *, is_strict: bool
) -> Iterator[list[tuple[bytes, Data]]]:
    number = nft_table.NUMBERS[family]
    if holds_clients(name):
        return
    if holds_intervals(name):
        bounds = nft.list_all_elements(number, TABLE, name, is_strict=is_strict)
        yield [(messages.parse_bound(bound), None) for bound in bounds]
        return
    for block in nft.list_elements(number, TABLE, name, is_strict=is_strict):
        yield [(key, messages.parse_data(data)) for key, data in block]


def read_structure(nft: Nft, family: Family) -> TableFacts:
    """Read one of our tables without the elements. Raises DumpInterrupted."""
    facts, number = TableFacts(), nft_table.NUMBERS[family]
    table = nft.find_table(number, TABLE)
    if table is None:
        return facts
    facts.is_present, facts.is_dormant = True, bool(table.flags & _DORMANT)
    comments: dict[str, list[str]] = {}
    for rule in nft.list_rules(number, TABLE):
        comments.setdefault(rule.chain, []).append(rule.comment)
    for chain in nft.list_chains(number, TABLE):
        facts.chains[chain.name] = ChainFacts(chain.base, tuple(comments.get(chain.name, ())))
    for found in nft.list_sets(number, TABLE):
        facts.sets[found.name] = SetFacts(
            found.flags,
            found.key_type,
            found.key_length,
            found.data_type,
            found.data_length,
            found.size,
        )
    return facts


def read_elements(
    nft: Nft, family: Family, set_name: str, keys: Collection[bytes]
) -> dict[bytes, Data]:
    """Read single elements; those that do not exist are left out."""
    if holds_intervals(set_name):
        # the kernel would find the range that holds a key, not the bound; there are few
        bounds = {key for block in list_elements(nft, family, set_name) for key, _ in block}
        return dict.fromkeys(bounds.intersection(keys))
    found = nft.find_elements(nft_table.NUMBERS[family], TABLE, set_name, list(keys))
    return {key: messages.parse_data(data) for key, data in found.items()}


def delete_tables(nft: Nft) -> int:
    """Remove our tables with everything in them, also those of an interrupted probe; return how many there were."""
    found = [
        (number, table)
        for number in nft_table.NUMBERS.values()
        for table in (TABLE, PROBE_TABLE)
        if nft.find_table(number, table)
    ]
    nft.commit([nft_messages.del_table(number, table) for number, table in found])
    return len(found)
