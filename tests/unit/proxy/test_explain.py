"""Explanations: the JSON document, field by field."""

import json
from typing import Any

import msgspec
import pytest

from proxy.cache import Cache
from proxy.explain import Explained, explain
from proxy.model import NodeInfo, Service
from proxy.sources.events import Event, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)


def explained(*objects: Service | Event, node: NodeInfo | None = None) -> list[Explained]:
    """Return the explanations of all services among some objects."""
    cache = Cache(node or make_node())
    events = [Upsert(o) if isinstance(o, Service) else o for o in objects]
    cache.apply(events, 0.0)
    return explain(cache, cache.services.values())


def documents(*objects: Service | Event, node: NodeInfo | None = None) -> list[dict[str, Any]]:
    """Return what a program reads."""
    found = explained(*objects, node=node)
    documents = json.loads(msgspec.json.encode([one.document() for one in found]))
    assert isinstance(documents, list)
    return documents


def document(*objects: Service | Event, node: NodeInfo | None = None) -> dict[str, Any]:
    (only,) = documents(*objects, node=node)
    return only


FULL = (
    make_service(
        "shop/web",
        make_service_port(
            port_name="http",
            node_port=30080,
            external_ips=("203.0.113.1",),
            load_balancer_vips=("203.0.113.2",),
            source_ranges=("198.51.100.0/24",),
            affinity_timeout_s=10800,
            external_local=True,
            health_check_node_port=30081,
        ),
    ),
    Upsert(
        make_slice(
            "web-a",
            make_endpoint("10.1.0.2:8080", zone="z2", zone_hints=["z2"]),
            make_endpoint("10.1.0.1:8080", is_local=True, zone="z1", zone_hints=["z1"]),
            make_endpoint("10.1.0.10:8080", ready=False, serving=False, zone=None),
            namespace="shop",
            port_name="http",
        )
    ),
)


def test_the_whole_document() -> None:
    assert document(*FULL) == {
        "servicePort": "shop/web:http",
        "protocol": "TCP",
        "family": "IPv4",
        "node": "n1",
        "zone": "z1",
        "cluster": ["10.1.0.1:8080"],
        "local": ["10.1.0.1:8080"],
        "reachable": ["10.1.0.1:8080"],
        "anyUsable": True,
        "topology": "SameZone",
        "endpoints": [
            {
                "address": "10.1.0.10:8080",
                "slice": "web-a",
                "ready": False,
                "serving": False,
                "terminating": False,
                "isLocal": False,
                "nodeName": "n2",
                "zone": None,
                "cluster": {"selected": False, "reason": "not-ready"},
                "local": {"selected": False, "reason": "not-local"},
            },
            {
                "address": "10.1.0.1:8080",
                "slice": "web-a",
                "ready": True,
                "serving": True,
                "terminating": False,
                "isLocal": True,
                "nodeName": "n1",
                "zone": "z1",
                "cluster": {"selected": True, "reason": "ready"},
                "local": {"selected": True, "reason": "ready"},
            },
            {
                "address": "10.1.0.2:8080",
                "slice": "web-a",
                "ready": True,
                "serving": True,
                "terminating": False,
                "isLocal": False,
                "nodeName": "n2",
                "zone": "z2",
                "cluster": {"selected": False, "reason": "other-zone"},
                "local": {"selected": False, "reason": "not-local"},
            },
        ],
        "frontends": [
            {"kind": "ClusterIP", "address": "10.96.0.10", "port": 80},
            {"kind": "NodePort", "address": None, "port": 30080},
            {"kind": "ExternalIP", "address": "203.0.113.1", "port": 80},
            {"kind": "LoadBalancer", "address": "203.0.113.2", "port": 80},
        ],
        "sessionAffinity": {"timeoutSeconds": 10800},
        "healthCheckNodePort": 30081,
        "sourceRanges": ["198.51.100.0/24"],
    }


def test_what_is_absent_is_null_or_empty_but_never_missing() -> None:
    found = document(make_service(), node=NodeInfo(name="n1"))

    assert found == {
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
        "frontends": [{"kind": "ClusterIP", "address": "10.96.0.10", "port": 80}],
        "sessionAffinity": None,
        "healthCheckNodePort": 0,
        "sourceRanges": [],
    }


