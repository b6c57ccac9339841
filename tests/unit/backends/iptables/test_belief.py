"""What is believed after something was confirmed, or read back."""

import pytest

from backends.iptables.belief import Observed
from backends.iptables.model import (
    ChainState,
    ChainWrite,
    Facts,
    Front,
    IptablesPlan,
    Lead,
    Leaving,
    NodePart,
    Rendered,
    SetChange,
    SetStep,
    TableStep,
    make_chain,
    make_jump,
)
from backends.iptables.plan import plan
from backends.iptables.sets import fixed_sets
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from proxy.desired_node import DesiredNode
from tests.desired_strategies import desired_state, make_desired, many_services, whole
from tests.model_builders import make_key
from tests.unit.backends.iptables.planning import (
    LAYOUT,
    WEB,
    A,
    B,
    believing,
    carry_out,
    plan_for,
    web,
)
from tests.work_counter import Visits, count_work, watch

CHAIN = make_chain("SLICEPROXY-S-A", ["-j RETURN"])
JUMP = make_jump("PREROUTING", "-j SLICEPROXY-SERVICES")
FRONT = Front("10.96.0.1", "TCP", 80)
NAME = "sliceproxy4-frontends"
SET = fixed_sets("IPv4")[NAME]
PLACE = Member("10.96.0.1", 6, 80)


def nothing() -> Observed:
    return Observed({"IPv4": Facts()})


def nat(**parts: object) -> TableStep:
    return TableStep("IPv4", "nat", **parts)  # type: ignore[arg-type] # any of its fields


# --- what is confirmed


def test_a_written_chain_is_known_by_its_mark_until_it_is_removed() -> None:
    observed = nothing()

    observed.fold(nat(writes=(ChainWrite(CHAIN),), jumps=(JUMP,)))
    assert observed.facts["IPv4"].chains == {"nat": {CHAIN.name: CHAIN.state}, "filter": {}}
    assert observed.facts["IPv4"].jumps["nat"] == {("PREROUTING", JUMP.mark): JUMP}

    observed.fold(nat(removes=(CHAIN.name,), gone_jumps=(JUMP,)))
    assert observed.facts["IPv4"].chains["nat"] == {}
    assert observed.facts["IPv4"].jumps["nat"] == {}


def test_rules_of_trees_come_and_go_with_their_step() -> None:
    observed = nothing()
    tree = observed.trees["IPv4", "C"]

    observed.fold(nat(leads=(Lead("C", FRONT, CHAIN.name),)))
    assert tree.target(FRONT) == CHAIN.name
    assert not tree.dirty

    observed.fold(nat(leads=(Lead("C", FRONT, None),)))
    assert tree.target(FRONT) is None


def test_of_messages_about_sets_those_that_were_refused_are_not_believed() -> None:
    observed = nothing()
    changes = (
        SetChange("create", NAME, SET),
        SetChange("add", NAME, PLACE),
        SetChange("add", NAME, PLACE._replace(port=81)),
    )

    observed.fold(SetStep("IPv4", changes), refused={2})
    assert observed.facts["IPv4"].sets == {NAME: SET}
    assert observed.facts["IPv4"].members == {NAME: {PLACE}}

    observed.fold(SetStep("IPv4", (SetChange("delete", NAME, PLACE),)))
    assert observed.facts["IPv4"].members == {NAME: set()}
    observed.fold(SetStep("IPv4", (SetChange("destroy", NAME),)))
    assert observed.facts["IPv4"].sets == {}


def test_what_is_left_is_so_until_it_is_gone() -> None:
    observed = nothing()
    left = Leaving(frozenset(["SLICEPROXY-S-A"]), frozenset(["sliceproxy4-a-A"]))
    observed.occupy(IptablesPlan((), {}, leaving={"IPv4": left}))
    assert observed.is_sweep_due

    observed.fold(nat(removes=("SLICEPROXY-S-A",)))
    assert observed.is_sweep_due
    observed.fold(SetStep("IPv4", (SetChange("destroy", "sliceproxy4-a-A"),)), refused=[0])
    assert observed.is_sweep_due
    observed.fold(SetStep("IPv4", (SetChange("destroy", "sliceproxy4-a-A"),)))
    assert not observed.is_sweep_due


