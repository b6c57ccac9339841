"""Every object is read on its own, and only what is no JSON at all is malformed."""

import json
from typing import Any

import pytest

from proxy.model import Rejected
from proxy.sources import wire
from proxy.sources.decode import (
    Decoded,
    MalformedError,
    decode_event,
    decode_json,
    read_document,
)
from tests.builders import (
    ABSENT,
    make_bookmark,
    make_list,
    make_node,
    make_service,
    make_service_cidr,
    make_slice,
    watch_line,
)


def both_ways(document: object) -> list[Decoded]:
    """Read a document as JSON and as plain values, and insist that it makes no difference."""
    as_json = list(decode_json(json.dumps(document).encode()))
    assert as_json == list(read_document(document))
    return as_json


def read_one(document: object) -> Decoded:
    [decoded] = both_ways(document)
    return decoded


@pytest.mark.parametrize(
    ("document", "kind", "namespace", "name", "cls"),
    [
        (make_service(), "Service", "default", "web", wire.Service),
        (make_slice(), "EndpointSlice", "default", "web-abc12", wire.EndpointSlice),
        (make_node(), "Node", "", "node-1", wire.Node),
        (make_service_cidr(), "ServiceCIDR", "", "kubernetes", wire.ServiceCIDR),
    ],
)
def test_an_object_is_read_and_named(
    document: dict[str, Any], kind: str, namespace: str, name: str, cls: type[wire.Object]
) -> None:
    decoded = read_one(document)

    assert decoded[:3] == (kind, namespace, name)
    assert isinstance(decoded.object, cls)
    assert decoded.rejected == ()


def test_a_list_yields_its_items() -> None:
    decoded = both_ways(make_list([make_service("a"), make_slice("b"), make_node("c")]))

    assert [item.name for item in decoded] == ["a", "b", "c"]
    assert all(item.object is not None for item in decoded)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("ServiceList", make_service()),
        ("EndpointSliceList", make_slice()),
        ("NodeList", make_node()),
    ],
)
def test_items_of_a_typed_list_need_no_kind(kind: str, document: dict[str, Any]) -> None:
    item = {key: value for key, value in document.items() if key not in ("kind", "apiVersion")}

    decoded = both_ways(make_list([item, item], kind=kind))

    assert [f"{entry.kind}List" for entry in decoded] == [kind, kind]
    assert all(entry.object is not None for entry in decoded)


@pytest.mark.parametrize("items", [None, []])
def test_a_list_may_be_empty(items: object) -> None:
    assert both_ways({"apiVersion": "v1", "kind": "List", "items": items}) == []


def test_an_item_that_is_no_object_costs_only_itself() -> None:
    bad, good = both_ways(make_list([5, make_service()]))  # type: ignore[list-item]  # on purpose

    assert bad.object is None
    assert [rejected.reason for rejected in bad.rejected] == ["expected an object"]
    assert good.object is not None


def test_a_misfit_names_object_and_field_and_keeps_the_rest() -> None:
    decoded = read_one(make_service(ports=[{"port": "80"}, {"port": 443}]))

    assert decoded.rejected == (
        Rejected(
            kind="Service",
            name="default/web",
            field="spec.ports[0].port",
            reason="expected a whole number, got text",
        ),
    )
    assert isinstance(decoded.object, wire.Service)
    assert decoded.object.spec is not None
    assert decoded.object.spec.ports == [None, wire.ServicePort(port=443)]


def test_an_object_whose_identity_is_broken_still_says_what_it_is() -> None:
    decoded = read_one(make_service(metadata={"labels": 5}))

    assert decoded[:4] == ("Service", "default", "web", None)
    assert [rejected.field for rejected in decoded.rejected] == ["metadata.labels"]


@pytest.mark.parametrize("kind", ["Deployment", "ConfigMap", "NodeMetrics", "SomethingList"])
def test_kinds_that_have_nothing_to_do_with_a_proxy_pass_in_silence(kind: str) -> None:
    document = {"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "x"}}

    assert all(decoded.object is None and not decoded.rejected for decoded in both_ways(document))


def test_a_kind_of_the_same_name_in_another_api_is_not_ours() -> None:
    knative = make_service() | {"apiVersion": "serving.knative.dev/v1"}

    decoded = read_one(knative)

    assert decoded.kind != "Service"
    assert decoded.object is None
    assert decoded.rejected == ()


@pytest.mark.parametrize("version", [ABSENT, None, ""])
def test_the_api_version_may_be_missing(version: object) -> None:
    document = make_slice() | {"apiVersion": version}

    decoded = read_one({key: value for key, value in document.items() if value is not ABSENT})

    assert decoded.object is not None
    assert decoded.rejected == ()


def test_an_old_version_of_a_slice_is_read_with_a_remark() -> None:
    decoded = read_one(make_slice() | {"apiVersion": "discovery.k8s.io/v1beta1"})

    assert decoded.object is not None
    [rejected] = decoded.rejected
    assert rejected.field == "apiVersion"
    assert "write discovery.k8s.io/v1" in rejected.reason


@pytest.mark.parametrize(
    "document", [make_slice() | {"apiVersion": "v1"}, make_node() | {"apiVersion": "v2"}]
)
def test_a_version_that_does_not_have_the_kind_is_refused(document: dict[str, Any]) -> None:
    decoded = read_one(document)

    assert decoded.object is None
    assert [rejected.field for rejected in decoded.rejected] == ["apiVersion"]


def test_endpoints_are_answered_with_what_to_write_instead() -> None:
    decoded = read_one({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}})

    assert decoded.object is None
    [rejected] = decoded.rejected
    assert rejected.name == "web"
    assert "write a discovery.k8s.io/v1 EndpointSlice" in rejected.reason


