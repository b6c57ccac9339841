"""What nobody asks for goes, and nothing else."""

from collections.abc import Callable

import pytest
from msgspec import structs

from backends.iptables.layout import Layout
from backends.iptables.model import TABLES
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from backends.iptables.sets import affinity_set
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables_text import Flavour
from proxy.desired import Frontend
from tests.desired_strategies import Ports, desired_state, make_desired, many_services, whole
from tests.unit.backends.iptables.planning import (
    LAYOUT,
    A,
    B,
    World,
    believing,
    carry_out,
    kinds,
    web,
    written,
)

VIP = Frontend("LoadBalancer", "203.0.113.1", 80)


def write(world: World, table: str, *lines: str) -> None:
    text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
    assert world.tables.restore(Flavour.NFT, "IPv4", text) == ""


def old_service(world: World) -> None:
    """An earlier process served something that is no more, in another way than we would."""
    write(
        world,
        "nat",
        ":SLICEPROXY-S-OLD - [0:0]",
        ":SLICEPROXY-C-2-3 - [0:0]",
        "-A SLICEPROXY-S-OLD -j RETURN",
        "-A SLICEPROXY-CLUSTER -d 10.96.9.9/32 -p tcp --dport 80 -g SLICEPROXY-S-OLD",
        "-A SLICEPROXY-C-2-3 -d 10.96.9.7/32 -p tcp --dport 80 -g SLICEPROXY-S-OLD",
    )


def old_jumps(world: World) -> None:
    write(
        world,
        "nat",
        ":SLICEPROXY-OLD - [0:0]",
        "-A PREROUTING -j SLICEPROXY-OLD",
        "-A INPUT -j SLICEPROXY-OLD",
    )
    write(world, "filter", ":SLICEPROXY-OLD - [0:0]", "-I FORWARD 1 -p tcp -j SLICEPROXY-OLD")


def a_jump_twice(world: World) -> None:
    (rule,) = world.chains("IPv4", "nat")["OUTPUT"]
    write(world, "nat", f"-A OUTPUT {rule}")


def old_sets(world: World) -> None:
    """One of session affinity that rules write to, and one of a kind that we do not know."""
    for made in (
        affinity_set("IPv4", "sliceproxy4-a-OLD"),
        IpSet("sliceproxy4-former", "hash:ip", "IPv4"),
    ):
        world.sets[made.name] = made
        world.members[made.name] = {Member("10.0.0.1")}
    write(
        world,
        "nat",
        ":SLICEPROXY-A-OLD - [0:0]",
        "-A SLICEPROXY-A-OLD -j SET --add-set sliceproxy4-a-OLD src --exist --timeout 5",
    )


def old_members(world: World) -> None:
    world.members["sliceproxy4-frontends"].add(Member("10.96.9.9", 6, 80))
    world.members["sliceproxy4-cluster-ips"].add(Member("10.96.9.9"))
    world.members["sliceproxy4-ports-tcp"].add(Member(port=1))
    world.members["sliceproxy4-service-cidrs"].add(Member("10.0.0.0/8"))


@pytest.mark.parametrize(
    "leave",
    [old_service, old_jumps, a_jump_twice, old_sets, old_members],
    ids=lambda f: f.__name__,
)
def test_what_was_left_goes_and_what_is_needed_stays(leave: Callable[[World], None]) -> None:
    world = World()
    ports = desired_state(web(A), make_desired("default/api", B, port=81, outer=(VIP,)))
    believing(*ports.values(), world=world)
    tables = {table: dict(world.chains("IPv4", table)) for table in TABLES}
    sets, members = dict(world.sets), {n: set(m) for n, m in world.members.items()}
    leave(world)
    observed = world.found()
    carry_out(plan(whole(ports), observed, list(ports), LAYOUT), observed, world)

    planned = prune(whole(ports), observed, LAYOUT)
    assert planned
    carry_out(planned, observed, world)

    assert {table: world.chains("IPv4", table) for table in TABLES} == tables
    assert (world.sets, world.members) == (sets, members)
    assert not prune(whole(ports), observed, LAYOUT)
    assert not observed.is_sweep_due


