"""What is removed on the way out, and what stays because it is somebody else's."""

import pytest

from backends.iptables.leaving import leave, own_sets, remove_rules, remove_sets
from backends.iptables.restoring import Restoring
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, SetKind
from backends.kernel.xtables import Incompatible
from backends.kernel.xtables_text import Chain, Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES
from tests.fakes.ipset import IpsetKernel
from tests.fakes.xtables import XtablesKernel
from tests.unit.backends.iptables.machine import run

THEIRS = (":THEIRS - [0:0]", "-A THEIRS -p udp -j RETURN", "-A OUTPUT -p tcp -j THEIRS")
OURS = (
    ":SLICEPROXY-A - [0:0]",
    ":SLICEPROXY-B - [0:0]",
    "-A SLICEPROXY-A -g SLICEPROXY-B",
    "-I OUTPUT 1 -j SLICEPROXY-A",
    "-A OUTPUT -p udp -j SLICEPROXY-B",
)


@pytest.mark.parametrize("flavour", Flavour)
def test_rules_of_others_are_as_before(flavour: Flavour) -> None:
    kernel = XtablesKernel()
    doors = [kernel.door(flavour, family) for family in FAMILIES]
    for door in doors:
        for table in ("nat", "filter"):
            door.restore(table, THEIRS)
    before = {door.programs: door.save("nat") for door in doors}
    for door in doors:
        door.restore("nat", OURS)

    assert run(remove_rules(doors, Restoring())) == 8

    assert {door.programs: door.save("nat") for door in doors} == before
    assert run(remove_rules(doors, Restoring())) == 0


def test_a_chain_to_which_others_lead_stays_empty() -> None:
    door = XtablesKernel().door(Flavour.NFT, "IPv4")
    door.restore("nat", [*THEIRS, *OURS, "-A THEIRS -p tcp -j SLICEPROXY-B"])

    run(remove_rules([door], Restoring()))

    saved = door.save("nat")
    assert {n: c for n, c in saved.items() if "SLICEPROXY" in n} == {
        "SLICEPROXY-B": Chain(None, ())
    }
    assert saved["THEIRS"].rules == ("-p udp -j RETURN", "-p tcp -j SLICEPROXY-B")


def test_nothing_is_called_where_there_is_nothing_of_ours() -> None:
    assert leave("IPv4", "nat", {"OUTPUT": Chain("ACCEPT", ("-j THEIRS",))}).lines() == []


def test_a_table_that_cannot_be_listed_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    door = XtablesKernel().door(Flavour.NFT, "IPv4")
    door.restore("nat", OURS)
    save = door.save

    def refuse(table: str) -> dict[str, Chain]:
        if table == "filter":
            raise Incompatible("save", 0, "it has rules that only nft can list")
        return save(table)

    monkeypatch.setattr(door, "save", refuse)

    assert run(remove_rules([door], Restoring())) == 4
    assert "left as it is" in caplog.text


# --- sets


def test_our_sets_of_both_families_go_and_no_others() -> None:
    names = ("sliceproxy4-a", "sliceproxy6-b", "sliceproxy", "theirs")
    with IpsetKernel().entered(), Ipset() as ipset:
        made = [ipset_messages.create(IpSet(name, SetKind.PORT, None)) for name in names]
        assert ipset.carry_out(made) == []
        assert own_sets(ipset) == ["sliceproxy4-a", "sliceproxy6-b"]

        assert (remove_sets(ipset), remove_sets(ipset)) == (2, 0)

        assert [state.set.name for state in ipset.list_sets()] == ["sliceproxy", "theirs"]


def test_a_set_that_a_rule_still_asks_is_an_error() -> None:
    kernel = IpsetKernel()
    with kernel.entered(), Ipset() as ipset:
        ipset.carry_out([ipset_messages.create(IpSet("sliceproxy4-a", SetKind.PORT, None))])
        kernel.references["sliceproxy4-a"] = 1

        with pytest.raises(KernelError, match="names it"):
            remove_sets(ipset)


@pytest.mark.parametrize(("number", "error"), [(22, Unsupported), (12, KernelError)])
def test_a_kernel_without_sets_is_told_from_one_that_fails(
    number: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> object:
        raise KernelError("list sets", number, "no")

    with IpsetKernel().entered(), Ipset() as ipset:
        monkeypatch.setattr(ipset, "list_sets", fail)
        with pytest.raises(error):
            own_sets(ipset)
