"""In which order a draft is carried out. What packets meet meanwhile: test_plan_packets.py."""

from backends.iptables.draft import Draft
from backends.iptables.layout import JUMPS
from backends.iptables.model import Jump, Lead, SetStep, TableStep, empty_chain
from backends.iptables.order import in_order, rebuild, sweep
from backends.iptables.render import render_port
from tests.desired_strategies import make_desired
from tests.unit.backends.iptables.planning import LAYOUT, VIP, WEB, A, believing, web


def test_sets_are_made_then_filled_then_asked_then_cleared() -> None:
    observed = believing(make_desired("default/web", A, outer=(VIP,)))
    draft = Draft("IPv4", observed, LAYOUT)
    ranges = ("10.0.0.0/8", "192.0.2.0/24")
    port = make_desired("default/web", outer=(VIP,), source_ranges=ranges, affinity_timeout_s=5)
    draft.replace(WEB, render_port(port, LAYOUT))
    draft.plant()

    first, nat = in_order(draft)

    assert isinstance(first, SetStep)
    assert [(change.verb, change.name.partition("-")[2]) for change in first.changes] == [
        ("add", "allowed"),
        ("add", "allowed"),
        ("add", "guarded"),
        ("add", "refused"),
        ("add", "refused"),
    ]
    assert isinstance(nat, TableStep)
    assert (nat.table, nat.keys, len(nat.writes)) == ("nat", (WEB,), 1)


def test_what_trees_hold_is_noted_even_where_the_kernel_has_it_already() -> None:
    observed = believing(web(A))
    tree = observed.trees["IPv4", "C"]
    ((front, target),) = tree.fronts().items()
    tree.remove(front)
    draft = Draft("IPv4", observed, LAYOUT)
    draft.replace(WEB, render_port(web(A), LAYOUT))
    draft.plant()

    (step,) = in_order(draft)

    assert isinstance(step, TableStep)
    assert step.size == 0
    assert step.leads == (Lead("C", front, target),)


def test_all_that_is_there_but_the_jumps_goes_rules_before_the_sets_they_ask() -> None:
    observed = believing(web(A))
    facts = observed.facts["IPv4"]
    strange = Jump("INPUT", "", "-j SLICEPROXY-CANARY")
    facts.jumps["filter"]["INPUT", ""] = strange
    del facts.jumps["nat"]["POSTROUTING", JUMPS["nat"][2].mark]

    filtering, translating, sets = rebuild("IPv4", observed)

    assert isinstance(filtering, TableStep)
    assert filtering.gone_jumps == (strange,)
    assert [write.chain for write in filtering.writes] == [
        empty_chain(f"SLICEPROXY-{each}") for each in ("FORWARD", "INPUT", "UNTRANSLATED")
    ]
    assert isinstance(translating, TableStep)
    assert translating.gone_jumps == ()
    assert [write.chain for write in translating.writes] == [empty_chain("SLICEPROXY-SERVICES")]
    for step in (filtering, translating):
        written = [write.chain.name for write in step.writes]
        assert sorted([*step.removes, *written]) == sorted(facts.chains[step.table])
    assert [lead.target for lead in translating.leads] == [None]
    assert isinstance(sets, SetStep)
    assert {change.name for change in sets.changes} == facts.sets.keys()
    assert {change.verb for change in sets.changes} == {"destroy"}


def test_nothing_to_sweep_is_no_step() -> None:
    assert sweep("IPv4", [], []) == []
    chains, sets = sweep("IPv4", ["SLICEPROXY-S-A"], ["sliceproxy4-a-A"])
    assert (chains.keys, sets.keys) == ((), ())
    assert isinstance(chains, TableStep)
    assert [line.text for line in chains.lines()] == [
        ":SLICEPROXY-S-A - [0:0]",
        "-X SLICEPROXY-S-A",
    ]
