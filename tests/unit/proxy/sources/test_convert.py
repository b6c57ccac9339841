"""What absent, null and odd fields mean, for each kind of object."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from proxy.model import (
    EndpointSlice,
    NodeInfo,
    PortKey,
    Rejected,
    Service,
    ServiceCidrs,
    ServiceName,
    ServicePort,
    ServicePortName,
    SlicePort,
)
from proxy.sources import convert, wire
from tests.builders import (
    ABSENT,
    make_endpoint,
    make_node,
    make_service,
    make_service_cidr,
    make_slice,
)


def _service(document: dict[str, Any]) -> tuple[Service, list[str]]:
    service, rejected = convert.convert_service(msgspec.convert(document, wire.Service))
    assert service is not None
    return service, [item.field for item in rejected]


def _sound_service(document: dict[str, Any]) -> Service:
    service, fields = _service(document)
    assert fields == []
    return service


def _sound_port(document: dict[str, Any]) -> ServicePort:
    [port] = _sound_service(document).ports
    return port


def _slice(document: dict[str, Any]) -> tuple[EndpointSlice | None, list[str]]:
    obj = msgspec.convert(document, wire.EndpointSlice)
    endpoint_slice, rejected = convert.convert_slice(obj, "node-1")
    return endpoint_slice, [item.field for item in rejected]


def test_a_service_port_carries_what_the_service_says() -> None:
    service = _sound_service(make_service())

    name = ServicePortName("default", "web", "http", "TCP")
    port = ServicePort(key=PortKey(name, "IPv4"), cluster_ip="10.96.0.10", port=80)
    assert service == Service(
        name=ServiceName("default", "web"),
        ports=(port,),
        created="2026-01-01T00:00:00Z",
        uid="uid-of-web",
        resource_version="1",
    )


def test_every_port_exists_once_in_each_family() -> None:
    service = _sound_service(
        make_service(
            cluster_ips=["10.96.0.10", "fd00::10"],
            ports=[{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns", "port": 53}],
        )
    )

    assert [
        (port.key.name.protocol, port.key.family, port.cluster_ip) for port in service.ports
    ] == [
        ("UDP", "IPv4", "10.96.0.10"),
        ("UDP", "IPv6", "fd00::10"),
        ("TCP", "IPv4", "10.96.0.10"),
        ("TCP", "IPv6", "fd00::10"),
    ]


@pytest.mark.parametrize("name", [ABSENT, None, ""])
def test_the_only_port_needs_no_name(name: object) -> None:
    port = {"name": name, "port": 80}
    port = {key: value for key, value in port.items() if value is not ABSENT}

    assert _sound_port(make_service(ports=[port])).key.name.port == ""


@pytest.mark.parametrize(
    ("document", "skipped"),
    [
        (make_service(clusterIP="None", clusterIPs=["None"]), "headless"),
        (make_service(clusterIP=""), "no-cluster-ip"),
        (make_service(clusterIP=None), "no-cluster-ip"),
        (make_service(cluster_ips=[]), "no-cluster-ip"),
        (make_service() | {"spec": None}, "no-cluster-ip"),
        (make_service(type="ExternalName", externalName="example.com"), "ExternalName"),
        (make_service(type="ExternalName", cluster_ips=[]), "ExternalName"),
        (
            make_service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
            "service-proxy-name",
        ),
        (
            make_service(labels={"service.kubernetes.io/service-proxy-name": ""}),
            "service-proxy-name",
        ),
        (
            make_service(labels={"service.kubernetes.io/service-proxy-name": None}),
            "service-proxy-name",
        ),
    ],
)
def test_a_service_that_is_not_proxied_says_why(document: dict[str, Any], skipped: str) -> None:
    service = _sound_service(document)

    assert service.skipped == skipped
    assert service.ports == ()


def test_a_service_none_of_whose_families_has_an_address_is_not_proxied() -> None:
    service, fields = _service(make_service(clusterIPs=ABSENT))

    assert service.skipped == "no-cluster-ip"
    assert service.ports == ()
    assert fields == ["spec.clusterIPs"]


def test_the_headless_label_on_a_service_means_nothing() -> None:
    service = _sound_service(make_service(labels={"service.kubernetes.io/headless": ""}))

    assert len(service.ports) == 1


@pytest.mark.parametrize(
    "missing", ["type", "sessionAffinity", "internalTrafficPolicy", "ipFamilies"]
)
@pytest.mark.parametrize("value", [ABSENT, None])
def test_what_the_api_server_fills_in_may_be_missing(missing: str, value: object) -> None:
    spec: dict[str, Any] = {missing: value}

    assert _sound_service(make_service(**spec)) == _sound_service(make_service())


@pytest.mark.parametrize("ports", [ABSENT, None, [], [None]])
def test_a_service_may_have_no_ports(ports: object) -> None:
    service = _sound_service(make_service(ports=ports))

    assert service.ports == ()
    assert service.skipped == ""


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({"name": "bad"}, "spec.ports[0].port"),
        ({"name": "bad", "port": 0}, "spec.ports[0].port"),
        ({"name": "bad", "port": 65536}, "spec.ports[0].port"),
        ({"name": "bad", "port": 80, "protocol": "tcp"}, "spec.ports[0].protocol"),
    ],
)
def test_a_port_that_cannot_be_served_is_named_and_the_others_go_on(
    port: dict[str, object], field: str
) -> None:
    service, fields = _service(make_service(ports=[port, {"name": "good", "port": 81}]))

    assert [item.key.name.port for item in service.ports] == ["good"]
    assert fields == [field]


def test_of_two_ports_with_one_name_and_protocol_the_first_is_served() -> None:
    service, fields = _service(
        make_service(ports=[{"name": "a", "port": 80}, {"name": "a", "port": 81}])
    )

    assert [port.port for port in service.ports] == [80]
    assert fields == ["spec.ports[1].name"]


@pytest.mark.parametrize("service_type", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_a_node_port_counts_whatever_the_type(service_type: str) -> None:
    port = {"name": "http", "port": 80, "nodePort": 30080}

    assert _sound_port(make_service(type=service_type, ports=[port])).node_port == 30080


@pytest.mark.parametrize("node_port", [-1, 65536])
def test_a_node_port_that_is_none_costs_only_itself(node_port: int) -> None:
    service, fields = _service(make_service(ports=[{"port": 80, "nodePort": node_port}]))

    assert [port.node_port for port in service.ports] == [0]
    assert fields == ["spec.ports[0].nodePort"]


def test_addresses_go_to_the_ports_of_their_family() -> None:
    service = _sound_service(
        make_service(
            cluster_ips=["10.96.0.10", "fd00::10"],
            externalIPs=["192.0.2.1", "2001:db8::1"],
            loadBalancerSourceRanges=["10.0.0.0/8", "::/0"],
            ingress=[{"ip": "203.0.113.1"}, {"ip": "2001:db8::2", "ipMode": "Proxy"}],
        )
    )

    [v4, v6] = service.ports
    assert (v4.external_ips, v6.external_ips) == (("192.0.2.1",), ("2001:db8::1",))
    assert (v4.load_balancer_vips, v6.load_balancer_vips) == (("203.0.113.1",), ())
    assert (v4.source_ranges, v6.source_ranges) == (("10.0.0.0/8",), ())


@pytest.mark.parametrize(
    ("config", "timeout_s"),
    [
        (ABSENT, 10800),
        (None, 10800),
        ({}, 10800),
        ({"clientIP": None}, 10800),
        ({"clientIP": {"timeoutSeconds": None}}, 10800),
        ({"clientIP": {"timeoutSeconds": 1}}, 1),
        ({"clientIP": {"timeoutSeconds": 86400}}, 86400),
    ],
)
def test_affinity_lasts_three_hours_unless_it_says_otherwise(
    config: object, timeout_s: int
) -> None:
    document = make_service(sessionAffinity="ClientIP", sessionAffinityConfig=config)

    assert _sound_port(document).affinity_timeout_s == timeout_s


@pytest.mark.parametrize("affinity", [ABSENT, None, "", "None"])
def test_there_is_no_affinity_unless_it_is_asked_for(affinity: object) -> None:
    document = make_service(
        sessionAffinity=affinity, sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}
    )

    assert _sound_port(document).affinity_timeout_s is None


@pytest.mark.parametrize("seconds", [0, -1, 86401])
def test_an_impossible_affinity_timeout_falls_back_to_the_default(seconds: int) -> None:
    service, fields = _service(
        make_service(
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
        )
    )

    assert [port.affinity_timeout_s for port in service.ports] == [10800]
    assert fields == ["spec.sessionAffinityConfig.clientIP.timeoutSeconds"]


@pytest.mark.parametrize(
    ("policy", "is_local"), [(ABSENT, False), (None, False), ("Cluster", False), ("Local", True)]
)
def test_the_internal_policy_is_cluster_unless_it_says_local(
    policy: object, is_local: bool
) -> None:
    assert _sound_port(make_service(internalTrafficPolicy=policy)).internal_local is is_local


@pytest.mark.parametrize(
    ("spec", "is_local"),
    [
        ({"type": "LoadBalancer"}, True),
        ({"type": "NodePort"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}, True),
        ({"type": "ClusterIP", "externalIPs": [""]}, True),
        ({"type": "ClusterIP", "externalIPs": []}, False),
        ({"type": ABSENT, "externalIPs": ["192.0.2.1"]}, True),
        ({"type": None}, False),
    ],
)
def test_the_external_policy_is_honoured_where_the_api_says_so(
    spec: dict[str, Any], is_local: bool
) -> None:
    local = _sound_port(make_service(externalTrafficPolicy="Local", **spec))
    cluster = _sound_port(make_service(externalTrafficPolicy="Cluster", **spec))

    assert local.external_local is is_local
    assert not cluster.external_local


@pytest.mark.parametrize(
    ("service_type", "policy", "expected"),
    [
        ("LoadBalancer", "Local", 32000),
        ("LoadBalancer", "Cluster", 0),
        ("LoadBalancer", None, 0),
        ("NodePort", "Local", 0),
        ("ClusterIP", "Local", 0),
    ],
)
def test_the_health_check_port_is_for_load_balancers_that_stay_local(
    service_type: str, policy: str | None, expected: int
) -> None:
    document = make_service(
        type=service_type, externalTrafficPolicy=policy, healthCheckNodePort=32000
    )

    port = _sound_port(document)

    assert port.health_check_node_port == expected
    assert port.external_local is (policy == "Local" and service_type != "ClusterIP")


@pytest.mark.parametrize(
    ("given", "fields"), [(0, []), (None, []), (70000, ["spec.healthCheckNodePort"])]
)
def test_a_health_check_port_may_be_missing_but_not_impossible(
    given: int | None, fields: Sequence[str]
) -> None:
    service, found = _service(
        make_service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=given)
    )

    assert [port.health_check_node_port for port in service.ports] == [0]
    assert found == fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "loadbalancer"),
        ("sessionAffinity", "clientip"),
        ("internalTrafficPolicy", "local"),
        ("externalTrafficPolicy", "LOCAL"),
    ],
)
def test_values_are_case_sensitive_and_unknown_ones_read_as_the_default(
    field: str, value: str
) -> None:
    spec: dict[str, Any] = {field: value}
    service, fields = _service(make_service(**spec))

    assert service == _sound_service(make_service())
    assert fields == [f"spec.{field}"]


@pytest.mark.parametrize("field", ["topologyKeys", "endpointSliceProxying"])
def test_obsolete_service_fields_are_answered_with_what_to_write_instead(field: str) -> None:
    is_list = field == "topologyKeys"
    spec: dict[str, Any] = {field: ["topology.kubernetes.io/zone"] if is_list else True}

    service, fields = _service(make_service(**spec))

    assert service == _sound_service(make_service())
    assert fields == [f"spec.{field}"]


@pytest.mark.parametrize(
    ("metadata", "fields"),
    [
        ({"name": ABSENT}, ["metadata.name"]),
        ({"name": ""}, ["metadata.name"]),
        ({"namespace": ABSENT}, ["metadata.namespace"]),
        ({"namespace": None}, ["metadata.namespace"]),
    ],
)
def test_objects_without_an_identity_cannot_be_used(
    metadata: dict[str, object], fields: Sequence[str]
) -> None:
    service = convert.convert_service(
        msgspec.convert(make_service(metadata=metadata), wire.Service)
    )

    assert service[0] is None
    assert [rejected.field for rejected in service[1]] == fields
    assert _slice(make_slice(metadata=metadata)) == (None, fields)


def test_a_default_namespace_fills_in_for_a_missing_one() -> None:
    metadata = {"namespace": ABSENT}

    service, _ = convert.convert_service(
        msgspec.convert(make_service(metadata=metadata), wire.Service), "default"
    )
    endpoint_slice, _ = convert.convert_slice(
        msgspec.convert(make_slice(metadata=metadata), wire.EndpointSlice), "node-1", "default"
    )

    assert service is not None
    assert service.name == ServiceName("default", "web")
    assert endpoint_slice is not None
    assert endpoint_slice.namespace == "default"
    assert endpoint_slice.service == ServiceName("default", "web")


def test_metadata_may_be_missing_altogether() -> None:
    service, service_rejected = convert.convert_service(wire.Service())
    endpoint_slice, slice_rejected = convert.convert_slice(wire.EndpointSlice(), "node-1")

    assert service is None
    assert service_rejected
    assert endpoint_slice is None
    assert slice_rejected


def test_a_slice_belongs_to_the_service_its_label_names() -> None:
    endpoint_slice, fields = _slice(make_slice("web-x", "prod", service="web"))

    assert fields == []
    assert endpoint_slice is not None
    assert (endpoint_slice.namespace, endpoint_slice.name) == ("prod", "web-x")
    assert endpoint_slice.service == ServiceName("prod", "web")
    assert endpoint_slice.family == "IPv4"
    assert [port for port, _ in endpoint_slice.ports] == [SlicePort("http", "TCP")]
    assert (endpoint_slice.uid, endpoint_slice.resource_version) == ("uid-of-web-x", "1")


def test_endpoints_on_the_own_node_are_local() -> None:
    endpoint_slice, _ = _slice(make_slice(endpoints=[make_endpoint(node="node-1")]))

    assert endpoint_slice is not None
    assert endpoint_slice.ports[0][1][0].is_local


@pytest.mark.parametrize("value", ["", "true", None, True])
def test_a_slice_labelled_headless_serves_nobody(value: object) -> None:
    endpoint_slice, fields = _slice(make_slice(labels={"service.kubernetes.io/headless": value}))

    assert fields == []
    assert endpoint_slice is not None
    assert endpoint_slice.service is None
    assert endpoint_slice.ports == ()


@pytest.mark.parametrize("service", [None, ""])
def test_a_slice_without_a_service_serves_nobody_and_says_so(service: str | None) -> None:
    endpoint_slice, fields = _slice(make_slice(service=service))

    assert endpoint_slice is not None
    assert endpoint_slice.service is None
    assert endpoint_slice.ports == ()
    assert fields == ["metadata.labels"]


@pytest.mark.parametrize("address_type", ["FQDN", "IPv5", "ipv4", "IP", None, ABSENT])
def test_a_slice_of_no_ip_family_is_not_used(address_type: object) -> None:
    document = make_slice() | {"addressType": address_type}
    document = {key: value for key, value in document.items() if value is not ABSENT}

    assert _slice(document) == (None, ["addressType"])


def test_an_fqdn_slice_is_told_that_it_serves_no_proxy() -> None:
    obj = msgspec.convert(make_slice(address_type="FQDN"), wire.EndpointSlice)

    _, rejected = convert.convert_slice(obj, "node-1")

    assert rejected == (
        Rejected(
            kind="EndpointSlice",
            name="default/web-abc12",
            field="addressType",
            reason="FQDN slices serve no proxy: write a slice of addressType IPv4 or IPv6",
        ),
    )


def test_a_slice_with_its_fields_under_spec_is_told_where_they_belong() -> None:
    whole = make_slice()
    fields = {key: whole.pop(key) for key in ("addressType", "endpoints", "ports")}

    obj = msgspec.convert(whole | {"spec": fields}, wire.EndpointSlice)
    endpoint_slice, rejected = convert.convert_slice(obj, "node-1")

    assert endpoint_slice is None
    assert [(item.field, item.reason) for item in rejected] == [
        (
            "spec",
            "EndpointSlice has no spec: move addressType, endpoints and ports to the top level",
        )
    ]


def test_the_own_node_is_read() -> None:
    document = make_node("node-1", zone="zone-b", pod_cidrs=["10.244.1.7/24", "FD00:1::/64"])
    document["status"]["addresses"] = [
        {"type": "Hostname", "address": "node-1"},
        {"type": "ExternalIP", "address": "203.0.113.9"},
        {"type": "InternalIP", "address": "192.0.2.01"},
        {"type": "InternalIP", "address": "2001:DB8::1"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
        None,
    ]

    node, rejected = convert.convert_node(msgspec.convert(document, wire.Node), "node-1")

    assert rejected == ()
    assert node == NodeInfo(
        name="node-1",
        zone="zone-b",
        addresses=("192.0.2.1", "2001:db8::1", "203.0.113.9"),
        pod_cidrs=("10.244.1.0/24", "fd00:1::/64"),
        is_known=True,
        resource_version="1",
    )


@pytest.mark.parametrize(("name", "own"), [("node-2", "node-1"), ("Node-1", "node-1"), ("", "")])
def test_other_nodes_are_none_of_our_business(name: str, own: str) -> None:
    obj = msgspec.convert(make_node(name, internal_ips=["not an address"]), wire.Node)

    assert convert.convert_node(obj, own) == (None, ())


@pytest.mark.parametrize(
    "obj",
    [
        wire.Node(metadata=wire.NodeMetadata(name="n")),
        msgspec.convert(make_node("n", zone=None, internal_ips=[], pod_cidrs=[]), wire.Node),
    ],
)
def test_little_may_be_known_of_the_own_node(obj: wire.Node) -> None:
    node, rejected = convert.convert_node(obj, "n")

    assert rejected == ()
    assert node is not None
    assert (node.zone, node.addresses, node.pod_cidrs, node.is_known) == ("", (), (), True)


def test_the_single_pod_cidr_counts_where_there_is_no_list() -> None:
    obj = msgspec.convert(make_node("n", podCIDRs=ABSENT, podCIDR="10.1.0.0/16"), wire.Node)

    node, _ = convert.convert_node(obj, "n")

    assert node is not None
    assert node.pod_cidrs == ("10.1.0.0/16",)


def test_node_addresses_that_cannot_be_used_are_named() -> None:
    obj = msgspec.convert(make_node("n", internal_ips=["x"], pod_cidrs=["y"]), wire.Node)

    node, rejected = convert.convert_node(obj, "n")

    assert node is not None
    assert (node.addresses, node.pod_cidrs) == ((), ())
    assert [item.field for item in rejected] == ["status.addresses[0].address", "spec.podCIDRs"]


@pytest.mark.parametrize(
    ("metadata", "taints", "leaving"),
    [
        ({}, [], ""),
        ({"deletionTimestamp": None}, None, ""),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, [], "the Node is being deleted"),
        ({}, [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, None, {}], ""),
        (
            {},
            [
                {"key": "a"},
                {"key": "ToBeDeletedByClusterAutoscaler", "effect": "PreferNoSchedule"},
            ],
            "the Node has the taint ToBeDeletedByClusterAutoscaler",
        ),
        (
            {},
            [{"key": "ToBeDeletedByClusterAutoscaler"}],
            "the Node has the taint ToBeDeletedByClusterAutoscaler",
        ),
    ],
)
def test_a_node_that_is_leaving_is_known_to(
    metadata: dict[str, object], taints: object, leaving: str
) -> None:
    obj = msgspec.convert(make_node("n", metadata=metadata, taints=taints), wire.Node)

    node, rejected = convert.convert_node(obj, "n")

    assert rejected == ()
    assert node is not None
    assert node.leaving == leaving


@pytest.mark.parametrize(
    ("text", "triggered_s"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T00:00:00.25Z", 1767225600.25),
        ("2026-01-01T00:00:00.123456789Z", 1767225600.123456),
        ("2026-01-01T02:00:00+02:00", 1767225600.0),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("2026-01-01", None),
        ("2026-01-01T00:00:00", None),
        ("20260101T000000Z", None),
        ("2026-13-01T00:00:00Z", None),
        ("2026-01-01T00:00:00Z ", None),
        ("٢٠٢٦-01-01T00:00:00Z", None),
    ],
)
def test_the_time_of_the_change_behind_a_slice_is_read_and_what_is_no_time_ignored(
    text: str | None, triggered_s: float | None
) -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": text, "other": "x"}
    document = make_slice(metadata={"annotations": annotations})

    read, rejected = convert.convert_slice(msgspec.convert(document, wire.EndpointSlice), "n")

    assert rejected == ()
    assert read is not None
    assert read.triggered_s == triggered_s


def test_a_slice_without_annotations_says_nothing_of_its_change() -> None:
    read, _ = convert.convert_slice(msgspec.convert(make_slice(), wire.EndpointSlice), "n")

    assert read is not None
    assert read.triggered_s is None


def _service_cidr(*cidrs: str) -> tuple[ServiceCidrs | None, list[str]]:
    ranges, rejected = convert.convert_service_cidr(
        msgspec.convert(make_service_cidr(cidrs=cidrs), wire.ServiceCIDR)
    )
    return ranges, [each.field for each in rejected]


def test_ranges_of_cluster_ips_are_canonical() -> None:
    ranges, fields = _service_cidr("10.96.7.7/12", "fd00:10::/108", "10.096.0.0/12")

    assert ranges == ServiceCidrs(
        name="kubernetes", cidrs=("10.96.0.0/12", "fd00:10::/108"), resource_version="1"
    )
    assert fields == []


def test_a_range_that_is_none_costs_only_itself() -> None:
    ranges, fields = _service_cidr("nonsense", "10.96.0.0/12")

    assert ranges == ServiceCidrs(name="kubernetes", cidrs=("10.96.0.0/12",), resource_version="1")
    assert fields == ["spec.cidrs[0]"]


def test_ranges_without_a_name_are_nothing() -> None:
    ranges, rejected = convert.convert_service_cidr(wire.ServiceCIDR())

    assert ranges is None
    assert [each.field for each in rejected] == ["metadata.name"]
