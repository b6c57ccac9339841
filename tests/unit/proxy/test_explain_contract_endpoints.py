"""What `sliceproxy explain -o json` promises of endpoints: what is taken from slices, and how slices are merged.

Everything expected here is derived from the contract and from what kube-proxy does, and is compared with what the
command prints.
"""

import itertools

import pytest

from tests.unit.proxy.explaining import Document, ask, endpoint_slice, explain, service

DUAL = "clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6]"
A = "addresses: [10.1.0.1]"
WEB = "{kubernetes.io/service-name: web}"


def endpoints(manifests: str, own: str = "n1") -> list[Document]:
    """Return the endpoints of the only document."""
    (document,) = explain(manifests, own)
    found: list[Document] = document["endpoints"]
    return found


def addresses(manifests: str) -> list[str]:
    return [e["address"] for e in endpoints(manifests)]


def endpoint(manifests: str, own: str = "n1") -> Document:
    (found,) = endpoints(manifests, own)
    return found


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ('[{name: "", port: 80}]', ["10.1.0.1:80"]),
        ('[{name: "", port: 80, protocol: null}]', ["10.1.0.1:80"]),
        ('[{name: "", port: 80, protocol: TCP}]', ["10.1.0.1:80"]),
        ('[{name: "", port: 80, protocol: UDP}]', []),
        # "" is a name, null is none
        ("[{name: null, port: 80}]", []),
        ("[{port: 80}]", []),
        ("[{name: http, port: 80}]", []),
        # null is not every port
        ('[{name: "", port: null}]', []),
        ('[{name: ""}]', []),
        ('[{name: "", port: 0}]', []),
        ("[]", []),
        ("null", []),
        ("[null]", []),
        # the number of the service port does not matter, and there may be several
        ('[{name: "", port: 8080}]', ["10.1.0.1:8080"]),
        (
            '[{name: "", port: 8080}, {name: "", port: 80}, {name: http, port: 81}]',
            ["10.1.0.1:8080", "10.1.0.1:80"],
        ),
    ],
)
def test_ports_match_by_name_and_protocol(ports: str, expected: list[str]) -> None:
    assert addresses(service() + endpoint_slice(A, ports=ports)) == sorted(expected)


def test_one_name_with_two_protocols_is_two_ports_each_with_its_own_endpoints() -> None:
    documents = explain(
        service(ports="[{name: dns, port: 53, protocol: UDP}, {name: dns, port: 53}]")
        + endpoint_slice(A, ports="[{name: dns, port: 5353, protocol: UDP}]", name="udp")
        + endpoint_slice(A, ports="[{name: dns, port: 5354, protocol: TCP}]", name="tcp")
    )

    assert {d["protocol"]: d["cluster"] for d in documents} == {
        "UDP": ["10.1.0.1:5353"],
        "TCP": ["10.1.0.1:5354"],
    }
    assert {d["servicePort"] for d in documents} == {"default/web:dns"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[10.1.0.1]", ["10.1.0.1:80"]),
        ("[10.1.0.1, 10.1.0.2]", ["10.1.0.1:80"]),
        ("[010.001.000.001]", ["10.1.0.1:80"]),
        ("['::ffff:10.1.0.1']", ["10.1.0.1:80"]),
        ("['::FFFF:10.1.0.010']", ["10.1.0.10:80"]),
        ("[]", []),
        ("null", []),
        ("[null]", []),
        ("['']", []),
        ("[pod.example.org]", []),
        ("['fd00::1']", []),
        ("[10.1.0.256]", []),
    ],
)
def test_the_first_address_counts_in_its_canonical_form(given: str, expected: list[str]) -> None:
    assert addresses(service() + endpoint_slice(f"addresses: {given}")) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("fd00::1", "[fd00::1]:80"),
        ("FD00::00A", "[fd00::a]:80"),
        ("fd00:0:0:0:1:0:0:1", "[fd00::1:0:0:1]:80"),
        ("2001:db8:0:1:1:1:1:1", "[2001:db8:0:1:1:1:1:1]:80"),
    ],
)
def test_ipv6_is_canonical_and_in_brackets(given: str, expected: str) -> None:
    manifests = service(cluster_ip="'fd00:96::1'")
    manifests += endpoint_slice(f"addresses: ['{given}']", address_type="IPv6")

    assert addresses(manifests) == [expected]


