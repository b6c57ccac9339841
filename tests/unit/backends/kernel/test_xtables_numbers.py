"""What changes with a table: asked of fakes here, and of the kernel in e2e/test_contract.py."""

import pytest

from backends.kernel import xtables_numbers as module
from backends.kernel.xtables_legacy import TableInfo
from backends.kernel.xtables_numbers import TableNumbers
from backends.kernel.xtables_text import Flavour
from proxy.model import FAMILIES, Family
from tests.fakes.nft import NftKernel


class Sizes:
    """Legacy tables of one family."""

    entries = 5
    closed = 0

    def __init__(self, family: Family) -> None:
        self._family = family

    def info(self, table: str) -> TableInfo | None:
        return TableInfo(self.entries, 100) if table == "nat" else None

    def close(self) -> None:
        Sizes.closed += 1


def test_legacy_tells_the_size_of_each_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LegacyTables", Sizes)
    with TableNumbers(Flavour.LEGACY, FAMILIES, ("nat", "mangle")) as numbers:
        before = numbers.look()
        assert numbers.look() == before == (TableInfo(5, 100), None) * 2
        monkeypatch.setattr(Sizes, "entries", 6)
        assert numbers.look() != before

    assert Sizes.closed == len(FAMILIES)


def test_of_nftables_the_generation_tells() -> None:
    kernel = NftKernel()
    with kernel.entered(), TableNumbers(Flavour.NFT, FAMILIES, ("nat",)) as numbers:
        before = numbers.look()
        assert numbers.look() == before
        kernel.generation += 1
        assert numbers.look() != before
