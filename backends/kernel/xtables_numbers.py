"""Whether tables of iptables have changed, asked without reading them. Shell; holds no policy.

Legacy tells how many entries a table has and how many bytes they take; nftables counts generations of its ruleset.
"""

from collections.abc import Iterable, Sequence

from backends.kernel.nft import Nft
from backends.kernel.xtables_legacy import LegacyTables
from backends.kernel.xtables_text import Flavour
from proxy.closing import Closing
from proxy.model import Family


class TableNumbers(Closing):
    """What can be known of some tables of one engine, in the network namespace of the thread that makes this object.

    Legacy makes tables that are asked about.
    """

    def __init__(
        self, flavour: Flavour, families: Iterable[Family], tables: Sequence[str]
    ) -> None:
        self._tables = tables
        self._nft = Nft() if flavour is Flavour.NFT else None
        self._legacy = [] if self._nft else [LegacyTables(family) for family in families]

    def look(self) -> object:
        """Return what is another value after a change. Raises KernelError."""
        if self._nft is not None:
            return self._nft.generation()
        return tuple([each.info(table) for each in self._legacy for table in self._tables])

    def close(self) -> None:
        for each in self._legacy:
            each.close()
        if self._nft is not None:
            self._nft.close()
