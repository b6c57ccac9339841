"""What a ServicePort occupies. That packets meet it: test_plan_packets.py."""

import pytest
from msgspec import structs

from backends.iptables.layout import IptablesSettings, Layout
from backends.iptables.model import Front, Lead
from backends.iptables.names import list_chain, outer_chain
from backends.iptables.render import RenderedPort, render_port
from backends.kernel.ipset_objects import Member
from proxy.desired import DesiredPort, Frontend
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint
from tests.unit.backends.iptables.planning import LAYOUT, WEB, A, B, web

S, L, E = list_chain(WEB), list_chain(WEB, is_local=True), outer_chain(WEB)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
EXTERNAL = Frontend("ExternalIP", "203.0.113.2", 80)
NODE_PORT = Frontend("NodePort", None, 30080)


def members(rendered: RenderedPort) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, member in rendered.rendered.members:
        found.setdefault(name.removeprefix("sliceproxy4-"), set()).add(str(member))
    return found


def outer_rules(port: DesiredPort, layout: Layout = LAYOUT) -> list[str]:
    """Return what the chain for the world outside does, without the comment."""
    (chain,) = [each for each in render_port(port, layout).chains if each.name == E]
    first, *others = chain.rules
    return [first.partition('" ')[2], *others]


def test_a_cluster_ip_leads_to_its_list() -> None:
    rendered = render_port(web(A, B), LAYOUT)

    assert rendered.rendered.leads == (Lead("C", Front("10.96.0.10", "TCP", 80), S),)
    assert [chain.name for chain in rendered.chains] == [S]
    assert members(rendered) == {
        "cluster-ips": {"10.96.0.10"},
        "frontends": {"10.96.0.10,tcp:80"},
    }
    assert rendered.sets == ()


def test_frontends_for_the_world_outside_lead_to_one_chain() -> None:
    rendered = render_port(
        make_desired("default/web", A, outer=(NODE_PORT, EXTERNAL, VIP)), LAYOUT
    )

    assert [chain.name for chain in rendered.chains] == [S, E]
    assert rendered.rendered.leads[1:] == (
        Lead("N", Front("", "TCP", 30080), E),
        Lead("X", Front("203.0.113.2", "TCP", 80), E),
        Lead("X", Front("203.0.113.1", "TCP", 80), E),
    )
    assert members(rendered) == {
        "cluster-ips": {"10.96.0.10"},
        "external-ips": {"203.0.113.1", "203.0.113.2"},
        "frontends": {"10.96.0.10,tcp:80", "203.0.113.1,tcp:80", "203.0.113.2,tcp:80"},
        "ports-tcp": {"30080"},
    }


def test_without_usable_endpoints_every_frontend_is_refused() -> None:
    port = make_desired("default/web", outer=(NODE_PORT, VIP))

    found = members(render_port(port, LAYOUT))

    assert found["refused"] == found["frontends"]
    assert found["ports-refused-tcp"] == found["ports-tcp"]
    usable = make_desired("default/web", is_any_usable=True, outer=(NODE_PORT,))
    assert not {"refused", "ports-refused-tcp"} & members(render_port(usable, LAYOUT)).keys()


def test_where_frontends_lead_does_not_depend_on_endpoints() -> None:
    filled, empty = (render_port(web(*pool), LAYOUT) for pool in ((A, B), ()))

    assert filled.rendered.leads == empty.rendered.leads
    assert filled.rendered.chains == empty.rendered.chains


def test_policy_cluster_masquerades_whoever_asks() -> None:
    port = make_desired("default/web", A, outer=(VIP,))

    assert outer_rules(port) == ["-j MARK --or-mark 0x4000", f"-g {S}"]


def test_policy_local_tells_pods_and_the_node_from_the_world() -> None:
    port = make_desired("default/web", A, outer=(VIP,), external_local=True)

    assert outer_rules(port) == [
        f"-s 10.244.1.0/24 -g {S}",
        "-m addrtype --src-type LOCAL -j MARK --or-mark 0x4000",
        f"-m addrtype --src-type LOCAL -g {S}",
        f"-g {L}",
    ]
    rendered = render_port(port, LAYOUT)
    assert [chain.name for chain in rendered.chains] == [S, L, E]
    assert rendered.rendered.asks_for_pods


