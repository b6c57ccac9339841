"""What `sliceproxy explain -o json` promises of selection: lists, topology, and what an empty list means.

Everything expected here is derived from the contract and from what kube-proxy does, and is compared with what the
command prints. The own node is n1 in zone z1.
"""

import pytest

from tests.unit.proxy.explaining import Document, endpoint_slice, explain, node, service

READY = "conditions: {ready: true}"
UNREADY = "conditions: {ready: false}"
DRAINING = "conditions: {ready: false, serving: true, terminating: true}"
GONE = "conditions: {ready: false, serving: false, terminating: true}"
PUBLISHED = "conditions: {ready: true, serving: true, terminating: true}"
HERE, THERE = "nodeName: n1", "nodeName: n2"

# which frontends and policies a service has
INTERNAL = "internalTrafficPolicy: Local"
EXTERNAL = "type: LoadBalancer, externalTrafficPolicy: Local, externalIPs: [203.0.113.1]"


def zones(*names: str) -> str:
    return f"hints: {{forZones: [{', '.join(f'{{name: {name}}}' for name in names)}]}}"


def nodes(*names: str) -> str:
    return f"hints: {{forNodes: [{', '.join(f'{{name: {name}}}' for name in names)}]}}"


def both(node_name: str, zone: str) -> str:
    return f"hints: {{forNodes: [{{name: {node_name}}}], forZones: [{{name: {zone}}}]}}"


def select(*endpoints: str, spec: str = "", zone: str = "z1") -> Document:
    """Return the document about endpoints 10.1.0.1, 10.1.0.2, … with these fields."""
    numbered = [f"addresses: [10.1.0.{n}], {fields}" for n, fields in enumerate(endpoints, 1)]
    (document,) = explain(service(spec) + endpoint_slice(*numbered) + node("n1", zone))
    return document


def numbers(addresses: list[str] | None) -> list[int] | None:
    if addresses is None:
        return None
    return [int(a.removeprefix("10.1.0.").removesuffix(":80")) for a in addresses]


Lists = tuple[list[int] | None, list[int] | None, list[int] | None, bool]


def lists(document: Document) -> Lists:
    """Return cluster, local and reachable as the endpoints' numbers, and anyUsable."""
    cluster, local, reachable = (
        numbers(document[name]) for name in ("cluster", "local", "reachable")
    )
    return cluster, local, reachable, document["anyUsable"]


def reasons(document: Document, which: str) -> list[str]:
    """Return the reason of each endpoint, with a + before those that are selected."""
    return ["+" * e[which]["selected"] + e[which]["reason"] for e in document["endpoints"]]


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([], ([], None, [], False)),
        ([READY, READY], ([1, 2], None, [1, 2], True)),
        ([READY, UNREADY, DRAINING, GONE], ([1], None, [1], True)),
        # what terminates stands in only where nothing is ready
        ([UNREADY, DRAINING, GONE], ([2], None, [2], True)),
        ([DRAINING, DRAINING], ([1, 2], None, [1, 2], True)),
        # serving alone is not enough, nor is terminating
        ([UNREADY], ([], None, [], False)),
        ([GONE], ([], None, [], False)),
        (["conditions: {ready: false, serving: true}"], ([], None, [], False)),
        # ready counts whatever else is said
        ([PUBLISHED], ([1], None, [1], True)),
        ([PUBLISHED, DRAINING], ([1], None, [1], True)),
        (["conditions: {ready: true, serving: false}"], ([1], None, [1], True)),
        (["conditions: {ready: true, serving: false, terminating: true}"], ([1], None, [1], True)),
    ],
)
def test_the_cluster_list(endpoints: list[str], expected: Lists) -> None:
    assert lists(select(*endpoints)) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([], (None, [], [], False)),
        ([f"{READY}, {HERE}", f"{READY}, {THERE}"], (None, [1], [1], True)),
        # nothing here although something is there: what is sent is dropped
        ([f"{READY}, {THERE}"], (None, [], [], True)),
        ([f"{DRAINING}, {THERE}"], (None, [], [], True)),
        # nothing anywhere: it is refused
        ([f"{UNREADY}, {HERE}", f"{GONE}, {THERE}"], (None, [], [], False)),
        # the fallback is decided for this list alone
        ([f"{DRAINING}, {HERE}", f"{READY}, {THERE}"], (None, [1], [1], True)),
        ([f"{DRAINING}, {HERE}", f"{READY}, {HERE}"], (None, [2], [2], True)),
        ([f"{DRAINING}, {HERE}", f"{PUBLISHED}, {HERE}"], (None, [2], [2], True)),
        ([f"{GONE}, {HERE}", f"{UNREADY}, {HERE}", f"{READY}, {THERE}"], (None, [], [], True)),
        # an endpoint without a node is on no node
        ([READY], (None, [], [], True)),
    ],
)
def test_the_local_list_of_a_service_that_uses_no_other(
    endpoints: list[str], expected: Lists
) -> None:
    assert lists(select(*endpoints, spec=INTERNAL)) == expected


