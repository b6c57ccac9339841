"""Decoded objects become events, and whatever comes in, nothing but values and reasons comes out."""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import addresses
from proxy.model import (
    EndpointSlice,
    Family,
    NodeInfo,
    Rejected,
    Service,
    ServiceCidrs,
    ServicePort,
)
from proxy.sources import decode
from proxy.sources.events import Delete, Event, Object, Problems, Upsert
from proxy.sources.intake import Intake, ObjectKey, Reading, read
from tests.builders import (
    ABSENT,
    make_endpoint,
    make_node,
    make_service,
    make_service_cidr,
    make_slice,
    watch_line,
)


def _read(document: object, default_namespace: str = "") -> Reading:
    [decoded] = decode.read_document(document)
    return read(decoded, "node-1", default_namespace)


def _value(reading: Reading) -> Object:
    assert reading.value is not None
    return reading.value


def _kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


@pytest.mark.parametrize(
    ("document", "key", "cls"),
    [
        (make_service(), ObjectKey("Service", "default", "web"), Service),
        (make_slice(), ObjectKey("EndpointSlice", "default", "web-abc12"), EndpointSlice),
        (make_node(), ObjectKey("Node", "", "node-1"), NodeInfo),
        (make_service_cidr(), ObjectKey("ServiceCIDR", "", "kubernetes"), ServiceCidrs),
    ],
)
def test_each_kind_is_converted(document: dict[str, Any], key: ObjectKey, cls: type) -> None:
    reading = _read(document)

    assert reading.key == key
    assert isinstance(reading.value, cls)
    assert reading.rejected == ()


def test_findings_of_decoding_and_of_converting_come_together() -> None:
    document = make_service(ports=[{"port": "80"}, {"port": 0}])

    assert [rejected.field for rejected in _read(document).rejected] == [
        "spec.ports[0].port",
        "spec.ports[1].port",
    ]


def test_a_default_namespace_is_part_of_the_key() -> None:
    document = make_service(metadata={"namespace": ABSENT})

    assert _read(document, "default").key == ObjectKey("Service", "default", "web")
    assert _read(document).key == ObjectKey("Service", "", "web")
    assert _read(document).value is None


def test_a_node_has_no_namespace_even_if_it_says_so() -> None:
    document = make_node(metadata={"namespace": "default"})

    assert _read(document, "default").key == ObjectKey("Node", "", "node-1")


@pytest.mark.parametrize(
    "document",
    [
        make_node("node-2"),
        make_node("node-2", internal_ips=["x"]),
        make_node("node-2") | {"spec": 5},
    ],
)
def test_other_nodes_leave_no_trace(document: dict[str, Any]) -> None:
    assert _read(document) == Reading(ObjectKey("Node", "", "node-2"), None, ())
    assert Intake().apply(_read(document)) == []


def test_a_sound_object_is_one_event() -> None:
    reading = _read(make_service())

    assert Intake().apply(reading) == [Upsert(_value(reading))]


def test_problems_follow_their_object_and_are_taken_back_once() -> None:
    intake = Intake()
    odd, sound = _read(make_service(type="odd")), _read(make_service())

    assert intake.apply(odd) == [
        Upsert(_value(odd)),
        Problems("Service default/web", odd.rejected, "uid-of-web"),
    ]
    assert intake.apply(sound) == [Upsert(_value(sound)), Problems("Service default/web", ())]
    assert intake.apply(sound) == [Upsert(_value(sound))]


def test_an_object_of_which_nothing_can_be_used_is_gone() -> None:
    reading = _read(make_slice(address_type="FQDN"))

    assert Intake().apply(reading) == [
        Delete("EndpointSlice", "default", "web-abc12"),
        Problems("EndpointSlice default/web-abc12", reading.rejected),
    ]


def test_a_deleted_object_takes_its_problems_along() -> None:
    intake = Intake()
    odd = _read(make_service(type="odd"))
    intake.apply(odd)

    assert intake.forget(odd.key) == [
        Delete("Service", "default", "web"),
        Problems("Service default/web", ()),
    ]
    assert intake.forget(odd.key) == [Delete("Service", "default", "web")]


def test_the_own_node_outlives_its_deletion() -> None:
    intake = Intake()
    node = _read(make_node())
    intake.apply(node)

    assert intake.forget(node.key) == []


def test_the_own_node_keeps_what_was_known_when_it_cannot_be_read_any_more() -> None:
    assert _kinds(
        Intake().apply(_read(make_node() | {"metadata": {"name": "node-1", "uid": 5}, "spec": 5}))
    ) == [
        Upsert,
        Problems,
    ]
    broken = Reading(
        ObjectKey("Node", "", "node-1"), None, _read(make_service(type="odd")).rejected
    )
    assert _kinds(Intake().apply(broken)) == [Problems]


