"""The desired state: pools and frontends of a ServicePort, and what counts as changed."""

import random
from collections.abc import Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache import merge
from proxy.desired import DesiredPort, DesiredState, Frontend
from proxy.desired_node import NodeSettings
from proxy.model import (
    EndpointSlice,
    NodeInfo,
    PortKey,
    Service,
    ServicePort,
)
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_node,
    make_service,
    make_service_name,
    make_service_port,
    make_slice,
)
from tests.model_strategies import History, histories
from tests.worlds import World, world_after

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB = make_key("default/web")


def update(
    desired: DesiredState, service: Service, *slices: EndpointSlice, node: NodeInfo | None = None
) -> Set[PortKey]:
    return desired.update(service.name, service, merge(slices), node or make_node())


def remove(desired: DesiredState, name: str) -> Set[PortKey]:
    return desired.update(make_service_name(name), None, {}, make_node())


def described(port: ServicePort, *slices: EndpointSlice) -> DesiredPort:
    """Return the description of the only port of a service."""
    desired = DesiredState()
    update(desired, make_service("default/web", port), *slices)
    return desired.ports[port.key]


def test_endpoints_are_matched_by_family_port_name_and_protocol() -> None:
    port = make_service_port(port_name="dns", protocol="UDP", port=53)
    right = make_endpoint("10.1.0.1:5353", slice_name="s-1")

    found = described(
        port,
        make_slice("s-1", right, port_name="dns", protocol="UDP"),
        make_slice("s-2", make_endpoint("10.1.0.2:53"), port_name="dns", protocol="TCP"),
        make_slice("s-3", make_endpoint("10.1.0.3:53"), port_name="other", protocol="UDP"),
        make_slice("s-4", make_endpoint("[fd00::1]:53"), port_name="dns", protocol="UDP"),
    )

    assert found.cluster == (right,)


def test_each_family_has_endpoints_of_its_own() -> None:
    desired = DesiredState()
    ipv4, ipv6 = make_service_port(), make_service_port(cluster_ip="fd00::10")

    update(
        desired,
        make_service("default/web", ipv4, ipv6),
        make_slice("s-4", make_endpoint(A)),
        make_slice("s-6", make_endpoint("[fd01::1]:80")),
    )

    assert [e.address for e in desired.ports[ipv4.key].internal] == [A]
    assert [e.address for e in desired.ports[ipv6.key].internal] == ["[fd01::1]:80"]


def test_a_port_nobody_matches_has_an_empty_pool() -> None:
    found = described(make_service_port())

    assert (found.cluster, found.local, found.reachable, found.is_any_usable) == (
        (),
        None,
        (),
        False,
    )


def test_the_pool_of_the_cluster_ip_follows_the_internal_policy() -> None:
    slices = make_slice("s-1", make_endpoint(A, is_local=True), make_endpoint(B))

    everywhere = described(make_service_port(external_local=True, node_port=30080), slices)
    here = described(make_service_port(internal_local=True, node_port=30080), slices)

    assert [e.address for e in everywhere.internal] == [A, B]
    assert [e.address for e in here.internal] == [A]
    assert (everywhere.external_local, everywhere.internal_local) == (True, False)
    assert (here.external_local, here.internal_local) == (False, True)


def test_everything_either_policy_may_use_is_reachable() -> None:
    """A list may fall back to terminating endpoints that the other one does not use."""
    found = described(
        make_service_port(external_local=True, node_port=30080),
        make_slice("s-1", make_endpoint(A, is_local=True, ready=False, terminating=True)),
        make_slice("s-2", make_endpoint(B)),
    )

    assert [e.address for e in found.internal] == [B]
    assert [e.address for e in found.reachable] == [A, B]


def test_a_service_that_is_served_elsewhere_only_is_usable() -> None:
    found = described(make_service_port(internal_local=True), make_slice("s-1", make_endpoint(A)))

    assert (found.cluster, found.internal, found.is_any_usable) == (None, (), True)


def test_selection_is_for_the_given_node() -> None:
    desired = DesiredState()
    zones = make_slice(
        "s-1", make_endpoint(A, zone_hints=["z1"]), make_endpoint(B, zone_hints=["z2"])
    )

    assert update(desired, make_service(), zones) == {WEB}
    assert update(desired, make_service(), zones, node=make_node(zone="z2")) == {WEB}

    assert [e.address for e in desired.ports[WEB].internal] == [B]


def test_what_does_not_come_from_endpoints_is_carried_over() -> None:
    found = described(
        make_service_port(
            node_port=30080,
            external_ips=("203.0.113.1",),
            load_balancer_vips=("203.0.113.2",),
            source_ranges=("198.51.100.0/24",),
            affinity_timeout_s=30,
            health_check_node_port=31000,
        )
    )

    assert found.frontends == (
        Frontend("ClusterIP", "10.96.0.10", 80),
        Frontend("NodePort", None, 30080),
        Frontend("ExternalIP", "203.0.113.1", 80),
        Frontend("LoadBalancer", "203.0.113.2", 80),
    )
    assert (found.source_ranges, found.affinity_timeout_s) == (("198.51.100.0/24",), 30)
    assert found.health_check_node_port == 31000
    assert found.lost == ()


