"""Why traffic goes where it goes: selection as a document, for programs (JSON) and for people (text). Pure.

A view over the cache, run through the same selection the daemon programs from. Offline (`sliceproxy explain
--manifests`) and online it is the same code; nothing here is decided anew.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Literal

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
from proxy.selection import Choice, Reason, Selection, Topology, TopologyReason

Style = Literal["bold", "dim", "green", "yellow", "red"]
Paint = Callable[[str, Style], str]
Output = Literal["text", "ansi", "json"]

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


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


def _addresses(endpoints: tuple[Endpoint, ...] | None) -> tuple[str, ...] | None:
    return None if endpoints is None else tuple(e.address for e in endpoints)


REASONS: Final[dict[Reason, str]] = {
    "ready": "ready",
    "terminating-fallback": "terminating, but no endpoint is ready",
    "policy-unused": "-",
    "not-local": "on another node",
    "other-node": "hinted for other nodes",
    "other-zone": "hinted for other zones",
    "not-ready": "not ready",
    "terminating": "terminating",
    "not-serving": "terminating, no longer serving",
}
_TOPOLOGY: Final[dict[TopologyReason, str]] = {
    "applied": "",
    "policy-unused": "",
    "no-hints": "",
    "no-ready-endpoint": "",
    "endpoint-without-hint": "hints are ignored: at least one ready endpoint has none",
    "node-without-zone": "hints are ignored: this node has no zone label",
    "no-endpoint-for-zone": "hints are ignored: no ready endpoint is hinted for this zone",
    "no-endpoint-for-node": "hints are ignored: no ready endpoint is hinted for this node",
}


class Printing:
    """What the command prints, service by service, so that ten thousand need not be held at once.

    All pieces and the end, one after the other, are `render_json` or `render_text` of everything, and a line's end.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._is_first = True

    def piece(self, explained: Sequence[Explained]) -> str:
        """Return what is to be printed of some more."""
        if not explained:
            return ""
        is_first, self._is_first = self._is_first, False
        if self._output == "json":
            return ("[" if is_first else ",") + render_json(explained)[1:-2]
        paint = ansi if self._output == "ansi" else plain
        return ("" if is_first else "\n") + render_text(explained, paint)

    def end(self) -> str:
        """Return what comes last."""
        if self._output != "json":
            return ""
        return "[]\n" if self._is_first else "\n]\n"


def render_json(explained: Sequence[Explained]) -> str:
    """Render for programs: an array."""
    return as_json([one.document() for one in explained])


def as_json(documents: object) -> str:
    """Return documents in plain ASCII, so that they are valid whatever encoding the output has."""
    text = msgspec.json.format(msgspec.json.encode(documents), indent=2).decode()
    return text if text.isascii() else _BEYOND_ASCII.sub(lambda m: json.dumps(m[0])[1:-1], text)


def render_text(explained: Sequence[Explained], paint: Paint) -> str:
    """Render for people. `paint` colours a piece of text, or returns it as it is."""
    return "\n\n".join(_render(one, paint) for one in explained) + ("\n" if explained else "")


def plain(text: str, _style: Style) -> str:
    """Paint nothing."""
    return text


def ansi(text: str, style: Style) -> str:
    """Paint with terminal escape sequences."""
    codes: dict[Style, int] = {"bold": 1, "dim": 2, "green": 32, "yellow": 33, "red": 31}
    return f"\x1b[{codes[style]}m{text}\x1b[0m"


def _render(one: Explained, paint: Paint) -> str:
    port, chosen, node = one.port, one.selection, one.node
    where = f"node {node.name}" + (f", zone {shown(node.zone)}" if node.zone else ", zone unknown")
    lines = [
        f"{paint(shown(str(port.key.name)), 'bold')}  {port.key.name.protocol} {port.key.family}  on {where}"
    ]
    lines += _frontend_lines(one)
    lines.append(
        f"  cluster list  {list_words(chosen.cluster, chosen, paint)}{topology_words(chosen)}"
    )
    lines.append(f"  local list    {list_words(chosen.local, chosen, paint)}")
    lines += _endpoint_lines(chosen, paint)
    lines += [
        paint(
            f"  {e.address} is also stated by slice {shown(e.slice)}, which lost to the one above",
            "dim",
        )
        for e in one.shadowed
    ]
    return "\n".join(lines)


def _frontend_lines(one: Explained) -> list[str]:
    lines, port = [], one.port
    for frontend in one.frontends:
        address = frontend.address or "every node address"
        host = f"[{address}]" if ":" in address else address
        policy = port.internal_local if frontend.kind == "ClusterIP" else port.external_local
        lines.append(
            f"  {frontend.kind:<12}  {host}:{frontend.port}  policy {'Local' if policy else 'Cluster'}"
            + (", by a listener of the proxy" if is_at_localhost(frontend) else "")
        )
    if port.source_ranges:
        lines.append(
            f"  sources       only {', '.join(port.source_ranges)} (load balancer addresses)"
        )
    if port.affinity_timeout_s is not None:
        lines.append(f"  affinity      by client address, {port.affinity_timeout_s} s")
    if port.health_check_node_port:
        lines.append(f"  health check  node port {port.health_check_node_port}")
    return lines


def is_at_localhost(frontend: Frontend) -> bool:
    """Whether this is a NodePort where only a listener serves it."""
    return frontend.kind == "NodePort" and frontend.address is not None


def list_words(chosen: tuple[Endpoint, ...] | None, outcome: Selection, paint: Paint) -> str:
    if chosen is None:
        return paint("not used by this service", "dim")
    if chosen:
        total = len(outcome.endpoints)
        return paint(f"{len(chosen)} of {total} endpoint{'s' if total != 1 else ''}", "green")
    if outcome.is_any_usable:
        return paint("empty: connections are dropped (endpoints exist on other nodes)", "red")
    return paint("empty: connections are refused (no usable endpoint anywhere)", "red")


def topology_words(chosen: Selection) -> str:
    if chosen.topology:
        return f", narrowed by hints ({chosen.topology})"
    words = _TOPOLOGY[chosen.topology_reason]
    return f"; {words}" if words else ""


def _endpoint_lines(chosen: Selection, paint: Paint) -> list[str]:
    rows = [("ENDPOINT", "CLUSTER LIST", "LOCAL LIST", "NODE", "ZONE", "SLICE")]
    styles: list[Style] = ["dim"]
    for e, verdict in zip(chosen.endpoints, chosen.verdicts, strict=True):
        is_selected = verdict.cluster.selected or verdict.local.selected
        styles.append("green" if is_selected else "yellow")
        rows.append(
            (
                e.address,
                choice_words(verdict.cluster),
                choice_words(verdict.local),
                shown(e.node_name or "-") + (" (this)" if e.is_local else ""),
                shown(e.zone or "-"),
                shown(e.slice),
            )
        )
    if len(rows) == 1:
        return ["  no endpoints"]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + paint(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(),
            style,
        )
        for row, style in zip(rows, styles, strict=True)
    ]


def shown(name: str) -> str:
    """Return a name as a terminal may show it: no API server has checked what it holds."""
    return name if name.isprintable() else ascii(name)[1:-1]


def choice_words(choice: Choice) -> str:
    if choice.reason == "policy-unused":
        return REASONS[choice.reason]
    return ("+ " if choice.selected else "- ") + REASONS[choice.reason]
