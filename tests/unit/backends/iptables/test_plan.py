"""What a change writes, and in which steps. That packets meet what is asked for: test_plan_packets.py; what the node itself changes: test_plan_node.py."""

import itertools

import pytest

from backends.iptables import names, pools
from backends.iptables.model import ChainState, ChainWrite, SetStep, TableStep, empty_chain
from backends.iptables.names import list_chain, outer_chain
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from backends.iptables.tree import ROOTS
from backends.kernel.ipset_objects import Member
from tests.desired_strategies import addresses, desired_state, make_desired, many_services, whole
from tests.fakes.packets import Packet
from tests.model_builders import make_endpoint, make_key
from tests.unit.backends.iptables.planning import (
    LAYOUT,
    VIP,
    WEB,
    A,
    B,
    C,
    World,
    believing,
    carry_out,
    kinds,
    plan_for,
    swept,
    web,
    written,
)

S, E = list_chain(WEB), outer_chain(WEB)


# --- endpoints


def test_what_is_as_desired_is_not_planned() -> None:
    observed = believing(web(A, B))

    assert not plan_for(observed, web(A, B))
    assert not plan_for(observed, web(B, A))
    assert not swept(observed)
    assert not prune(whole(desired_state(web(A, B))), observed, LAYOUT)


@pytest.mark.parametrize("after", [(A, C), (A, B, C), (A,)])
def test_changed_endpoints_are_one_chain_in_one_commit(after: tuple[str, ...]) -> None:
    observed = believing(web(A, B))

    planned = plan_for(observed, web(*after))

    assert kinds(planned) == ["nat"]
    assert written(planned) == [S]
    assert planned.steps[0].keys == (WEB,)


def test_one_endpoint_of_many_is_its_part_and_what_is_above() -> None:
    pool = addresses(1, 100)
    observed = believing(web(*pool))

    planned = plan_for(observed, web(*pool[1:]))

    assert len(written(planned)) == 2
    assert written(planned)[-1] == S


def test_the_last_endpoint_is_refused_before_it_goes() -> None:
    observed = believing(web(A))

    assert kinds(plan_for(observed, web())) == ["add refused", "nat"]
    assert kinds(plan_for(observed, web(is_any_usable=True))) == ["nat"]


def test_the_first_endpoint_ends_the_refusal_once_it_is_there() -> None:
    observed = believing(web())

    assert kinds(plan_for(observed, web(A))) == ["nat", "delete refused"]


def test_a_list_that_grows_above_a_chain_is_divided_and_put_together_again() -> None:
    world = World()
    observed = believing(web(*addresses(1, 16)), world=world)

    growing = plan_for(observed, web(*addresses(1, 17)))
    assert written(growing)[-1] == S
    assert len(written(growing)) > 2
    carry_out(growing, observed, world)
    carry_out(plan_for(observed, web(*addresses(1, 16))), observed, world)
    assert observed.leaving_chains["IPv4"]

    sweep = swept(observed)
    assert kinds(sweep) == ["nat"]
    carry_out(sweep, observed, world)
    assert not observed.is_sweep_due
    assert [name for name in world.chains("IPv4", "nat") if name.startswith(S)] == [S]


# --- services


def test_a_new_service_is_its_members_its_list_and_one_chain_of_the_tree() -> None:
    observed = believing()

    planned = plan_for(observed, web(A))

    assert kinds(planned) == ["add frontends add cluster-ips", "nat"]
    assert written(planned) == [S, "SLICEPROXY-CLUSTER"]


def test_a_service_that_is_no_more_leaves_nothing_behind_once_it_is_swept() -> None:
    world = World()
    observed = believing(world=world)
    empty = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    port = make_desired(
        "default/web", A, B, outer=(VIP,), source_ranges=("10.0.0.0/8",), affinity_timeout_s=9
    )
    carry_out(plan_for(observed, port), observed, world)

    leaving = plan_for(observed, gone=["default/web"])
    assert [kind.partition(" ")[0] for kind in kinds(leaving)] == ["nat", "delete"]
    carry_out(leaving, observed, world)
    assert observed.leaving_chains["IPv4"]
    assert kinds(swept(observed))[0] == "nat"
    carry_out(swept(observed), observed, world)

    assert world.chains("IPv4", "nat") == empty
    assert not any(world.members.values())
    assert len(world.sets) == 16
    assert (observed.rendered, observed.references, observed.owners) == ({}, {}, {})


