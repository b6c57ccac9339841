"""The endpoints of one slice, port by port."""

from typing import Any

import msgspec
import pytest

from proxy.model import Endpoint, Family, SlicePort
from proxy.sources import endpoints, wire
from proxy.sources.findings import Findings
from tests.builders import ABSENT, NODE_NAME, make_endpoint, make_slice

Ports = dict[SlicePort, tuple[Endpoint, ...]]


def _by_port(document: dict[str, Any], node_name: str = NODE_NAME) -> tuple[Ports, Findings]:
    obj = msgspec.convert(document, wire.EndpointSlice)
    found = Findings("EndpointSlice", obj.metadata, "")
    family: Family = "IPv6" if obj.address_type == "IPv6" else "IPv4"
    return dict(endpoints.by_port(obj, family, node_name, found)), found


def _only(document: dict[str, Any], node_name: str = NODE_NAME) -> Endpoint:
    ports, found = _by_port(document, node_name)
    [[endpoint]] = ports.values()
    assert found.rejected() == ()
    return endpoint


def _fields(found: Findings) -> list[str]:
    return [rejected.field for rejected in found.rejected()]


def test_an_endpoint_has_its_address_in_every_form() -> None:
    assert _only(make_slice(endpoints=["10.244.1.5"])) == Endpoint(
        address="10.244.1.5:8080",
        ip="10.244.1.5",
        port=8080,
        packed=b"\x0a\xf4\x01\x05\x1f\x90\0\0",
        slice="web-abc12",
    )


def test_an_ipv6_endpoint_stands_in_brackets() -> None:
    endpoint = _only(make_slice(address_type="IPv6", endpoints=["FD00:0::0005"]))

    assert endpoint.address == "[fd00::5]:8080"
    assert endpoint.ip == "fd00::5"
    assert endpoint.packed == b"\xfd" + bytes(14) + b"\x05" + b"\x1f\x90\0\0"


@pytest.mark.parametrize("given", ["010.244.001.005", "::ffff:10.244.1.5"])
def test_sloppy_addresses_become_canonical(given: str) -> None:
    assert _only(make_slice(endpoints=[given])).address == "10.244.1.5:8080"


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, True, False),
        ({"ready": False}, False, True, False),
        ({"serving": False}, True, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": True, "terminating": True}, True, True, True),
        ({"ready": False, "serving": False, "terminating": True}, False, False, True),
    ],
)
def test_conditions_default_each_on_its_own(
    conditions: object, ready: bool, serving: bool, terminating: bool
) -> None:
    endpoint = _only(make_slice(endpoints=[make_endpoint() | {"conditions": conditions}]))

    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (
        ready,
        serving,
        terminating,
    )


@pytest.mark.parametrize(
    ("at_node", "own", "is_local"),
    [
        ("node-1", "node-1", True),
        ("node-2", "node-1", False),
        ("Node-1", "node-1", False),
        ("node-1 ", "node-1", False),
        (None, "node-1", False),
        (None, "", False),
        ("", "", False),
    ],
)
def test_an_endpoint_is_local_if_its_node_name_is_exactly_ours(
    at_node: str | None, own: str, is_local: bool
) -> None:
    endpoint = _only(make_slice(endpoints=[make_endpoint(node=at_node)]), own)

    assert endpoint.is_local is is_local
    assert endpoint.node_name == at_node


def test_hints_are_sets_and_an_empty_list_is_none() -> None:
    [hinted, empty, null, bare] = _by_port(
        make_slice(
            endpoints=[
                make_endpoint("10.0.0.1", zone="a", zone_hints=["a", "b"], node_hints=["node-1"]),
                make_endpoint("10.0.0.2", zone_hints=[], node_hints=[]),
                make_endpoint("10.0.0.3", hints={"forZones": None, "forNodes": [None]}),
                make_endpoint("10.0.0.4", hints={}),
            ]
        )
    )[0][SlicePort("http", "TCP")]

    assert hinted.zone == "a"
    assert hinted.zone_hints == frozenset({"a", "b"})
    assert hinted.node_hints == frozenset({"node-1"})
    assert {empty.zone_hints, empty.node_hints} == {None}
    assert {null.zone_hints, null.node_hints} == {None}
    assert {bare.zone_hints, bare.node_hints} == {None}


def test_endpoints_with_equal_hints_share_one_set() -> None:
    given = [make_endpoint(f"10.0.0.{index}", zone_hints=["a"]) for index in range(2)]

    [first, second] = _by_port(make_slice(endpoints=given))[0][SlicePort("http", "TCP")]

    assert first.zone_hints is second.zone_hints


def test_every_port_has_every_endpoint_sorted_by_address() -> None:
    ports, found = _by_port(
        make_slice(
            endpoints=["10.0.0.9", "10.0.0.1"],
            ports=[
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns", "protocol": "TCP", "port": 53},
                {"name": "", "port": 9153},
            ],
        )
    )

    assert {port: [item.address for item in items] for port, items in ports.items()} == {
        SlicePort("dns", "UDP"): ["10.0.0.1:53", "10.0.0.9:53"],
        SlicePort("dns", "TCP"): ["10.0.0.1:53", "10.0.0.9:53"],
        SlicePort("", "TCP"): ["10.0.0.1:9153", "10.0.0.9:9153"],
    }
    assert found.rejected() == ()


