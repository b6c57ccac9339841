"""Writes of others show in numbers, ours do not. That the kernel counts so is e2e/test_contract.py."""

import pytest

from backends.iptables.canary import Canary, LegacyCanary, NftCanary, Number, open_canary
from backends.kernel.xtables_legacy import TableInfo
from backends.kernel.xtables_text import Flavour
from proxy.model import FAMILIES
from tests.fakes.nft import NftKernel


class Tables:
    """Sizes that a test sets; an entry has ten bytes."""

    def __init__(self, nat: int | None) -> None:
        self.entries: dict[str, int | None] = {"filter": 7, "nat": nat}
        self.extra = 0
        self.is_closed = False

    def info(self, table: str) -> TableInfo | None:
        entries = self.entries[table]
        return None if entries is None else TableInfo(entries, entries * 10 + self.extra)

    def close(self) -> None:
        self.is_closed = True


class Ruleset:
    """A generation that a test sets."""

    def __init__(self) -> None:
        self.number = 4
        self.is_closed = False

    def generation(self) -> int:
        return self.number

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def tables() -> Tables:
    return Tables(nat=20)


@pytest.fixture
def legacy(tables: Tables) -> Canary:
    return LegacyCanary({"IPv4": tables})


def test_our_own_write_to_a_legacy_table_leaves_no_difference(
    legacy: Canary, tables: Tables
) -> None:
    stamp = legacy.look()
    assert stamp == {("IPv4", "filter"): Number(7, 70), ("IPv4", "nat"): Number(20, 200)}

    tables.entries["nat"], tables.extra = 23, 5
    legacy.written(stamp, "IPv4", "nat", 3)

    assert stamp["IPv4", "nat"] == legacy.look()["IPv4", "nat"] == Number(23, 235)


def test_of_the_same_number_of_entries_the_size_tells(legacy: Canary, tables: Tables) -> None:
    stamp = legacy.look()

    tables.extra = 1

    assert legacy.look() != stamp


@pytest.mark.parametrize("foreign", [-3, 1])
def test_a_foreign_write_beside_ours_is_not_taken_for_ours(
    legacy: Canary, tables: Tables, foreign: int
) -> None:
    stamp = legacy.look()

    tables.entries["nat"] = 20 + 3 + foreign
    legacy.written(stamp, "IPv4", "nat", 3)

    assert legacy.look() != stamp
    # nor later, when what they did is undone by number only
    tables.entries["nat"] = 23
    assert legacy.look() != stamp


def test_a_table_that_comes_is_a_difference(tables: Tables) -> None:
    legacy = LegacyCanary({"IPv4": Tables(nat=None)})
    tables.entries["nat"] = 4

    assert legacy.look() != LegacyCanary({"IPv4": tables}).look()


def test_nftables_counts_one_for_each_write_of_ours() -> None:
    ruleset = Ruleset()
    canary = NftCanary(ruleset)
    stamp = canary.look()

    ruleset.number += 1
    canary.written(stamp, "IPv6", "nat", 17)
    assert canary.look() == stamp

    ruleset.number += 2
    canary.written(stamp, "IPv6", "nat", 17)
    assert canary.look() != stamp


def test_doors_are_closed(legacy: Canary, tables: Tables) -> None:
    ruleset = Ruleset()
    NftCanary(ruleset).close()
    legacy.close()

    assert tables.is_closed
    assert ruleset.is_closed


def test_each_flavour_has_its_own(nf_tables: NftKernel) -> None:
    nft, legacy = (open_canary(each, FAMILIES) for each in (Flavour.NFT, Flavour.LEGACY))

    assert (type(nft), type(legacy)) == (NftCanary, LegacyCanary)
    nft.close()
    legacy.close()
