"""Objects as a Table, which is what `kubectl get` asks for and prints."""

import datetime
from collections.abc import Callable, Iterable
from typing import Any

from tests.apiserver.resources import EVENTS, NODES, SERVICES, SLICES, Object, Resource
from tests.apiserver.store import Item

_NONE = "<none>"
Columns = tuple[tuple[str, Callable[[Object], object]], ...]


def render(
    resource: Resource, items: Iterable[Item], metadata: object, *, has_columns: bool = True
) -> Object:
    """A Table of these objects. Later events of a watch leave the columns out."""
    columns = _columns(resource)
    rows = [_row(item.load(), columns) for item in items]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            _definition(position, name) for position, (name, _) in enumerate(columns)
        ]
        if has_columns
        else None,
        "rows": rows,
    }


def _definition(position: int, name: str) -> Object:
    return {
        "name": name,
        "type": "string",
        "format": "name" if position == 0 else "",
        "description": name,
        "priority": 1 if name == "Selector" else 0,
    }


def _row(obj: Object, columns: Columns) -> Object:
    partial = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
    return {"cells": [cell(obj) for _, cell in columns], "object": partial}


def _columns(resource: Resource) -> Columns:
    name = ("Name", lambda obj: obj["metadata"]["name"])
    age = ("Age", _age)
    middle: dict[Resource, Columns] = {
        SERVICES: (
            ("Type", lambda obj: _spec(obj).get("type", _NONE)),
            ("Cluster-IP", lambda obj: _spec(obj).get("clusterIP") or _NONE),
            ("External-IP", _external),
            ("Port(s)", _service_ports),
        ),
        NODES: (
            ("Status", lambda _: "Ready"),
            ("Roles", lambda _: _NONE),
        ),
        SLICES: (
            ("AddressType", lambda obj: obj.get("addressType", "")),
            ("Ports", lambda obj: _few([port.get("port") for port in obj.get("ports") or ()])),
            ("Endpoints", _endpoints),
        ),
        EVENTS: (("Reason", lambda obj: obj.get("reason", "")),),
    }
    if resource is SERVICES:
        selector = ("Selector", _selector)
        return (name, *middle[resource], age, selector)
    return (name, *middle.get(resource, ()), age)


def _spec(obj: Object) -> Object:
    spec: Object = obj.get("spec") or {}
    return spec


def _external(obj: Object) -> str:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses = [one.get("ip") or one.get("hostname", "") for one in ingress]
    return ",".join([*addresses, *(_spec(obj).get("externalIPs") or ())]) or _NONE


def _service_ports(obj: Object) -> str:
    ports = _spec(obj).get("ports") or ()
    return ",".join(_service_port(port) for port in ports) or _NONE


def _service_port(port: Any) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"


def _selector(obj: Object) -> str:
    selector = _spec(obj).get("selector") or {}
    return ",".join(f"{key}={value}" for key, value in selector.items()) or _NONE


def _endpoints(obj: Object) -> str:
    endpoints = obj.get("endpoints") or ()
    return _few([address for one in endpoints for address in one.get("addresses") or ()])


def _few(values: list[object], limit: int = 3) -> str:
    shown = ",".join(str(value) for value in values[:limit])
    more = f" + {len(values) - limit} more..." if len(values) > limit else ""
    return f"{shown}{more}" or "<unset>"


def _age(obj: Object) -> str:
    created = obj["metadata"].get("creationTimestamp")
    if not created:
        return "<unknown>"
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(created)
    seconds = int(since.total_seconds())
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172_800 else f"{seconds // 86_400}d"