def test_what_others_have_stays() -> None:
    world = World()
    theirs = ("-A PREROUTING -j KUBE-SERVICES", "-A KUBE-SERVICES -p tcp -j RETURN")
    write(world, "nat", ":KUBE-SERVICES - [0:0]", *theirs)
    foreign = IpSet("sliceproxy5-x", "hash:ip", "IPv4")
    world.sets[foreign.name], world.members[foreign.name] = foreign, {Member("10.0.0.1")}

    believing(world=world)

    assert world.chains("IPv4", "nat")["KUBE-SERVICES"] == ["-p tcp -j RETURN"]
    assert world.chains("IPv4", "nat")["PREROUTING"][-1] == "-j KUBE-SERVICES"
    assert foreign.name in world.sets


def test_what_is_left_to_be_swept_goes_as_well() -> None:
    observed = believing(web(A))
    carry_out(plan(whole({}), observed, list(observed.rendered), LAYOUT), observed)
    assert observed.is_sweep_due

    carry_out(prune(whole({}), observed, LAYOUT), observed)

    assert not observed.is_sweep_due


def test_a_tree_that_becomes_small_is_put_together_in_the_same_plan() -> None:
    world, direct = World(), World()
    ports = many_services(17)
    believing(*ports.values(), world=world)
    ports.popitem()
    observed = world.found()
    carry_out(plan(whole(ports), observed, list(ports), LAYOUT), observed, world)

    carry_out(prune(whole(ports), observed, LAYOUT), observed, world)

    believing(*ports.values(), world=direct)
    assert world.chains("IPv4", "nat") == direct.chains("IPv4", "nat")
    assert not observed.is_sweep_due


def refused_state() -> tuple[World, Ports]:
    """A world in which a service was programmed, and what is asked for of it now."""
    world = World()
    old = make_desired("default/web", A, B, outer=(VIP,), affinity_timeout_s=9)
    believing(old, world=world)
    return world, desired_state(make_desired("default/web", B, outer=(VIP,), internal_local=True))


@pytest.mark.parametrize("secret", ["", "of another node"], ids=["same", "other"])
def test_a_service_whose_new_state_is_refused_keeps_what_it_had_whatever_its_name(
    secret: str,
) -> None:
    layout = Layout(structs.replace(LAYOUT.settings, secret=secret))
    world, ports = refused_state()
    before = {name: list(rules) for name, rules in world.chains("IPv4", "nat").items()}
    observed = world.found()  # nothing of it has been planned, or all was refused

    carry_out(plan(whole(ports), observed, [], layout), observed, world)
    carry_out(prune(whole(ports), observed, layout), observed, world)

    assert world.chains("IPv4", "nat") == before
    assert Member("10.96.0.10", 6, 80) in world.members["sliceproxy4-frontends"]

    direct = World()
    for each, known in ((world, observed), (direct, direct.found())):
        carry_out(plan(whole(ports), known, list(ports), layout), known, each)
        carry_out(prune(whole(ports), known, layout), known, each)
    assert world.chains("IPv4", "nat") == direct.chains("IPv4", "nat")
    assert world.sets == direct.sets


@pytest.mark.parametrize("secret", ["", "of another node"], ids=["same", "other"])
def test_who_is_refused_does_not_get_the_endpoints_of_whom_the_address_belonged_to(
    secret: str,
) -> None:
    layout = Layout(structs.replace(LAYOUT.settings, secret=secret))
    world = World()
    believing(make_desired("default/old", A, outer=(VIP,)), world=world)
    ports = desired_state(make_desired("default/web", B, outer=(VIP,)))
    observed = world.found()

    carry_out(prune(whole(ports), observed, layout), observed, world)

    assert not [name for name in world.chains("IPv4", "nat") if "-S-" in name]


def test_others_are_pruned_although_a_service_is_refused() -> None:
    world, ports = refused_state()
    old_service(world)
    old_members(world)
    observed = world.found()

    carry_out(prune(whole(ports), observed, LAYOUT), observed, world)

    assert "SLICEPROXY-S-OLD" not in world.chains("IPv4", "nat")
    assert Member("10.96.9.9") not in world.members["sliceproxy4-cluster-ips"]
    assert Member("10.96.0.10") in world.members["sliceproxy4-cluster-ips"]


def test_all_chains_of_trees_are_compared() -> None:
    observed = believing(web(A))
    chains = observed.facts["IPv4"].chains["nat"]
    chains["SLICEPROXY-NODEPORT"] = chains["SLICEPROXY-NODEPORT"]._replace(mark="other")
    assert not plan(whole({}), observed, [], LAYOUT)

    planned = prune(whole(desired_state(web(A))), observed, LAYOUT)

    assert kinds(planned) == ["nat"]
    assert written(planned) == ["SLICEPROXY-NODEPORT"]
