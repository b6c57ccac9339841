"""The cluster that is measured: services with endpoints, as an API server would send them. Pure.

Objects carry what real ones carry (managed fields, owners, labels, target references), since skipping it is part of
the work.

With features, every tenth service is a load balancer with session affinity, source ranges and a Local policy: of two
such services, one has externalTrafficPolicy Local, the other internalTrafficPolicy Local. Each is reached at a
cluster IP, a node port and a VIP, and one endpoint in ten is on the measured node.
"""

import json
from collections.abc import Iterator
from typing import Any

NODE = "bench-node"
CLUSTER_CIDR = "10.128.0.0/9"
PORT = 80
TARGET_PORT = 8080
ENDPOINTS_PER_SLICE = 100
WIDTH = 50
"""Changes go over so many services in turn, unless told otherwise."""
FEATURED_OF = 10
"""One of so many services has features, where there are any; and one of so many of its endpoints is local."""


def cluster_ip(service: int) -> str:
    """Return an address in 10.64.0.0/10, one for each service."""
    return f"10.{64 + service // 65536}.{service // 256 % 256}.{service % 256}"


def endpoint_ip(number: int) -> str:
    """Return an address in the pods' range."""
    return f"10.{128 + number // 65536 % 128}.{number // 256 % 256}.{number % 256}"


def event(kind: str, obj: dict[str, Any]) -> bytes:
    """Return one line of a watch response."""
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def is_featured(service: int) -> bool:
    """Whether a service is one of those that have features, where there are any."""
    return service % FEATURED_OF == 0


def service(number: int, *, has_features: bool = False) -> dict[str, Any]:
    ip = cluster_ip(number)
    plain: dict[str, Any] = {
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
    if has_features and is_featured(number):
        _add_features(plain, number // FEATURED_OF)
    return plain


def _add_features(plain: dict[str, Any], number: int) -> None:
    policy = "externalTrafficPolicy" if number % 2 else "internalTrafficPolicy"
    spec = plain["spec"]
    spec |= {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "allocateLoadBalancerNodePorts": True,
        "loadBalancerSourceRanges": [
            "10.0.0.0/8",
            f"100.{64 + number // 256}.{number % 256}.0/24",
        ],
        policy: "Local",
    }
    spec["ports"][0]["nodePort"] = 30_000 + number
    if policy == "externalTrafficPolicy":
        spec["healthCheckNodePort"] = 20_000 + number
    vip = f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"
    plain["status"] = {"loadBalancer": {"ingress": [{"ip": vip, "ipMode": "VIP"}]}}


def endpoint_slice(
    number: int,
    index: int,
    endpoints: list[int],
    version: int = 1,
    *,
    has_features: bool = False,
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
        "endpoints": [
            _endpoint(number, endpoint, has_features and is_featured(number))
            for endpoint in endpoints
        ],
    }


def _endpoint(service_number: int, endpoint: int, has_local: bool) -> dict[str, Any]:
    is_local = has_local and endpoint % FEATURED_OF == 0
    return {
        "addresses": [endpoint_ip(endpoint)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": NODE if is_local else f"node-{endpoint % 100}",
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


def slices(
    number: int, endpoints: list[int], version: int = 1, *, has_features: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the slices that hold these endpoints; an empty one if there are none."""
    for index in range(max(1, -(-len(endpoints) // ENDPOINTS_PER_SLICE))):
        part = endpoints[index * ENDPOINTS_PER_SLICE : (index + 1) * ENDPOINTS_PER_SLICE]
        yield endpoint_slice(number, index, part, version, has_features=has_features)


def objects(
    services: int, endpoints: int, *, has_features: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield everything there is at the start."""
    yield _node()
    for number in range(services):
        yield service(number, has_features=has_features)
    for number in range(services):
        yield from slices(number, endpoints_of(number, endpoints), has_features=has_features)


def _node() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-0"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    }


def initial(services: int, endpoints: int, *, has_features: bool = False) -> Iterator[bytes]:
    """Yield the events of the initial list, ending with the bookmarks that mark its end."""
    for obj in objects(services, endpoints, has_features=has_features):
        yield event("ADDED", obj)
    for kind, version in (
        ("Node", "v1"),
        ("Service", "v1"),
        ("EndpointSlice", "discovery.k8s.io/v1"),
    ):
        metadata = {"annotations": {"k8s.io/initial-events-end": "true"}, "resourceVersion": "9"}
        yield event("BOOKMARK", {"apiVersion": version, "kind": kind, "metadata": metadata})