def test_one_name_with_two_numbers_serves_both() -> None:
    ports, found = _by_port(
        make_slice(
            endpoints=["10.0.0.1", "10.0.0.2"],
            ports=[{"name": "http", "port": 8080}, {"name": "http", "port": 8081}],
        )
    )

    assert [item.address for item in ports[SlicePort("http", "TCP")]] == [
        "10.0.0.1:8080",
        "10.0.0.2:8080",
        "10.0.0.1:8081",
        "10.0.0.2:8081",
    ]
    assert found.rejected() == ()


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({"port": 80}, "ports[0].name"),
        ({"name": None, "port": 80}, "ports[0].name"),
        ({"name": "a"}, "ports[0].port"),
        ({"name": "a", "port": None}, "ports[0].port"),
        ({"name": "a", "port": 0}, "ports[0].port"),
        ({"name": "a", "port": 65536}, "ports[0].port"),
        ({"name": "a", "port": 80, "protocol": "tcp"}, "ports[0].protocol"),
    ],
)
def test_a_port_that_cannot_serve_is_named_and_the_others_go_on(
    port: dict[str, object], field: str
) -> None:
    ports, found = _by_port(make_slice(ports=[port, {"name": "good", "port": 81}]))

    assert list(ports) == [SlicePort("good", "TCP")]
    assert _fields(found) == [field]


def test_a_port_that_stands_twice_serves_once() -> None:
    ports, found = _by_port(
        make_slice(ports=[{"name": "a", "port": 80}, {"name": "a", "port": 80}])
    )

    assert len(ports[SlicePort("a", "TCP")]) == 1
    assert _fields(found) == ["ports[1]"]


@pytest.mark.parametrize("ports", [None, [], [None], ABSENT])
def test_no_ports_means_no_endpoints(ports: object) -> None:
    assert _by_port(make_slice(ports=ports))[0] == {}


@pytest.mark.parametrize("given", [None, [], [None], ABSENT])
def test_a_port_may_have_no_endpoints(given: object) -> None:
    ports, found = _by_port(make_slice(endpoints=given))

    assert ports == {SlicePort("http", "TCP"): ()}
    assert found.rejected() == ()


@pytest.mark.parametrize(
    ("address_type", "addresses", "field"),
    [
        ("IPv4", [], "endpoints[0].addresses"),
        ("IPv4", None, "endpoints[0].addresses"),
        ("IPv4", [None], "endpoints[0].addresses"),
        ("IPv4", [""], "endpoints[0].addresses[0]"),
        ("IPv4", [" 10.0.0.2"], "endpoints[0].addresses[0]"),
        ("IPv4", ["web.example.com"], "endpoints[0].addresses[0]"),
        ("IPv4", ["fd00::1"], "endpoints[0].addresses[0]"),
        ("IPv6", ["10.0.0.2"], "endpoints[0].addresses[0]"),
        # Printed it would be IPv4, so it is no endpoint of an IPv6 service.
        ("IPv6", ["::ffff:10.0.0.2"], "endpoints[0].addresses[0]"),
    ],
)
def test_an_endpoint_without_a_usable_address_is_named_and_the_others_go_on(
    address_type: str, addresses: object, field: str
) -> None:
    good = "fd00::9" if address_type == "IPv6" else "10.0.0.9"
    broken = make_endpoint() | {"addresses": addresses}

    ports, found = _by_port(make_slice(address_type=address_type, endpoints=[broken, good]))

    assert [item.ip for item in ports[SlicePort("http", "TCP")]] == [good]
    assert _fields(found) == [field]


def test_only_the_first_address_counts() -> None:
    endpoint = _only(make_slice(endpoints=[make_endpoint(addresses=["10.0.0.1", "10.0.0.2"])]))

    assert endpoint.ip == "10.0.0.1"


def test_fields_that_no_proxy_reads_change_nothing() -> None:
    plain = make_endpoint()
    rich = make_endpoint(
        hostname="web-0",
        targetRef={"kind": "Pod", "name": "web-0"},
        deprecatedTopology={"topology.kubernetes.io/zone": "z9"},
    )

    assert _only(make_slice(endpoints=[rich])) == _only(make_slice(endpoints=[plain]))


def test_old_topology_is_answered_once_with_what_to_write_instead() -> None:
    given = [make_endpoint(f"10.0.0.{index}", topology={"a": "b"}) for index in range(1, 4)]

    ports, found = _by_port(make_slice(endpoints=given))

    assert len(ports[SlicePort("http", "TCP")]) == 3
    [rejected] = found.rejected()
    assert rejected.field == "endpoints[0].topology"
    assert "write nodeName and zone" in rejected.reason
    assert "2 more" in rejected.reason
