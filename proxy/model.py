"""The vocabulary of the project: frozen values that every stage of the flow passes on.

Names are those of the Kubernetes API. A value never changes after it was made; two values with equal
content are equal. Nothing here reads a clock, a socket or a file, and nothing here decides anything:
`selection` chooses endpoints and `desired` describes the data plane.
"""

from typing import Final, Literal, NamedTuple

import msgspec

Family = Literal["IPv4", "IPv6"]
Protocol = Literal["TCP", "UDP", "SCTP"]

IPV4: Final[Family] = "IPv4"
IPV6: Final[Family] = "IPv6"
FAMILIES: Final[tuple[Family, ...]] = (IPV4, IPV6)
PROTOCOLS: Final[tuple[Protocol, ...]] = ("TCP", "UDP", "SCTP")


class Value(msgspec.Struct, frozen=True):
    """Base of all frozen values. Structs compare, hash and encode several times faster than dataclasses."""


class ServiceName(NamedTuple):
    """Identity of a Service; slices are merged under it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """Identity of one port of a Service. The protocol is part of it: two ports may share a name."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)

    def __str__(self) -> str:
        """Return `ns/svc:port`, or `ns/svc` for an unnamed port, as kube-proxy prints it."""
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{port}"


class PortKey(NamedTuple):
    """Identity of a ServicePort in one address family: the unit of selection, planning and failure."""

    name: ServicePortName
    family: Family

    def __str__(self) -> str:
        return f"{self.name} ({self.name.protocol}, {self.family})"


class Cause(Value, frozen=True, kw_only=True):
    """The object whose change led to an operation, so that every operation can say why it happens."""

    kind: str
    namespace: str
    name: str
    resource_version: str = ""

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        version = f"@{self.resource_version}" if self.resource_version else ""
        return f"{self.kind} {where}{version}".rstrip()


class Rejected(Value, frozen=True, kw_only=True):
    """A part of an object that cannot be used. It is shown, never raised: the rest of the world goes on.

    `field` is the path inside the object (`spec.ports[0].port`), empty when the whole object is meant.
    """

    kind: str
    name: str
    field: str
    reason: str

    def __str__(self) -> str:
        where = " ".join([part for part in (self.kind, self.name, self.field) if part])
        return f"{where}: {self.reason}" if where else self.reason


class ServicePort(Value, frozen=True, kw_only=True):
    """One port of one Service in one address family, with everything that decides how it is served.

    Addresses and CIDRs are canonical text. `source_ranges` is empty when every source is allowed
    (also when a zero CIDR or only CIDRs of the other family were given). `external_local` already
    considers whether the API honours externalTrafficPolicy for this type of Service.
    """

    key: PortKey
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_vips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_timeout_s: int | None = None
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0

    @property
    def is_external(self) -> bool:
        """Whether this family can be reached from outside: node port, external IP or VIP."""
        return bool(self.node_port or self.external_ips or self.load_balancer_vips)

    @property
    def uses_cluster(self) -> bool:
        """Whether any frontend may use endpoints of the whole cluster."""
        return not self.internal_local or self.is_external

    @property
    def uses_local(self) -> bool:
        """Whether any frontend is limited to endpoints on this node."""
        return self.internal_local or (self.external_local and self.is_external)


class Service(Value, frozen=True, kw_only=True):
    """A Service reduced to what a proxy needs.

    `skipped` names why it has no ports here (`headless`, `ExternalName`, `service-proxy-name`, `no-cluster-ip`).
    `created` is the creationTimestamp as given (RFC 3339 sorts as text); with the name it decides who owns a contested address.
    """

    name: ServiceName
    ports: tuple[ServicePort, ...] = ()
    skipped: str = ""
    created: str = ""
    uid: str = ""
    resource_version: str = ""


READY: Final = 1
SERVING: Final = 2
TERMINATING: Final = 4
LOCAL: Final = 8
ZONE_HINTED: Final = 16
NODE_HINTED: Final = 32


class Endpoint(Value, frozen=True, kw_only=True, gc=False):
    """One address and port behind a ServicePort, as one EndpointSlice states it.

    `address` is `host:port` with IPv6 in brackets: the identity within a ServicePort and the sort key.
    `packed` is the address followed by the port, in network byte order and padded to whole words of four bytes, as
    the kernel's sets and maps hold a concatenation of the two.
    `flags` says all that selection asks of most endpoints in one number, so that a large service is looked through fast.
    Hints are None where the slice gives none: an empty hint list is no hint.
    """

    address: str
    ip: str
    port: int
    packed: bytes
    slice: str
    flags: int = READY | SERVING
    node_name: str | None = None
    zone: str | None = None
    zone_hints: frozenset[str] | None = None
    node_hints: frozenset[str] | None = None

    @property
    def ready(self) -> bool:
        return bool(self.flags & READY)

    @property
    def serving(self) -> bool:
        return bool(self.flags & SERVING)

    @property
    def terminating(self) -> bool:
        return bool(self.flags & TERMINATING)

    @property
    def is_local(self) -> bool:
        """Whether it is on this node."""
        return bool(self.flags & LOCAL)


class SlicePort(NamedTuple):
    """A port of an EndpointSlice: ports are matched to ServicePorts by name and protocol, never by number."""

    name: str
    protocol: Protocol


class EndpointSlice(Value, frozen=True, kw_only=True):
    """An EndpointSlice reduced to what a proxy needs: for each of its ports, the endpoints it lists.

    `service` is None where the slice belongs to no service here (no label, or labelled headless).
    `triggered_s` (unix seconds) is when the first change of a pod or Service led to this version of the slice, as
    its author states it in `endpoints.kubernetes.io/last-change-trigger-time`; None where it does not.
    """

    namespace: str
    name: str
    family: Family
    service: ServiceName | None
    ports: tuple[tuple[SlicePort, tuple[Endpoint, ...]], ...] = ()
    uid: str = ""
    resource_version: str = ""
    triggered_s: float | None = None


class ServiceCidrs(Value, frozen=True, kw_only=True):
    """Ranges from which the API server takes cluster IPs, as one object of the cluster names them; canonical text."""

    name: str
    cidrs: tuple[str, ...] = ()
    resource_version: str = ""


class NodeInfo(Value, frozen=True, kw_only=True):
    """What is known of the own Node. Everything but the name is empty until the Node has been read.

    `leaving` names why no new traffic should come here: the Node is being deleted, or the cluster autoscaler is about
    to; empty otherwise.
    """

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    leaving: str = ""
    is_known: bool = False
    resource_version: str = ""
