"""Writing: what the server adds, conflicts, and patches."""

from typing import Any

import pytest

from tests.apiserver import writing
from tests.apiserver.resources import NODES, SERVICES, SLICES
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Store
from tests.builders import make_node, make_service, make_slice

MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


def refused(code: int) -> Any:
    return pytest.raises(ApiStatusError, check=lambda error: error.code == code)


def test_a_new_service_gets_what_its_writer_left_out() -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}

    item = writing.create(Store(), SERVICES, writing.identify(SERVICES, obj, "shop"))

    stored = item.load()
    assert item.key == ("shop", "a")
    assert stored["metadata"]["uid"]
    assert stored["metadata"]["creationTimestamp"].endswith("Z")
    spec = stored["spec"]
    assert spec["clusterIP"].startswith("10.96.")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["type"], spec["sessionAffinity"]) == ("ClusterIP", "None")
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]


def test_no_address_is_given_twice() -> None:
    store = Store()
    for name in "abc":
        obj = {"metadata": {"name": name}, "spec": {}}
        writing.create(store, SERVICES, writing.identify(SERVICES, obj, ""))

    assert len({item.fields["spec.clusterIP"] for item in store.items(SERVICES)}) == 3


def test_what_the_writer_says_is_kept() -> None:
    service = make_service("a", cluster_ips=["10.96.7.7", "fd00::7"], type="NodePort")

    spec = writing.put(Store(), SERVICES, service).load()["spec"]

    assert spec["clusterIPs"] == ["10.96.7.7", "fd00::7"]
    assert spec["ports"][0]["nodePort"] >= 30000


def test_a_write_that_changes_nothing_is_none() -> None:
    store = Store()
    first = writing.put(store, SERVICES, make_service("a"))

    assert writing.put(store, SERVICES, make_service("a")) is first
    assert writing.put(store, SERVICES, make_service("a", labels={"b": "c"})) is not first


def test_a_name_is_taken_once_and_a_newer_object_is_not_overwritten() -> None:
    store = Store()
    stored = writing.create(store, SERVICES, make_service("a"))
    with refused(409):
        writing.create(store, SERVICES, make_service("a"))
    seen = stored.load()

    writing.replace(store, SERVICES, {**seen, "spec": {**seen["spec"], "type": "NodePort"}})
    with refused(409):
        writing.replace(store, SERVICES, {**seen, "spec": {}})
    with refused(404):
        writing.replace(store, SERVICES, make_service("b"))


@pytest.mark.parametrize(
    ("obj", "namespace", "name"),
    [
        ([], "", ""),
        ({"metadata": {}}, "", ""),
        ({"metadata": {"name": "a"}}, "", "b"),
        ({"metadata": {"name": "a", "namespace": "x"}}, "y", "a"),
        (make_slice("a"), "", ""),
    ],
)
def test_an_object_that_contradicts_its_path_is_refused(
    obj: object, namespace: str, name: str
) -> None:
    with refused(400):
        writing.identify(SERVICES, obj, namespace, name)


def test_a_name_is_made_where_only_its_beginning_is_given() -> None:
    obj = writing.identify(SLICES, {"metadata": {"generateName": "web-"}}, "shop")

    assert obj["metadata"]["name"].startswith("web-")
    assert len(obj["metadata"]["name"]) > 4


def test_nodes_have_no_namespace() -> None:
    obj = writing.identify(NODES, make_node("a"), "")

    assert writing.put(Store(), NODES, obj).key == ("", "a")


@pytest.mark.parametrize("kind", [MERGE, STRATEGIC])
def test_a_patch_sets_and_removes_fields(kind: str) -> None:
    target = {"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"type": "ClusterIP"}}

    patched = writing.patch(
        SERVICES, target, {"metadata": {"labels": {"a": None, "c": "3"}}}, kind
    )

    assert patched == {"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": target["spec"]}


def test_only_a_strategic_patch_merges_the_ports_of_a_service() -> None:
    target = {"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81}]}}
    order = {"$setElementOrder/ports": [{"port": 80}]}
    change = {"spec": {**order, "ports": [{"port": 80, "targetPort": 8}]}}

    strategic = writing.patch(SERVICES, target, change, STRATEGIC)
    merged = writing.patch(SERVICES, target, {"spec": {"ports": [{"port": 9}]}}, MERGE)
    deleted = writing.patch(
        SERVICES, target, {"spec": {"ports": [{"port": 81, "$patch": "delete"}]}}, STRATEGIC
    )

    assert strategic["spec"]["ports"] == [
        {"port": 80, "name": "a", "targetPort": 8},
        {"port": 81},
    ]
    assert merged["spec"]["ports"] == [{"port": 9}]
    assert deleted["spec"]["ports"] == [{"port": 80, "name": "a"}]


def test_the_lists_of_a_slice_are_replaced_as_a_whole() -> None:
    patched = writing.patch(
        SLICES, make_slice(), {"endpoints": [], "ports": [{"port": 1}]}, STRATEGIC
    )

    assert (patched["endpoints"], patched["ports"]) == ([], [{"port": 1}])


def test_a_patch_of_another_version_is_a_conflict() -> None:
    target = writing.create(Store(), SERVICES, make_service("a")).load()
    version = target["metadata"]["resourceVersion"]

    writing.patch(SERVICES, target, {"metadata": {"resourceVersion": version}}, MERGE)
    with refused(409):
        writing.patch(SERVICES, target, {"metadata": {"resourceVersion": "1"}}, MERGE)


def test_other_patches_are_not_known() -> None:
    with refused(415):
        writing.patch(SERVICES, {}, [], "application/json-patch+json")
