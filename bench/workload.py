"""The cluster that is measured: services with endpoints, as an API server would send them. Pure.

Objects carry what real ones carry (managed fields, owners, labels, target references), since skipping it is part of
the work.
"""

import json
from collections.abc import Iterator
from typing import Any

NODE = "bench-node"
CLUSTER_CIDR = "10.128.0.0/9"
PORT = 80
TARGET_PORT = 8080
ENDPOINTS_PER_SLICE = 100


def cluster_ip(service: int) -> str:
    """Return an address in 10.64.0.0/10, one for each service."""
    return f"10.{64 + service // 65536}.{service // 256 % 256}.{service % 256}"


def endpoint_ip(number: int) -> str:
    """Return an address in the pods' range."""
    return f"10.{128 + number // 65536 % 128}.{number // 256 % 256}.{number % 256}"


def event(kind: str, obj: dict[str, Any]) -> bytes:
    """Return one line of a watch response."""
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def service(number: int) -> dict[str, Any]:
    ip = cluster_ip(number)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"service-{number}",
            "namespace": f"namespace-{number % 50}",
            "uid": f"5e7f0000-0000-4000-8000-{number:012}",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": f"app-{number}"},
            "managedFields": _managed("f:spec", "f:ports", "f:selector", "f:sessionAffinity"),
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": f"app-{number}"},
            "ports": [
                {"name": "http", "port": PORT, "targetPort": TARGET_PORT, "protocol": "TCP"}
            ],
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    number: int, index: int, endpoints: list[int], version: int = 1
) -> dict[str, Any]:
    """Return slice `index` of service `number` with these endpoint numbers."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"service-{number}-{index:05}",
            "generateName": f"service-{number}-",
            "namespace": f"namespace-{number % 50}",
            "uid": f"51ce0000-0000-4000-8000-{number:06}{index:06}",
            "resourceVersion": str(version),
            "generation": version,
            "labels": {
                "kubernetes.io/service-name": f"service-{number}",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "annotations": {
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": f"service-{number}",
                    "uid": f"5e7f0000-0000-4000-8000-{number:012}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": _managed("f:addressType", "f:endpoints", "f:ports"),
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
        "endpoints": [_endpoint(number, endpoint) for endpoint in endpoints],
    }


def _endpoint(service_number: int, endpoint: int) -> dict[str, Any]:
    return {
        "addresses": [endpoint_ip(endpoint)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{endpoint % 100}",
        "zone": f"zone-{endpoint % 3}",
        "targetRef": {
            "kind": "Pod",
            "namespace": f"namespace-{service_number % 50}",
            "name": f"app-{service_number}-{endpoint:010}",
            "uid": f"90d00000-0000-4000-8000-{endpoint:012}",
        },
    }


def _managed(*fields: str) -> list[dict[str, Any]]:
    return [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {field: {".": {}} for field in fields},
        }
    ]


def manifests(services: int, endpoints: int, per_file: int = 100) -> Iterator[str]:
    """Yield YAML files that say the same as the initial list, without what only an API server adds."""
    yield _yaml(_node())
    for first in range(0, services, per_file):
        documents: list[str] = []
        for number in range(first, min(first + per_file, services)):
            objects = [service(number), *slices(number, endpoints_of(number, endpoints))]
            for obj in objects:
                del obj["metadata"]["managedFields"]
            documents += map(_yaml, objects)
        yield "\n---".join(documents)


def _yaml(value: object, indent: str = "\n") -> str:
    """Write a value in block style, as `kubectl get -o yaml` does."""
    if isinstance(value, dict) and value:
        return "".join(
            [f"{indent}{key}:{_yaml(each, indent + '  ')}" for key, each in value.items()]
        )
    if isinstance(value, list) and value:
        # the first line of an item stands behind its dash
        return "".join([f"{indent}-{_yaml(each, indent + '  ')}" for each in value])
    return f" {json.dumps(value)}"


def endpoints_of(number: int, count: int) -> list[int]:
    """Return the endpoint numbers of a service at the start; no two services share one."""
    return list(range(number * count, (number + 1) * count))


def slices(number: int, endpoints: list[int], version: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the slices that hold these endpoints; an empty one if there are none."""
    for index in range(max(1, -(-len(endpoints) // ENDPOINTS_PER_SLICE))):
        part = endpoints[index * ENDPOINTS_PER_SLICE : (index + 1) * ENDPOINTS_PER_SLICE]
        yield endpoint_slice(number, index, part, version)


def objects(services: int, endpoints: int) -> Iterator[dict[str, Any]]:
    """Yield everything there is at the start."""
    yield _node()
    for number in range(services):
        yield service(number)
    for number in range(services):
        yield from slices(number, endpoints_of(number, endpoints))


def _node() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-0"}},
    }


def initial(services: int, endpoints: int) -> Iterator[bytes]:
    """Yield the events of the initial list, ending with the bookmarks that mark its end."""
    for obj in objects(services, endpoints):
        yield event("ADDED", obj)
    for kind, version in (
        ("Node", "v1"),
        ("Service", "v1"),
        ("EndpointSlice", "discovery.k8s.io/v1"),
    ):
        metadata = {"annotations": {"k8s.io/initial-events-end": "true"}, "resourceVersion": "9"}
        yield event("BOOKMARK", {"apiVersion": version, "kind": kind, "metadata": metadata})