def test_a_slice_serves_its_own_family_only() -> None:
    documents = explain(
        service(DUAL)
        + endpoint_slice(A, name="v4")
        + endpoint_slice("addresses: ['fd00::1']", address_type="IPv6", name="v6")
    )

    assert {d["family"]: d["cluster"] for d in documents} == {
        "IPv4": ["10.1.0.1:80"],
        "IPv6": ["[fd00::1]:80"],
    }


@pytest.mark.parametrize("address_type", ["IPv6", "FQDN", "null", "''", "IPv5"])
def test_a_slice_of_another_address_type_gives_nothing(address_type: str) -> None:
    assert addresses(service() + endpoint_slice(A, address_type=address_type)) == []


def test_an_fqdn_slice_does_not_disturb_its_neighbours() -> None:
    manifests = service() + endpoint_slice(A)
    manifests += endpoint_slice(
        "addresses: [pod.example.org]", address_type="FQDN", name="by-name"
    )

    answer = ask(manifests)

    assert answer.only["cluster"] == ["10.1.0.1:80"]
    assert any("FQDN" in line for line in answer.warnings)


@pytest.mark.parametrize(
    ("labels", "belongs"),
    [
        (WEB, True),
        ("{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: me}", True),
        ("{kubernetes.io/service-name: api}", False),
        ("{kubernetes.io/service-name: Web}", False),
        ('{kubernetes.io/service-name: ""}', False),
        ("{kubernetes.io/service-name: null}", False),
        ("{}", False),
        ("null", False),
        ('{kubernetes.io/service-name: web, service.kubernetes.io/headless: ""}', False),
        ("{kubernetes.io/service-name: web, service.kubernetes.io/headless: 'false'}", False),
        ("{kubernetes.io/service-name: web, service.kubernetes.io/headless: null}", False),
        # this label is of services only
        ("{kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: x}", True),
    ],
)
def test_labels_say_to_which_service_a_slice_belongs(labels: str, belongs: bool) -> None:
    expected = ["10.1.0.1:80"] if belongs else []

    assert addresses(service() + endpoint_slice(A, labels=labels)) == expected


def test_a_slice_of_another_namespace_belongs_to_another_service() -> None:
    elsewhere = endpoint_slice(A).replace("namespace: default", "namespace: shop")

    assert addresses(service() + elsewhere) == []


CONDITIONS = [
    ("", (True, True, False)),
    ("conditions: null", (True, True, False)),
    ("conditions: {}", (True, True, False)),
    ("conditions: {ready: null, serving: null, terminating: null}", (True, True, False)),
    ("conditions: {ready: false}", (False, True, False)),
    ("conditions: {ready: false, serving: null}", (False, True, False)),
    ("conditions: {serving: false}", (True, False, False)),
    ("conditions: {terminating: true}", (True, True, True)),
    ("conditions: {ready: false, serving: true, terminating: true}", (False, True, True)),
    ("conditions: {ready: false, serving: false, terminating: true}", (False, False, True)),
    ("conditions: {ready: true, serving: true, terminating: true}", (True, True, True)),
]


@pytest.mark.parametrize(("conditions", "expected"), CONDITIONS)
def test_absent_conditions_are_true_true_and_false_each_on_its_own(
    conditions: str, expected: tuple[bool, bool, bool]
) -> None:
    found = endpoint(service() + endpoint_slice(f"{A}, {conditions}"))

    assert (found["ready"], found["serving"], found["terminating"]) == expected


