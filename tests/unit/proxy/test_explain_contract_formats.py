"""What `sliceproxy explain` promises of its input: forms of files, and oddities of YAML.

Everything expected here is derived from the contract and from what kubectl and kube-proxy do, and is compared with
what the command prints.
"""

import json
import textwrap
from collections.abc import Mapping

import pytest

from tests.unit.proxy.explaining import Answer, ask, endpoint_slice, node, service

A = "addresses: [10.1.0.1]"
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "", "port": 80}],
    "endpoints": [{"addresses": ["10.1.0.1"]}],
}
UNKNOWN_NODE = "no Node object named n1"


def without_kind(obj: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}


def warnings(answer: Answer) -> list[str]:
    """Return the warnings of an answer, but for the one that the node is unknown."""
    return [line for line in answer.warnings if UNKNOWN_NODE not in line]


def clusters(answer: Answer) -> dict[str, list[str] | None]:
    assert answer.code == 0
    return {d["servicePort"]: d["cluster"] for d in answer.documents}


SERVED = {"default/web": ["10.1.0.1:80"]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (service() + endpoint_slice(A), "objects.yaml"),
        ("\ufeff" + service() + endpoint_slice(A), "objects.yaml"),
        ((service() + endpoint_slice(A)).replace("\n", "\r\n"), "objects.yml"),
        ("# nothing\n---\n---\n" + service() + "---\n" + endpoint_slice(A) + "...\n", "o.yaml"),
        ("%YAML 1.1\n---\n" + service() + endpoint_slice(A), "objects.yaml"),
        (service() + json.dumps(SLICE), "objects.yaml"),
        (service() + endpoint_slice(A), "any-name"),
        (json.dumps({"kind": "List", "items": [SERVICE, SLICE]}), "objects.json"),
        (json.dumps({"kind": "List", "items": [SERVICE, SLICE]}, indent="\t"), "objects.yaml"),
        (json.dumps({"kind": "List", "items": [SERVICE, SLICE]}), "any-name"),
    ],
)
def test_forms_of_files(text: str, name: str) -> None:
    answer = ask(text, name=name)

    assert clusters(answer) == SERVED
    assert warnings(answer) == []


@pytest.mark.parametrize("name", ["objects.json", "objects.yaml"])
def test_lists_of_kubectl(name: str) -> None:
    """A typed list, as an API server sends it, does not repeat the kind in its items."""
    mixed = {"apiVersion": "v1", "kind": "List", "items": [SERVICE, SLICE], "metadata": {}}
    services = {"apiVersion": "v1", "kind": "ServiceList", "items": [without_kind(SERVICE)]}
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSliceList",
        "items": [without_kind(SLICE)],
    }

    assert clusters(ask(json.dumps(mixed), name=name)) == SERVED
    assert clusters(ask(json.dumps(services), name=name)) == {"default/web": []}
    typed = f"{json.dumps(services)}\n---\n{json.dumps(slices)}\n"
    assert clusters(ask(typed, name="objects.yaml")) == SERVED
    nodes = {"kind": "NodeList", "items": [{"metadata": {"name": "n1"}}]}
    assert UNKNOWN_NODE not in ask(json.dumps(nodes), name=name).stderr


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list_is_no_mistake(items: object) -> None:
    answer = ask(json.dumps({"kind": "List", "items": items}), name="objects.json")

    assert (clusters(answer), warnings(answer)) == ({}, [])


