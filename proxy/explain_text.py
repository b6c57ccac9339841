"""Explanations written out: as JSON for programs, and as text for people, in colours where a terminal has them. Pure."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from proxy.explain import Explained, is_at_localhost
from proxy.model import Endpoint
from proxy.selection import Choice, Reason, Selection, TopologyReason

Style = Literal["bold", "dim", "green", "yellow", "red"]
Paint = Callable[[str, Style], str]
Output = Literal["text", "ansi", "json"]

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")

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
