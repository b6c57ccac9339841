"""The side rules in nftables tables of our own: the side that is used where the kernel has them. Shell."""

from collections.abc import Collection, Iterable
from typing import Final

from backends.ipvs.layout import Layout
from backends.ipvs.model import PROBE_TABLE, TABLE, form_of
from backends.kernel.netfilter import NOT_THERE
from backends.kernel.nft import Nft
from backends.kernel.nft_owned import OwnTables
from backends.kernel.nft_table import NUMBERS, Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.errors import KernelError, Unsupported
from proxy.model import Family

OURS: Final = OwnTables(TABLE, PROBE_TABLE, form_of)
INLINE_OBJECTS: Final = 2000
"""Larger transactions are sent from a thread."""


class NftSide:
    """One table in each family; every commit is seen as a whole, and the kernel counts them."""

    words = "nftables"
    objects = "nftables tables"
    layout_of = Layout

    def __init__(self, nft: Nft) -> None:
        self.nft = nft

    def generation(self) -> int:
        return self.nft.generation()

    def is_slow(self, step: Transaction) -> bool:
        return step.size > INLINE_OBJECTS

    def commit(self, step: Transaction) -> None:
        OURS.commit(self.nft, step)

    def read_tables(self, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
        return OURS.read_tables(self.nft, families)

    def read_structure(self, family: Family) -> TableFacts:
        return OURS.read_structure(self.nft, family)

    def read_elements(
        self, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        return OURS.read_elements(self.nft, family, name, keys)

    def try_out(self, layout: Layout) -> None:
        try:
            for family in layout.families:
                trials = OURS.trials(family, layout.sets(family), layout.chains(family))
                OURS.try_out(self.nft, family, trials)
        except KernelError as error:
            if error.errno in NOT_THERE:
                raise Unsupported("nftables", error.message) from error
            raise

    def is_there(self) -> bool:
        try:
            return any(self.nft.find_table(number, TABLE) for number in NUMBERS.values())
        except KernelError as error:
            if error.errno in NOT_THERE:
                return False
            raise

    def sweep(self) -> int:
        return 0

    def delete(self) -> int:
        return OURS.delete_tables(self.nft)

    def close(self) -> None:
        self.nft.close()
