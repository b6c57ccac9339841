"""What becomes of an object that is written: what the server adds to it, and the patches that clients send.

Only what clients of the served kinds need: a Service gets its type, policies and addresses, everything gets its uid and
time. Nothing is validated beyond what identifies an object: the program under test has to cope with what is stored.
"""

import datetime
import ipaddress
import uuid
from collections.abc import Callable
from typing import Any

from tests.apiserver import status
from tests.apiserver.resources import SERVICES, Object, Resource
from tests.apiserver.store import Item, Key, Store

_SERVICE_NETWORK = ipaddress.ip_network("10.96.0.0/16")
_FIRST_NODE_PORT = 30000
# lists that a strategic merge patch merges by a field, for the kinds that are served
_MERGE_KEYS = {"taints": "key", "addresses": "type", "conditions": "type"}
_SERVICE_MERGE_KEYS = {**_MERGE_KEYS, "ports": "port"}


def identify(resource: Resource, obj: object, namespace: str, name: str = "") -> Object:
    """The object with the name and namespace of the request. Raises ApiStatusError (400) if they contradict."""
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
        raise status.bad_request("the body is no object")
    kind, version = obj.get("kind", resource.kind), obj.get("apiVersion", resource.api_version)
    if (kind, version) != (resource.kind, resource.api_version):
        raise status.bad_request(
            f"{version}, Kind={kind} is not what stands at this path: {resource.kind}"
        )
    metadata = dict(obj.get("metadata") or {})
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
    metadata.setdefault("name", name)
    if resource.is_namespaced:
        metadata["namespace"] = metadata.get("namespace") or namespace or "default"
    if (name and metadata["name"] != name) or (
        namespace and resource.is_namespaced and metadata["namespace"] != namespace
    ):
        raise status.bad_request(
            "the name or namespace of the object does not match that of the request"
        )
    if not isinstance(metadata["name"], str) or not metadata["name"]:
        raise status.bad_request("name or generateName is required")
    return {**obj, "metadata": metadata}


def create(store: Store, resource: Resource, obj: Object) -> Item:
    """Store a new object. Raises ApiStatusError (409) if there is one of that name."""
    key = _key(obj)
    if store.get(resource, key) is not None:
        raise status.already_exists(resource, key[1])
    return put(store, resource, obj)


def replace(store: Store, resource: Resource, obj: Object) -> Item:
    """Replace an object. Raises ApiStatusError: 404 if there is none, 409 if it is newer than the writer thinks."""
    key = _key(obj)
    existing = store.get(resource, key)
    if existing is None:
        raise status.not_found(resource, key[1])
    seen = obj["metadata"].get("resourceVersion")
    if seen and seen != str(existing.revision):
        raise status.conflict(resource, key[1])
    return put(store, resource, obj)


def put(store: Store, resource: Resource, obj: Object) -> Item:
    """Create or replace, whatever there was; a write that changes nothing is none."""
    existing = store.get(resource, _key(obj))
    before = existing.load() if existing else None
    given = before["metadata"] if before else {}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    own = {
        "uid": given.get("uid") or obj["metadata"].get("uid") or str(uuid.uuid4()),
        "creationTimestamp": given.get("creationTimestamp")
        or obj["metadata"].get("creationTimestamp")
        or now,
    }
    finished = {**obj, "metadata": {**obj["metadata"], **own}}
    if resource is SERVICES and isinstance(finished.get("spec", {}), dict):
        finished["spec"] = _service_spec(store, finished.get("spec") or {})
        finished.setdefault("status", {"loadBalancer": {}})
    if before is not None and _content(before) == _content(finished):
        assert existing is not None
        return existing
    return store.put(resource, finished)


