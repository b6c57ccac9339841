"""How the proxy itself is doing, as a document and as text. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, cast

from proxy.backend import Figure
from proxy.backlog import Quarantined
from proxy.cache import Cache
from proxy.desired import DesiredPort
from proxy.explain import Document
from proxy.explain_text import shown
from proxy.health import Degraded
from proxy.ladder import Refusal
from proxy.model import NodeInfo, PortKey, Rejected
from proxy.server.states import frontend_words
from proxy.sources.events import WatchReport

SHOWN: Final = 1000
"""Of a list that has no natural end, so many are named; `…Total` says how many there are."""
_FEW: Final = 10


class KernelWork(Document, frozen=True, kw_only=True):
    """What was written since the start: objects, and system calls that wrote them."""

    operations: int
    transactions: int


class QuarantinedDocument(Document, frozen=True, kw_only=True):
    service_port: str
    protocol: str
    family: str
    reason: str
    failures: int
    retry_in_seconds: float


class ContestedDocument(Document, frozen=True, kw_only=True):
    service_port: str
    family: str
    owned_by_others: tuple[str, ...]


class WatchDocument(Document, frozen=True, kw_only=True):
    """How it stands with one kind of objects at the API server; seconds ago, null for never."""

    kind: str
    phase: str
    since_seconds: float
    heard_seconds_ago: float | None
    resource_version: str
    objects: int
    lists: int
    watches: int
    failures: int
    retry_in_seconds: float | None
    error: str
    errors: Mapping[str, int]


class StateDocument(Document, frozen=True, kw_only=True):
    """What is known, how far everything is, and what is not as it should be."""

    mode: str
    passed_over: tuple[Refusal, ...]
    mode_changes: int
    version: str
    node: NodeInfo
    synced: bool
    waiting_for: tuple[str, ...]
    revision: int
    services: int
    service_ports: int
    degraded: tuple[Degraded, ...]
    last_error: str
    quarantined: tuple[QuarantinedDocument, ...]
    quarantined_total: int
    contested: tuple[ContestedDocument, ...]
    contested_total: int
    rejected: tuple[Rejected, ...]
    rejected_total: int
    kernel: KernelWork
    figures: tuple[Figure, ...]
    changes: int
    watches: tuple[WatchDocument, ...]


class Facts(NamedTuple):
    """What the document is made of, besides cache and ports."""

    mode: str
    version: str
    is_synced: bool
    last_error: str
    degraded: Sequence[Degraded]
    quarantine: Mapping[PortKey, Quarantined]
    kernel: KernelWork
    changes: int
    reports: Sequence[WatchReport]
    figures: Collection[Figure] = ()
    passed_over: Sequence[Refusal] = ()
    falls: int = 0


def state_document(
    cache: Cache, ports: Collection[DesiredPort], facts: Facts, now_s: float
) -> StateDocument:
    """Return how the proxy is doing. Looks at every ServicePort once, for contested addresses."""
    contested = [port for port in ports if port.lost]
    rejected = [problem for problems in cache.problems.values() for problem in problems]
    quarantine = list(facts.quarantine.items())
    return StateDocument(
        mode=facts.mode,
        passed_over=tuple(facts.passed_over),
        mode_changes=facts.falls,
        version=facts.version,
        node=cache.node,
        synced=facts.is_synced,
        waiting_for=tuple(sorted(cache.unlisted)),
        revision=cache.revision,
        services=len(cache.services),
        service_ports=len(ports),
        degraded=tuple(facts.degraded),
        last_error=facts.last_error,
        quarantined=tuple(
            [
                QuarantinedDocument(
                    service_port=str(key.name),
                    protocol=key.name.protocol,
                    family=key.family,
                    reason=q.reason,
                    failures=q.failures,
                    retry_in_seconds=round(max(0.0, q.retry_s - now_s), 1),
                )
                for key, q in quarantine[:SHOWN]
            ]
        ),
        quarantined_total=len(quarantine),
        contested=tuple(
            [
                ContestedDocument(
                    service_port=str(port.key.name),
                    family=port.key.family,
                    owned_by_others=tuple(map(frontend_words, port.lost)),
                )
                for port in contested[:SHOWN]
            ]
        ),
        contested_total=len(contested),
        rejected=tuple(rejected[:SHOWN]),
        rejected_total=len(rejected),
        kernel=facts.kernel,
        figures=tuple(facts.figures),
        changes=facts.changes,
        watches=tuple([_watch(report, now_s) for report in facts.reports]),
    )


def _watch(report: WatchReport, now_s: float) -> WatchDocument:
    return WatchDocument(
        kind=report.kind,
        phase=report.phase,
        since_seconds=round(now_s - report.since_s, 1),
        heard_seconds_ago=round(now_s - report.heard_s, 1) if report.heard_s else None,
        resource_version=report.resource_version,
        objects=report.objects,
        lists=report.lists,
        watches=report.watches,
        failures=report.failures,
        retry_in_seconds=round(max(0.0, report.retry_s - now_s), 1) if report.retry_s else None,
        error=report.error,
        errors=cast("Mapping[str, int]", report.errors),
    )


def render_text(state: StateDocument) -> str:
    """Return the state for people."""
    node = state.node
    where = f"zone {shown(node.zone)}" if node.zone else "zone unknown"
    if state.synced:
        synced = "yes"
    elif state.waiting_for:
        synced = f"no, waiting for {', '.join(state.waiting_for)}"
    else:
        synced = "no, not yet programmed"
    lines = [
        f"sliceproxy {state.version}  {state.mode}  on node {shown(node.name)}, {where}",
        f"  synced       {synced}",
        f"  services     {state.services}, with {state.service_ports} ports on this node",
        f"  changes      {state.changes} programmed since the start",
        f"  kernel       {state.kernel.operations} objects written in {state.kernel.transactions} transactions",
    ]
    lines += [f"  {state.mode:<12} {_figure_words(figure)}" for figure in state.figures]
    lines += [f"  {watch.kind:<12} {_watch_words(watch)}" for watch in state.watches]
    lines += [f"  DEGRADED     {shown(one.words)}" for one in state.degraded]
    lines += _some(
        "refused",
        [f"{q.service_port} ({q.protocol}, {q.family}): {q.reason}" for q in state.quarantined],
        state.quarantined_total,
    )
    lines += _some(
        "contested",
        [f"{c.service_port} ({c.family}): {_owned(c.owned_by_others)}" for c in state.contested],
        state.contested_total,
    )
    lines += _some("rejected", [str(one) for one in state.rejected], state.rejected_total)
    return "\n".join(lines) + "\n"


def _owned(frontends: Sequence[str]) -> str:
    return f"{', '.join(frontends)} {'is' if len(frontends) == 1 else 'are'} owned by an older service"


def _figure_words(figure: Figure) -> str:
    numbers = [f"{number:g} {value}".rstrip() for value, number in figure.values.items()]
    return f"{figure.name.removesuffix('_total').replace('_', ' ')}: {', '.join(numbers)}"


def _watch_words(watch: WatchDocument) -> str:
    words = f"{watch.phase} for {watch.since_seconds:.0f} s, {watch.objects} objects"
    if watch.error:
        words += f"; {shown(watch.error)}"
    if watch.retry_in_seconds is not None:
        words += f"; again in {watch.retry_in_seconds:.0f} s"
    return words


def _some(title: str, lines: Sequence[str], total: int) -> list[str]:
    """Return the first few of a list, and how many more there are."""
    found = [f"  {title:<12} {shown(line)}" for line in lines[:_FEW]]
    if total > _FEW:
        found.append(f"  {title:<12} … and {total - _FEW} more")
    return found
