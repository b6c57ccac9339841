"""Where the doors of the iptables backend lead in tests: what a machine has to offer, and one on paper."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from backends.iptables.canary import Canary, LegacyCanary, NftCanary
from backends.iptables.model import TABLES
from backends.iptables.probe import try_out
from backends.kernel.ipset import Ipset
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_legacy import TableInfo
from backends.kernel.xtables_text import Flavour
from proxy.model import FAMILIES, Family
from tests.fakes.ipset import IpsetKernel
from tests.fakes.xtables import XtablesKernel


class Machine(Protocol):
    """Where doors lead. Sets are opened and rules read in the machine, whoever asks."""

    def door(self, flavour: Flavour, family: Family) -> Xtables: ...

    def entered(self) -> AbstractContextManager[None]:
        """Sockets that are opened meanwhile are those of the machine."""
        ...

    def open_canary(self, flavour: Flavour) -> Canary: ...

    def probe(self, choice: Choice, open_ipset: Callable[[], Ipset]) -> None: ...

    def everything(self, flavour: Flavour) -> list[str]:
        """All rules and sets with their counters, as lines."""
        ...


class FakeMachine:
    """Tables and sets on paper; rules refer to the sets."""

    def __init__(self) -> None:
        self.ipset = IpsetKernel()
        self.tables = XtablesKernel(self.ipset.has, self.ipset.references)

    def door(self, flavour: Flavour, family: Family) -> Xtables:
        return self.tables.door(flavour, family)

    def entered(self) -> AbstractContextManager[None]:
        return self.ipset.entered()

    def open_canary(self, flavour: Flavour) -> Canary:
        if flavour is Flavour.NFT:
            return NftCanary(_Ruleset(self.tables))
        return LegacyCanary({family: _Sizes(self.tables, family) for family in FAMILIES})

    def probe(self, choice: Choice, open_ipset: Callable[[], Ipset]) -> None:
        try_out(choice.tables, open_ipset)

    def everything(self, flavour: Flavour) -> list[str]:
        saved = [
            f"{family} {line}"
            for family in FAMILIES
            for table in TABLES
            for line in self.tables.save(flavour, family, table).splitlines()
        ]
        with self.entered(), Ipset() as ipset:
            listed = [
                f"{state.set} {sorted(ipset.members(state.set.name))}"
                for state in ipset.list_sets()
            ]
        return [*saved, *sorted(listed)]


class _Ruleset:
    def __init__(self, kernel: XtablesKernel) -> None:
        self._kernel = kernel

    def generation(self) -> int:
        return self._kernel.generation

    def close(self) -> None:
        """Nothing is open."""


class _Sizes:
    def __init__(self, kernel: XtablesKernel, family: Family) -> None:
        self._kernel = kernel
        self._family: Family = family

    def info(self, table: str) -> TableInfo:
        entries = self._kernel.entries(Flavour.LEGACY, self._family, table)
        chains = self._kernel.chains(Flavour.LEGACY, self._family, table)
        return TableInfo(entries, sum([len(rule) for rules in chains.values() for rule in rules]))

    def close(self) -> None:
        """Nothing is open."""
