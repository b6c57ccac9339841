"""The rules of selection once more, as sets and independent of how the code decides, on random endpoints."""

import itertools
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Endpoint, NodeInfo, ServicePort
from proxy.selection import Reason, Topology, select
from tests.model_builders import make_endpoint, make_node, make_service_port


class Expected(NamedTuple):
    cluster: set[str] | None
    local: set[str] | None
    reachable: set[str]
    is_any_usable: bool
    topology: Topology


def usable_of(candidates: list[Endpoint], narrowed: set[str] | None = None) -> set[str]:
    ready = {e.address for e in candidates if e.ready}
    if narrowed is not None:
        ready &= narrowed
    return ready or {e.address for e in candidates if e.serving and e.terminating}


def oracle(endpoints: list[Endpoint], port: ServicePort, node: NodeInfo) -> Expected:
    is_external = port.node_port != 0 or len(port.external_ips + port.load_balancer_vips) > 0
    ready = [e for e in endpoints if e.ready]
    topology: Topology = ""
    narrowed: set[str] | None = None
    by_node = {e.address: e.node_hints or frozenset[str]() for e in ready}
    by_zone = {e.address: e.zone_hints or frozenset[str]() for e in ready}
    modes: list[tuple[Topology, dict[str, frozenset[str]], str]] = [
        ("SameNode", by_node, node.name),
        ("SameZone", by_zone, node.zone),
    ]
    for mode, hints, own in modes:
        matching = {address for address, names in hints.items() if own in names}
        if topology == "" and own != "" and matching and all(hints.values()):
            topology, narrowed = mode, matching
    cluster: set[str] | None = usable_of(endpoints, narrowed)
    local: set[str] | None = usable_of([e for e in endpoints if e.is_local])
    if port.internal_local and not is_external:
        cluster, topology = None, ""
    if not port.internal_local and not (port.external_local and is_external):
        local = None
    return Expected(
        cluster,
        local,
        (cluster or set()) | (local or set()),
        bool(usable_of(endpoints)),
        topology,
    )


flags = st.booleans()
nodes = st.builds(make_node, zone=st.sampled_from(["", "z1", "z2"]))
ports = st.builds(
    make_service_port,
    node_port=st.sampled_from([0, 30080]),
    external_ips=st.sampled_from([(), ("203.0.113.1",)]),
    load_balancer_vips=st.sampled_from([(), ("203.0.113.2",)]),
    internal_local=flags,
    external_local=flags,
)
# ready, serving, terminating, is_local
conditions = st.sampled_from(list(itertools.product([True, False], repeat=4)))
zone_sets: st.SearchStrategy[tuple[str, ...]] = st.sampled_from(
    [("z1",), ("z2",), ("z3",), ("z1", "z2")]
)
node_sets: st.SearchStrategy[tuple[str, ...]] = st.sampled_from(
    [("n1",), ("n2",), ("n3",), ("n1", "n2")]
)


@st.composite
def endpoint_lists(draw: st.DrawFn) -> list[Endpoint]:
    # hints count only if all ready endpoints have them, so mostly all or none do
    none: st.SearchStrategy[tuple[str, ...]] = st.just(())
    zone_hints = draw(st.sampled_from([zone_sets, none | zone_sets, none]))
    node_hints = draw(st.sampled_from([node_sets, none | node_sets, none]))
    endpoints = []
    for number, flags_of_one in enumerate(draw(st.lists(conditions, max_size=5))):
        ready, serving, terminating, is_local = flags_of_one
        endpoints.append(
            make_endpoint(
                f"10.1.0.{number}:80",
                ready=ready,
                serving=serving,
                terminating=terminating,
                is_local=is_local,
                zone_hints=draw(zone_hints),
                node_hints=draw(node_hints),
            )
        )
    return endpoints


def is_true(
    reason: Reason, e: Endpoint, scope: list[Endpoint], topology: Topology, node: NodeInfo
) -> bool:
    """Whether a reason for being in a list or not is the truth; only `scope` may be in the list."""
    has_ready = any(other.ready for other in scope)
    truths: dict[Reason, bool] = {
        "ready": e.ready,
        "terminating-fallback": not e.ready and e.serving and e.terminating and not has_ready,
        "not-local": e not in scope,
        "other-node": e.ready and topology == "SameNode" and node.name not in (e.node_hints or ()),
        "other-zone": e.ready and topology == "SameZone" and node.zone not in (e.zone_hints or ()),
        "not-ready": not e.ready and not e.terminating,
        "terminating": not e.ready and e.terminating and e.serving and has_ready,
        "not-serving": not e.ready and e.terminating and not e.serving,
    }
    return truths[reason]


@settings(max_examples=400, deadline=None)
@given(endpoint_lists(), ports, nodes)
def test_selection_equals_the_rules(
    endpoints: list[Endpoint], port: ServicePort, node: NodeInfo
) -> None:
    selection = select(tuple(endpoints), port, node)

    expected = oracle(endpoints, port, node)
    assert (
        Expected(
            None if selection.cluster is None else {e.address for e in selection.cluster},
            None if selection.local is None else {e.address for e in selection.local},
            {e.address for e in selection.reachable},
            selection.is_any_usable,
            selection.topology,
        )
        == expected
    )


@settings(max_examples=400, deadline=None)
@given(endpoint_lists(), ports, nodes)
def test_every_endpoint_is_in_a_list_or_not_for_one_true_reason(
    endpoints: list[Endpoint], port: ServicePort, node: NodeInfo
) -> None:
    selection = select(tuple(endpoints), port, node)

    assert selection.endpoints == tuple(endpoints)
    here = [e for e in endpoints if e.is_local]
    for chosen, choices, scope in (
        (selection.cluster, [v.cluster for v in selection.verdicts], endpoints),
        (selection.local, [v.local for v in selection.verdicts], here),
    ):
        decided = list(zip(endpoints, choices, strict=True))
        if chosen is None:
            assert {choice.reason for choice in choices} <= {"policy-unused"}
        else:
            assert [e for e, choice in decided if choice.selected] == list(chosen)
            for e, choice in decided:
                assert choice.selected == (choice.reason in {"ready", "terminating-fallback"})
                assert is_true(choice.reason, e, scope, selection.topology, node)


@settings(max_examples=100, deadline=None)
@given(endpoint_lists(), ports, nodes)
def test_lists_keep_the_order_of_the_endpoints(
    endpoints: list[Endpoint], port: ServicePort, node: NodeInfo
) -> None:
    selection = select(tuple(endpoints), port, node)

    for chosen in (selection.cluster or (), selection.local or (), selection.reachable):
        assert list(chosen) == [e for e in endpoints if e in chosen]
