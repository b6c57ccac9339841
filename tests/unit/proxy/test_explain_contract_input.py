"""What `sliceproxy explain` promises of objects that nobody has checked: doubled, obsolete, foreign, full of nulls.

Everything expected here is derived from the contract and from what kubectl and kube-proxy do, and is compared with
what the command prints.
"""

import textwrap
from pathlib import Path

import pytest

from tests.unit.proxy.explaining import Answer, ask, endpoint_slice, explain, service

A = "addresses: [10.1.0.1]"
EXAMPLES = Path(__file__).parents[3] / "examples"
UNKNOWN_NODE = "no Node object named n1"


def warnings(answer: Answer) -> list[str]:
    """Return the warnings of an answer, but for the one that the node is unknown."""
    return [line for line in answer.warnings if UNKNOWN_NODE not in line]


def clusters(answer: Answer) -> dict[str, list[str] | None]:
    assert answer.code == 0
    return {d["servicePort"]: d["cluster"] for d in answer.documents}


SERVED = {"default/web": ["10.1.0.1:80"]}


def test_the_same_object_twice_is_the_last_one_and_a_warning_names_both_places() -> None:
    answer = ask(
        service()
        + endpoint_slice(A)
        + service(cluster_ip="10.96.0.2")
        + endpoint_slice("addresses: [10.1.0.2]")
    )

    assert answer.only["frontends"][0]["address"] == "10.96.0.2"
    assert answer.only["cluster"] == ["10.1.0.2:80"]
    said = warnings(answer)
    assert len(said) == 2
    places = ["Service default/web", "objects.yaml:1", "objects.yaml:12"]
    assert [word for word in places if word not in said[0]] == []
    places = ["EndpointSlice default/web-1", "objects.yaml:6", "objects.yaml:17"]
    assert [word for word in places if word not in said[1]] == []


def test_the_same_name_in_another_namespace_or_kind_is_another_object() -> None:
    answer = ask(
        service()
        + service().replace("namespace: default", "namespace: shop")
        + endpoint_slice(A, name="web")
    )

    assert sorted(clusters(answer)) == ["default/web", "shop/web"]
    assert warnings(answer) == []


SLICE_UNDER_SPEC = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
spec:
  addressType: IPv4
  ports: [{name: "", port: 80}]
  endpoints: [{addresses: [10.1.0.1]}]
"""


@pytest.mark.parametrize(
    ("text", "cluster", "words"),
    [
        (SLICE_UNDER_SPEC, [], ["web-1", "spec", "top level"]),
        (
            "apiVersion: discovery.k8s.io/v1beta1\n" + endpoint_slice(A),
            ["10.1.0.1:80"],
            ["discovery.k8s.io/v1beta1", "write discovery.k8s.io/v1"],
        ),
        (
            endpoint_slice(f"{A}, topology: {{kubernetes.io/hostname: n1}}"),
            ["10.1.0.1:80"],
            ["topology", "nodeName"],
        ),
        (
            "kind: Endpoints\napiVersion: v1\nmetadata: {name: web}\nsubsets: []\n",
            [],
            ["Endpoints", "EndpointSlice"],
        ),
        (endpoint_slice(A, labels="{}"), [], ["kubernetes.io/service-name"]),
        (endpoint_slice(A, address_type="FQDN"), [], ["FQDN", "IPv4 or IPv6"]),
        (endpoint_slice(A, ports="[{port: 80}]"), [], ["ports[0].name", '""']),
        (endpoint_slice(A).replace("kind: EndpointSlice", "kind: endpointslice"), [], ["kind"]),
    ],
)
def test_what_is_met_in_the_wild_is_answered_with_what_to_write(
    text: str, cluster: list[str], words: list[str]
) -> None:
    answer = ask(service() + text)

    assert answer.only["cluster"] == cluster
    (warning,) = warnings(answer)
    assert [word for word in words if word not in warning] == []


@pytest.mark.parametrize(
    "field", ["topologyKeys: [kubernetes.io/hostname]", "endpointSliceProxying: true"]
)
def test_obsolete_fields_of_a_service_are_said(field: str) -> None:
    answer = ask(service(field))

    (warning,) = warnings(answer)
    assert f"spec.{field.partition(':')[0]}" in warning
    assert answer.only["cluster"] == []


def test_objects_of_other_kinds_and_other_apis_are_no_business_of_ours() -> None:
    others = [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: x}\n---\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n---\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: b}\n---\n",
    ]

    answer = ask("".join(others) + service() + endpoint_slice(A) + "".join(others))

    assert clusters(answer) == SERVED
    assert warnings(answer) == []


def test_null_lists_are_empty_lists() -> None:
    text = """\
    kind: Service
    metadata: {name: web, labels: null, annotations: null}
    spec:
      type: null
      clusterIP: 10.96.0.1
      clusterIPs: null
      ipFamilies: null
      ports: [{name: null, protocol: null, port: 80, nodePort: null}]
      externalIPs: null
      loadBalancerSourceRanges: null
      sessionAffinity: null
      sessionAffinityConfig: null
      externalTrafficPolicy: null
      internalTrafficPolicy: null
      healthCheckNodePort: null
    status: {loadBalancer: {ingress: null}}
    ---
    kind: EndpointSlice
    metadata: {name: a, labels: {kubernetes.io/service-name: web}, ownerReferences: null}
    addressType: IPv4
    ports: null
    endpoints: null
    ---
    kind: EndpointSlice
    metadata: {name: b, labels: {kubernetes.io/service-name: web}}
    addressType: IPv4
    ports: [{name: "", protocol: null, port: 80, appProtocol: null}]
    endpoints:
      - {addresses: null}
      - {addresses: []}
      - {addresses: [10.1.0.1], conditions: null, hints: null, nodeName: null, zone: null, targetRef: null}
      - {addresses: [10.1.0.2], hints: {forZones: null, forNodes: null}}
    ---
    kind: Node
    metadata: {name: n1, labels: null}
    spec: {podCIDR: null, podCIDRs: null}
    status: {addresses: null}
    """

    (document,) = explain(textwrap.dedent(text))

    assert document["cluster"] == ["10.1.0.1:80", "10.1.0.2:80"]
    assert (document["local"], document["sourceRanges"], document["sessionAffinity"]) == (
        None,
        [],
        None,
    )
    assert len(document["frontends"]) == 1


def test_the_demonstration_in_the_examples_is_answered_without_a_warning() -> None:
    answer = ask((EXAMPLES / "web.yaml").read_bytes(), "shop/web", node="node-a")

    assert (answer.code, answer.stderr) == (0, "")
    assert answer.only["zone"] == "zone-a"
    assert answer.only["cluster"]
