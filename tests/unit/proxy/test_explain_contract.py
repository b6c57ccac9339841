"""What `sliceproxy explain -o json` promises of Services: which are shown, and each of their fields.

Everything expected here is derived from the contract and from what kube-proxy does, and is compared with what the
command prints. Frontends, endpoints and selection have files of their own.
"""

import pytest

from tests.unit.proxy.explaining import (
    ENDPOINT_KEYS,
    KEYS,
    Document,
    ask,
    endpoint_slice,
    explain,
    node,
    service,
)

DUAL = "clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6]"


def only(manifests: str, own: str = "n1") -> Document:
    (document,) = explain(manifests, own)
    return document


def identities(documents: list[Document]) -> list[tuple[str, str, str]]:
    return sorted((d["servicePort"], d["protocol"], d["family"]) for d in documents)


def test_the_whole_answer() -> None:
    manifests = (
        node("n1", "z1")
        + """\
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: ns}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1]
  ipFamilies: [IPv4]
  ports: [{name: portname, protocol: TCP, port: 80, nodePort: 30080, targetPort: http}]
  externalIPs: [203.0.113.1]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [198.51.100.0/24]
status: {loadBalancer: {ingress: [{ip: 203.0.113.2}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: svc-abc, namespace: ns, labels: {kubernetes.io/service-name: svc}}
addressType: IPv4
ports: [{name: portname, protocol: TCP, port: 80}]
endpoints:
  - addresses: [10.1.2.3]
    conditions: {ready: true, serving: true, terminating: false}
    nodeName: n2
    zone: z2
    hints: {forZones: [{name: z1}]}
  - addresses: [10.1.2.4]
    conditions: {ready: false, serving: true, terminating: true}
    nodeName: n1
    zone: z1
"""
    )

    answer = ask(manifests)

    assert (answer.code, answer.stderr) == (0, "")
    assert answer.documents == [
        {
            "servicePort": "ns/svc:portname",
            "protocol": "TCP",
            "family": "IPv4",
            "node": "n1",
            "zone": "z1",
            "cluster": ["10.1.2.3:80"],
            "local": ["10.1.2.4:80"],
            "reachable": ["10.1.2.3:80", "10.1.2.4:80"],
            "anyUsable": True,
            "topology": "SameZone",
            "endpoints": [
                {
                    "address": "10.1.2.3:80",
                    "slice": "svc-abc",
                    "ready": True,
                    "serving": True,
                    "terminating": False,
                    "isLocal": False,
                    "nodeName": "n2",
                    "zone": "z2",
                    "cluster": {"selected": True, "reason": "ready"},
                    "local": {"selected": False, "reason": "not-local"},
                },
                {
                    "address": "10.1.2.4:80",
                    "slice": "svc-abc",
                    "ready": False,
                    "serving": True,
                    "terminating": True,
                    "isLocal": True,
                    "nodeName": "n1",
                    "zone": "z1",
                    "cluster": {"selected": False, "reason": "terminating"},
                    "local": {"selected": True, "reason": "terminating-fallback"},
                },
            ],
            "frontends": [
                {"kind": "ClusterIP", "address": "10.0.0.1", "port": 80},
                {"kind": "NodePort", "address": None, "port": 30080},
                {"kind": "ExternalIP", "address": "203.0.113.1", "port": 80},
                {"kind": "LoadBalancer", "address": "203.0.113.2", "port": 80},
            ],
            "sessionAffinity": {"timeoutSeconds": 10800},
            "healthCheckNodePort": 31000,
            "sourceRanges": ["198.51.100.0/24"],
        }
    ]
    assert list(answer.only) == KEYS
    assert [list(e) for e in answer.only["endpoints"]] == [ENDPOINT_KEYS] * 2


