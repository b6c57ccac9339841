"""Kubernetes objects as plain values, valid by default; a test overrides only what it is about.

What is built is the wire form, as `yaml.safe_load` or `json.loads` would return it, so that a test can nest, break
or encode it at will. Each function takes the few arguments that nearly every test varies, and any further
keyword is a field of the object's main part in its Kubernetes spelling: `make_service(sessionAffinity="ClientIP")`.
A field set to `ABSENT` is left out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

# What JSON can hold. Tests reach deep into these values, and a precise type would only be in their way.
Wire = dict[str, Any]

ABSENT: Final = object()
NODE_NAME: Final = "node-1"


def make_service(
    name: str = "web",
    namespace: str = "default",
    *,
    ports: object = ({"name": "http", "protocol": "TCP", "port": 80},),
    cluster_ips: Sequence[str] = ("10.96.0.10",),
    labels: Mapping[str, object] | None = None,
    ingress: Sequence[Wire] = (),
    created: str = "2026-01-01T00:00:00Z",
    metadata: Mapping[str, object] | None = None,
    **spec: object,
) -> Wire:
    """Build a Service of type ClusterIP with one TCP port. Its IP families follow from `cluster_ips`."""
    families = ["IPv6" if ":" in ip else "IPv4" for ip in cluster_ips]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace, labels, {"creationTimestamp": created}, metadata),
        "spec": _without_absent(
            {
                "type": "ClusterIP",
                "clusterIP": cluster_ips[0] if cluster_ips else "",
                "clusterIPs": list(cluster_ips),
                "ipFamilies": families,
                "ports": _listed(ports),
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                **spec,
            }
        ),
        "status": {"loadBalancer": {"ingress": list(ingress)} if ingress else {}},
    }


def make_slice(
    name: str = "web-abc12",
    namespace: str = "default",
    *,
    service: str | None = "web",
    address_type: str = "IPv4",
    endpoints: object = ("10.244.1.5",),
    ports: object = ({"name": "http", "protocol": "TCP", "port": 8080},),
    labels: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
    **fields: object,
) -> Wire:
    """Build an EndpointSlice with one ready endpoint. An endpoint may be given by its address alone."""
    owner = {} if service is None else {"kubernetes.io/service-name": service}
    if isinstance(endpoints, Iterable):
        endpoints = [make_endpoint(item) if isinstance(item, str) else item for item in endpoints]
    return _without_absent(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": _metadata(name, namespace, owner | dict(labels or {}), {}, metadata),
            "addressType": address_type,
            "endpoints": endpoints,
            "ports": _listed(ports),
            **fields,
        }
    )


def make_endpoint(
    address: str = "10.244.1.5",
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    node: str | None = None,
    zone: str | None = None,
    zone_hints: Sequence[str] | None = None,
    node_hints: Sequence[str] | None = None,
    **fields: object,
) -> Wire:
    """Build one endpoint of a slice; whatever is None is left out, as the API leaves out what is not known."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    hints = {
        "forZones": None if zone_hints is None else [{"name": hint} for hint in zone_hints],
        "forNodes": None if node_hints is None else [{"name": hint} for hint in node_hints],
    }
    endpoint = {
        "addresses": [address],
        "conditions": _without_none(conditions),
        "nodeName": node,
        "zone": zone,
        "hints": _without_none(hints) or None,
        **fields,
    }
    return _without_absent(_without_none(endpoint))


def make_node(
    name: str = NODE_NAME,
    *,
    zone: str | None = "zone-a",
    internal_ips: Sequence[str] = ("192.0.2.1",),
    pod_cidrs: Sequence[str] = ("10.244.1.0/24",),
    labels: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
    **spec: object,
) -> Wire:
    """Build a Node."""
    zone_label = {} if zone is None else {"topology.kubernetes.io/zone": zone}
    addresses = [{"type": "InternalIP", "address": ip} for ip in internal_ips]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata(name, None, zone_label | dict(labels or {}), {}, metadata),
        "spec": _without_absent(
            {"podCIDR": pod_cidrs[0] if pod_cidrs else "", "podCIDRs": list(pod_cidrs), **spec}
        ),
        "status": {"addresses": [*addresses, {"type": "Hostname", "address": name}]},
    }


def make_service_cidr(
    name: str = "kubernetes", *, cidrs: Sequence[str] = ("10.96.0.0/12",)
) -> Wire:
    """Build a ServiceCIDR."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": _metadata(name, None, None, {}, None),
        "spec": {"cidrs": list(cidrs)},
    }


def make_list(items: Iterable[Wire], kind: str = "List", api_version: str = "v1") -> Wire:
    """Build a list as `kubectl get -o yaml` prints it; a typed one if `kind` says so."""
    return {"apiVersion": api_version, "kind": kind, "metadata": {}, "items": list(items)}


def make_bookmark(kind: str, *, ends_initial_list: bool = True) -> Wire:
    """Build the object of a BOOKMARK event: nothing but its kind and how far the watch has come."""
    annotations = {"k8s.io/initial-events-end": "true"} if ends_initial_list else {}
    groups = {"EndpointSlice": "discovery.k8s.io/v1", "ServiceCIDR": "networking.k8s.io/v1"}
    version = groups.get(kind, "v1")
    metadata = {"resourceVersion": "1000", "creationTimestamp": None, "annotations": annotations}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def watch_line(event_type: str, obj: object) -> bytes:
    """Return one line of a watch response."""
    return json.dumps({"type": event_type, "object": obj}).encode() + b"\n"


def _metadata(
    name: str,
    namespace: str | None,
    labels: Mapping[str, object] | None,
    own: Wire,
    overrides: Mapping[str, object] | None,
) -> Wire:
    where = {} if namespace is None else {"namespace": namespace}
    uid = f"uid-of-{name}"
    common = {
        "name": name,
        **where,
        "uid": uid,
        "resourceVersion": "1",
        "labels": dict(labels or {}),
    }
    return _without_absent({**common, **own, **(overrides or {})})


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def _without_absent(value: Wire) -> Wire:
    return {key: item for key, item in value.items() if item is not ABSENT}


def _without_none(value: Wire) -> Wire:
    return {key: item for key, item in value.items() if item is not None}