def test_fields_stand_in_the_order_of_the_contract() -> None:
    found = document(*FULL)

    assert list(found) == [
        *("servicePort", "protocol", "family", "node", "zone"),
        *("cluster", "local", "reachable", "anyUsable", "topology", "endpoints"),
        *("frontends", "sessionAffinity", "healthCheckNodePort", "sourceRanges"),
    ]
    assert list(found["endpoints"][0]) == [
        *("address", "slice", "ready", "serving", "terminating", "isLocal", "nodeName", "zone"),
        *("cluster", "local"),
    ]


@pytest.mark.parametrize(
    ("internal_local", "node_port", "cluster", "local"),
    [
        (False, 0, [], None),
        (True, 0, None, []),
        (True, 30080, [], []),
    ],
)
def test_a_list_no_policy_uses_is_null(
    internal_local: bool, node_port: int, cluster: list[str] | None, local: list[str] | None
) -> None:
    port = make_service_port(internal_local=internal_local, node_port=node_port)

    found = document(make_service("default/web", port))

    assert (found["cluster"], found["local"], found["reachable"]) == (cluster, local, [])


def test_a_service_that_is_served_on_other_nodes_only_is_usable() -> None:
    found = document(
        make_service("default/web", make_service_port(internal_local=True)),
        Upsert(make_slice("web-a", make_endpoint())),
    )

    assert (found["local"], found["reachable"], found["anyUsable"]) == ([], [], True)


def test_ipv6_is_bracketed_where_a_port_follows() -> None:
    found = document(
        make_service("default/web", make_service_port(cluster_ip="fd00::10")),
        Upsert(make_slice("web-a", make_endpoint("[fd01::1]:80"))),
    )

    assert found["family"] == "IPv6"
    assert found["cluster"] == ["[fd01::1]:80"]
    assert [e["address"] for e in found["endpoints"]] == ["[fd01::1]:80"]
    assert [f["address"] for f in found["frontends"]] == ["fd00::10"]


def test_there_is_one_document_for_each_port_protocol_and_family() -> None:
    found = documents(
        make_service(
            "default/dns",
            make_service_port(port_name="dns", protocol="UDP", port=53),
            make_service_port(port_name="dns", protocol="UDP", port=53, cluster_ip="fd00::1"),
            make_service_port(port_name="dns", protocol="TCP", port=53),
        )
    )

    assert [(d["servicePort"], d["protocol"], d["family"]) for d in found] == [
        ("default/dns:dns", "UDP", "IPv4"),
        ("default/dns:dns", "UDP", "IPv6"),
        ("default/dns:dns", "TCP", "IPv4"),
    ]


def test_services_are_explained_in_order_of_namespace_and_name() -> None:
    names = ["b/a", "a/b", "a/a", "a-b/c"]

    found = documents(*(make_service(name) for name in names))

    assert [d["servicePort"] for d in found] == ["a/a", "a/b", "a-b/c", "b/a"]


def test_a_service_that_is_not_proxied_has_no_document() -> None:
    assert documents(make_service(skipped="headless")) == []


def test_of_a_duplicate_the_slice_that_won_is_named() -> None:
    (one,) = explained(
        make_service(),
        Upsert(make_slice("s-1", make_endpoint("10.1.0.1:80"))),
        Upsert(make_slice("s-2", make_endpoint("10.1.0.1:80"))),
    )

    assert [e.slice for e in one.document().endpoints] == ["s-2"]
    assert [e.slice for e in one.shadowed] == ["s-1"]


def test_frontends_are_listed_even_if_another_service_owns_them() -> None:
    ip = ("203.0.113.1",)
    found = documents(
        make_service("default/a", make_service_port(external_ips=ip)),
        make_service("default/b", make_service_port(cluster_ip="10.96.0.11", external_ips=ip)),
    )

    assert [[f["kind"] for f in d["frontends"]] for d in found] == [
        ["ClusterIP", "ExternalIP"]
    ] * 2
