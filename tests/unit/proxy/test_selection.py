"""A case for each rule of selection that is easily left out."""

import pytest

from proxy.model import Endpoint, NodeInfo, ServicePort
from proxy.selection import (
    Choice,
    Reason,
    Selection,
    TopologyReason,
    Verdict,
    select,
)
from tests.model_builders import make_endpoint, make_node, make_service_port

A, B, C = "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80"

CLUSTER = make_service_port()
INTERNAL_LOCAL = make_service_port(internal_local=True)
EXTERNAL_LOCAL = make_service_port(node_port=30080, external_local=True)
BOTH_LOCAL = make_service_port(node_port=30080, internal_local=True, external_local=True)


def choose(
    *endpoints: Endpoint, port: ServicePort = CLUSTER, node: NodeInfo | None = None
) -> Selection:
    return select(endpoints, port, node or make_node())


def here(*, ready: bool = True, serving: bool = True, terminating: bool = False) -> Endpoint:
    return make_endpoint(A, is_local=True, ready=ready, serving=serving, terminating=terminating)


def addresses(endpoints: tuple[Endpoint, ...] | None) -> list[str] | None:
    return None if endpoints is None else [e.address for e in endpoints]


def cluster_choices(selection: Selection) -> list[tuple[bool, Reason]]:
    return [(v.cluster.selected, v.cluster.reason) for v in selection.verdicts]


def local_choices(selection: Selection) -> list[tuple[bool, Reason]]:
    return [(v.local.selected, v.local.reason) for v in selection.verdicts]


# Conditions


@pytest.mark.parametrize(
    ("endpoint", "is_usable", "reason"),
    [
        pytest.param(here(), True, "ready", id="ready"),
        pytest.param(here(serving=False), True, "ready", id="ready, not serving"),
        pytest.param(here(terminating=True), True, "ready", id="ready while terminating"),
        pytest.param(here(ready=False), False, "not-ready", id="only serving"),
        pytest.param(here(ready=False, serving=False), False, "not-ready", id="nothing at all"),
        pytest.param(
            here(ready=False, terminating=True),
            True,
            "terminating-fallback",
            id="serving while terminating",
        ),
        pytest.param(
            here(ready=False, serving=False, terminating=True),
            False,
            "not-serving",
            id="terminating, no longer serving",
        ),
    ],
)
def test_an_endpoint_alone_is_used_or_not(
    endpoint: Endpoint, is_usable: bool, reason: Reason
) -> None:
    selection = choose(endpoint, port=BOTH_LOCAL)

    assert addresses(selection.cluster) == ([A] if is_usable else [])
    assert addresses(selection.local) == ([A] if is_usable else [])
    assert selection.is_any_usable is is_usable
    choice = Choice(selected=is_usable, reason=reason)
    assert selection.verdicts == (Verdict(cluster=choice, local=choice),)


def test_terminating_endpoints_wait_behind_ready_ones() -> None:
    selection = choose(make_endpoint(A), make_endpoint(B, ready=False, terminating=True))

    assert addresses(selection.cluster) == [A]
    assert cluster_choices(selection) == [(True, "ready"), (False, "terminating")]


def test_a_ready_terminating_endpoint_keeps_others_from_standing_in() -> None:
    """publishNotReadyAddresses makes endpoints ready while they terminate; they count as ready."""
    selection = choose(
        make_endpoint(A, ready=True, terminating=True),
        make_endpoint(B, ready=False, serving=True, terminating=True),
    )

    assert addresses(selection.cluster) == [A]


def test_all_serving_terminating_endpoints_stand_in_together() -> None:
    selection = choose(
        make_endpoint(A, ready=False, terminating=True),
        make_endpoint(B, ready=False, terminating=True, serving=False),
        make_endpoint(C, ready=False, terminating=True),
    )

    assert addresses(selection.cluster) == [A, C]
    assert selection.is_any_usable


# Policies


def test_a_list_without_a_policy_is_none_and_not_empty() -> None:
    selection = choose(make_endpoint(A, is_local=True))

    assert selection.local is None
    assert local_choices(selection) == [(False, "policy-unused")]