def test_a_set_that_could_not_go_is_tried_again_unless_it_is_one_that_is_always_there() -> None:
    observed = nothing()
    gone = tuple([SetChange("destroy", name) for name in (NAME, "sliceproxy4-old")])

    observed.fold(SetStep("IPv4", gone), refused=[0, 1])

    assert observed.leaving_sets == {"IPv4": {"sliceproxy4-old"}}


def test_what_is_needed_again_is_not_swept() -> None:
    for needed in (
        IptablesPlan((), {WEB: Rendered(chains=frozenset(["X"]), sets=frozenset(["a"]))}),
        IptablesPlan(
            (),
            {WEB: Rendered(sets=frozenset(["a"]))},
            leaving={"IPv4": Leaving(staying=frozenset(["X"]))},
        ),
    ):
        observed = nothing()
        left = Leaving(frozenset(["X"]), frozenset(["a"]))
        observed.occupy(IptablesPlan((), {}, leaving={"IPv4": left}))

        observed.occupy(needed)

        assert not observed.is_sweep_due


# --- who occupies what


def test_members_that_several_need_are_counted() -> None:
    member = (NAME, PLACE)
    other = make_key("default/other")
    observed = nothing()

    for key, count in ((WEB, 1), (other, 2)):
        observed.occupy(IptablesPlan((), {key: Rendered(members=frozenset([member]))}))
        assert observed.references == {member: count}
    observed.occupy(IptablesPlan((), {WEB: Rendered()}))
    assert observed.references == {member: 1}
    observed.occupy(IptablesPlan((), {other: None}))
    assert observed.references == {}
    assert observed.rendered.keys() == {WEB}


def test_a_chain_and_a_set_have_an_owner() -> None:
    observed = nothing()

    observed.occupy(
        IptablesPlan((), {WEB: Rendered(chains=frozenset(["X"]), sets=frozenset(["a"]))})
    )
    assert observed.owners == {("IPv4", "X"): WEB, ("IPv4", "a"): WEB}
    observed.occupy(IptablesPlan((), {WEB: Rendered(chains=frozenset(["Y"]))}))
    assert observed.owners == {("IPv4", "Y"): WEB}
    observed.occupy(IptablesPlan((), {WEB: None}))
    assert observed.owners == {}


def test_who_tells_pods_from_others_is_known() -> None:
    observed = nothing()

    observed.occupy(IptablesPlan((), {WEB: Rendered(asks_for_pods=True)}))
    assert list(observed.asking) == [WEB]
    observed.occupy(IptablesPlan((), {WEB: Rendered()}))
    assert not observed.asking


def test_between_the_first_step_and_the_last_both_states_are_occupied() -> None:
    observed = believing(web(A))
    other = make_desired("default/web", A, cluster_ip="10.96.0.99")
    planned = plan_for(observed, other)

    observed.fold(planned.steps[0])
    observed.begin(planned)

    fronts = [lead.front.address for lead in observed.rendered[WEB].leads]
    assert fronts == ["10.96.0.10", "10.96.0.99"]
    # the rest was refused: what was begun is put right by the next plan
    carry_out(plan_for(observed, web(A)), observed)
    assert observed.facts["IPv4"].members[NAME] == {Member("10.96.0.10", 6, 80)}
    assert len(observed.rendered[WEB].leads) == 1


def test_what_goes_is_occupied_until_the_last_step() -> None:
    observed = believing(web(A))
    before = observed.rendered[WEB]

    observed.begin(plan_for(observed, gone=["default/web"]))

    assert observed.rendered[WEB] == before


def test_the_nodes_part_and_the_layout_are_kept_unless_there_are_new_ones() -> None:
    observed = nothing()
    part = NodePart(DesiredNode(), True)
    observed.occupy(IptablesPlan((), {}, node=part, layout=LAYOUT))

    observed.occupy(IptablesPlan((), {}))

    assert (observed.node, observed.layout) == (part, LAYOUT)


def test_chains_of_trees_in_the_part_of_a_step_that_was_taken_are_in_doubt() -> None:
    observed = believing(web(A))

    observed.doubt("IPv4", ["SLICEPROXY-S-X", "SLICEPROXY-CLUSTER", "SLICEPROXY-C-2-1"])

    assert observed.damaged == {"IPv4": {"SLICEPROXY-CLUSTER"}}
    assert observed.leaving_chains == {"IPv4": {"SLICEPROXY-C-2-1"}}


# --- what was read back