@pytest.mark.parametrize("spec", [EXTERNAL, f"{EXTERNAL}, {INTERNAL}"])
@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([], ([], [], [], False)),
        ([f"{READY}, {HERE}", f"{READY}, {THERE}"], ([1, 2], [1], [1, 2], True)),
        ([f"{READY}, {THERE}"], ([1], [], [1], True)),
        # each list falls back on its own, and what is reachable is in either
        ([f"{DRAINING}, {HERE}", f"{READY}, {THERE}"], ([2], [1], [1, 2], True)),
        ([f"{DRAINING}, {HERE}", f"{DRAINING}, {THERE}"], ([1, 2], [1], [1, 2], True)),
        ([f"{DRAINING}, {HERE}", f"{READY}, {HERE}", READY], ([2, 3], [2], [2, 3], True)),
        ([f"{UNREADY}, {HERE}", f"{UNREADY}, {THERE}"], ([], [], [], False)),
    ],
)
def test_both_lists(endpoints: list[str], expected: Lists, spec: str) -> None:
    assert lists(select(*endpoints, spec=spec)) == expected


VIP = "{loadBalancer: {ingress: [{ip: 203.0.113.2}]}}"
PROXIED = "{loadBalancer: {ingress: [{ip: 203.0.113.2, ipMode: Proxy}]}}"
OTHER_FAMILY = "{loadBalancer: {ingress: [{ip: 'fd00:f::2'}]}}"
ETP = "externalTrafficPolicy: Local"
NODE_PORT = "[{port: 80, nodePort: 30080}]"
PLAIN = "[{port: 80}]"


