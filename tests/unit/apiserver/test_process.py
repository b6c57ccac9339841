"""The stand-in as a process, asked by a client that was not written here: the official one for Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from tests.apiserver.process import StandIn
from tests.apiserver.remote import RemoteError
from tests.builders import make_endpoint, make_service, make_slice

# some of its modules have types, and some of those are wrong
official: Any = kubernetes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "api") as started:
        started.put(make_service("a"), make_service("b"), make_slice("a-1", service="a"))
        yield started


@pytest.fixture
def core(server: StandIn) -> Iterator[Any]:
    with official.config.new_client_from_config(str(server.kubeconfig)) as api:
        yield official.client.CoreV1Api(api)


def names(objects: Any) -> list[str]:
    return [each.metadata.name for each in objects]


def test_the_official_client_lists_in_pages(server: StandIn, core: Any) -> None:
    first = core.list_service_for_all_namespaces(limit=1)
    second = core.list_service_for_all_namespaces(limit=1, _continue=first.metadata._continue)

    assert (names(first.items), names(second.items)) == (["a"], ["b"])
    assert first.metadata.remaining_item_count == 1
    assert not second.metadata._continue
    assert names(core.list_namespaced_service("default", label_selector="!x").items) == ["a", "b"]


def test_the_official_client_reads_slices(server: StandIn, core: Any) -> None:
    server.put(
        make_slice("a-2", service="a", endpoints=[make_endpoint("10.244.1.7", ready=False)])
    )

    api = official.client.DiscoveryV1Api(core.api_client)
    found = api.read_namespaced_endpoint_slice("a-2", "default")

    assert found.endpoints[0].addresses == ["10.244.1.7"]
    assert found.endpoints[0].conditions.ready is False
    with pytest.raises(official.client.ApiException) as raised:
        api.read_namespaced_endpoint_slice("absent", "default")
    assert (raised.value.status, json.loads(raised.value.body)["reason"]) == (404, "NotFound")


def test_the_official_client_watches(server: StandIn, core: Any) -> None:
    version = core.list_service_for_all_namespaces().metadata.resource_version
    server.put(make_service("c"))
    server.put(make_service("c", labels={"new": "yes"}))
    server.delete([make_service("a")])

    stream = official.watch.Watch().stream(
        core.list_service_for_all_namespaces, resource_version=version, timeout_seconds=1
    )

    seen = [(event["type"], event["object"].metadata.name) for event in stream]
    assert seen == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "a")]


def test_the_official_client_asks_for_a_watch_list(server: StandIn, core: Any) -> None:
    stream = official.watch.Watch().stream(
        core.list_service_for_all_namespaces,
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        allow_watch_bookmarks=True,
        timeout_seconds=1,
    )

    events = [(event["type"], event["raw_object"]["metadata"]) for event in stream]

    assert [kind for kind, _ in events[:3]] == ["ADDED", "ADDED", "BOOKMARK"]
    assert events[2][1]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_the_official_client_meets_410(server: StandIn, core: Any) -> None:
    server.remote.compact()
    server.put(make_service("c"))
    server.remote.compact()

    stream = official.watch.Watch().stream(
        core.list_service_for_all_namespaces, resource_version="1001", timeout_seconds=1
    )

    with pytest.raises(official.client.ApiException) as raised:
        list(stream)
    assert raised.value.status == 410


def test_a_client_certificate_is_as_good_as_a_token(tmp_path: Path) -> None:
    with (
        StandIn(tmp_path / "api", credentials="certificate") as server,
        official.config.new_client_from_config(str(server.kubeconfig)) as api,
    ):
        official.client.CoreV1Api(api).list_node()

        (asked,) = server.remote.requests()
        assert (asked["verb"], asked["resource"], asked["user"]) == (
            "list",
            "nodes",
            "system:kube-proxy",
        )


def test_the_control_door_says_what_is_wrong(server: StandIn) -> None:
    with pytest.raises(RemoteError, match="no such fault: loudness"):
        server.remote.break_(loudness=3)
    with pytest.raises(RemoteError, match="not served: v1 Pod"):
        server.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})


def test_a_storm_changes_slices_and_says_when(server: StandIn) -> None:
    before = server.remote.state()["revision"]

    server.remote.storm(changes=50)

    assert server.remote.state()["revision"] == before + 50
