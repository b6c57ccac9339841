"""Wire objects into the project's vocabulary, and a reason for every part that cannot be used.

Pure. Here, and only here, the meaning of absent and null fields is decided, in the words of the API
documentation and of kube-proxy. What the API server would have refused or filled in has to be met as well,
because manifests reach this module without having seen one. A part that cannot be used becomes a `Rejected`
and the rest of the object goes on.

Names are compared exactly as they stand: only the own node name was lower-cased, by whoever passes it.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from sys import intern
from typing import Final, NamedTuple

from msgspec import UNSET

from proxy import addresses
from proxy.model import (
    FAMILIES,
    EndpointSlice,
    Family,
    NodeInfo,
    PortKey,
    Protocol,
    Rejected,
    Service,
    ServiceCidrs,
    ServiceName,
    ServicePort,
    ServicePortName,
    SlicePort,
)
from proxy.sources import advice, endpoints, frontends, wire
from proxy.sources.findings import Findings, quoted

_FAMILY: Final[dict[str | None, Family]] = {family: family for family in FAMILIES}
_NODE_ADDRESS_TYPES: Final = ("InternalIP", "ExternalIP")
_DEFAULT_AFFINITY_TIMEOUT_S: Final = 10800
_LONGEST_AFFINITY_TIMEOUT_S: Final = 86400
_TO_BE_DELETED: Final = "ToBeDeletedByClusterAutoscaler"
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII
)


def convert_service(
    obj: wire.Service, default_namespace: str = ""
) -> tuple[Service | None, tuple[Rejected, ...]]:
    """Return the Service with one ServicePort per port and family, or None if it has no identity.

    A Service that is not proxied has no ports and says why in `skipped`.
    """
    found = Findings("Service", obj.metadata, default_namespace)
    if not found.has_identity():
        return None, found.rejected()
    metadata = obj.metadata or wire.ServiceMetadata()
    spec = obj.spec or wire.ServiceSpec()
    if spec.topology_keys is not None:
        found.add("spec.topologyKeys", advice.TOPOLOGY_KEYS)
    if spec.endpoint_slice_proxying is not UNSET:
        found.add("spec.endpointSliceProxying", advice.SLICE_PROXYING)
    name = ServiceName(intern(found.namespace), intern(found.name))
    skipped = _skip_reason(metadata.labels, spec)
    ports: tuple[ServicePort, ...] = ()
    if not skipped:
        cluster_ips = frontends.cluster_ips(spec, found)
        ports = _service_ports(name, spec, obj.status, cluster_ips, found)
        skipped = "" if cluster_ips else "no-cluster-ip"
    service = Service(
        name=name,
        ports=ports,
        skipped=skipped,
        created=metadata.creation_timestamp or "",
        uid=metadata.uid or "",
        resource_version=metadata.resource_version or "",
    )
    return service, found.rejected()


def _skip_reason(labels: wire.ServiceLabels | None, spec: wire.ServiceSpec) -> str:
    """Return why no proxy serves the Service, or "". An ExternalName may carry a stale clusterIP."""
    if labels is not None and labels.service_proxy_name is not UNSET:
        return "service-proxy-name"
    if spec.type == "ExternalName":
        return "ExternalName"
    if spec.cluster_ip == frontends.HEADLESS:
        return "headless"
    return "" if spec.cluster_ip else "no-cluster-ip"


def _service_ports(
    name: ServiceName,
    spec: wire.ServiceSpec,
    status: wire.ServiceStatus | None,
    cluster_ips: dict[Family, str],
    found: Findings,
) -> tuple[ServicePort, ...]:
    external_ips = frontends.external_ips(spec, found)
    vips = frontends.load_balancer_vips(status, found)
    source_ranges = frontends.source_ranges(spec, found)
    affinity_timeout_s = _affinity_timeout_s(spec, found)
    internal_local = _is_local(spec.internal_traffic_policy, "spec.internalTrafficPolicy", found)
    external_local, health_check_node_port = _external_policy(spec, found)
    return tuple(
        ServicePort(
            key=PortKey(ServicePortName(*name, port.name, port.protocol), family),
            cluster_ip=cluster_ip,
            port=port.number,
            node_port=port.node_port,
            external_ips=external_ips[family],
            load_balancer_vips=vips[family],
            source_ranges=source_ranges[family],
            affinity_timeout_s=affinity_timeout_s,
            internal_local=internal_local,
            external_local=external_local,
            health_check_node_port=health_check_node_port,
        )
        for port in _numbered_ports(spec, found)
        for family, cluster_ip in cluster_ips.items()
    )


class _NumberedPort(NamedTuple):
    name: str
    protocol: Protocol
    number: int
    node_port: int


def _numbered_ports(spec: wire.ServiceSpec, found: Findings) -> list[_NumberedPort]:
    """Return the ports that can be served. A name may stand twice, with different protocols."""
    ports: dict[SlicePort, _NumberedPort] = {}
    for index, port in enumerate(spec.ports or ()):
        if port is None:
            continue
        field = f"spec.ports[{index}]"
        protocol = found.protocol(port.protocol, f"{field}.protocol")
        number = found.port(port.port, f"{field}.port")
        if protocol is None or number is None:
            continue
        key = SlicePort(intern(port.name or ""), protocol)
        if key in ports:
            found.add(
                f"{field}.name", f"{quoted(key.name)} with {protocol} stands in the list twice"
            )
            continue
        node_port = port.node_port and found.port(port.node_port, f"{field}.nodePort")
        ports[key] = _NumberedPort(key.name, protocol, number, node_port or 0)
    return list(ports.values())


def _affinity_timeout_s(spec: wire.ServiceSpec, found: Findings) -> int | None:
    affinity = found.choice(spec.session_affinity, ("None", "ClientIP"), "spec.sessionAffinity")
    if affinity == "None":
        return None
    client_ip = spec.session_affinity_config and spec.session_affinity_config.client_ip
    given = client_ip.timeout_seconds if client_ip else None
    if given is None:
        return _DEFAULT_AFFINITY_TIMEOUT_S
    if 0 < given <= _LONGEST_AFFINITY_TIMEOUT_S:
        return given
    found.add(
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        f"not between 1 and {_LONGEST_AFFINITY_TIMEOUT_S}: {_DEFAULT_AFFINITY_TIMEOUT_S} is used",
    )
    return _DEFAULT_AFFINITY_TIMEOUT_S


def _is_local(policy: str | None, field: str, found: Findings) -> bool:
    return found.choice(policy, ("Cluster", "Local"), field) == "Local"


def _external_policy(spec: wire.ServiceSpec, found: Findings) -> tuple[bool, int]:
    """Return whether external traffic stays on the node, and the health check node port (0 for none).

    The policy is honoured only for Services that the API calls externally accessible, where the raw list of
    externalIPs counts: an entry that cannot be used still makes the Service one.
    """
    types = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
    service_type = found.choice(spec.type, types, "spec.type")
    is_local = _is_local(spec.external_traffic_policy, "spec.externalTrafficPolicy", found)
    is_accessible = service_type in ("LoadBalancer", "NodePort") or bool(spec.external_ips)
    external_local = is_local and is_accessible
    if not external_local or service_type != "LoadBalancer" or not spec.health_check_node_port:
        return external_local, 0
    return True, found.port(spec.health_check_node_port, "spec.healthCheckNodePort") or 0


def convert_slice(
    obj: wire.EndpointSlice, node_name: str, default_namespace: str = ""
) -> tuple[EndpointSlice | None, tuple[Rejected, ...]]:
    """Return the slice with its endpoints per port, or None if nothing of it can be used.

    An endpoint is local if its nodeName equals `node_name` exactly and neither is empty.
    """
    found = Findings("EndpointSlice", obj.metadata, default_namespace)
    if obj.spec is not None:
        found.add("spec", advice.SLICE_SPEC)
    family = _slice_family(obj, found)
    if not found.has_identity() or family is None:
        return None, found.rejected()
    metadata = obj.metadata or wire.SliceMetadata()
    service = _owner(metadata.labels, found)
    endpoint_slice = EndpointSlice(
        namespace=intern(found.namespace),
        name=found.name,
        family=family,
        service=service,
        ports=endpoints.by_port(obj, family, node_name, found) if service else (),
        uid=metadata.uid or "",
        resource_version=metadata.resource_version or "",
        triggered_s=_triggered_s(metadata.annotations),
    )
    return endpoint_slice, found.rejected()


def convert_node(obj: wire.Node, node_name: str) -> tuple[NodeInfo | None, tuple[Rejected, ...]]:
    """Return what there is to know of the own node; None, and no findings, for any other."""
    metadata = obj.metadata
    if metadata is None or not metadata.name or metadata.name != node_name:
        return None, ()
    found = Findings("Node", metadata, "")
    status = obj.status or wire.NodeStatus()
    spec = obj.spec or wire.NodeSpec()
    node = NodeInfo(
        name=metadata.name,
        zone=(metadata.labels and metadata.labels.zone) or "",
        addresses=_node_addresses(status.addresses or (), found),
        pod_cidrs=_pod_cidrs(spec, found),
        leaving=_leaving(metadata, spec),
        is_known=True,
        resource_version=metadata.resource_version or "",
    )
    return node, found.rejected()


def convert_service_cidr(
    obj: wire.ServiceCIDR,
) -> tuple[ServiceCidrs | None, tuple[Rejected, ...]]:
    """Return the ranges of a ServiceCIDR, or None if it has no name.

    One that is being deleted counts for as long as it is there, as in kube-proxy: its addresses may still be in use.
    """
    found = Findings("ServiceCIDR", obj.metadata, "")
    if not found.name:
        found.add("metadata.name", "missing")
        return None, found.rejected()
    cidrs = []
    for index, text in enumerate((obj.spec and obj.spec.cidrs) or ()):
        cidr = addresses.parse_cidr(text or "")
        if cidr is None:
            found.add(f"spec.cidrs[{index}]", f"{quoted(text or '')} is no CIDR")
        else:
            cidrs.append(cidr.text)
    metadata = obj.metadata or wire.Metadata()
    ranges = ServiceCidrs(
        name=found.name,
        cidrs=tuple(dict.fromkeys(cidrs)),
        resource_version=metadata.resource_version or "",
    )
    return ranges, found.rejected()


def _slice_family(obj: wire.EndpointSlice, found: Findings) -> Family | None:
    given = obj.address_type
    family = _FAMILY.get(given)
    if given == "FQDN":
        found.add("addressType", advice.FQDN)
    elif family is None and given:
        found.add("addressType", f"{quoted(given)} is no address type: write IPv4 or IPv6")
    elif family is None and obj.spec is None:  # otherwise it stands under spec, which was said
        found.add("addressType", "missing: write IPv4 or IPv6")
    return family


def _owner(labels: wire.SliceLabels | None, found: Findings) -> ServiceName | None:
    """Return the Service whose endpoints these are. A slice of a headless Service is none of a proxy's business."""
    labels = labels or wire.SliceLabels()
    if labels.headless is not UNSET:
        return None
    if not labels.service_name:
        found.add(
            "metadata.labels",
            "kubernetes.io/service-name is missing: the slice belongs to no Service",
        )
        return None
    return ServiceName(intern(found.namespace), intern(labels.service_name))


