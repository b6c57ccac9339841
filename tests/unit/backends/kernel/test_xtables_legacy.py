"""Legacy tables from outside. What a kernel with tables says is tested in e2e/test_kernel_xtables.py."""

import ctypes
import errno
from pathlib import Path

import pytest

from backends.kernel import xtables_legacy
from backends.kernel.xtables_legacy import LegacyTables, table_names
from proxy.errors import KernelError
from proxy.model import FAMILIES, IPV4, IPV6, Family


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel lists its tables, empty."""
    monkeypatch.setattr(xtables_legacy, "_PROC", tmp_path)
    return tmp_path


class Refusing:
    """A C library whose getsockopt() fails, with the number of an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def getsockopt(self, *_: object) -> int:
        ctypes.set_errno(self._number)
        return -1


def test_the_tables_of_a_family_are_listed(proc: Path) -> None:
    (proc / "ip_tables_names").write_text("filter\nnat\n")
    (proc / "ip6_tables_names").write_text("mangle\n")

    assert table_names(IPV4) == ["filter", "nat"]
    assert table_names(IPV6) == ["mangle"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kernel_without_legacy_tables_has_none(proc: Path, family: Family) -> None:
    assert table_names(family) == []


def test_a_list_that_cannot_be_read_is_an_error(proc: Path) -> None:
    (proc / "ip_tables_names").mkdir()
    with pytest.raises(KernelError, match="ip_tables_names"):
        table_names(IPV4)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOPROTOOPT])
def test_a_table_or_kind_of_tables_that_there_is_not_is_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(xtables_legacy, "_libc", Refusing(number))
    with LegacyTables(IPV4) as tables:
        assert tables.info("nat") is None


def test_who_may_not_ask_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xtables_legacy, "_libc", Refusing(errno.EPERM))
    with LegacyTables(IPV6) as tables, pytest.raises(KernelError, match="not permitted"):
        tables.info("nat")