@pytest.mark.parametrize("kind", [None, "", 5])
def test_an_object_needs_a_kind(kind: object) -> None:
    document = make_service() | {"kind": kind}

    [decoded] = read_document(document)

    assert decoded.object is None
    assert [rejected.field for rejected in decoded.rejected] == ["kind"]


@pytest.mark.parametrize("document", [None, 5, "text", [], [make_service()]])
def test_a_document_has_to_be_an_object(document: object) -> None:
    with pytest.raises(MalformedError):
        list(read_document(document))
    with pytest.raises(MalformedError):
        list(decode_json(json.dumps(document).encode()))


@pytest.mark.parametrize("items", [5, "text", {}])
def test_items_have_to_be_a_list(items: object) -> None:
    document = {"kind": "List", "items": items}

    with pytest.raises(MalformedError):
        list(read_document(document))
    with pytest.raises(MalformedError):
        list(decode_json(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b"", None),
        (b"{", None),
        (b'{"kind": nil}', 13),
        (b'{"kind":"Service"} x', 20),
        (b'{"kind":"Service","metadata":{"name":"\xff"}}', None),
        (b'{"a":' * 100_000, None),
    ],
)
def test_malformed_json_is_told_apart_and_located(data: bytes, position: int | None) -> None:
    with pytest.raises(MalformedError) as caught:
        list(decode_json(data))

    assert caught.value.position == position


@pytest.mark.parametrize("event_type", ["ADDED", "MODIFIED", "DELETED"])
def test_a_watch_event_carries_its_object(event_type: str) -> None:
    event = decode_event(watch_line(event_type, make_slice()))

    assert event.type == event_type
    assert isinstance(event.decoded.object, wire.EndpointSlice)
    assert not event.ends_initial_list


def test_the_order_of_keys_in_an_event_does_not_matter() -> None:
    reverse = dict(reversed(make_service().items()))
    line = json.dumps({"object": reverse, "type": "ADDED"}).encode()

    assert decode_event(line) == decode_event(watch_line("ADDED", make_service()))


def test_a_misfit_in_an_event_keeps_the_rest_of_the_object() -> None:
    event = decode_event(watch_line("ADDED", make_service(ports=[{"port": "80"}, {"port": 443}])))

    assert event.type == "ADDED"
    assert event.decoded.object is not None
    assert [rejected.field for rejected in event.decoded.rejected] == ["spec.ports[0].port"]


@pytest.mark.parametrize("kind", ["Service", "EndpointSlice", "Node"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_bookmark_says_whether_it_ends_the_initial_list(kind: str, ends: bool) -> None:
    event = decode_event(watch_line("BOOKMARK", make_bookmark(kind, ends_initial_list=ends)))

    assert event.type == "BOOKMARK"
    assert event.decoded.kind == kind
    assert event.ends_initial_list is ends


def test_only_a_bookmark_ends_the_initial_list() -> None:
    event = decode_event(watch_line("ADDED", make_bookmark("Service")))

    assert not event.ends_initial_list


def test_an_event_of_a_foreign_kind_is_no_fault() -> None:
    event = decode_event(watch_line("ADDED", {"kind": "Pod", "metadata": {"name": "p"}}))

    assert event.decoded == Decoded("Pod", "", "p", None)


def test_an_error_event_carries_the_server_s_reason() -> None:
    status = {
        "kind": "Status",
        "code": 410,
        "reason": "Expired",
        "message": "too old resource version",
    }

    event = decode_event(watch_line("ERROR", status))

    assert event.type == "ERROR"
    assert [rejected.reason for rejected in event.decoded.rejected] == [
        "410 Expired: too old resource version"
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"5",
        b"{}",
        b'{"type":5}',
        b'{"type":"ADDED","object":{}',
        b'{"type":"ADDED","object":"\xff"}',
    ],
)
def test_a_line_that_is_no_event_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_event(line)


@pytest.mark.parametrize("obj", [None, 5, [], {}, {"kind": "Service", "metadata": 5}])
def test_an_event_without_a_usable_object_says_so(obj: object) -> None:
    event = decode_event(watch_line("ADDED", obj))

    assert event.decoded.object is None
    assert event.decoded.rejected