def test_what_is_absent_is_zero_empty_or_null() -> None:
    assert only(service()) == {
        "servicePort": "default/web",
        "protocol": "TCP",
        "family": "IPv4",
        "node": "n1",
        "zone": "",
        "cluster": [],
        "local": None,
        "reachable": [],
        "anyUsable": False,
        "topology": "",
        "endpoints": [],
        "frontends": [{"kind": "ClusterIP", "address": "10.96.0.1", "port": 80}],
        "sessionAffinity": None,
        "healthCheckNodePort": 0,
        "sourceRanges": [],
    }


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("[{port: 80}]", [("default/web", "TCP")]),
        ("[{port: 80, name: null}]", [("default/web", "TCP")]),
        ('[{port: 80, name: ""}]', [("default/web", "TCP")]),
        ("[{port: 80, protocol: null}]", [("default/web", "TCP")]),
        ("[{port: 80, name: http}]", [("default/web:http", "TCP")]),
        (
            "[{port: 53, name: dns, protocol: UDP}, {port: 53, name: dns, protocol: TCP}]",
            [("default/web:dns", "TCP"), ("default/web:dns", "UDP")],
        ),
        (
            "[{port: 80, name: a}, {port: 80, name: b, protocol: SCTP}]",
            [("default/web:a", "TCP"), ("default/web:b", "SCTP")],
        ),
        ("[]", []),
        ("null", []),
    ],
)
def test_each_name_and_protocol_of_a_port_is_one_object(
    ports: str, expected: list[tuple[str, str]]
) -> None:
    found = identities(explain(service(ports=ports)))

    assert found == [(name, protocol, "IPv4") for name, protocol in expected]


@pytest.mark.parametrize(
    ("cluster_ip", "spec", "expected"),
    [
        ("10.96.0.1", "", {"IPv4": "10.96.0.1"}),
        ("'fd00:96::1'", "", {"IPv6": "fd00:96::1"}),
        ("10.96.0.1", "ipFamilies: null, clusterIPs: null", {"IPv4": "10.96.0.1"}),
        ("10.96.0.1", "ipFamilies: [], clusterIPs: []", {"IPv4": "10.96.0.1"}),
        # without ipFamilies, clusterIP alone counts
        ("10.96.0.1", "clusterIPs: [10.96.0.1, 'fd00:96::1']", {"IPv4": "10.96.0.1"}),
        ("10.96.0.1", DUAL, {"IPv4": "10.96.0.1", "IPv6": "fd00:96::1"}),
        # position decides, and clusterIP does not
        (
            "'fd00:96::1'",
            "clusterIPs: ['fd00:96::1', 10.96.0.1], ipFamilies: [IPv6, IPv4]",
            {"IPv4": "10.96.0.1", "IPv6": "fd00:96::1"},
        ),
        ("10.96.0.9", "clusterIPs: [10.96.0.1], ipFamilies: [IPv4]", {"IPv4": "10.96.0.1"}),
        ("10.96.0.1", "clusterIPs: [10.96.0.1], ipFamilies: [IPv4, IPv6]", {"IPv4": "10.96.0.1"}),
        # canonical, whatever was written
        ("010.096.000.001", "", {"IPv4": "10.96.0.1"}),
        ("'::ffff:10.96.0.1'", "", {"IPv4": "10.96.0.1"}),
        ("'FD00:0096:0::0001'", "", {"IPv6": "fd00:96::1"}),
        ("10.96.0.1", "clusterIPs: [010.096.0.001], ipFamilies: [IPv4]", {"IPv4": "10.96.0.1"}),
        # no cluster IP at all, or none of any family
        ("''", "", {}),
        ("null", "", {}),
        ("''", DUAL, {}),
        ("10.96.0.1", "clusterIPs: [], ipFamilies: [IPv4]", {}),
        ("nonsense", "", {}),
    ],
)
def test_one_object_for_each_family_with_a_cluster_ip(
    cluster_ip: str, spec: str, expected: dict[str, str]
) -> None:
    documents = explain(service(spec, cluster_ip=cluster_ip))

    assert {d["family"]: d["frontends"][0]["address"] for d in documents} == expected
    assert len(documents) == len(expected)