def test_where_nothing_tells_pods_they_count_as_the_world_outside() -> None:
    unaware = Layout(IptablesSettings(families=("IPv4",)))
    port = make_desired("default/web", A, outer=(VIP,), external_local=True)

    assert len(outer_rules(port, unaware)) == 3


def test_internal_policy_local_leads_to_the_local_list_alone() -> None:
    local = make_endpoint(A, is_local=True)
    rendered = render_port(make_desired("default/web", local, internal_local=True), LAYOUT)

    assert [lead.target for lead in rendered.rendered.leads] == [L]
    assert [chain.name for chain in rendered.chains] == [L]
    assert not rendered.rendered.asks_for_pods


def test_internal_policy_local_keeps_the_whole_list_for_the_world_outside() -> None:
    port = make_desired("default/web", A, internal_local=True, outer=(VIP,))
    rendered = render_port(port, LAYOUT)

    assert [chain.name for chain in rendered.chains] == [S, L, E]


def test_where_load_balancers_ask_for_health_is_in_a_set() -> None:
    port = structs.replace(make_desired("default/web", A), health_check_node_port=31000)

    more = render_port(port, LAYOUT).rendered.members
    assert more - render_port(make_desired("default/web", A), LAYOUT).rendered.members == {
        ("sliceproxy4-ports-health", Member(port=31000))
    }


def test_source_ranges_guard_vips_alone() -> None:
    port = make_desired(
        "default/web",
        A,
        outer=(VIP, EXTERNAL, NODE_PORT),
        source_ranges=("192.0.2.0/24", "10.0.0.0/8"),
    )

    found = members(render_port(port, LAYOUT))

    assert found["guarded"] == {"203.0.113.1,tcp:80"}
    assert found["allowed"] == {
        "203.0.113.1,tcp:80,192.0.2.0/24",
        "203.0.113.1,tcp:80,10.0.0.0/8",
    }


def test_where_the_node_may_ask_its_vip_may_come_back_as_the_source() -> None:
    port = make_desired(
        "default/web", A, outer=(VIP,), source_ranges=("192.0.2.0/24",), allows_own_vips=True
    )

    allowed = members(render_port(port, LAYOUT))["allowed"]

    assert "203.0.113.1,tcp:80,203.0.113.1/32" in allowed


@pytest.mark.parametrize(
    ("endpoint", "is_reflected"),
    [
        (make_endpoint(A, is_local=True), True),
        (make_endpoint(A), False),
        (structs.replace(make_endpoint(A), node_name=None), True),  # nobody says where it is
    ],
)
def test_only_endpoints_here_can_reach_themselves(endpoint: object, is_reflected: bool) -> None:
    port = make_desired("default/web", endpoint)  # type: ignore[arg-type] # parametrized

    found = members(render_port(port, LAYOUT))

    assert found.get("hairpin", set()) == (
        {"10.244.1.1,tcp:80,10.244.1.1"} if is_reflected else set()
    )


def test_affinity_has_a_chain_and_a_set_for_each_endpoint_of_either_list() -> None:
    local = make_endpoint(A, is_local=True)
    port = make_desired(
        "default/web", local, B, outer=(VIP,), external_local=True, affinity_timeout_s=60
    )
    rendered = render_port(port, LAYOUT)
    names = [chain.name for chain in rendered.chains]

    assert names[-3:] == [S, L, E]
    assert len(names) == 5
    assert len(rendered.sets) == 2
    assert rendered.rendered.sets == {each.name for each in rendered.sets}
    assert rendered.rendered.chains == set(names)


def test_a_port_that_has_lost_all_its_addresses_has_no_chains() -> None:
    rendered = render_port(make_desired("default/web", A, cluster_ip=None), LAYOUT)

    assert rendered.chains == ()
    assert rendered.rendered.leads == ()


def test_members_of_ipv6_are_in_sets_of_ipv6() -> None:
    six = make_desired("default/six", "[fd00::1]:80", cluster_ip="fd00:10:96::1")

    found = render_port(six, Layout(IptablesSettings(families=("IPv6",)))).rendered.members

    assert ("sliceproxy6-cluster-ips", Member("fd00:10:96::1")) in found
    assert ("sliceproxy6-frontends", Member("fd00:10:96::1", 6, 80)) in found
