"""How a service is doing on this node, in words that need no knowledge of this program. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

from proxy.backlog import Quarantined
from proxy.desired import DesiredPort, Frontend
from proxy.model import PortKey, Service

State = Literal[
    "refused-by-kernel",
    "refusing",
    "dropping",
    "partly-owned",
    "pending",
    "some-not-ready",
    "ok",
    "skipped",
]
STATES: Final[tuple[State, ...]] = get_args(State)
"""Worst first."""
LABELS: Final[Mapping[State, str]] = {
    "refused-by-kernel": "refused by the kernel",
    "refusing": "no usable endpoint",
    "dropping": "none on this node",
    "partly-owned": "address owned by another",
    "pending": "waiting",
    "some-not-ready": "some not ready",
    "ok": "ok",
    "skipped": "not proxied",
}
_SKIPPED: Final[Mapping[str, str]] = {
    "headless": "it is headless: clients find its endpoints by DNS",
    "ExternalName": "it is an ExternalName, which DNS answers",
    "service-proxy-name": "another proxy is asked to serve it (label service.kubernetes.io/service-proxy-name)",
    "no-cluster-ip": "it has no cluster IP",
}


class Finding(NamedTuple):
    """One thing to say about a service, and where (a port, a frontend); the place may be empty."""

    state: State
    text: str
    where: str = ""


class Counts(NamedTuple):
    """Endpoints of a service by distinct address: all, those that are ready, those used from this node."""

    endpoints: int
    ready: int
    used: int


def frontend_words(frontend: Frontend) -> str:
    """Return `ClusterIP 10.96.0.10:80`."""
    address = frontend.address
    if address is None:
        return f"{frontend.kind} {frontend.port}"
    host = f"[{address}]" if ":" in address else address
    return f"{frontend.kind} {host}:{frontend.port}"


def outcome(port: DesiredPort, frontend: Frontend) -> Literal["served", "refused", "dropped"]:
    """Return what becomes of a connection to a frontend."""
    if port.pool(frontend):
        return "served"
    return "dropped" if port.is_any_usable else "refused"


def skipped_words(service: Service) -> str:
    """Return why a service without ports here is not proxied."""
    if not service.skipped:
        return "none of its ports can be used"
    return _SKIPPED.get(service.skipped, service.skipped)


def findings(
    service: Service,
    ports: Sequence[DesiredPort | None],
    quarantine: Mapping[PortKey, Quarantined],
    counts: Counts,
) -> list[Finding]:
    """Return everything there is to say about a service, worst first; `ports` in the order of the service's own."""
    if not service.ports:
        return [Finding("skipped", skipped_words(service))]
    found: list[Finding] = []
    for asked, port in zip(service.ports, ports, strict=True):
        if asked.key in quarantine:
            reason = quarantine[asked.key].reason
            found.append(Finding("refused-by-kernel", f"set aside: {reason}", str(asked.key)))
        if port is None:
            found.append(Finding("pending", "not yet looked at", str(asked.key)))
        else:
            found += _of_frontends(port)
    if counts.ready < counts.endpoints:
        missing = counts.endpoints - counts.ready
        text = f"{missing} of {counts.endpoints} endpoints {'is' if missing == 1 else 'are'} not ready"
        found.append(Finding("some-not-ready", text))
    return sorted(found, key=lambda finding: STATES.index(finding.state))


def _of_frontends(port: DesiredPort) -> Iterable[Finding]:
    for frontend in port.frontends:
        became = outcome(port, frontend)
        if became == "refused":
            text = "connections are refused: no endpoint is usable anywhere"
            yield Finding("refusing", text, frontend_words(frontend))
        elif became == "dropped":
            text = "connections are dropped: the traffic policy is Local, and the endpoints are on other nodes"
            if not (port.internal_local or port.external_local):
                text = "connections are dropped: no endpoint may be used from here"
            yield Finding("dropping", text, frontend_words(frontend))
    for frontend in port.lost:
        yield Finding(
            "partly-owned", "another service owns this address", frontend_words(frontend)
        )


def worst(found: Sequence[Finding]) -> State:
    """Return the state that stands for a service: the first finding, or that all is well."""
    return found[0].state if found else "ok"