def test_a_used_list_without_endpoints_is_empty_and_not_none() -> None:
    selection = choose(port=BOTH_LOCAL)

    assert selection.cluster == ()
    assert selection.local == ()
    assert selection.reachable == ()
    assert not selection.is_any_usable


@pytest.mark.parametrize(
    ("port", "uses_cluster", "uses_local"),
    [
        pytest.param(CLUSTER, True, False, id="Cluster"),
        pytest.param(INTERNAL_LOCAL, False, True, id="internal Local, no way in from outside"),
        pytest.param(
            make_service_port(internal_local=True, node_port=30080), True, True, id="node port"
        ),
        pytest.param(
            make_service_port(internal_local=True, external_ips=("203.0.113.1",)),
            True,
            True,
            id="external IP",
        ),
        pytest.param(
            make_service_port(internal_local=True, load_balancer_vips=("203.0.113.2",)),
            True,
            True,
            id="VIP",
        ),
        pytest.param(EXTERNAL_LOCAL, True, True, id="external Local"),
        pytest.param(
            make_service_port(external_local=True),
            True,
            False,
            id="external Local, but no way in from outside",
        ),
    ],
)
def test_which_lists_a_service_port_uses(
    port: ServicePort, uses_cluster: bool, uses_local: bool
) -> None:
    selection = choose(make_endpoint(A, is_local=True), port=port)

    assert (selection.cluster is not None, selection.local is not None) == (
        uses_cluster,
        uses_local,
    )
    assert (selection.topology_reason == "policy-unused") is not uses_cluster


def test_remote_endpoints_count_as_usable_where_only_local_ones_serve() -> None:
    """Connections are then dropped, not refused: the service is there, only not here."""
    selection = choose(make_endpoint(A), port=INTERNAL_LOCAL)

    assert selection.cluster is None
    assert selection.local == ()
    assert selection.reachable == ()
    assert selection.is_any_usable
    assert local_choices(selection) == [(False, "not-local")]


def test_remote_terminating_endpoints_count_as_usable_too() -> None:
    selection = choose(make_endpoint(A, ready=False, terminating=True), port=INTERNAL_LOCAL)

    assert selection.local == ()
    assert selection.is_any_usable


def test_unready_endpoints_alone_make_nothing_usable() -> None:
    selection = choose(make_endpoint(A, ready=False), port=BOTH_LOCAL)

    assert not selection.is_any_usable


def test_the_lists_fall_back_each_on_its_own() -> None:
    selection = choose(
        make_endpoint(A, is_local=True, ready=False, terminating=True),
        make_endpoint(B),
        make_endpoint(C),
        port=EXTERNAL_LOCAL,
    )

    assert addresses(selection.cluster) == [B, C]
    assert addresses(selection.local) == [A]
    assert addresses(selection.reachable) == [A, B, C]
    assert cluster_choices(selection)[0] == (False, "terminating")
    assert local_choices(selection)[0] == (True, "terminating-fallback")


# Hints


def zone_hinted(address: str, *zones: str, ready: bool = True) -> Endpoint:
    return make_endpoint(address, ready=ready, zone_hints=zones)


def test_zone_hints_narrow_to_this_zone() -> None:
    selection = choose(zone_hinted(A, "z1"), zone_hinted(B, "z2"), zone_hinted(C, "z2", "z1"))

    assert addresses(selection.cluster) == [A, C]
    assert (selection.topology, selection.topology_reason) == ("SameZone", "applied")
    assert cluster_choices(selection)[1] == (False, "other-zone")


def test_node_hints_come_before_zone_hints() -> None:
    selection = choose(
        make_endpoint(A, node_hints=["n2"], zone_hints=["z1"]),
        make_endpoint(B, node_hints=["n1"], zone_hints=["z2"]),
    )

    assert addresses(selection.cluster) == [B]
    assert (selection.topology, selection.topology_reason) == ("SameNode", "applied")
    assert cluster_choices(selection) == [(False, "other-node"), (True, "ready")]


def test_node_hints_for_other_nodes_give_way_to_zone_hints() -> None:
    selection = choose(
        make_endpoint(A, node_hints=["n2"], zone_hints=["z1"]),
        make_endpoint(B, node_hints=["n3"], zone_hints=["z2"]),
    )

    assert addresses(selection.cluster) == [A]
    assert selection.topology == "SameZone"