def test_a_service_that_comes_back_before_it_is_swept_is_not_swept() -> None:
    world = World()
    port = make_desired("default/web", A, B, affinity_timeout_s=9)
    observed = believing(port, world=world)
    carry_out(plan_for(observed, gone=["default/web"]), observed, world)

    carry_out(plan_for(observed, port), observed, world)

    assert not swept(observed, whole(desired_state(port)))
    assert not observed.is_sweep_due


def test_what_somebody_has_is_never_swept() -> None:
    observed = believing(web(A))
    observed.leaving_chains["IPv4"] |= {S, "SLICEPROXY-CLUSTER", "SLICEPROXY-S-OLD"}

    (step,) = swept(observed, whole(desired_state(web(A)))).steps

    assert isinstance(step, TableStep)
    assert step.removes == ("SLICEPROXY-S-OLD",)


def test_a_tree_that_is_put_together_and_divided_again_is_not_swept() -> None:
    world = World()
    ports = many_services(17)
    observed = believing(*ports.values(), world=world)
    last = list(ports)[-1]

    carry_out(plan(whole({}), observed, [last], LAYOUT), observed, world)
    carry_out(plan(whole(ports), observed, [last], LAYOUT), observed, world)
    chains = dict(world.chains("IPv4", "nat"))
    carry_out(swept(observed, whole(ports)), observed, world)

    assert world.chains("IPv4", "nat") == chains
    assert not plan(whole(ports), observed, list(ports), LAYOUT)


def test_another_cluster_ip_is_known_before_it_leads_anywhere_and_the_old_one_until_it_does_not() -> (
    None
):
    observed = believing(web(A))

    planned = plan_for(observed, make_desired("default/web", A, cluster_ip="10.96.0.99"))

    first, nat, last = planned.steps
    assert isinstance(first, SetStep)
    assert isinstance(last, SetStep)
    assert isinstance(nat, TableStep)
    assert {change.verb for change in first.changes} == {"add"}
    assert {change.verb for change in last.changes} == {"delete"}
    assert [lead.target for lead in nat.leads] == [None, S]
    assert written(planned) == ["SLICEPROXY-CLUSTER"]


def test_a_frontend_that_moves_to_another_service_changes_hands_in_one_commit() -> None:
    observed = believing(web(A, B))
    heir = make_desired("default/heir", C)
    former = make_desired("default/web", A, B, cluster_ip=None)

    for order in itertools.permutations([former, heir]):
        planned = plan_for(observed, *order)
        assert kinds(planned) == ["nat"]
        assert written(planned) == [list_chain(heir.key), "SLICEPROXY-CLUSTER"]


def test_a_frontend_that_moved_in_an_earlier_plan_is_not_taken_down_by_a_later_one() -> None:
    observed = believing(web(A, B))
    heir = make_desired("default/heir", A, B)
    carry_out(plan_for(observed, heir), observed)

    for later in (
        plan_for(observed, make_desired("default/web", A, B, cluster_ip=None)),
        plan_for(observed, gone=["default/web"]),
    ):
        assert not later
    tree = observed.trees["IPv4", "C"]
    assert list(tree.fronts().values()) == [list_chain(heir.key)]


def test_a_family_the_host_does_not_have_is_left_out() -> None:
    observed = believing()
    six = make_desired("default/six", "[fd00::1]:80", cluster_ip="fd00:10:96::1")

    planned = plan_for(observed, web(A), six)

    assert {step.family for step in planned.steps} == {"IPv4"}
    assert list(planned.rendered) == [WEB]
    assert not plan_for(observed, six, gone=["default/other"])


def test_every_line_and_message_of_one_service_names_it() -> None:
    observed = believing()
    api = make_desired("default/api", B, cluster_ip="10.96.0.11")

    planned = plan_for(observed, web(A), api)

    for step in planned.steps:
        assert set(step.keys) == {WEB, api.key}
        if isinstance(step, SetStep):
            assert {change.owner for change in step.changes} == {WEB, api.key}
        else:
            owners = {write.chain.name: write.owner for write in step.writes}
            assert owners == {
                S: WEB,
                list_chain(api.key): api.key,
                "SLICEPROXY-CLUSTER": None,
            }