@pytest.mark.parametrize(
    "document", [{"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}}]
)
def test_foreign_objects_are_no_events(document: dict[str, Any]) -> None:
    intake = Intake()

    assert intake.apply(_read(document, "default")) == []
    assert intake.forget(_read(document).key) == []


def test_what_cannot_be_identified_deletes_nothing() -> None:
    reading = _read(make_service(metadata={"name": ABSENT}))

    assert Intake().apply(reading) == [Problems("Service default/(unnamed)", reading.rejected)]


# From here on: fuzzing. Objects as rich as they come, to be broken at random.

_RICH = (
    make_service(
        type="LoadBalancer",
        cluster_ips=["10.96.0.10", "fd00::10"],
        ports=[
            {"name": "a", "port": 80, "nodePort": 30080},
            {"name": "b", "protocol": "UDP", "port": 53},
        ],
        externalIPs=["192.0.2.1", "2001:db8::1"],
        loadBalancerSourceRanges=[" 10.0.0.0/8", "fd00::/8"],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
        topologyKeys=["*"],
        ingress=[{"ip": "203.0.113.1", "ipMode": "VIP"}],
        labels={"service.kubernetes.io/service-proxy-name": ""},
    ),
    make_slice(
        endpoints=[
            make_endpoint(
                "10.0.0.1", node="node-1", zone="a", zone_hints=["a"], node_hints=["node-1"]
            ),
            make_endpoint("10.0.0.2", ready=False, serving=True, terminating=True, topology={}),
        ],
        ports=[{"name": "a", "port": 8080}, {"name": "b", "protocol": "UDP", "port": 53}],
    ),
    make_node(),
)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(
        ["", "None", "TCP", "tcp", "::", "0.0.0.0/0", "10.0.0.1", "FQDN", "node-1", "Local"]
    )
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "port", "ip", "addresses", "spec", "kind"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield every container in the value with each of its keys."""
    items: Any = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, list) else ())
    )
    for key, item in items:
        yield value, key
        yield from _places(item)


@st.composite
def _mutated(draw: st.DrawFn) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(_RICH)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["delete", "replace", "nest", "wrap", "repeat"])):
            case "delete":
                del container[key]
            case "replace":
                container[key] = draw(_VALUES)
            case "nest":
                container[key] = {"spec": container[key], "name": container[key]}
            case "wrap":
                container[key] = [container[key]]
            case _:
                container[key] = [container[key]] * 3
    return document


def _check(reading: Reading) -> None:
    """Whatever was read is sound: values that can be used as they are, and reasons that can be shown."""
    assert all(isinstance(rejected, Rejected) for rejected in reading.rejected)
    assert all(rejected.reason for rejected in reading.rejected)
    assert len(reading.rejected) <= 202
    msgspec.json.encode([reading.value, reading.rejected])
    match reading.value:
        case Service(ports=ports):
            for port in ports:
                _check_port(port)
        case EndpointSlice(ports=slice_ports, family=family):
            for endpoint in [endpoint for _, endpoints in slice_ports for endpoint in endpoints]:
                packed = _check_address(endpoint.ip, family)
                assert endpoint.packed == packed + endpoint.port.to_bytes(2) + b"\0\0"
        case NodeInfo(name=name):
            assert name == "node-1"
        case ServiceCidrs(cidrs=cidrs):
            for text in cidrs:
                _check_cidr(text)
        case None:
            pass


def _check_port(port: ServicePort) -> None:
    assert addresses.parse_ip(port.cluster_ip) is not None
    assert 0 < port.port <= 65535
    assert 0 <= port.node_port <= 65535
    for text in (*port.external_ips, *port.load_balancer_vips):
        _check_address(text, port.key.family)
    for text in port.source_ranges:
        assert _check_cidr(text) == port.key.family


def _check_address(text: str, family: Family) -> bytes:
    parsed = addresses.parse_ip(text)
    assert parsed is not None
    assert (parsed.text, parsed.family) == (text, family)
    return parsed.packed


def _check_cidr(text: str) -> Family:
    cidr = addresses.parse_cidr(text)
    assert cidr is not None
    assert cidr.text == text
    return cidr.family


@given(_mutated())
def test_mutated_objects_give_values_or_reasons(document: Any) -> None:
    intake = Intake()

    line = watch_line("ADDED", document)
    from_event = read(decode.decode_event(line).decoded, "node-1", "default")
    _check(from_event)
    if isinstance(document, dict):
        readings = [read(item, "node-1", "default") for item in decode.read_document(document)]
        for reading in readings:
            _check(reading)
        if len(readings) == 1:
            assert readings[0] == from_event
    assert all(event is not None for event in intake.apply(from_event))
    intake.forget(from_event.key)


@given(
    st.sampled_from([watch_line("ADDED", document) for document in _RICH]),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=4),
)
def test_mutated_bytes_give_values_or_one_reason(
    line: bytes, edits: list[tuple[int, bytes]]
) -> None:
    for offset, replacement in edits:
        position = offset % len(line)
        line = line[:position] + replacement + line[position + 1 :]

    _check_line(line)


@given(
    st.dictionaries(st.sampled_from(["type", "object", "kind", "metadata"]), _VALUES, max_size=4)
)
def test_arbitrary_json_gives_values_or_one_reason(value: dict[str, Any]) -> None:
    _check_line(json.dumps(value).encode())


def _check_line(line: bytes) -> None:
    with contextlib.suppress(decode.MalformedError):
        _check(read(decode.decode_event(line).decoded, "node-1", "default"))


def test_ranges_of_cluster_ips_that_go_are_deleted() -> None:
    taken = Intake()
    reading = _read(make_service_cidr())

    assert _kinds(taken.apply(reading)) == [Upsert]
    assert taken.forget(reading.key) == [Delete("ServiceCIDR", "", "kubernetes")]