@pytest.mark.parametrize(
    ("fields", "own", "expected"),
    [
        ("nodeName: n1", "n1", ("n1", True)),
        ("nodeName: n2", "n1", ("n2", False)),
        ("nodeName: n1", "N1", ("n1", True)),
        # only the own name is lower-cased
        ("nodeName: N1", "N1", ("N1", False)),
        ("nodeName: N1", "n1", ("N1", False)),
        ("nodeName: null", "n1", (None, False)),
        ("", "n1", (None, False)),
        # of v1beta1 and before
        ("topology: {kubernetes.io/hostname: n1}", "n1", (None, False)),
        ("deprecatedTopology: {kubernetes.io/hostname: n1}", "n1", (None, False)),
    ],
)
def test_an_endpoint_is_local_if_its_node_name_is_exactly_the_own_one(
    fields: str, own: str, expected: tuple[str | None, bool]
) -> None:
    found = endpoint(service() + endpoint_slice(f"{A}, {fields}"), own)

    assert (found["nodeName"], found["isLocal"]) == expected


@pytest.mark.parametrize(
    ("fields", "zone"), [("zone: z7", "z7"), ("zone: null", None), ("", None)]
)
def test_the_zone_of_an_endpoint_is_shown(fields: str, zone: str | None) -> None:
    assert endpoint(service() + endpoint_slice(f"{A}, {fields}"))["zone"] == zone


@pytest.mark.parametrize("given", ["null", "[]", "[null]"])
def test_a_slice_without_endpoints_gives_none(given: str) -> None:
    manifests = endpoint_slice().replace("endpoints: []", f"endpoints: {given}")

    (document,) = explain(service() + manifests)

    assert (document["endpoints"], document["cluster"], document["anyUsable"]) == ([], [], False)


def test_endpoints_are_merged_over_all_slices_and_sorted_bytewise() -> None:
    (document,) = explain(
        service()
        + endpoint_slice("addresses: [10.0.1.1]", "addresses: [2.2.2.2]", name="b")
        + endpoint_slice("addresses: [10.0.1.10]", name="a")
        + endpoint_slice("addresses: [2.2.2.22]", name="c", ports='[{name: "", port: 8}]')
    )

    expected = ["10.0.1.10:80", "10.0.1.1:80", "2.2.2.22:8", "2.2.2.2:80"]
    assert [e["address"] for e in document["endpoints"]] == expected
    assert document["cluster"] == expected
    assert [e["slice"] for e in document["endpoints"]] == ["a", "b", "c", "b"]


def test_three_hundred_endpoints_are_sorted_bytewise() -> None:
    given = [f"10.1.{n // 100}.{n % 100}" for n in range(300)]
    slices = [
        endpoint_slice(*(f"addresses: [{ip}]" for ip in part), name=f"web-{index}")
        for index, part in enumerate((given[200:], given[:100], given[100:200]))
    ]

    (document,) = explain(service() + "".join(slices))

    expected = sorted(f"{ip}:80" for ip in given)
    assert [e["address"] for e in document["endpoints"]] == expected
    assert (document["cluster"], document["reachable"]) == (expected, expected)


def test_ipv6_endpoints_are_sorted_as_they_are_printed() -> None:
    manifests = service(cluster_ip="'fd00:96::1'") + endpoint_slice(
        "addresses: ['fd00::a']",
        "addresses: ['FD00::9']",
        "addresses: ['fd00:0:0:0::10']",
        address_type="IPv6",
    )

    assert addresses(manifests) == ["[fd00::10]:80", "[fd00::9]:80", "[fd00::a]:80"]