@pytest.mark.parametrize(
    ("spec", "ports", "status", "uses_cluster", "uses_local"),
    [
        ("", PLAIN, "{}", True, False),
        ("internalTrafficPolicy: Cluster", PLAIN, "{}", True, False),
        ("internalTrafficPolicy: null", PLAIN, "{}", True, False),
        ("internalTrafficPolicy: Local", PLAIN, "{}", False, True),
        # externally accessible is what can be reached from outside in this family; the type alone is not enough
        ("type: NodePort, internalTrafficPolicy: Local", PLAIN, "{}", False, True),
        ("type: LoadBalancer, internalTrafficPolicy: Local", PLAIN, "{}", False, True),
        ("internalTrafficPolicy: Local", NODE_PORT, "{}", True, True),
        ("internalTrafficPolicy: Local", PLAIN, VIP, True, True),
        ("internalTrafficPolicy: Local", PLAIN, PROXIED, False, True),
        ("internalTrafficPolicy: Local", PLAIN, OTHER_FAMILY, False, True),
        ("internalTrafficPolicy: Local, externalIPs: [203.0.113.1]", PLAIN, "{}", True, True),
        ("internalTrafficPolicy: Local, externalIPs: ['fd00:e::1']", PLAIN, "{}", False, True),
        ("internalTrafficPolicy: Local, externalIPs: [junk]", PLAIN, "{}", False, True),
        # externalTrafficPolicy
        (f"type: NodePort, {ETP}", NODE_PORT, "{}", True, True),
        (f"type: LoadBalancer, {ETP}", NODE_PORT, "{}", True, True),
        (f"type: LoadBalancer, {ETP}", PLAIN, VIP, True, True),
        (f"{ETP}, externalIPs: [203.0.113.1]", PLAIN, "{}", True, True),
        (f"type: null, {ETP}, externalIPs: [203.0.113.1]", PLAIN, "{}", True, True),
        ("type: NodePort, externalTrafficPolicy: Cluster", NODE_PORT, "{}", True, False),
        ("type: NodePort, externalTrafficPolicy: null", NODE_PORT, "{}", True, False),
        # where it has nothing to govern
        (f"type: NodePort, {ETP}", PLAIN, "{}", True, False),
        (f"type: LoadBalancer, {ETP}", PLAIN, PROXIED, True, False),
        (f"type: LoadBalancer, {ETP}", PLAIN, OTHER_FAMILY, True, False),
        # of a ClusterIP service it is honoured with external IPs only, of which any entry counts
        (f"type: ClusterIP, {ETP}", NODE_PORT, "{}", True, False),
        (f"type: ClusterIP, {ETP}", PLAIN, VIP, True, False),
        (ETP, NODE_PORT, "{}", True, False),
        (f"{ETP}, externalIPs: []", NODE_PORT, "{}", True, False),
        (f"{ETP}, externalIPs: ['fd00:e::1']", NODE_PORT, "{}", True, True),
        (f"{ETP}, externalIPs: [junk]", NODE_PORT, "{}", True, True),
        (f"{ETP}, externalIPs: ['fd00:e::1']", PLAIN, "{}", True, False),
    ],
)
def test_a_list_is_null_exactly_where_no_policy_uses_it(
    spec: str, ports: str, status: str, uses_cluster: bool, uses_local: bool
) -> None:
    (document,) = explain(
        service(spec, ports=ports, status=status)
        + endpoint_slice("addresses: [10.1.0.1], nodeName: n1")
    )

    all_of_it = ["10.1.0.1:80"]
    assert document["cluster"] == (all_of_it if uses_cluster else None)
    assert document["local"] == (all_of_it if uses_local else None)
    (endpoint,) = document["endpoints"]
    assert endpoint["cluster"]["selected"] is uses_cluster
    assert endpoint["local"]["selected"] is uses_local


def test_policies_are_judged_for_each_family() -> None:
    """An external IP of one family says nothing of the other."""
    documents = explain(
        service(
            "clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6],"
            "internalTrafficPolicy: Local, externalIPs: ['fd00:e::1']"
        )
    )

    assert {d["family"]: (d["cluster"], d["local"]) for d in documents} == {
        "IPv4": (None, []),
        "IPv6": ([], []),
    }


@pytest.mark.parametrize(
    ("endpoints", "expected", "topology"),
    [
        # no hints, and empty ones
        ([READY, READY], [1, 2], ""),
        (["hints: {}", "hints: null"], [1, 2], ""),
        (["hints: {forZones: []}", zones("z1")], [1, 2], ""),
        (["hints: {forZones: null}", zones("z1")], [1, 2], ""),
        # zones
        ([zones("z1"), zones("z2")], [1], "SameZone"),
        ([zones("z2", "z1"), zones("z2")], [1], "SameZone"),
        ([zones("z1"), READY], [1, 2], ""),
        ([zones("z2"), zones("z3")], [1, 2], ""),
        ([zones("Z1"), zones("z2")], [1, 2], ""),
        # only what is ready counts, whether it has hints or not
        ([zones("z1"), zones("z2"), UNREADY, DRAINING], [1], "SameZone"),
        ([zones("z2"), f"{UNREADY}, {zones('z1')}"], [1], ""),
        ([f"{UNREADY}, {zones('z1')}"], [], ""),
        ([f"{DRAINING}, {zones('z1')}", f"{DRAINING}, {zones('z2')}"], [1, 2], ""),
        ([f"{PUBLISHED}, {zones('z1')}", zones("z2")], [1], "SameZone"),
        # nodes before zones
        ([nodes("n1"), nodes("n2")], [1], "SameNode"),
        ([nodes("n2", "n1"), nodes("n2")], [1], "SameNode"),
        ([both("n1", "z2"), both("n2", "z1")], [1], "SameNode"),
        ([both("n2", "z1"), both("n3", "z2")], [1], "SameZone"),
        ([both("n1", "z1"), zones("z2")], [1], "SameZone"),
        ([both("n1", "z1"), nodes("n2")], [1], "SameNode"),
        ([both("n1", "z1"), READY], [1, 2], ""),
        ([both("n2", "z2"), both("n3", "z3")], [1, 2], ""),
        ([nodes("n1"), READY], [1, 2], ""),
        ([nodes("n2"), nodes("n3")], [1, 2], ""),
        # hints count, not where an endpoint is
        (["zone: z1", "zone: z2"], [1, 2], ""),
        ([f"zone: z2, {HERE}, {zones('z2')}", f"zone: z1, {zones('z1')}"], [2], "SameZone"),
    ],
)
def test_hints_narrow_the_cluster_list_if_all_that_is_ready_has_them(
    endpoints: list[str], expected: list[int], topology: str
) -> None:
    found = select(*endpoints)

    assert (numbers(found["cluster"]), found["topology"]) == (expected, topology)
    assert found["reachable"] == found["cluster"]


