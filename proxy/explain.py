"""Why traffic goes where it goes: selection as a document. Pure; how it is written out: `explain_text`.

A view over the cache, run through the same selection the daemon programs from. Offline (`sliceproxy explain
--manifests`) and online it is the same code; nothing here is decided anew.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from proxy import localhost, selection
from proxy.cache import Cache, Merged, merge
from proxy.desired import Frontend, FrontendKind, endpoints_of, frontends_of
from proxy.errors import ProxyError
from proxy.model import (
    Endpoint,
    EndpointSlice,
    Family,
    NodeInfo,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)
from proxy.selection import Choice, Selection, Topology


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what is printed or served as JSON: field names in the style of the Kubernetes API."""


class FrontendDocument(Document, frozen=True, kw_only=True):
    """Where clients connect; a node port has no address."""

    kind: FrontendKind
    address: str | None
    port: int


class AffinityDocument(Document, frozen=True, kw_only=True):
    """ClientIP session affinity."""

    timeout_seconds: int


class EndpointDocument(Document, frozen=True, kw_only=True):
    """One endpoint after the merge, and what was decided about it."""

    address: str
    slice: str
    ready: bool
    serving: bool
    terminating: bool
    is_local: bool
    node_name: str | None
    zone: str | None
    cluster: Choice
    local: Choice


class Explanation(Document, frozen=True, kw_only=True):
    """Everything about one ServicePort in one family on one node.

    `cluster` and `local` are null where no traffic policy of the service uses that list.
    """

    service_port: str
    protocol: Protocol
    family: Family
    node: str
    zone: str
    cluster: tuple[str, ...] | None
    local: tuple[str, ...] | None
    reachable: tuple[str, ...]
    any_usable: bool
    topology: Topology
    endpoints: tuple[EndpointDocument, ...]
    frontends: tuple[FrontendDocument, ...]
    session_affinity: AffinityDocument | None
    health_check_node_port: int
    source_ranges: tuple[str, ...]


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A ServicePort with the values behind its explanation; the text form says more than the JSON."""

    port: ServicePort
    node: NodeInfo
    selection: Selection
    shadowed: tuple[Endpoint, ...]
    is_at_localhost: bool = False

    @property
    def frontends(self) -> tuple[Frontend, ...]:
        """Where clients connect; a NodePort at localhost too, where a listener serves it there."""
        port = self.port
        if not (self.is_at_localhost and port.node_port):
            return frontends_of(port)
        here = Frontend("NodePort", localhost.ADDRESSES[port.key.family], port.node_port)
        return (*frontends_of(port), here)

    def document(self) -> Explanation:
        """Return the JSON form."""
        port, chosen = self.port, self.selection
        timeout_s = port.affinity_timeout_s
        return Explanation(
            service_port=str(port.key.name),
            protocol=port.key.name.protocol,
            family=port.key.family,
            node=self.node.name,
            zone=self.node.zone,
            cluster=_addresses(chosen.cluster),
            local=_addresses(chosen.local),
            reachable=_addresses(chosen.reachable) or (),
            any_usable=chosen.is_any_usable,
            topology=chosen.topology,
            endpoints=tuple(
                EndpointDocument(
                    address=e.address,
                    slice=e.slice,
                    ready=e.ready,
                    serving=e.serving,
                    terminating=e.terminating,
                    is_local=e.is_local,
                    node_name=e.node_name,
                    zone=e.zone,
                    cluster=verdict.cluster,
                    local=verdict.local,
                )
                for e, verdict in zip(chosen.endpoints, chosen.verdicts, strict=True)
            ),
            frontends=tuple(
                FrontendDocument(kind=f.kind, address=f.address, port=f.port)
                for f in self.frontends
            ),
            session_affinity=None
            if timeout_s is None
            else AffinityDocument(timeout_seconds=timeout_s),
            health_check_node_port=port.health_check_node_port,
            source_ranges=port.source_ranges,
        )


def explain(cache: Cache, services: Iterable[Service]) -> list[Explained]:
    """Explain services, in bytewise order of namespace and name, port by port."""
    return [
        explained
        for service in sorted(services, key=lambda service: service.name)
        for explained in explain_service(service, cache.slices(service.name), cache.node)
    ]


def explain_service(
    service: Service,
    slices: Iterable[EndpointSlice],
    node: NodeInfo,
    at_localhost: Collection[Family] = (),
) -> list[Explained]:
    """Explain one service, port by port, by its slices in bytewise name order.

    `at_localhost` are the families of which NodePorts are served at localhost by a listener of the proxy.
    """
    merged = merge(slices)
    explained: list[Explained] = []
    for port in service.ports:
        name = port.key.name
        found = merged.get(
            (port.key.family, SlicePort(name.port, name.protocol)), Merged(endpoints=())
        )
        explained.append(
            Explained(
                port=port,
                node=node,
                selection=selection.select(endpoints_of(port, merged), port, node),
                shadowed=found.shadowed,
                is_at_localhost=localhost.is_served(port.key, at_localhost),
            )
        )
    return explained


def find(cache: Cache, wanted: str, where: str) -> Service:
    """Return the Service written `namespace/name`, or `name` for one in the namespace default.

    Raises ProxyError, saying `where` there is none and which others have that name.
    """
    namespace, slash, name = wanted.partition("/")
    identity = ServiceName(namespace, name) if slash else ServiceName("default", wanted)
    if identity in cache.services:
        return cache.services[identity]
    same = sorted(str(other) for other in cache.services if other.name == identity.name)
    hint = f"; there is {' and '.join(same)}" if same else ""
    raise ProxyError(f"no Service {identity} {where}{hint}")


def why_nothing(services: Sequence[Service], where: str) -> str:
    """Return why there is nothing to explain of some services."""
    if len(services) != 1:
        return f"no Service {where} is proxied"
    (service,) = services
    return f"{service.name} is not proxied: {service.skipped or 'no port that can be used'}"


def is_at_localhost(frontend: Frontend) -> bool:
    """Whether this is a NodePort where only a listener serves it."""
    return frontend.kind == "NodePort" and frontend.address is not None


def _addresses(endpoints: tuple[Endpoint, ...] | None) -> tuple[str, ...] | None:
    return None if endpoints is None else tuple(e.address for e in endpoints)