@pytest.mark.parametrize(
    ("manifests", "word"),
    [
        (service(cluster_ip="None"), "headless"),
        (service("clusterIPs: [None]", cluster_ip="None"), "headless"),
        (service("type: ExternalName, externalName: example.org"), "ExternalName"),
        (service("type: ExternalName", cluster_ip="''"), "ExternalName"),
        (
            service(labels="{service.kubernetes.io/service-proxy-name: kube-router}"),
            "service-proxy-name",
        ),
        (service(labels='{service.kubernetes.io/service-proxy-name: ""}'), "service-proxy-name"),
        (service(labels="{service.kubernetes.io/service-proxy-name: }"), "service-proxy-name"),
        (service(cluster_ip="''"), "no-cluster-ip"),
        ("kind: Service\nmetadata: {name: web}\nspec: null\n", "no-cluster-ip"),
        (service(ports="null"), "no port"),
    ],
)
def test_a_service_that_is_not_proxied_prints_none_and_says_why_where_it_was_asked_for(
    manifests: str, word: str
) -> None:
    named = ask(manifests, "default/web")
    all_services = ask(
        manifests
        + "kind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.0.0.2, ports: [{port: 1}]}"
    )

    assert (named.code, named.stdout) == (0, "[]\n")
    assert f"note: default/web is not proxied: {word}" in named.stderr
    assert identities(all_services.documents) == [("default/b", "TCP", "IPv4")]
    assert "note:" not in all_services.stderr


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sessionAffinity: None", None),
        ("sessionAffinity: null", None),
        ("sessionAffinity: ''", None),
        ("sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}", None),
        (
            "sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}",
            None,
        ),
        ("sessionAffinity: ClientIP", {"timeoutSeconds": 10800}),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: null", {"timeoutSeconds": 10800}),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {}", {"timeoutSeconds": 10800}),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: null}}",
            {"timeoutSeconds": 10800},
        ),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}",
            {"timeoutSeconds": 30},
        ),
    ],
)
def test_session_affinity(spec: str, expected: Document | None) -> None:
    assert only(service(spec))["sessionAffinity"] == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000", 31000),
        ("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 0", 0),
        ("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: null", 0),
        ("type: LoadBalancer, externalTrafficPolicy: Local", 0),
        ("type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 31000", 0),
        ("type: LoadBalancer, healthCheckNodePort: 31000", 0),
        ("type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 31000", 0),
        (
            "externalIPs: [203.0.113.1], externalTrafficPolicy: Local, healthCheckNodePort: 31000",
            0,
        ),
    ],
)
def test_the_health_check_node_port_is_for_load_balancers_with_policy_local(
    spec: str, expected: int
) -> None:
    assert only(service(spec))["healthCheckNodePort"] == expected


@pytest.mark.parametrize("given", ["n1", "N1", " n1 "])
def test_the_own_name_is_trimmed_and_lower_cased(given: str) -> None:
    manifests = service() + node() + endpoint_slice("addresses: [10.1.0.1], nodeName: n1")

    found = only(manifests, given)

    assert (found["node"], found["zone"]) == ("n1", "z1")
    assert found["endpoints"][0]["isLocal"] is True


@pytest.mark.parametrize(
    ("other", "zone"),
    [
        ("", ""),
        (node("n2", "z2"), ""),
        (node("N1", "z2"), ""),
        (node("n1", "z2"), "z2"),
        (node("n1", "z2") + node("n1", "z3"), "z3"),
        ("kind: Node\nmetadata: {name: n1}\n", ""),
        ("kind: Node\nmetadata: {name: n1, labels: null}\n", ""),
    ],
)
def test_the_zone_is_that_of_the_own_node(other: str, zone: str) -> None:
    answer = ask(service() + other)

    assert answer.only["zone"] == zone
    is_missing = "name: n1" not in other
    assert any("no Node object named n1" in line for line in answer.warnings) is is_missing