# --- names that collide


def test_whose_chains_would_be_those_of_another_is_refused_and_the_first_one_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = (
        make_desired(f"default/s{number}", A, cluster_ip=f"10.96.0.{number + 20}")
        for number in range(3)
    )
    identity = names.identity
    monkeypatch.setattr(
        names, "identity", lambda key, s: "X" if key.name.name != "s2" else identity(key, s)
    )
    world = World()
    observed = believing(world=world)

    together = plan_for(observed, first, second, third)
    assert list(together.refused) == [second.key]
    assert str(first.key) in together.refused[second.key]
    assert together.rendered.keys() == {first.key, third.key}
    carry_out(together, observed, world)

    later = plan_for(observed, first, second, third)
    assert list(later.refused) == [second.key]
    assert not later
    carry_out(plan_for(observed, third, gone=["default/s0"]), observed, world)
    heir = plan_for(observed, second, third)
    assert heir.refused == {}
    carry_out(heir, observed, world)
    assert not plan_for(observed, second, third)


def test_whose_memory_of_clients_would_be_anothers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "affinity_names", lambda *_: ("SLICEPROXY-A-X", "sliceproxy4-a-X"))
    first, second = (
        make_desired(f"default/s{n}", A, cluster_ip=f"10.96.0.{n + 20}", affinity_timeout_s=9)
        for n in range(2)
    )

    assert list(plan_for(believing(), first, second).refused) == [second.key]


# --- what is shared


def test_members_that_several_need_are_written_once_and_stay_for_the_last() -> None:
    local = make_endpoint(A, is_local=True)
    first, second = (
        make_desired("default/web", local, port_name=str(p), port=p) for p in (80, 443)
    )
    observed = believing(first)

    joining = plan_for(observed, second)
    assert kinds(joining) == ["add frontends", "nat"]
    carry_out(joining, observed)

    for leaving, is_last in ((first.key, False), (second.key, True)):
        planned = plan(whole({}), observed, [leaving], LAYOUT)
        assert ("delete cluster-ips" in kinds(planned)[-1]) == is_last
        assert ("delete hairpin" in kinds(planned)[-1]) == is_last
        carry_out(planned, observed)


def test_who_comes_and_who_goes_in_one_plan_share_without_a_change() -> None:
    first, second = (make_desired("default/web", A, port_name=str(p), port=p) for p in (80, 443))
    observed = believing(first)

    for order in itertools.permutations([first.key, second.key]):
        planned = plan(whole(desired_state(second)), observed, list(order), LAYOUT)
        assert kinds(planned) == ["add frontends", "nat", "delete frontends"]


def test_a_member_lost_from_outside_comes_back_with_any_of_its_users() -> None:
    first, second = (make_desired("default/web", A, port_name=str(p), port=p) for p in (80, 443))
    observed = believing(first, second)
    observed.correct_members("IPv4", "sliceproxy4-cluster-ips", gone=[Member("10.96.0.10")])

    assert kinds(plan_for(observed, second)) == ["add cluster-ips"]


# --- source ranges


def test_who_may_come_in_is_known_before_anybody_is_turned_away() -> None:
    observed = believing(make_desired("default/web", A, outer=(VIP,)))
    guarded = make_desired("default/web", A, outer=(VIP,), source_ranges=("10.0.0.0/8",))

    coming = plan_for(observed, guarded)
    assert kinds(coming) == ["add allowed add guarded"]
    carry_out(coming, observed)
    going = plan_for(observed, make_desired("default/web", A, outer=(VIP,)))
    assert kinds(going) == ["delete guarded delete allowed"]


def test_other_ranges_come_before_the_old_ones_go() -> None:
    one, other = (
        make_desired("default/web", A, outer=(VIP,), source_ranges=ranges)
        for ranges in (("10.0.0.0/8",), ("192.0.2.0/24",))
    )

    assert kinds(plan_for(believing(one), other)) == ["add allowed", "delete allowed"]