@pytest.mark.parametrize(
    ("endpoints", "expected", "topology"),
    [
        ([zones("z1"), zones("z2")], [1, 2], ""),
        ([zones('""'), zones("z2")], [1, 2], ""),
        ([nodes("n1"), nodes("n2")], [1], "SameNode"),
    ],
)
def test_a_node_without_a_zone_follows_no_zone_hints(
    endpoints: list[str], expected: list[int], topology: str
) -> None:
    found = select(*endpoints, zone='""')

    assert (numbers(found["cluster"]), found["topology"]) == (expected, topology)


def test_hints_never_narrow_the_local_list() -> None:
    found = select(
        f"{HERE}, {zones('z2')}",
        f"{HERE}, {zones('z1')}",
        f"{THERE}, {zones('z1')}",
        spec=EXTERNAL,
    )

    assert found["topology"] == "SameZone"
    assert lists(found) == ([2, 3], [1, 2], [1, 2, 3], True)


def test_where_the_cluster_list_is_not_used_there_is_no_topology() -> None:
    found = select(f"{HERE}, {zones('z1')}", f"{THERE}, {zones('z2')}", spec=INTERNAL)

    assert found["topology"] == ""
    assert lists(found) == (None, [1], [1], True)


def test_what_the_service_says_of_topology_does_not_matter() -> None:
    plain = select(zones("z1"), zones("z2"))

    assert select(zones("z1"), zones("z2"), spec="trafficDistribution: PreferClose") == plain
    assert select(READY, READY, spec="trafficDistribution: PreferSameZone")["topology"] == ""


def test_reasons_of_the_cluster_list() -> None:
    assert reasons(
        select(zones("z1"), zones("z2"), UNREADY, DRAINING, GONE, PUBLISHED + ", " + zones("z1")),
        "cluster",
    ) == ["+ready", "other-zone", "not-ready", "terminating", "not-serving", "+ready"]
    assert reasons(select(nodes("n1"), nodes("n2")), "cluster") == ["+ready", "other-node"]
    assert reasons(select(DRAINING, GONE, UNREADY), "cluster") == [
        "+terminating-fallback",
        "not-serving",
        "not-ready",
    ]
    assert reasons(select(READY, spec=INTERNAL), "cluster") == ["policy-unused"]


def test_reasons_of_the_local_list() -> None:
    here = [f"{condition}, {HERE}" for condition in (READY, UNREADY, DRAINING, GONE)]

    assert reasons(select(*here, READY, UNREADY, spec=INTERNAL), "local") == [
        "+ready",
        "not-ready",
        "terminating",
        "not-serving",
        "not-local",
        "not-local",
    ]
    assert reasons(select(*here[1:], spec=INTERNAL), "local") == [
        "not-ready",
        "+terminating-fallback",
        "not-serving",
    ]
    assert reasons(select(here[0]), "local") == ["policy-unused"]
