"""Our chains as texts for the programs, and read out of what they save."""

import pytest

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.xt_chains import lines, read, removal
from backends.ipvs.xt_layout import TABLES, XtLayout
from backends.kernel.nft_table import ChainFacts, ChainSpec, RuleSpec
from backends.kernel.xtables_text import Chain, Flavour
from proxy.model import FAMILIES, Family
from tests.fakes.xtables import XtablesKernel

LAYOUT = XtLayout(IpvsSettings(families=FAMILIES))
OWN = ChainSpec("nat/SLICE-IPVS-A", None, (RuleSpec(b"-j RETURN", "why [00]"),))
JUMP = ChainSpec("nat/OUTPUT", None, (RuleSpec(b"-j SLICE-IPVS-A", "services [11]"),))
WORDS = '-m comment --comment "services [11]" -j SLICE-IPVS-A'


def saved(**chains: list[str]) -> dict[str, Chain]:
    return {
        name.replace("_", "-"): Chain("ACCEPT" if name.isupper() and "_" not in name else None, tuple(rules))
        for name, rules in chains.items()
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flavour", Flavour)
def test_what_is_written_is_what_is_read(flavour: Flavour, family: Family) -> None:
    door = XtablesKernel().door(flavour, family)
    for _ in range(2):  # the second time it replaces what is there
        for table in TABLES:
            door.restore(table, lines(table, LAYOUT.chains(family), door.save(table), ()))

    found: dict[str, ChainFacts] = {}
    for table in TABLES:
        found |= read(table, door.save(table), ())

    assert found == LAYOUT.chain_facts[family]


def test_ours_lead_in_first_and_only_once() -> None:
    there = saved(OUTPUT=["-p udp -j THEIRS", WORDS, "-j SLICE-IPVS-A"], SLICE_IPVS_A=[])

    assert lines("nat", [OWN, JUMP], there, ()) == [
        f"-D OUTPUT {WORDS}",
        "-D OUTPUT -j SLICE-IPVS-A",
        ":SLICE-IPVS-A - [0:0]",
        '-A SLICE-IPVS-A -m comment --comment "why [00]" -j RETURN',
        f"-I OUTPUT 1 {WORDS}",
    ]
    assert lines("mangle", [OWN, JUMP], there, ()) == []


def test_what_is_surplus_goes_and_so_do_rules_that_lead_in_from_elsewhere() -> None:
    there = saved(INPUT=[WORDS], SLICE_IPVS_OLD=["-j DROP"])

    assert lines("nat", [], there, ["SLICE-IPVS-OLD", "INPUT"]) == [
        f"-D INPUT {WORDS}",
        ":SLICE-IPVS-OLD - [0:0]",
        "-X SLICE-IPVS-OLD",
    ]


def test_a_rule_without_our_comment_or_led_in_twice_is_told_from_what_it_should_be() -> None:
    there = saved(OUTPUT=[WORDS, WORDS, "-j ACCEPT"], SLICE_IPVS_A=["-j RETURN"])

    found = read("nat", there, ())

    assert found["nat/OUTPUT"].comments == ("services [11]", "services [11]")
    assert found["nat/SLICE-IPVS-A"].comments == ("",)


def test_on_the_way_out_nothing_of_ours_stays_but_what_others_lead_to() -> None:
    there = saved(
        OUTPUT=[WORDS, "-j ACCEPT"],
        SLICE_IPVS_A=["-j RETURN"],
        SLICE_IPVS_B=["-j RETURN"],
        THEIR_CHAIN=["-j SLICE-IPVS-B"],
    )

    assert removal(there) == [
        f"-D OUTPUT {WORDS}",
        ":SLICE-IPVS-A - [0:0]",
        ":SLICE-IPVS-B - [0:0]",
        "-X SLICE-IPVS-A",
    ]


def test_a_stranger_that_others_lead_to_is_left_out_since_it_cannot_go() -> None:
    there = saved(SLICE_IPVS_OLD=[], THEIR_CHAIN=["-j SLICE-IPVS-OLD"])

    assert read("nat", there, ()) == {}
    assert list(read("nat", there, ["nat/SLICE-IPVS-OLD"])) == ["nat/SLICE-IPVS-OLD"]
    assert list(read("nat", saved(SLICE_IPVS_OLD=[]), ())) == ["nat/SLICE-IPVS-OLD"]