@pytest.mark.parametrize("before", [(), ("10.0.0.0/8",)])
@pytest.mark.parametrize("after", [(), ("192.0.2.0/24",)])
@pytest.mark.parametrize("is_in_one", [True, False])
def test_a_vip_that_changes_hands_is_limited_as_its_new_owner_says(
    before: tuple[str, ...], after: tuple[str, ...], is_in_one: bool
) -> None:
    world = World()
    former = make_desired("default/web", A, outer=(VIP,), source_ranges=before)
    observed = believing(former, world=world)
    former = make_desired("default/web", A, source_ranges=before)
    heir = make_desired(
        "default/heir", B, cluster_ip="10.96.0.11", outer=(VIP,), source_ranges=after
    )

    def may_come(source: str) -> bool:
        fates = world.fates(Packet(source, VIP.address or "", "TCP", VIP.port, "eth0"))
        return {fate.kind for fate in fates} == {"served"}

    ports = desired_state(heir, former)
    for keys in (list(ports),) if is_in_one else ([heir.key], [former.key]):
        for _ in world.carry_out(plan(whole(ports), observed, keys, LAYOUT), observed):
            # whoever both let in is let in throughout, and whom neither lets in is not
            assert may_come("192.0.2.1") or before
            assert may_come("10.0.0.1") or after
            assert not may_come("198.51.100.1") or not before or not after

    assert may_come("192.0.2.1")
    assert may_come("10.0.0.1") == (not after)
    members = world.members["sliceproxy4-allowed"]
    assert {each.other for each in members} == set(after)
    assert len(world.members["sliceproxy4-guarded"]) == len(after)


# --- affinity


def test_a_client_can_be_remembered_before_anybody_is_led_there() -> None:
    observed = believing()
    port = make_desired("default/web", A, affinity_timeout_s=9)
    (known,) = plan_for(observed, port).rendered[WEB].sets  # type: ignore[union-attr] # it is there

    first = plan_for(observed, port).steps[0]

    assert isinstance(first, SetStep)
    assert first.changes[0][:2] == ("create", known)
    assert written(plan_for(observed, port))[0].startswith("SLICEPROXY-A-")


def test_another_time_changes_what_remembers_and_no_set() -> None:
    observed = believing(make_desired("default/web", A, B, affinity_timeout_s=9))

    planned = plan_for(observed, make_desired("default/web", A, B, affinity_timeout_s=10))

    assert kinds(planned) == ["nat"]
    assert [name[:13] for name in written(planned)] == ["SLICEPROXY-A-"] * 2


def test_the_memory_of_an_endpoint_goes_after_the_rules_that_name_it() -> None:
    observed = believing(make_desired("default/web", A, B, affinity_timeout_s=9))
    port = make_desired("default/web", A, affinity_timeout_s=9)

    planned = plan_for(observed, port)
    assert kinds(planned) == ["nat"]
    carry_out(planned, observed)

    sweep = swept(observed, whole(desired_state(port)))
    assert [kind.partition("-")[0] for kind in kinds(sweep)] == ["nat", "destroy a"]


# --- from whatever was left


def test_after_everything_was_flushed_services_come_back_one_by_one() -> None:
    """Rules of a tree do not lead to chains that are not there yet, or the commit would be refused."""
    world = World()
    ports = many_services(40)
    observed = believing(*ports.values(), world=world)
    before = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    world.tables = type(world.tables)(has_set=world.sets.__contains__, uses={})
    for table, chains in observed.facts["IPv4"].chains.items():
        for name in list(chains):
            observed.correct_chain("IPv4", table, name, None)
        for place in list(observed.facts["IPv4"].jumps[table]):
            observed.correct_jump("IPv4", table, place, None)

    for key in ports:
        carry_out(plan(whole(ports), observed, [key], LAYOUT), observed, world)

    assert world.chains("IPv4", "nat") == before
    assert not plan(whole(ports), observed, list(ports), LAYOUT)
    assert observed.damaged == {"IPv4": set()}