STATEMENTS = {
    "ready": "conditions: {ready: true}",
    "unready": "conditions: {ready: false}",
    "draining": "conditions: {ready: false, serving: true, terminating: true}",
    "published": "conditions: {ready: true, serving: true, terminating: true}",
}


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        # the later one wins unless it is terminating
        ("ready", "ready", "second"),
        ("ready", "unready", "second"),
        ("unready", "ready", "second"),
        ("draining", "ready", "second"),
        ("draining", "unready", "second"),
        ("ready", "draining", "first"),
        ("unready", "draining", "first"),
        ("draining", "draining", "first"),
        ("published", "draining", "first"),
        ("ready", "published", "first"),
        ("published", "ready", "second"),
    ],
)
def test_of_duplicates_the_last_that_is_not_terminating_replaces_the_others_wholesale(
    first: str, second: str, winner: str
) -> None:
    """Conditions, node and zone are those of one statement, never a mixture."""
    slices = [
        endpoint_slice(f"{A}, {STATEMENTS[first]}, nodeName: n1, zone: z1", name="first"),
        endpoint_slice(f"{A}, {STATEMENTS[second]}, nodeName: n2, zone: z2", name="second"),
    ]

    for order in itertools.permutations(slices):
        found = endpoint(service() + "".join(order))

        condition = STATEMENTS[first if winner == "first" else second]
        assert found["slice"] == winner
        assert found["isLocal"] is (winner == "first")
        assert (found["nodeName"], found["zone"]) == (
            ("n1", "z1") if winner == "first" else ("n2", "z2")
        )
        assert found["ready"] is ("ready: true" in condition)
        assert found["terminating"] is ("terminating: true" in condition)


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        (["web-2", "web-10"], "web-2"),
        (["web-a", "web-B"], "web-a"),
        (["web", "web-1"], "web-1"),
        (["z", "y", "x"], "z"),
    ],
)
def test_slices_are_visited_in_bytewise_order_of_their_names(
    names: list[str], winner: str
) -> None:
    for order in itertools.permutations(names):
        slices = "".join(endpoint_slice(A, name=name) for name in order)

        assert endpoint(service() + slices)["slice"] == winner


def test_duplicates_within_a_slice_are_visited_in_list_order() -> None:
    found = endpoint(
        service()
        + endpoint_slice(
            f"{A}, nodeName: n1",
            "addresses: [010.001.000.001], nodeName: n2",
            f"{A}, nodeName: n3, conditions: {{terminating: true}}",
        )
    )

    assert found["nodeName"] == "n2"


def test_a_duplicate_brings_its_hints_along() -> None:
    (document,) = explain(
        service()
        + "kind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n---\n"
        + endpoint_slice(f"{A}, hints: {{forZones: [{{name: z1}}]}}", name="first")
        + endpoint_slice(f"{A}, hints: {{forZones: [{{name: z2}}]}}", name="second")
    )

    assert document["topology"] == ""


def test_one_address_with_two_ports_is_two_endpoints() -> None:
    (document,) = explain(
        service(ports="[{name: http, port: 80}]")
        + endpoint_slice(A, name="old", ports="[{name: http, port: 8080}]")
        + endpoint_slice(A, name="new", ports="[{name: http, port: 9090}]")
    )

    assert document["cluster"] == ["10.1.0.1:8080", "10.1.0.1:9090"]


def test_one_address_with_its_ports_in_two_slices_serves_both_ports() -> None:
    documents = explain(
        service(ports="[{name: a, port: 1}, {name: b, port: 2}]")
        + endpoint_slice(A, name="one", ports="[{name: a, port: 11}]")
        + endpoint_slice(A, name="two", ports="[{name: b, port: 22}]")
    )

    assert {d["servicePort"]: d["cluster"] for d in documents} == {
        "default/web:a": ["10.1.0.1:11"],
        "default/web:b": ["10.1.0.1:22"],
    }


def test_the_last_statement_of_a_slice_counts_whole() -> None:
    """A slice that is given again replaces what it said before, even by saying nothing."""
    manifests = service() + endpoint_slice(A) + endpoint_slice("addresses: [10.1.0.2]")

    assert addresses(manifests) == ["10.1.0.2:80"]
    assert addresses(manifests + endpoint_slice()) == []
