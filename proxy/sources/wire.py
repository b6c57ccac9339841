"""The slices of Kubernetes JSON that a proxy reads, as typed structs.

Pure; the first stage after the bytes. Only fields that something reads are listed, everything else is skipped
by the decoder without being built, which is what makes 100,000 endpoints affordable. Nothing is judged here:
every field may be absent or null, and `convert` decides what that means. Reading bytes and plain values into
these structs is the business of `decode`.

Labels and annotations are structs too, since only a handful of well-known keys is ever looked at.
"""

from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType, field

# Of some labels only the presence counts. An unquoted `true` or an empty value in YAML is presence, too.
Presence = str | bool | int | float | None | UnsetType


class Wire(msgspec.Struct, gc=False, rename="camel"):
    """Base of all wire structs.

    `vital` names the fields without which the rest would mean something else, so that a wrong type in one of
    them costs the whole struct: a condition that cannot be read must not turn into "ready".
    """

    vital: ClassVar[frozenset[str]] = frozenset()


class Annotations(Wire):
    # On a bookmark: everything that existed when the watch began has now been sent (KEP-3157).
    initial_events_end: str | None = field(default=None, name="k8s.io/initial-events-end")


class Metadata(Wire):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    annotations: Annotations | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"name", "namespace", "labels"})


class ServiceLabels(Wire):
    service_proxy_name: Presence = field(
        default=UNSET, name="service.kubernetes.io/service-proxy-name"
    )

    vital: ClassVar[frozenset[str]] = frozenset({"service_proxy_name"})


class ServiceMetadata(Metadata):
    creation_timestamp: str | None = None
    labels: ServiceLabels | None = None


class ServicePort(Wire):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"name", "protocol", "port"})


class ClientIPConfig(Wire):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Wire):
    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(Wire):
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str | None] | None = field(default=None, name="clusterIPs")
    ip_families: list[str | None] | None = None
    ports: list[ServicePort | None] | None = None
    external_ips: list[str | None] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str | None] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    # Obsolete, read only to say so.
    topology_keys: list[str | None] | None = None
    endpoint_slice_proxying: Presence = UNSET

    # A firewall that cannot be read is not the same as no firewall.
    vital: ClassVar[frozenset[str]] = frozenset({"load_balancer_source_ranges"})


class LoadBalancerIngress(Wire):
    ip: str | None = None
    ip_mode: str | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"ip", "ip_mode"})


class LoadBalancerStatus(Wire):
    ingress: list[LoadBalancerIngress | None] | None = None


class ServiceStatus(Wire):
    load_balancer: LoadBalancerStatus | None = None


class Service(Wire, tag_field="kind", tag="Service"):
    api_version: str | None = None
    metadata: ServiceMetadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"metadata"})


class SliceLabels(Wire):
    service_name: str | None = field(default=None, name="kubernetes.io/service-name")
    headless: Presence = field(default=UNSET, name="service.kubernetes.io/headless")

    vital: ClassVar[frozenset[str]] = frozenset({"service_name", "headless"})


class SliceAnnotations(Annotations):
    # When the first of the changes that led to this version of the slice happened (KEP-752); RFC 3339 text.
    last_change_trigger_time: str | None = field(
        default=None, name="endpoints.kubernetes.io/last-change-trigger-time"
    )


class SliceMetadata(Metadata):
    labels: SliceLabels | None = None
    annotations: SliceAnnotations | None = None


class EndpointPort(Wire):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"name", "protocol", "port"})


class EndpointConditions(Wire):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"ready", "serving", "terminating"})


class Hint(Wire):
    name: str | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"name"})


class EndpointHints(Wire):
    for_zones: list[Hint | None] | None = None
    for_nodes: list[Hint | None] | None = None


class Misplaced(Wire):
    """Whatever stands in a field that the API does not have; of interest is only that something does."""


class Endpoint(Wire):
    addresses: list[str | None] | None = None
    conditions: EndpointConditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None
    # Of v1beta1, read only to say so.
    topology: Misplaced | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"addresses", "conditions"})


class EndpointSlice(Wire, tag_field="kind", tag="EndpointSlice"):
    api_version: str | None = None
    metadata: SliceMetadata | None = None
    address_type: str | None = None
    endpoints: list[Endpoint | None] | None = None
    ports: list[EndpointPort | None] | None = None
    # A common mistake, read only to say so.
    spec: Misplaced | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"metadata", "address_type"})


class NodeLabels(Wire):
    zone: str | None = field(default=None, name="topology.kubernetes.io/zone")


class NodeMetadata(Metadata):
    labels: NodeLabels | None = None
    deletion_timestamp: str | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"name"})


class NodeAddress(Wire):
    type: str | None = None
    address: str | None = None


class Taint(Wire):
    key: str | None = None


class NodeSpec(Wire):
    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str | None] | None = field(default=None, name="podCIDRs")
    taints: list[Taint | None] | None = None


class NodeStatus(Wire):
    addresses: list[NodeAddress | None] | None = None


class Node(Wire, tag_field="kind", tag="Node"):
    api_version: str | None = None
    metadata: NodeMetadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"metadata"})


class ServiceCIDRSpec(Wire):
    cidrs: list[str | None] | None = None


class ServiceCIDR(Wire, tag_field="kind", tag="ServiceCIDR"):
    api_version: str | None = None
    metadata: Metadata | None = None
    spec: ServiceCIDRSpec | None = None

    vital: ClassVar[frozenset[str]] = frozenset({"metadata"})


Object = Service | EndpointSlice | Node | ServiceCIDR
