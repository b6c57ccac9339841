"""What is removed on the way out, and what stays because it is somebody else's."""

import itertools
import time

import pytest

from backends.iptables import leaving
from backends.iptables.layout import JUMPS
from backends.iptables.leaving import leave, own_sets, remove_rules, remove_sets
from backends.iptables.restoring import Restoring
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, SetKind
from backends.kernel.xtables import Refused
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


def test_many_chains_go_in_calls_of_which_each_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one grows with the square: 20,000 chains took 8 s at once, and take 1 s so."""
    monkeypatch.setattr(leaving, "RULES_AT_ONCE", 10)
    kernel = XtablesKernel()
    door = kernel.door(Flavour.NFT, "IPv4")
    names = [f"SLICEPROXY-S-{number}" for number in range(25)]
    door.restore("nat", [*THEIRS, *[f":{name} - [0:0]" for name in names]])
    before = [f"-A {one} -g {other}" for one, other in itertools.pairwise(names)]
    door.restore("nat", [*before, f"-I OUTPUT 1 -j {names[0]}", f"-A THEIRS -g {names[1]}"])
    kernel.calls.clear()

    assert run(remove_rules([door], Restoring())) == len(names)

    assert max(text.count("\n") for text in kernel.calls) <= 2 + 2 * 10
    assert kernel.calls[0].startswith("*nat\n-D OUTPUT ")
    saved = door.save("nat")
    assert saved["OUTPUT"].rules == ("-p tcp -j THEIRS",)
    assert {n: c for n, c in saved.items() if "SLICEPROXY" in n} == {names[1]: Chain(None, ())}


def test_nothing_is_called_where_there_is_nothing_of_ours() -> None:
    assert leave("IPv4", "nat", {"OUTPUT": Chain("ACCEPT", ("-j THEIRS",))}).lines() == []


def test_of_a_table_that_cannot_be_read_what_is_ours_goes_by_name() -> None:
    kernel = XtablesKernel()
    door = kernel.door(Flavour.NFT, "IPv4")
    jump = JUMPS["nat"][1]
    door.restore("nat", [*THEIRS, ":SLICEPROXY-SERVICES - [0:0]", ":SLICEPROXY-B - [0:0]"])
    door.restore("nat", ["-A SLICEPROXY-SERVICES -g SLICEPROXY-B"])
    door.restore("nat", [f"-I {jump.chain} 1 {jump.rule}", "-A THEIRS -p tcp -j SLICEPROXY-B"])
    kernel.only_nft.add(("IPv4", "nat"))

    assert run(remove_rules([door], Restoring())) == 2

    kernel.only_nft.clear()
    saved = door.save("nat")
    assert saved["OUTPUT"].rules == ("-p tcp -j THEIRS",)
    assert {n: c for n, c in saved.items() if "SLICEPROXY" in n} == {
        "SLICEPROXY-B": Chain(None, ())
    }


def test_a_refusal_for_another_reason_is_an_error() -> None:
    door = XtablesKernel().door(Flavour.NFT, "IPv4")
    door.restore("nat", OURS)
    door.ends = [lambda _: (4, "no rights\n")]

    with pytest.raises(Refused, match="no rights"):
        run(remove_rules([door], Restoring()))


# --- sets


def test_our_sets_of_both_families_go_and_no_others() -> None:
    names = ("sliceproxy4-a", "sliceproxy6-b", "sliceproxy", "theirs")
    with IpsetKernel().entered(), Ipset() as ipset:
        made = [ipset_messages.create(IpSet(name, SetKind.PORT, None)) for name in names]
        assert ipset.carry_out(made) == []
        assert own_sets(ipset) == ["sliceproxy4-a", "sliceproxy6-b"]

        assert (remove_sets(ipset), remove_sets(ipset)) == (2, 0)

        assert [state.set.name for state in ipset.list_sets()] == ["sliceproxy", "theirs"]


def test_the_kernel_is_given_time_to_notice_that_no_rule_asks_a_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = IpsetKernel()
    monkeypatch.setattr(time, "sleep", lambda _: kernel.references.clear())
    with kernel.entered(), Ipset() as ipset:
        names = ("sliceproxy4-a", "sliceproxy4-b")
        ipset.carry_out([ipset_messages.create(IpSet(n, SetKind.PORT, None)) for n in names])
        kernel.references["sliceproxy4-a"] = 1

        assert remove_sets(ipset) == 2
        assert ipset.list_sets() == []


def test_a_set_that_a_rule_still_asks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
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
