"""`sliceproxy explain` against a second reading of the rules: objects as they stand in the file in, documents out.

The oracle shares nothing with the program but the JSON keys. It is written for one reading from top to bottom, and as
slow as it likes.
"""

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any, Final

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest_strategies import LABEL, Wire, worlds
from tests.unit.proxy.explaining import Document, explain

OWN: Final = "n1"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def dig(value: Any, *path: str) -> Any:
    """Return what stands at a path, or None where something on the way is absent or null."""
    for name in path:
        value = (value or {}).get(name)
    return value


def ip_of(text: str) -> Address | None:
    """Read an address: leading zeros are decimal, and IPv4 inside IPv6 is IPv4."""
    plain = re.sub(r"\b0+(?=[0-9])", "", text) if "." in text else text
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def range_of(text: str) -> Network | None:
    host, slash, length = text.strip().partition("/")
    address = ip_of(host)
    if address is None or not slash:
        return None
    bits = int(length) - (96 if ":" in host and address.version == 4 else 0)
    return ipaddress.ip_network((address, bits), strict=False)


def of_family(values: Iterable[Any], version: int) -> list[Any]:
    """Return those of a family, each once."""
    return list(dict.fromkeys(v for v in values if v is not None and v.version == version))


def own_zone(objects: list[Wire]) -> str:
    own = [o for o in objects if o["kind"] == "Node" and o["metadata"]["name"] == OWN]
    zone: str = dig(own[-1], "metadata", "labels", "topology.kubernetes.io/zone") if own else ""
    return zone or ""


def namespace(obj: Wire) -> str:
    return dig(obj, "metadata", "namespace") or "default"


def latest(objects: list[Wire], kind: str) -> list[Wire]:
    """Return the objects of a kind, the last of each name, in bytewise order of namespace and name."""
    found = {(namespace(o), o["metadata"]["name"]): o for o in objects if o["kind"] == kind}
    return [found[key] for key in sorted(found)]


def endpoint_of(raw: Wire, slice_name: str, version: int, port: int) -> Wire | None:
    first = [ip_of(text) for text in (raw.get("addresses") or [])[:1]]
    if not of_family(first, version):
        return None
    host = f"{first[0]}" if version == 4 else f"[{first[0]}]"
    conditions = raw.get("conditions") or {}
    return {
        "address": f"{host}:{port}",
        "slice": slice_name,
        "ready": conditions.get("ready") is not False,
        "serving": conditions.get("serving") is not False,
        "terminating": conditions.get("terminating") is True,
        "isLocal": raw.get("nodeName") == OWN,
        "nodeName": raw.get("nodeName"),
        "zone": raw.get("zone"),
        "forZones": {hint["name"] for hint in dig(raw, "hints", "forZones") or []},
        "forNodes": {hint["name"] for hint in dig(raw, "hints", "forNodes") or []},
    }


def endpoints_of(service: Wire, objects: list[Wire], version: int, port: Wire) -> list[Wire]:
    merged: dict[str, Wire] = {}
    for each in latest(objects, "EndpointSlice"):
        labels = dig(each, "metadata", "labels") or {}
        is_ours = (
            namespace(each) == namespace(service)
            and labels.get(LABEL) == service["metadata"]["name"]
            and "service.kubernetes.io/headless" not in labels
            and each.get("addressType") == f"IPv{version}"
        )
        for offered in (each.get("ports") or []) if is_ours else []:
            matches = (
                offered.get("name") == (port.get("name") or "")
                and (offered.get("protocol") or "TCP") == (port.get("protocol") or "TCP")
                and offered.get("port")
            )
            for raw in (each.get("endpoints") or []) if matches else []:
                new = endpoint_of(raw, each["metadata"]["name"], version, offered["port"])
                if new and (new["address"] not in merged or not new["terminating"]):
                    merged[new["address"]] = new
    return [merged[address] for address in sorted(merged)]


def narrowed(ready: list[Wire], zone: str) -> tuple[str, list[Wire]]:
    for mode, key, own in (("SameNode", "forNodes", OWN), ("SameZone", "forZones", zone)):
        here = [e for e in ready if own in e[key]]
        if here and all(e[key] for e in ready):
            return mode, here
    return "", ready


def draining(endpoints: list[Wire]) -> list[Wire]:
    return [e for e in endpoints if e["serving"] and e["terminating"]]


