"""What a change of the node writes: its addresses, ranges of cluster IPs, and ports for health checks."""

import pytest

from backends.iptables.belief import Observed
from backends.iptables.layout import INPUT, IptablesSettings, Layout
from backends.iptables.model import ChainState, TableStep
from backends.iptables.names import list_chain, outer_chain
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from backends.kernel.ipset_objects import Member
from proxy.desired import DesiredPort
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES
from tests.desired_strategies import desired_state, make_desired, whole
from tests.unit.backends.iptables.planning import (
    BOTH,
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
    web,
    written,
)

S, E = list_chain(WEB), outer_chain(WEB)


def test_at_first_there_is_nothing_but_the_fixed_part() -> None:
    observed = World().found()

    planned = plan_for(observed)

    assert [kind.partition(" ")[0] for kind in kinds(planned)] == ["create", "filter", "nat"]
    filtering, translating = planned.steps[1:]
    assert isinstance(filtering, TableStep)
    assert isinstance(translating, TableStep)
    assert [jump.chain for jump in filtering.jumps] == ["INPUT", "FORWARD", "OUTPUT"]
    assert [jump.chain for jump in translating.jumps] == ["PREROUTING", "OUTPUT", "POSTROUTING"]


def believing_in_both(*ports: DesiredPort) -> Observed:
    observed, desired = World(FAMILIES).found(), desired_state(*ports)
    carry_out(plan(whole(desired), observed, list(desired), BOTH), observed)
    carry_out(prune(whole(desired), observed, BOTH), observed)
    return observed


def test_what_stands_for_all_is_there_in_both_families_from_the_first_plan_on() -> None:
    observed, desired = World(FAMILIES).found(), desired_state(web(A))
    carry_out(plan(whole(desired), observed, list(desired), BOTH), observed)

    assert INPUT in observed.facts["IPv6"].chains["filter"]


def test_what_stands_for_all_is_seen_to_in_the_family_of_what_changed() -> None:
    observed, desired = believing_in_both(web(A)), desired_state(web(B))
    for family in FAMILIES:
        observed.correct_chain(family, "filter", INPUT, None)

    planned = plan(whole(desired), observed, list(desired), BOTH)
    assert [step.family for step in planned.steps] == ["IPv4", "IPv4"]
    assert written(planned) == [INPUT, S]
    carry_out(planned, observed)

    later = plan(whole(desired), observed, [], BOTH)
    assert [step.family for step in later.steps] == ["IPv6"]
    assert written(later) == [INPUT]


def test_a_change_of_the_node_is_seen_to_in_both_families_whatever_else_changed() -> None:
    observed, desired = believing_in_both(web(A)), desired_state(web(B))
    node = DesiredNode(node_port_addresses={"IPv6": ("2001:db8::1",)})

    planned = plan(whole(desired, node), observed, list(desired), BOTH)

    assert {step.family for step in planned.steps} == set(FAMILIES)


def test_addresses_of_node_ports_follow_the_node() -> None:
    observed = believing()
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1", "192.0.2.2")})

    restricting = plan(whole({}, node), observed, [], LAYOUT)
    assert kinds(restricting) == ["add nodeport-ips", "filter", "nat"]
    carry_out(restricting, observed)
    fewer = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",)})
    assert kinds(plan(whole({}, fewer), observed, [], LAYOUT)) == ["delete nodeport-ips"]


def test_a_member_of_the_nodes_own_that_was_lost_comes_back_with_any_plan() -> None:
    observed = believing()
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",)})
    carry_out(plan(whole({}, node), observed, [], LAYOUT), observed)
    observed.correct_members("IPv4", "sliceproxy4-nodeport-ips", gone=[Member("192.0.2.1")])

    assert kinds(plan(whole({}, node), observed, [], LAYOUT)) == ["add nodeport-ips"]


def test_addresses_without_a_service_are_dropped_once_all_services_are_there() -> None:
    node = DesiredNode(service_cidrs=("10.96.0.0/16", "fd00::/112"))
    observed = World().found()
    first = plan(whole({}, node), observed, [], LAYOUT)
    assert "service-cidrs" not in " ".join(kinds(first)).replace("create service-cidrs", "")
    carry_out(first, observed)

    settled = prune(whole({}, node), observed, LAYOUT)

    assert kinds(settled) == ["add service-cidrs"]
    carry_out(settled, observed)
    assert kinds(plan(whole({}, DesiredNode()), observed, [], LAYOUT)) == ["delete service-cidrs"]


def test_whoever_tells_pods_from_others_is_written_again_when_that_is_told_otherwise() -> None:
    layout = Layout(IptablesSettings(families=("IPv4",), local_mode="NodeCIDR"))
    local = make_desired("default/web", A, outer=(VIP,), external_local=True)
    other = make_desired("default/api", B, cluster_ip="10.96.0.11")
    ports = desired_state(local, other)
    observed = World().found()
    carry_out(plan(whole(ports), observed, list(ports), layout), observed)

    node = DesiredNode(pod_cidrs=("10.244.1.0/24",))
    planned = plan(whole(ports, node), observed, [], layout)

    assert written(planned) == [E, "SLICEPROXY-CLUSTER"]


def test_who_is_refused_is_in_no_plan_for_others_wherever_pods_are() -> None:
    """Of one that asks for pods the kernel refuses a change; then the pods' range becomes another one."""
    layout = Layout(IptablesSettings(families=("IPv4",), local_mode="NodeCIDR"))
    port = make_desired("default/web", A, outer=(VIP,), external_local=True)
    vip = VIP._replace(address="203.0.113.2")
    refused, limited = (
        make_desired(
            "default/api",
            B,
            cluster_ip="10.96.0.11",
            outer=(vip,),
            external_local=True,
            source_ranges=ranges,
        )
        for ranges in ((), ("10.0.0.0/8",))
    )
    before = desired_state(port, refused)
    observed = believing()
    for keys in (list(before), []):
        carry_out(plan(whole(before), observed, keys, layout), observed)
    other = make_desired("default/other", C, cluster_ip="10.96.0.12")
    ports, node = desired_state(port, limited, other), DesiredNode(pod_cidrs=("10.244.1.0/24",))

    for_other = plan(whole(ports, node), observed, [other.key], layout)
    assert all(step.keys == (other.key,) for step in for_other.steps if step.keys)
    carry_out(for_other, observed)
    for_nobody = plan(whole(ports, node), observed, [], layout)
    assert {key for step in for_nobody.steps for key in step.keys} == {WEB}
    assert for_nobody.is_for_nobody
    carry_out(for_nobody, observed)

    assert not plan(whole(ports, node), observed, [], layout)
    assert outer_chain(refused.key) in written(
        plan(whole(ports, node), observed, [refused.key], layout)
    )


@pytest.mark.parametrize("table", ["nat", "filter"])
def test_a_fixed_chain_or_a_jump_lost_from_outside_comes_back_with_any_plan(table: str) -> None:
    observed = believing(web(A))
    name = {"nat": "SLICEPROXY-SERVICES", "filter": "SLICEPROXY-UNTRANSLATED"}[table]
    observed.correct_chain("IPv4", table, name, ChainState("", 1))  # type: ignore[arg-type] # a table
    (place, *_) = list(observed.facts["IPv4"].jumps[table])  # type: ignore[index] # a table
    observed.correct_jump("IPv4", table, place, None)  # type: ignore[arg-type] # a table

    (step,) = plan_for(observed, web(A)).steps

    assert isinstance(step, TableStep)
    assert step.table == table
    assert [write.chain.name for write in step.writes] == [name]
    assert [(jump.chain, jump.mark) for jump in step.jumps] == [place]