@pytest.mark.parametrize(
    ("port", "frontends"),
    [
        pytest.param(
            make_service_port(external_ips=("10.96.0.10",)),
            (Frontend("ClusterIP", "10.96.0.10", 80),),
            id="external IP = cluster IP",
        ),
        pytest.param(
            make_service_port(load_balancer_vips=("10.96.0.10",)),
            (Frontend("ClusterIP", "10.96.0.10", 80),),
            id="VIP = cluster IP",
        ),
        pytest.param(
            make_service_port(external_ips=("203.0.113.1",), load_balancer_vips=("203.0.113.1",)),
            (
                Frontend("ClusterIP", "10.96.0.10", 80),
                Frontend("LoadBalancer", "203.0.113.1", 80),
            ),
            id="VIP = external IP: source ranges hold for it",
        ),
    ],
)
def test_an_address_named_twice_by_one_port_is_one_frontend(
    port: ServicePort, frontends: tuple[Frontend, ...]
) -> None:
    found = described(port)

    assert (found.frontends, found.lost) == (frontends, ())


def test_equal_content_is_no_change() -> None:
    desired = DesiredState()
    update(desired, make_service(), make_slice("s-1", make_endpoint(A)))

    again = make_service(resource_version="9", uid="x")
    assert update(desired, again, make_slice("s-1", make_endpoint(A))) == set()


def test_only_the_port_whose_endpoints_changed_is_a_change() -> None:
    desired = DesiredState()
    service = make_service(
        "default/web",
        make_service_port(port_name="http"),
        make_service_port(port_name="dns", protocol="UDP", port=53),
    )
    http = make_slice("s-1", make_endpoint(A), port_name="http")
    dns = make_slice("s-2", make_endpoint("10.1.0.1:53"), port_name="dns", protocol="UDP")
    update(desired, service, http, dns)

    more = make_slice("s-1", make_endpoint(A), make_endpoint(B), port_name="http")
    assert update(desired, service, more, dns) == {make_key("default/web", "http")}


def test_a_port_that_is_gone_is_a_change_and_nothing_is_left_of_it() -> None:
    desired = DesiredState()
    kept, gone = make_service_port(port_name="a"), make_service_port(port_name="b", port=81)
    update(desired, make_service("default/web", kept, gone))

    assert update(desired, make_service("default/web", kept)) == {gone.key}
    assert set(desired.ports) == {kept.key}
    assert remove(desired, "default/web") == {kept.key}
    assert [state for state in vars(desired).values() if isinstance(state, dict) and state] == []


def test_removing_what_is_not_known_is_no_change() -> None:
    assert remove(DesiredState(), "default/web") == set()


@settings(max_examples=100, deadline=None)
@given(histories())
def test_the_keys_returned_are_exactly_those_that_changed(batches: History) -> None:
    world = World()

    for batch in batches:
        for name in world.hear(batch):
            before = dict(world.desired.ports)
            changed = world.describe(name)
            after = world.desired.ports
            assert changed == {
                key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
            }


@settings(max_examples=100, deadline=None)
@given(histories(), st.randoms())
def test_step_by_step_leads_to_the_same_as_from_scratch(
    batches: History, rng: random.Random
) -> None:
    world = world_after(batches)

    scratch = World(cache=world.cache)
    names = list(world.cache.services)
    for name in rng.sample(names, len(names)):
        scratch.describe(name)

    assert vars(world.desired) == vars(scratch.desired)


def test_each_frontend_has_the_pool_of_its_own_policy() -> None:
    local, other = make_endpoint("10.1.0.1:80", is_local=True), make_endpoint("10.1.0.2:80")
    port = DesiredPort(
        key=make_key(),
        frontends=(),
        cluster=(local, other),
        local=(local,),
        reachable=(local, other),
        is_any_usable=True,
        external_local=True,
    )

    assert port.pool(Frontend("ClusterIP", "10.96.0.10", 80)) == (local, other)
    assert port.pool(Frontend("NodePort", None, 30080)) == (local,)
    assert port.pool(Frontend("LoadBalancer", "192.0.2.1", 80)) == (local,)


def test_without_the_feature_gate_nobody_claims_an_external_ip() -> None:
    asking = make_service("default/web", make_service_port(external_ips=("192.0.2.7",)))
    states = [DesiredState(NodeSettings(serves_external_ips=serves)) for serves in (True, False)]

    for state in states:
        state.update(asking.name, asking, {}, make_node())

    kinds = [[f.kind for port in state.ports.values() for f in port.frontends] for state in states]
    assert kinds == [["ClusterIP", "ExternalIP"], ["ClusterIP"]]