def test_what_is_changed_while_a_plan_waits_is_written_by_the_next_one() -> None:
    """A verification may hold it up, and correct belief of what the plan had looked at and found in order."""
    world = World()
    believing(web(A), world=world)
    before = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    observed = world.found()  # by a new process, which looks at every chain of a tree
    waiting = plan_for(observed, web(A))
    world.take(TableStep("IPv4", "nat", (ChainWrite(empty_chain(ROOTS["C"])),)))
    observed.correct_chain("IPv4", "nat", ROOTS["C"], ChainState("", 0))

    carry_out(waiting, observed, world)
    carry_out(plan_for(observed, web(A)), observed, world)

    assert world.chains("IPv4", "nat") == before
    assert observed.damaged == {"IPv4": set()}


def test_what_one_plan_could_not_finish_the_next_one_does() -> None:
    """The kernel refused a commit of which parts had been carried out."""
    world = World()
    observed = believing(world=world)
    ports = many_services(40)
    planned = plan(whole(ports), observed, list(ports), LAYOUT)
    first, nat = planned.steps
    world.take(first)
    observed.fold(first)
    observed.begin(planned)
    assert isinstance(nat, TableStep)
    *parts, _ = nat.parts(20)
    for part in parts:
        world.take(part)
        observed.fold(part)

    for key in list(ports):
        carry_out(plan(whole(ports), observed, [key], LAYOUT), observed, world)

    assert not plan(whole(ports), observed, list(ports), LAYOUT)
    carry_out(prune(whole(ports), observed, LAYOUT), observed, world)
    direct = World()
    believing(*ports.values(), world=direct)
    assert world.chains("IPv4", "nat") == direct.chains("IPv4", "nat")
    assert world.members == direct.members


def test_what_a_plan_left_unfinished_that_nobody_asks_for_any_more_goes() -> None:
    world = World()
    observed = believing(world=world)
    empty = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    ports = many_services(40)
    planned = plan(whole(ports), observed, list(ports), LAYOUT)
    first, nat = planned.steps
    world.take(first)
    observed.fold(first)
    assert isinstance(nat, TableStep)
    *parts, _ = nat.parts(len(ports) * 2 + 20)  # all their own chains, and a part of the tree
    for part in parts:
        world.take(part)
        observed.fold(part)
        observed.doubt("IPv4", [write.chain.name for write in part.writes])
    observed.begin(planned)
    assert observed.leaving_chains["IPv4"]

    carry_out(plan(whole({}), observed, list(ports), LAYOUT), observed, world)
    carry_out(swept(observed), observed, world)

    assert world.chains("IPv4", "nat") == empty
    assert not observed.is_sweep_due


def test_a_set_of_a_wrong_shape_goes_with_everything_that_asks_it() -> None:
    world = World()
    ports = desired_state(web(A), make_desired("default/api", B, cluster_ip="10.96.0.11"))
    observed = believing(*ports.values(), world=world)
    before = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    name = "sliceproxy4-frontends"
    world.sets[name] = world.sets[name]._replace(max_members=7)
    observed = world.found()
    assert observed.misshapen["IPv4"]

    planned = plan(whole(ports), observed, list(ports), LAYOUT)
    assert kinds(planned)[:2] == ["filter", "nat"]
    carry_out(planned, observed, world)

    assert not observed.is_rebuild_due
    assert world.chains("IPv4", "nat") == before
    assert not plan(whole(ports), observed, list(ports), LAYOUT)
    assert not prune(whole(ports), observed, LAYOUT)


def test_planning_changes_no_belief() -> None:
    observed = believing(web(A, B))
    facts = observed.facts["IPv4"]
    before = (dict(facts.chains["nat"]), {n: set(m) for n, m in facts.members.items()})
    beliefs = (dict(observed.rendered), dict(observed.references), dict(observed.owners))
    fronts = {place: tree.fronts() for place, tree in observed.trees.items()}

    for ports in ({}, desired_state(web(), make_desired("default/x", C)), many_services(50)):
        plan(whole(ports), observed, [WEB, make_key("default/x"), *ports], LAYOUT)
    prune(whole({}), observed, LAYOUT)

    assert before == (facts.chains["nat"], facts.members)
    assert beliefs == (observed.rendered, observed.references, observed.owners)
    assert fronts == {place: tree.fronts() for place, tree in observed.trees.items()}
