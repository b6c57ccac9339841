"""The kernel's side of tables of ours, one in each family: written, read back, tried out and removed. Shell."""

import errno
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from backends.kernel import nft_messages
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_table import (
    NUMBERS,
    ChainFacts,
    ChainSpec,
    Data,
    SetFacts,
    SetSpec,
    TableFacts,
    pack_chain,
    pack_set,
)
from backends.kernel.nft_transaction import (
    Form,
    FormOf,
    Transaction,
    pack,
    parse_data,
    parse_interval,
)
from proxy.errors import KernelError, Unsupported
from proxy.model import Family, PortKey
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted

_STRICT_ATTEMPTS: Final = 10
_LOOSE_ATTEMPTS: Final = 10
_DORMANT: Final = 1  # NFT_TABLE_F_DORMANT

Trial = tuple[str, Sequence[Request]]
"""Something to be tried, in words and as messages."""


class RefusedElements(KernelError):  # noqa: N818 - reads as a fact in `except`
    """The kernel refused a transaction because of elements; nothing of it was done.

    `owners` are the ServicePorts whose elements it named; empty when it did not say which.
    """

    def __init__(self, refused: Refused, owners: frozenset[PortKey]) -> None:
        super().__init__(refused.request, refused.errno, refused.message)
        self.owners = owners


class OwnTables:
    """The tables of one backend, which all have its `name`; `trial` is that of a throw-away table."""

    def __init__(self, name: str, trial: str, form_of: FormOf) -> None:
        self.name = name
        self.trial = trial
        self.form_of = form_of

    def commit(self, nft: Nft, transaction: Transaction) -> None:
        """Carry out a transaction: all of it, or nothing.

        Raises RefusedElements when elements of ServicePorts are to blame, and KernelError for everything else:
        then what we believe of the tables themselves may be wrong, or the outcome is unknown.
        """
        packed = pack(transaction, self.name, self.form_of)
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

    def read_tables(
        self, nft: Nft, families: Iterable[Family]
    ) -> tuple[dict[Family, TableFacts], int]:
        """Read everything in our tables, as of one generation of the ruleset.

        Where others change the ruleset all the time, a reading across their changes has to do: it stands for the
        generation before it, so that the next look at the generation leads to a comparison. Raises KernelError.
        """
        for attempt in range(_STRICT_ATTEMPTS + _LOOSE_ATTEMPTS):
            is_strict = attempt < _STRICT_ATTEMPTS
            generation = nft.generation()
            try:
                tables = {
                    family: self.read_table(nft, family, is_strict=is_strict)
                    for family in families
                }
            except DumpInterrupted:
                continue
            if nft.generation() == generation or not is_strict:
                return tables, generation
        what = "read our nftables tables"
        raise KernelError(what, errno.EAGAIN, "the ruleset changes all the time")

    def read_table(self, nft: Nft, family: Family, *, is_strict: bool = True) -> TableFacts:
        """Read one of our tables. Raises DumpInterrupted when the ruleset changes meanwhile."""
        facts = self.read_structure(nft, family)
        for name in facts.sets:
            facts.elements[name] = {
                key: data
                for block in self.list_elements(nft, family, name, is_strict=is_strict)
                for key, data in block
            }
        return facts

    def read_structure(self, nft: Nft, family: Family) -> TableFacts:
        """Read one of our tables without the elements. Raises DumpInterrupted."""
        facts, number = TableFacts(), NUMBERS[family]
        table = nft.find_table(number, self.name)
        if table is None:
            return facts
        facts.is_present, facts.is_dormant = True, bool(table.flags & _DORMANT)
        comments: dict[str, list[str]] = {}
        for rule in nft.list_rules(number, self.name):
            comments.setdefault(rule.chain, []).append(rule.comment)
        for chain in nft.list_chains(number, self.name):
            facts.chains[chain.name] = ChainFacts(chain.base, tuple(comments.get(chain.name, ())))
        for found in nft.list_sets(number, self.name):
            facts.sets[found.name] = SetFacts(
                found.flags,
                found.key_type,
                found.key_length,
                found.data_type,
                found.data_length,
                found.size,
            )
        return facts

    def list_elements(
        self, nft: Nft, family: Family, name: str, *, is_strict: bool = False
    ) -> Iterator[list[tuple[bytes, Data]]]:
        """Yield what we compare of a set's elements, in blocks: what packets put into it is left out.

        A set that is gone has none; if strict, that is a reason to begin anew. Raises DumpInterrupted.
        """
        form, number = self.form_of(name), NUMBERS[family]
        try:
            if form.is_interval:
                found = nft.list_all_elements(number, self.name, name, is_strict=is_strict)
                yield [(parse_interval(form, element), None) for element in found]
            elif form is Form.PLAIN:
                for block in nft.list_elements(number, self.name, name, is_strict=is_strict):
                    yield [(key, parse_data(data)) for key, data in block]
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            if is_strict:
                raise DumpInterrupted("a set is gone meanwhile") from error

    def read_elements(
        self, nft: Nft, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        """Read single elements; those that do not exist are left out."""
        if self.form_of(name).is_interval:
            # the kernel would find the range that holds a key, not the one that is it; there are few
            found = {key for block in self.list_elements(nft, family, name) for key, _ in block}
            return dict.fromkeys(found.intersection(keys))
        there = nft.find_elements(NUMBERS[family], self.name, name, list(keys))
        return {key: parse_data(data) for key, data in there.items()}

    def delete_tables(self, nft: Nft) -> int:
        """Remove our tables with everything in them, also those of an interrupted trial; return how many there were."""
        found = [
            (number, table)
            for number in NUMBERS.values()
            for table in (self.name, self.trial)
            if nft.find_table(number, table)
        ]
        nft.commit([nft_messages.del_table(number, table) for number, table in found])
        return len(found)

    # --- trying out what the kernel can do

    def trials(
        self, family: Family, sets: Iterable[SetSpec], chains: Iterable[ChainSpec]
    ) -> Iterator[Trial]:
        """Yield sets, and chains with their rules, to be tried in this order."""
        for spec in sets:
            yield f"set {spec.name}", [pack_set(family, spec, self.trial)]
        for chain in chains:
            make, flush, *rules = pack_chain(family, chain, self.trial)
            yield f"chain {chain.name}", [make, flush]
            for rule, request in zip(chain.rules, rules, strict=True):
                yield f"rule of chain {chain.name}: {rule.comment}", [request]

    def try_out(self, nft: Nft, family: Family, trials: Iterable[Trial]) -> None:
        """Make all this in a throw-away table, then remove it. Raises Unsupported naming the first thing that is refused.

        The table is dormant: its chains are made like ours but not hooked in, so no packet sees them.
        """
        self.forget_trial(nft, family)  # one may have been interrupted
        table = nft_messages.new_table(NUMBERS[family], self.trial, is_dormant=True)
        steps: list[Trial] = [("nftables tables", [table]), *trials]
        try:
            nft.commit([request for _, requests in steps for request in requests])
        except KernelError:
            for what, requests in steps:  # one at a time, to name what is refused
                try:
                    nft.commit(requests)
                except KernelError as error:
                    raise Unsupported(f"{family} {what}", error.message) from error
            raise
        finally:
            self.forget_trial(nft, family)

    def forget_trial(self, nft: Nft, family: Family) -> None:
        """Remove what a trial has left."""
        if nft.find_table(NUMBERS[family], self.trial) is None:
            return
        try:
            nft.commit([nft_messages.del_table(NUMBERS[family], self.trial)])
        except KernelError as error:
            if error.errno != errno.ENOENT:  # another process tries, too
                raise
