"""Whether somebody else has written to the tables, asked without reading them. Shell.

Legacy tells how many entries a table has and how many bytes they take; nftables counts generations of its ruleset. What our
own writes do to these numbers is known beforehand, so a foreign write just before or after one of ours is seen as well.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from backends.iptables.model import TABLES
from backends.kernel.nft import Nft
from backends.kernel.xtables_legacy import LegacyTables, TableInfo
from backends.kernel.xtables_text import Flavour
from proxy.model import Family

_UNKNOWN: Final = -1


class Number(NamedTuple):
    """How many entries a legacy table has and how many bytes; or the generation of nftables."""

    entries: int
    size: int = 0


Stamp = dict[tuple[Family, str] | None, Number]
"""What was counted for each legacy table, or once for all of nftables."""


class Canary(Protocol):
    """What tells of changes in one engine. Not for use by two threads at the same time."""

    def look(self) -> Stamp:
        """Return the numbers of now. Raises KernelError."""
        ...

    def written(self, stamp: Stamp, family: Family, table: str, grown: int) -> None:
        """Take in one commit of ours, by which a table has grown by so many entries. Raises KernelError."""
        ...

    def close(self) -> None: ...


class Tables(Protocol):
    """What knows the size of legacy tables."""

    def info(self, table: str) -> TableInfo | None: ...

    def close(self) -> None: ...


class Ruleset(Protocol):
    """What knows the generation of nftables."""

    def generation(self) -> int: ...

    def close(self) -> None: ...


class LegacyCanary:
    """Number of entries and size of each table."""

    def __init__(self, doors: Mapping[Family, Tables]) -> None:
        self._doors = doors

    def look(self) -> Stamp:
        return {
            (family, table): self._ask(family, table) for family in self._doors for table in TABLES
        }

    def written(self, stamp: Stamp, family: Family, table: str, grown: int) -> None:
        expected, found = stamp[family, table].entries + grown, self._ask(family, table)
        # how many bytes ours take is known from the kernel only, and only if nobody else wrote meanwhile
        is_ours = found.entries == expected
        stamp[family, table] = found if is_ours else Number(expected, _UNKNOWN)

    def close(self) -> None:
        for door in self._doors.values():
            door.close()

    def _ask(self, family: Family, table: str) -> Number:
        info = self._doors[family].info(table)
        return Number(*info) if info is not None else Number(_UNKNOWN)


class NftCanary:
    """The generation of the ruleset, which each commit raises by one."""

    def __init__(self, nft: Ruleset) -> None:
        self._nft = nft

    def look(self) -> Stamp:
        return {None: Number(self._nft.generation())}

    def written(self, stamp: Stamp, family: Family, table: str, grown: int) -> None:
        stamp[None] = Number(stamp[None].entries + 1)

    def close(self) -> None:
        self._nft.close()


def open_canary(flavour: Flavour, families: Iterable[Family]) -> Canary:
    """Open the one of a flavour, in the network namespace of the calling thread. Raises KernelError."""
    if flavour is Flavour.NFT:
        return NftCanary(Nft())
    return LegacyCanary({family: LegacyTables(family) for family in families})