def document(service: Wire, objects: list[Wire], version: int, vip: Address, port: Wire) -> Wire:
    spec = service["spec"]
    external = of_family(map(ip_of, filter(None, spec.get("externalIPs") or [])), version)
    ingress = dig(service, "status", "loadBalancer", "ingress") or []
    vips = [i["ip"] for i in ingress if i.get("ip") and i.get("ipMode") in (None, "VIP")]
    vips = of_family(map(ip_of, vips), version)
    ranges = filter(None, spec.get("loadBalancerSourceRanges") or [])
    allowed = of_family(map(range_of, ranges), version)
    node_port = port.get("nodePort") or 0

    balanced = spec.get("type") == "LoadBalancer"
    accessible = balanced or spec.get("type") == "NodePort" or bool(spec.get("externalIPs"))
    external_local = accessible and spec.get("externalTrafficPolicy") == "Local"
    internal_local = spec.get("internalTrafficPolicy") == "Local"
    is_external = bool(node_port or external or vips)

    zone = own_zone(objects)
    endpoints = endpoints_of(service, objects, version, port)
    cluster: list[Wire] | None = None
    local: list[Wire] | None = None
    topology = ""
    if is_external or not internal_local:
        topology, cluster = narrowed([e for e in endpoints if e["ready"]], zone)
        cluster = cluster or draining(endpoints)
    if internal_local or (external_local and is_external):
        here = [e for e in endpoints if e["isLocal"]]
        local = [e for e in here if e["ready"]] or draining(here)

    timeout = dig(spec, "sessionAffinityConfig", "clientIP", "timeoutSeconds")
    frontends: list[tuple[str, str | None, int]] = [("ClusterIP", str(vip), port["port"])]
    frontends += [("NodePort", None, node_port)] * bool(node_port)
    frontends += [("ExternalIP", str(ip), port["port"]) for ip in external]
    frontends += [("LoadBalancer", str(ip), port["port"]) for ip in vips]
    name = port.get("name") or ""
    return {
        "servicePort": f"{namespace(service)}/{service['metadata']['name']}"
        + f":{name}" * bool(name),
        "protocol": port.get("protocol") or "TCP",
        "family": f"IPv{version}",
        "node": OWN,
        "zone": zone,
        "cluster": addresses(cluster),
        "local": addresses(local),
        "reachable": [
            e["address"] for e in endpoints if e in (cluster or []) or e in (local or [])
        ],
        "anyUsable": any(e["ready"] for e in endpoints) or bool(draining(endpoints)),
        "topology": topology,
        "endpoints": [
            {key: value for key, value in e.items() if not key.startswith("for")}
            | {"cluster": e in (cluster or []), "local": e in (local or [])}
            for e in endpoints
        ],
        "frontends": [dict(zip(("kind", "address", "port"), f, strict=True)) for f in frontends],
        "sessionAffinity": {"timeoutSeconds": timeout or 10800}
        if spec.get("sessionAffinity") == "ClientIP"
        else None,
        "healthCheckNodePort": (spec.get("healthCheckNodePort") or 0)
        if external_local and balanced
        else 0,
        "sourceRanges": []
        if any(r.prefixlen == 0 for r in allowed)
        else [str(r) for r in allowed],
    }


def addresses(endpoints: list[Wire] | None) -> list[str] | None:
    return None if endpoints is None else [e["address"] for e in endpoints]


def cluster_ip(spec: Wire, version: int) -> Address | None:
    families, given = spec.get("ipFamilies") or [], spec.get("clusterIPs") or []
    if not families:
        given = [spec["clusterIP"]]
    elif f"IPv{version}" in families:
        given = given[families.index(f"IPv{version}") :][:1]
    else:
        given = []
    found = of_family(map(ip_of, given), version)
    return found[0] if found else None


def oracle(objects: list[Wire]) -> list[Wire]:
    expected = []
    for service in latest(objects, "Service"):
        spec, labels = service["spec"], dig(service, "metadata", "labels") or {}
        if (
            spec.get("clusterIP") in (None, "", "None")
            or spec.get("type") == "ExternalName"
            or "service.kubernetes.io/service-proxy-name" in labels
        ):
            continue
        for port in spec.get("ports") or []:
            for version in (4, 6):
                vip = cluster_ip(spec, version)
                if vip is not None:
                    expected.append(document(service, objects, version, vip, port))
    return in_order(expected)


def in_order(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda d: (d["servicePort"], d["protocol"], d["family"]))


def without_reasons(documents: list[Document]) -> list[Document]:
    for found in documents:
        for endpoint in found["endpoints"]:
            for which in ("cluster", "local"):
                endpoint[which] = endpoint[which]["selected"]
    return in_order(documents)


@settings(max_examples=120, deadline=None)
@given(worlds, st.booleans())
def test_every_answer_is_what_the_rules_say(objects: list[Wire], is_json: bool) -> None:
    if is_json:
        text, name = json.dumps({"kind": "List", "items": objects}), "objects.json"
    else:
        text, name = yaml.safe_dump_all(objects), "objects.yaml"

    assert without_reasons(explain(text, name=name)) == oracle(objects)