def test_a_chain_of_a_tree_that_others_changed_is_written_again() -> None:
    observed = believing(web(A))
    root = "SLICEPROXY-CLUSTER"
    state = observed.facts["IPv4"].chains["nat"][root]
    for found in (None, ChainState("", 0), ChainState("other", 2)):
        observed.correct_chain("IPv4", "nat", root, found)
        assert observed.facts["IPv4"].chains["nat"].get(root) == found

        planned = plan_for(observed, web(A))
        assert "\n".join(planned.describe()).count("write") == 1
        carry_out(planned, observed)

        assert observed.facts["IPv4"].chains["nat"][root] == state
        assert not plan_for(observed, web(A))


def test_a_damaged_chain_that_is_right_again_is_forgotten() -> None:
    observed = believing(web(A))
    root = "SLICEPROXY-CLUSTER"
    state = observed.facts["IPv4"].chains["nat"][root]
    observed.correct_chain("IPv4", "nat", root, None)
    observed.correct_chain("IPv4", "nat", root, state)

    carry_out(plan_for(observed, web(A)), observed)

    assert observed.damaged == {"IPv4": set()}


def test_a_chain_that_is_no_trees_does_not_damage_one() -> None:
    observed = believing(web(A))

    observed.correct_chain("IPv4", "nat", "SLICEPROXY-C-2-1", ChainState("", 1))  # of no use
    observed.correct_chain("IPv4", "filter", "SLICEPROXY-CLUSTER", ChainState("", 1))

    assert observed.damaged == {"IPv4": set()}


def test_jumps_and_members_are_corrected_to_what_was_read() -> None:
    observed = nothing()
    observed.correct_jump("IPv4", "nat", (JUMP.chain, JUMP.mark), JUMP)
    assert list(observed.facts["IPv4"].jumps["nat"].values()) == [JUMP]
    observed.correct_jump("IPv4", "nat", (JUMP.chain, JUMP.mark), None)
    observed.correct_jump("IPv4", "nat", (JUMP.chain, JUMP.mark), None)
    assert not observed.facts["IPv4"].jumps["nat"]

    observed.correct_members("IPv4", NAME, [PLACE, Member("10.96.0.2", 6, 80)], [PLACE])
    assert observed.facts["IPv4"].members[NAME] == {Member("10.96.0.2", 6, 80)}


def test_a_set_that_is_gone_has_no_members() -> None:
    observed = believing(web(A))

    observed.correct_set("IPv4", NAME, None)

    assert NAME not in observed.facts["IPv4"].members


@pytest.mark.parametrize(
    "wrong",
    [SET._replace(kind=SetKind.ADDRESS), SET._replace(family="IPv6"), SET._replace(max_members=5)],
)
def test_a_set_of_a_wrong_shape_asks_for_a_rebuild_until_it_is_gone(wrong: IpSet) -> None:
    facts = Facts()
    facts.sets[NAME] = wrong
    observed = Observed({"IPv4": facts})
    assert observed.is_rebuild_due

    observed.fold(SetStep("IPv4", (SetChange("destroy", NAME),)))

    assert not observed.is_rebuild_due


# --- work


def test_one_change_costs_the_same_at_any_size() -> None:
    work = []
    for size in (100, 1500):
        ports = many_services(size)
        observed = Observed({"IPv4": Facts()})
        carry_out(plan(whole(ports), observed, list(ports), LAYOUT), observed)
        web_too = [web(A), web(B), web(A)]
        for port in web_too:  # what is only done once has been done
            carry_out(plan(whole(ports | desired_state(port)), observed, [WEB], LAYOUT), observed)
        visits = Visits()
        watch(observed, visits)
        for tree in observed.trees.values():
            watch(tree, visits)
        desired = whole(ports | desired_state(web(B)))

        def change(desired: object = desired, observed: Observed = observed) -> None:
            carry_out(plan(desired, observed, [WEB], LAYOUT), observed)  # type: ignore[arg-type] # bound here

        work.append(count_work(change, visits))

    assert work[0].is_as_much_as(work[1])


def test_the_larger_the_table_the_more_makes_a_commit_worth_it() -> None:
    facts = Facts()
    facts.chains["nat"] = {f"SLICEPROXY-S-{number}": ChainState("", 1) for number in range(50)}

    assert Observed({"IPv4": Facts()}).worth_a_commit == 0
    assert Observed({"IPv4": facts, "IPv6": Facts()}).worth_a_commit == 200