def patch(resource: Resource, target: Object, change: Any, content_type: str) -> Object:
    """Apply a merge patch (RFC 7386) or a strategic one.

    Raises ApiStatusError: 415 for other kinds of patches, 409 if the patch is for another resourceVersion.
    """
    seen = (
        (change.get("metadata") or {}).get("resourceVersion") if isinstance(change, dict) else ""
    )
    if seen and seen != target["metadata"]["resourceVersion"]:
        raise status.conflict(resource, target["metadata"]["name"])
    if content_type == "application/merge-patch+json":
        return _checked(_merged(target, change, {}))
    if content_type == "application/strategic-merge-patch+json":
        keys = _SERVICE_MERGE_KEYS if resource is SERVICES else _MERGE_KEYS
        return _checked(_merged(target, change, keys))
    raise status.ApiStatusError(
        415,
        f"the body of the request was in an unknown format: {content_type}; accepted:"
        " application/merge-patch+json, application/strategic-merge-patch+json",
    )


def _checked(value: object) -> Object:
    if not isinstance(value, dict):
        raise status.bad_request("the patch leaves no object")
    return value


def _merged(target: Any, change: Any, keys: dict[str, str]) -> Any:
    if not isinstance(change, dict):
        return change
    if keys and change.get("$patch") == "replace":
        return {name: value for name, value in change.items() if name != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if keys and name.startswith("$"):
            continue  # orders of lists, and fields to retain: nothing here depends on them
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, list) and name in keys:
            merged[name] = _merged_list(merged.get(name) or [], value, keys[name], keys)
        else:
            merged[name] = _merged(merged.get(name), value, keys)
    return merged


def _merged_list(
    target: list[Any], change: list[Any], key: str, keys: dict[str, str]
) -> list[Any]:
    merged = {one.get(key): one for one in target}
    for one in change:
        if one.get("$patch") == "delete":
            merged.pop(one.get(key), None)
        else:
            merged[one.get(key)] = _merged(merged.get(one.get(key)), one, keys)
    return list(merged.values())


def _service_spec(store: Store, spec: Object) -> Object:
    """What the API server adds to a Service."""
    kind = spec.get("type") or "ClusterIP"
    defaults: Object = {"type": kind, "sessionAffinity": "None"}
    if kind == "ExternalName":
        return {**defaults, **spec}
    if not spec.get("clusterIP"):
        spec = {**spec, "clusterIP": _free(store, "clusterIP", _addresses())}
    address = spec["clusterIP"]
    listed = spec.get("clusterIPs") or [address]
    defaults |= {
        "clusterIPs": listed,
        "ipFamilies": ["IPv6" if ":" in str(one) else "IPv4" for one in listed],
        "ipFamilyPolicy": "SingleStack" if len(listed) == 1 else "PreferDualStack",
        "internalTrafficPolicy": "Cluster",
    }
    ports = spec.get("ports")
    if isinstance(ports, list) and all(isinstance(port, dict) for port in ports):
        has_node_ports = kind in ("NodePort", "LoadBalancer")
        ports = [_service_port(port, has_node_port=has_node_ports) for port in ports]
        spec = {**spec, "ports": ports}
    return {**defaults, **spec, "clusterIPs": listed}


def _service_port(port: Object, *, has_node_port: bool) -> Object:
    number = port.get("port")
    defaults = {"protocol": "TCP", "targetPort": number}
    if has_node_port and isinstance(number, int):
        defaults["nodePort"] = _FIRST_NODE_PORT + number % 2768
    return {**defaults, **port}


def _addresses() -> Callable[[int], str]:
    first = int(_SERVICE_NETWORK.network_address) + 0x8000
    return lambda number: str(ipaddress.ip_address(first + number))


def _free(store: Store, field: str, spelled: Callable[[int], str]) -> str:
    taken = {item.fields[f"spec.{field}"] for item in store.items(SERVICES)}
    return next(one for one in map(spelled, range(len(taken) + 1)) if one not in taken)


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _content(obj: Object) -> Object:
    """All but the number that every write changes."""
    metadata = {
        name: value for name, value in obj["metadata"].items() if name != "resourceVersion"
    }
    typed = {name: value for name, value in obj.items() if name not in ("kind", "apiVersion")}
    return {**typed, "metadata": metadata}