def _triggered_s(annotations: wire.SliceAnnotations | None) -> float | None:
    """Return when the change behind a slice happened (unix seconds).

    Only a measurement hangs on it, so a time that cannot be read is no time, and nobody is bothered, as in kube-proxy.
    """
    text = annotations and annotations.last_change_trigger_time
    if not text or not _RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):  # a thirteenth month, or a time no clock has shown
        return None


def _leaving(metadata: wire.NodeMetadata, spec: wire.NodeSpec) -> str:
    """Return why load balancers should send nothing new to the node; the taint counts with every effect."""
    if metadata.deletion_timestamp:
        return "the Node is being deleted"
    if any(taint is not None and taint.key == _TO_BE_DELETED for taint in spec.taints or ()):
        return f"the Node has the taint {_TO_BE_DELETED}"
    return ""


def _node_addresses(given: Iterable[wire.NodeAddress | None], found: Findings) -> tuple[str, ...]:
    """Return the node's addresses, internal ones first; host names are none."""
    by_type: dict[str, list[str]] = {name: [] for name in _NODE_ADDRESS_TYPES}
    for index, entry in enumerate(given):
        if entry is None or entry.type not in by_type:
            continue
        address = addresses.parse_ip(entry.address or "")
        if address is None:
            field = f"status.addresses[{index}].address"
            found.add(field, f"{quoted(entry.address or '')} is no IP address")
        else:
            by_type[entry.type].append(address.text)
    return tuple(dict.fromkeys(text for texts in by_type.values() for text in texts))


def _pod_cidrs(spec: wire.NodeSpec, found: Findings) -> tuple[str, ...]:
    field, given = "spec.podCIDRs", spec.pod_cidrs
    if not given:
        field, given = "spec.podCIDR", [spec.pod_cidr]
    texts = []
    for text in given:
        if not text:
            continue
        cidr = addresses.parse_cidr(text)
        if cidr is None:
            found.add(field, f"{quoted(text)} is no CIDR")
        else:
            texts.append(cidr.text)
    return tuple(dict.fromkeys(texts))