def test_incomplete_node_hints_give_way_to_zone_hints() -> None:
    selection = choose(
        make_endpoint(A, node_hints=["n1"], zone_hints=["z2"]),
        make_endpoint(B, zone_hints=["z1"]),
    )

    assert addresses(selection.cluster) == [B]
    assert selection.topology == "SameZone"


def test_the_zone_of_an_endpoint_is_no_hint() -> None:
    selection = choose(make_endpoint(A, zone="z1"), make_endpoint(B, zone="z2"))

    assert addresses(selection.cluster) == [A, B]
    assert selection.topology_reason == "no-hints"


def test_hints_of_unready_endpoints_count_for_nothing() -> None:
    """Neither their hints nor the lack of them: only ready endpoints decide."""
    selection = choose(
        zone_hinted(A, "z1"), zone_hinted(B, ready=False), zone_hinted(C, "z2", ready=False)
    )

    assert selection.topology == "SameZone"
    assert addresses(selection.cluster) == [A]
    assert cluster_choices(selection)[1:] == [(False, "not-ready"), (False, "not-ready")]


def test_a_hint_for_this_zone_on_an_unready_endpoint_does_not_apply() -> None:
    selection = choose(zone_hinted(A, "z2"), zone_hinted(B, "z1", ready=False))

    assert addresses(selection.cluster) == [A]
    assert (selection.topology, selection.topology_reason) == ("", "no-endpoint-for-zone")


@pytest.mark.parametrize(
    ("endpoints", "node", "reason"),
    [
        pytest.param([], make_node(), "no-ready-endpoint", id="no endpoint"),
        pytest.param(
            [make_endpoint(A, ready=False, terminating=True, zone_hints=["z1"])],
            make_node(),
            "no-ready-endpoint",
            id="only terminating ones",
        ),
        pytest.param([make_endpoint(A)], make_node(), "no-hints", id="no hints"),
        pytest.param(
            [zone_hinted(A, "z1"), zone_hinted(B)],
            make_node(),
            "endpoint-without-hint",
            id="one endpoint without zone hint",
        ),
        pytest.param(
            [make_endpoint(A, node_hints=["n1"]), make_endpoint(B)],
            make_node(),
            "endpoint-without-hint",
            id="one endpoint without node hint",
        ),
        pytest.param(
            [zone_hinted(A, "z1")],
            make_node(zone=""),
            "node-without-zone",
            id="node without zone",
        ),
        pytest.param(
            [zone_hinted(A, "z2"), zone_hinted(B, "z3")],
            make_node(),
            "no-endpoint-for-zone",
            id="hints for other zones",
        ),
        pytest.param(
            [make_endpoint(A, node_hints=["n2"]), make_endpoint(B, node_hints=["n3"])],
            make_node(),
            "no-endpoint-for-node",
            id="hints for other nodes only",
        ),
    ],
)
def test_hints_that_cannot_be_followed_narrow_nothing_and_say_why(
    endpoints: list[Endpoint], node: NodeInfo, reason: TopologyReason
) -> None:
    selection = choose(*endpoints, node=node)

    assert (selection.topology, selection.topology_reason) == ("", reason)
    assert addresses(selection.cluster) == [e.address for e in endpoints]


def test_endpoints_standing_in_are_not_narrowed() -> None:
    selection = choose(
        make_endpoint(A, ready=False, terminating=True, zone_hints=["z2"]),
        make_endpoint(B, ready=False, terminating=True, zone_hints=["z1"]),
    )

    assert addresses(selection.cluster) == [A, B]
    assert selection.topology == ""


def test_the_local_list_is_never_narrowed() -> None:
    selection = choose(
        make_endpoint(A, is_local=True, zone_hints=["z2"]),
        make_endpoint(B, zone_hints=["z1"]),
        port=EXTERNAL_LOCAL,
    )

    assert addresses(selection.cluster) == [B]
    assert addresses(selection.local) == [A]
    assert addresses(selection.reachable) == [A, B]
