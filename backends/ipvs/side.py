"""The side rules as the rest of this backend sees them, whatever part of the kernel they are in. Pure."""

from collections.abc import Collection, Iterable
from typing import Protocol

from backends.ipvs.layout import Layout
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.model import Family


class Side(Protocol):
    """The side rules of both families. Not for use by two threads at the same time.

    All of it is in the words of nftables: a table for each family, with chains, sets, and elements by their keys. What
    there is instead of nftables translates.
    """

    @property
    def words(self) -> str:
        """By what it is done, for people."""
        ...

    @property
    def objects(self) -> str:
        """What `delete` counts, for people."""
        ...

    @property
    def layout_of(self) -> type[Layout]:
        """What says which chains there are."""
        ...

    def generation(self) -> int:
        """Return a number that is another one after each change, also by others. A commit of ours raises it by one."""
        ...

    def is_slow(self, step: Transaction) -> bool:
        """Whether a commit would hold the event loop for more than some milliseconds: then it is for a thread."""
        ...

    def commit(self, step: Transaction) -> None:
        """Carry out a transaction.

        Raises RefusedElements when elements of ServicePorts are to blame: what became of the others is to be read back. Raises
        KernelError for everything else: then anything that we believe may be wrong.
        """
        ...

    def read_tables(self, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
        """Read everything, and the generation for which it stands. Raises KernelError."""
        ...

    def read_structure(self, family: Family) -> TableFacts:
        """Read everything but elements. Raises KernelError."""
        ...

    def read_elements(
        self, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        """Read single elements; those that do not exist are left out."""
        ...

    def try_out(self, layout: Layout) -> None:
        """Make one of everything, out of the way. Raises Unsupported naming the first thing that is refused."""
        ...

    def is_there(self) -> bool:
        """Whether there is anything of ours; not where the kernel has no such rules."""
        ...

    def sweep(self) -> int:
        """Remove what an earlier process has left in an engine that is not used now; return how many objects."""
        ...

    def delete(self) -> int:
        """Remove everything of ours; return how many objects."""
        ...

    def close(self) -> None: ...
