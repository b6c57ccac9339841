"""What the debug pages say of one service, of changes, of the kernel and of the settings, as documents. Pure.

A document is what `/debug/…` answers as JSON, and all that `pages` shows as HTML.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from proxy import explain, explain_text
from proxy.backend import Held
from proxy.backlog import Quarantined
from proxy.config.settings import Settings
from proxy.desired import DesiredPort, Frontend
from proxy.explain import Document, Explanation
from proxy.journal import Entry, Journal
from proxy.model import EndpointSlice, Family, NodeInfo, PortKey, Rejected, Service
from proxy.server.overview import count
from proxy.server.states import Counts, State, findings, outcome, worst

CHANGES: Final = 50
"""How many of the latest and of the slowest changes are shown."""
_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]*@")


class Clock(NamedTuple):
    """This moment on both clocks: monotonic and unix seconds."""

    monotonic_s: float
    unix_s: float


class FindingDocument(Document, frozen=True, kw_only=True):
    state: State
    text: str
    where: str


class OutcomeDocument(Document, frozen=True, kw_only=True):
    """What becomes of a connection to a frontend; `owner` has it where that is another service."""

    kind: str
    address: str | None
    port: int
    policy: Literal["Cluster", "Local"]
    outcome: Literal["served", "refused", "dropped", "owned by another", "pending"]
    endpoints: int
    owner: str | None


class ShadowedDocument(Document, frozen=True, kw_only=True):
    """An endpoint that another slice states too, and whose statement lost."""

    address: str
    slice: str


class RefusedDocument(Document, frozen=True, kw_only=True):
    """That the kernel would not take a ServicePort."""

    reason: str
    failures: int
    retry_in_seconds: float


class PortDocument(Document, frozen=True, kw_only=True):
    """One port of a service in one family: what `explain` says of it, and what became of it."""

    explained: Explanation
    cluster_words: str
    local_words: str
    frontends: tuple[OutcomeDocument, ...]
    shadowed: tuple[ShadowedDocument, ...]
    refused: RefusedDocument | None


class HeldDocument(Document, frozen=True, kw_only=True):
    """What the kernel holds; without `service_port`, what no single one owns.

    `differences` say where that is not what we believe to be there."""

    service_port: str | None
    protocol: str | None
    family: str | None
    lines: tuple[str, ...]
    differences: tuple[str, ...]


class ChangeDocument(Document, frozen=True, kw_only=True):
    """A change and how many milliseconds it spent in each stage.

    `cluster_ms` passed between the change in the cluster and its arrival here, by two clocks; null if that is unknown.
    """

    service_port: str
    protocol: str
    family: str
    cause: str
    error: str
    ago_seconds: float
    total_ms: float
    cluster_ms: float | None
    decoded_ms: float
    queued_ms: float
    planned_ms: float
    acknowledged_ms: float


class ChangesDocument(Document, frozen=True, kw_only=True):
    """The latest and the slowest changes. Only the last `kept` of `total` are remembered."""

    total: int
    kept: int
    latest: tuple[ChangeDocument, ...]
    slowest: tuple[ChangeDocument, ...]


class SliceDocument(Document, frozen=True, kw_only=True):
    name: str
    resource_version: str
    endpoints: int


class ServiceDocument(Document, frozen=True, kw_only=True):
    """Everything known of one service. `kernel_error` says why it could not be read what the kernel holds."""

    namespace: str
    name: str
    state: State
    findings: tuple[FindingDocument, ...]
    created: str
    resource_version: str
    node: str
    zone: str
    endpoints: int
    ready: int
    used: int
    ports: tuple[PortDocument, ...]
    slices: tuple[SliceDocument, ...]
    kernel: tuple[HeldDocument, ...]
    kernel_error: str
    changes: tuple[ChangeDocument, ...]
    problems: tuple[Rejected, ...]


class Subject(NamedTuple):
    """All values that belong to one service, as they were at one moment.

    `ports` stand in the order of the service's own. `owners` has who owns the frontends that were lost.
    """

    service: Service
    slices: Sequence[EndpointSlice]
    node: NodeInfo
    ports: Sequence[DesiredPort | None]
    quarantine: Mapping[PortKey, Quarantined]
    owners: Mapping[tuple[PortKey, Frontend], PortKey | None]
    entries: Sequence[Entry]
    problems: tuple[Rejected, ...]
    held: Sequence[Held] = ()
    kernel_error: str = ""
    at_localhost: Collection[Family] = ()

    @property
    def weight(self) -> int:
        """How many endpoints it stands for."""
        return sum([len(endpoints) for each in self.slices for _, endpoints in each.ports])


def service_document(subject: Subject, clock: Clock) -> ServiceDocument:
    """Return what is known of one service."""
    service, slices = subject.service, subject.slices
    counts: Counts = count(slices, subject.ports)
    found = findings(service, subject.ports, subject.quarantine, counts)
    explained = explain.explain_service(service, slices, subject.node, subject.at_localhost)
    return ServiceDocument(
        namespace=service.name.namespace,
        name=service.name.name,
        state=worst(found),
        findings=tuple([FindingDocument(**f._asdict()) for f in found]),
        created=service.created,
        resource_version=service.resource_version,
        node=subject.node.name,
        zone=subject.node.zone,
        endpoints=counts.endpoints,
        ready=counts.ready,
        used=counts.used,
        ports=tuple(
            [
                _port(one, port, subject, clock)
                for one, port in zip(explained, subject.ports, strict=True)
            ]
        ),
        slices=tuple([_slice(each) for each in slices]),
        kernel=tuple(map(held_document, subject.held)),
        kernel_error=subject.kernel_error,
        changes=tuple([change_document(entry, clock) for entry in subject.entries]),
        problems=subject.problems,
    )


def _port(
    one: explain.Explained, port: DesiredPort | None, subject: Subject, clock: Clock
) -> PortDocument:
    key, chosen = one.port.key, one.selection
    quarantined = subject.quarantine.get(key)
    return PortDocument(
        explained=one.document(),
        cluster_words=explain_text.list_words(chosen.cluster, chosen, explain_text.plain)
        + explain_text.topology_words(chosen),
        local_words=explain_text.list_words(chosen.local, chosen, explain_text.plain),
        frontends=tuple([_outcome(one, port, f, subject) for f in one.frontends]),
        shadowed=tuple([ShadowedDocument(address=e.address, slice=e.slice) for e in one.shadowed]),
        refused=None
        if quarantined is None
        else RefusedDocument(
            reason=quarantined.reason,
            failures=quarantined.failures,
            retry_in_seconds=round(max(0.0, quarantined.retry_s - clock.monotonic_s), 1),
        ),
    )


def _outcome(
    one: explain.Explained, port: DesiredPort | None, frontend: Frontend, subject: Subject
) -> OutcomeDocument:
    asked = one.port
    # at localhost a NodePort is whose it is elsewhere
    claimed = frontend._replace(address=None) if explain.is_at_localhost(frontend) else frontend
    is_local = asked.internal_local if frontend.kind == "ClusterIP" else asked.external_local
    owner = subject.owners.get((asked.key, claimed))
    became: Literal["served", "refused", "dropped", "owned by another", "pending"] = "pending"
    if port is not None:
        became = "owned by another" if claimed in port.lost else outcome(port, claimed)
    return OutcomeDocument(
        kind=frontend.kind,
        address=frontend.address,
        port=frontend.port,
        policy="Local" if is_local else "Cluster",
        outcome=became,
        endpoints=len(port.pool(frontend)) if port is not None and became == "served" else 0,
        owner=None if owner is None else str(owner.name),
    )


def _slice(each: EndpointSlice) -> SliceDocument:
    addresses = {endpoint.ip for _, endpoints in each.ports for endpoint in endpoints}
    return SliceDocument(
        name=each.name, resource_version=each.resource_version, endpoints=len(addresses)
    )


def held_document(held: Held) -> HeldDocument:
    """Return what the kernel holds for one ServicePort."""
    key = held.key
    return HeldDocument(
        service_port=None if key is None else str(key.name),
        protocol=None if key is None else key.name.protocol,
        family=None if key is None else key.family,
        lines=held.lines,
        differences=held.differences,
    )


def changes_document(journal: Journal, clock: Clock) -> ChangesDocument:
    """Return the latest and the slowest changes."""
    return ChangesDocument(
        total=journal.total,
        kept=sum(1 for _ in journal),
        latest=tuple([change_document(entry, clock) for entry in journal.latest(CHANGES)]),
        slowest=tuple([change_document(entry, clock) for entry in journal.slowest(CHANGES)]),
    )


def change_document(entry: Entry, clock: Clock) -> ChangeDocument:
    """Return one change and how long its stages took."""
    key, cluster_ms = entry.key, None
    if entry.triggered_s is not None:
        received_unix_s = clock.unix_s - (clock.monotonic_s - entry.received_s)
        cluster_ms = _ms(received_unix_s - entry.triggered_s)
    return ChangeDocument(
        service_port=str(key.name),
        protocol=key.name.protocol,
        family=key.family,
        cause=str(entry.cause),
        error=entry.error,
        ago_seconds=round(clock.monotonic_s - entry.acknowledged_s, 3),
        total_ms=_ms(entry.took_s),
        cluster_ms=cluster_ms,
        decoded_ms=_ms(entry.decoded_s - entry.received_s),
        queued_ms=_ms(entry.queued_s - entry.decoded_s),
        planned_ms=_ms(entry.planned_s - entry.queued_s),
        acknowledged_ms=_ms(entry.acknowledged_s - entry.planned_s),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def config_document(settings: Settings, mode: str) -> dict[str, Any]:
    """Return the settings in force, names in the style of the API. Passwords in URLs are left out; nothing else in them is secret."""
    known: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=_plain)
    return {"modeInUse": mode, **{_camel(name): _shown(value) for name, value in known.items()}}


def _plain(value: Any) -> float | str:
    """Return what the encoder does not know: durations are float seconds."""
    return float(value) if hasattr(value, "__float__") else str(value)


def _camel(name: str) -> str:
    words = name.removesuffix("_s").split("_")
    unit = "Seconds" if name.endswith("_s") else ""
    return words[0] + "".join(map(str.capitalize, words[1:])) + unit


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return _USER_INFO.sub("…@", value)
    if isinstance(value, dict):
        return {_camel(str(name)): _shown(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    return value


def encode(document: object) -> bytes:
    """Return a document as indented JSON with a line's end."""
    return msgspec.json.format(encode_line(document), indent=2) + b"\n"


def encode_line(document: object) -> bytes:
    """Return a document as JSON in one line. Of names that are no text in UTF-8, what is none is shown escaped."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_legible(msgspec.to_builtins(document)))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_legible(name): _legible(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_legible(inner) for inner in value]
    return value


def problems_of(
    service: Service,
    slices: Iterable[EndpointSlice],
    problems: Mapping[str, tuple[Rejected, ...]],
) -> tuple[Rejected, ...]:
    """Return what is wrong with a service and its slices."""
    namespace = service.name.namespace
    subjects = [
        f"Service {service.name}",
        *[f"EndpointSlice {namespace}/{s.name}" for s in slices],
    ]
    return tuple([problem for subject in subjects for problem in problems.get(subject, ())])