def test_what_kubectl_prints_of_real_objects() -> None:
    text = """\
    apiVersion: v1
    items:
    - apiVersion: v1
      kind: Service
      metadata:
        annotations:
          kubectl.kubernetes.io/last-applied-configuration: |
            {"apiVersion":"v1","kind":"Service","spec":{"clusterIP":"None"}}
        creationTimestamp: 2026-01-01T00:00:00Z
        managedFields:
        - apiVersion: v1
          fieldsType: FieldsV1
          fieldsV1: {f:spec: {f:ports: {.: {}, 'k:{"port":80,"protocol":"TCP"}': {.: {}}}}}
          time: 2026-01-01T00:00:00Z
        name: web
        namespace: default
        resourceVersion: "517"
        uid: 11111111-2222-3333-4444-555555555555
      spec:
        allocateLoadBalancerNodePorts: true
        clusterIP: 10.96.0.1
        clusterIPs:
        - 10.96.0.1
        internalTrafficPolicy: Cluster
        ipFamilies:
        - IPv4
        ipFamilyPolicy: SingleStack
        ports:
        - {name: http, nodePort: 30080, port: 80, protocol: TCP, targetPort: 8080}
        selector: {app: web}
        sessionAffinity: None
        type: NodePort
      status:
        loadBalancer: {}
    - addressType: IPv4
      apiVersion: discovery.k8s.io/v1
      endpoints:
      - addresses:
        - 10.1.0.1
        conditions: {ready: true, serving: true, terminating: false}
        nodeName: n1
        targetRef: {kind: Pod, name: web-1, namespace: default, uid: x}
        zone: z1
      kind: EndpointSlice
      metadata:
        annotations:
          endpoints.kubernetes.io/last-change-trigger-time: 2026-01-01T00:00:00Z
        generateName: web-
        generation: 3
        labels:
          app: web
          endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
          kubernetes.io/service-name: web
        name: web-abc12
        namespace: default
        ownerReferences:
        - {apiVersion: v1, blockOwnerDeletion: true, controller: true, kind: Service, name: web, uid: x}
      ports:
      - {name: http, port: 8080, protocol: TCP, appProtocol: http}
    kind: List
    metadata:
      resourceVersion: ""
    """

    answer = ask(textwrap.dedent(text))

    assert clusters(answer) == {"default/web:http": ["10.1.0.1:8080"]}
    assert warnings(answer) == []


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [("ready: yes", True), ("ready: on", True), ("ready: no", False), ("ready: Off", False)],
)
def test_yes_and_no_are_true_and_false_as_for_kubectl(conditions: str, ready: bool) -> None:
    answer = ask(service() + endpoint_slice(f"{A}, conditions: {{{conditions}}}"))

    assert answer.only["endpoints"][0]["ready"] is ready


def test_a_condition_that_cannot_be_read_does_not_turn_into_ready() -> None:
    answer = ask(service() + endpoint_slice(f"{A}, conditions: {{ready: 'false'}}"))

    assert answer.only["cluster"] == []
    assert len(warnings(answer)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # numbers where text is wanted cost what they stand in, and are said
        (service().replace("name: web,", "name: 123,"), []),
        (service(ports="[{port: 80, name: 80}, {port: 81, name: a}]"), ["default/web:a"]),
        (service(ports="[{port: '80'}, {port: 81, name: a}]"), ["default/web:a"]),
        (service("externalIPs: [1.5]"), ["default/web"]),
        (service("internalTrafficPolicy: [Local]"), ["default/web"]),
        (service("sessionAffinity: yes"), ["default/web"]),
        (service(cluster_ip="10.96"), []),
        (service("loadBalancerSourceRanges: 10"), []),
    ],
)
def test_a_value_of_the_wrong_type_is_said_and_costs_only_what_it_must(
    text: str, expected: list[str]
) -> None:
    other = "kind: Service\nmetadata: {name: b}\nspec: {clusterIP: 10.0.0.2, ports: [{port: 1}]}\n"

    answer = ask(text + other)

    assert sorted(clusters(answer)) == ["default/b", *expected]
    assert len(warnings(answer)) == 1


def test_names_that_look_like_numbers_are_names_where_they_are_quoted() -> None:
    answer = ask(
        service(ports="[{port: 80, name: '80'}]").replace("name: web", "name: '123'")
        + endpoint_slice(
            f"{A}, nodeName: '1e3', zone: '010'",
            labels="{kubernetes.io/service-name: '123'}",
            ports="[{name: '80', port: 80}]",
        )
        + node("'1e3'", "'010'"),
        node="1e3",
    )

    assert clusters(answer) == {"default/123:80": ["10.1.0.1:80"]}
    assert (answer.only["zone"], answer.only["endpoints"][0]["isLocal"]) == ("010", True)


def test_addresses_and_times_need_no_quotes() -> None:
    text = service(cluster_ip="fd00::10").replace(
        "namespace: default", "namespace: default, creationTimestamp: 2026-01-01T00:00:00Z"
    )
    answer = ask(text + endpoint_slice("addresses: [fd00::1]", address_type="IPv6"))

    assert clusters(answer) == {"default/web": ["[fd00::1]:80"]}
    assert warnings(answer) == []


def test_anchors_and_merge_keys() -> None:
    answer = ask(
        service(ports="[&p {port: 80, name: a}, {<<: *p, name: b, port: 81}]")
        + endpoint_slice(
            "addresses: &first [10.1.0.1]",
            "addresses: [10.1.0.2], hints: &h {forZones: [{name: z1}]}",
            "addresses: *first",
            ports="[{name: a, port: 1}]",
        )
    )

    assert clusters(answer) == {
        "default/web:a": ["10.1.0.1:1", "10.1.0.2:1"],
        "default/web:b": [],
    }


def test_of_duplicate_keys_the_last_counts() -> None:
    answer = ask(service("type: ExternalName, type: ClusterIP"))

    assert sorted(clusters(answer)) == ["default/web"]


def test_objects_that_name_no_namespace_are_in_default() -> None:
    text = (service() + endpoint_slice(A)).replace(", namespace: default", "")

    assert clusters(ask(text)) == SERVED
