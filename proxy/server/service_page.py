"""The page of one service: its frontends, endpoints with reasons, what the kernel holds, what changed last. Pure."""

from collections.abc import Mapping
from typing import Final

from proxy.explain import EndpointDocument
from proxy.explain_text import choice_words
from proxy.server.changes_page import changes_table
from proxy.server.documents import (
    HeldDocument,
    OutcomeDocument,
    PortDocument,
    ServiceDocument,
)
from proxy.server.markup import Column, facts, items, link, table, text, url
from proxy.server.pages import COLOURS, Frame, badge, page

ENDPOINTS: Final = 200
"""Rows of endpoints on one page, and lines of what the kernel holds."""
_NOTES: Final = 20


def service(document: ServiceDocument, number: int, frame: Frame) -> str:
    """Return everything about one service; `number` is the page of its endpoints."""
    name = f"{document.namespace}/{document.name}"
    content = f"<h1>{text(name)}</h1>\n<p>{badge(document.state)}</p>\n"
    if document.findings:
        kind = "notes bad" if COLOURS[document.state] == "bad" else "notes"
        content += items(
            [text(f"{f.where}: {f.text}" if f.where else f.text) for f in document.findings], kind
        )
    content += facts(_facts(document))
    held = {(h.service_port, h.protocol, h.family): h for h in document.kernel}
    for port in document.ports:
        one = port.explained
        found = held.get((one.service_port, one.protocol, one.family))
        content += _port(port, found, document, number)
    content += "<h2>Latest changes</h2>\n" + changes_table(
        document.changes, "Newest first", "Changes"
    )
    if document.problems:
        content += "<h2>What cannot be used of it</h2>\n"
        content += items([text(str(problem)) for problem in document.problems], "notes")
    return page(name, "", frame, content)


def _facts(document: ServiceDocument) -> list[tuple[str, str]]:
    name = f"{document.namespace}/{document.name}"
    slices = ", ".join([f"{s.name} ({s.endpoints:,})" for s in document.slices]) or "none"
    explain = url(["debug", "explain"], {"service": name, "output": "text"})
    machine = url(["debug", "services", document.namespace, document.name], {"output": "json"})
    return [
        (
            "Endpoints",
            f'<span class="number">{document.ready:,} ready of {document.endpoints:,},'
            f" {document.used:,} used from this node</span>",
        ),
        ("Slices", text(slices)),
        ("Created", text(document.created or "unknown")),
        ("Version", text(document.resource_version or "unknown")),
        ("Also as", f"{link(machine, 'JSON')}, {link(explain, 'text')}"),
    ]


def _port(
    port: PortDocument, held: HeldDocument | None, document: ServiceDocument, number: int
) -> str:
    one = port.explained
    name = one.service_port.partition(":")[2]
    words = f"Port {name}" if name else "Port"
    content = f"<h2>{text(words)} · {one.protocol} · {one.family}</h2>\n"
    if port.refused is not None:
        refused = port.refused
        again = f"tried {refused.failures} times, again in {refused.retry_in_seconds:.0f} s"
        content += items([text(f"Refused by the kernel: {refused.reason} ({again})")], "notes bad")
    content += table(
        "Frontends: where clients connect",
        [Column("Kind"), Column("Address", "mono"), Column("Policy"), Column("Connections")],
        map(_frontend_row, port.frontends),
    )
    content += facts(_rules(port))
    content += _endpoints(port, document, number)
    if port.shadowed:
        content += "<h3>Stated twice</h3>\n" + items(
            [
                text(f"{s.address} is also stated by slice {s.slice}, which lost")
                for s in port.shadowed
            ]
        )
    return content + _kernel(held, document.kernel_error)


def _rules(port: PortDocument) -> list[tuple[str, str]]:
    one = port.explained
    pairs = [
        ("Cluster list", text(port.cluster_words)),
        ("Local list", text(port.local_words)),
    ]
    if one.session_affinity is not None:
        pairs.append(
            ("Affinity", f"by client address, {one.session_affinity.timeout_seconds:,} s")
        )
    if one.source_ranges:
        pairs.append(("Sources", text(f"only {', '.join(one.source_ranges)}")))
    if one.health_check_node_port:
        pairs.append(("Health check", f"node port {one.health_check_node_port}"))
    return pairs


def _frontend_row(frontend: OutcomeDocument) -> list[str]:
    address = frontend.address or "every node address"
    host = f"[{address}]" if ":" in address else address
    words: Mapping[str, str] = {
        "served": f"to {frontend.endpoints:,} endpoint{'' if frontend.endpoints == 1 else 's'}",
        "refused": "refused: no endpoint is usable anywhere",
        "dropped": "dropped: the endpoints are on other nodes",
        "owned by another": f"go to {frontend.owner}, which is older and owns this address",
        "pending": "not yet programmed",
    }
    colour = {"served": "good-text", "refused": "bad-text"}.get(frontend.outcome, "warn-text")
    return [
        frontend.kind,
        text(f"{host}:{frontend.port}"),
        frontend.policy,
        f'<span class="{colour}">{text(words[frontend.outcome])}</span>',
    ]


def _endpoints(port: PortDocument, document: ServiceDocument, number: int) -> str:
    endpoints = port.explained.endpoints
    if not endpoints:
        return '<p class="faint">No slice states an endpoint for this port.</p>\n'
    pages = -(-len(endpoints) // ENDPOINTS)
    number = min(number, pages)
    first = (number - 1) * ENDPOINTS
    shown = endpoints[first : first + ENDPOINTS]
    caption = f"Endpoints: {first + 1:,}–{first + len(shown):,} of {len(endpoints):,}"
    columns = [
        Column("Address", "mono"),
        Column("Cluster list"),
        Column("Local list"),
        Column("Node"),
        Column("Zone"),
        Column("Slice"),
    ]
    content = table(caption, columns, map(_endpoint_row, shown))
    path = ["debug", "services", document.namespace, document.name]
    links = [
        link(url(path, {"output": "html", "page": str(other)}), words)
        for other, words in ((number - 1, "← Previous"), (number + 1, "Next →"))
        if 1 <= other <= pages
    ]
    turning = f'<nav aria-label="Pages of endpoints" class="pages">{" ".join(links)}</nav>\n'
    return content + (turning if links else "")


def _endpoint_row(endpoint: EndpointDocument) -> list[str]:
    node = (endpoint.node_name or "unknown") + (" (this one)" if endpoint.is_local else "")
    return [
        text(endpoint.address),
        _choice(endpoint.cluster.selected, choice_words(endpoint.cluster)),
        _choice(endpoint.local.selected, choice_words(endpoint.local)),
        text(node),
        text(endpoint.zone or "unknown"),
        text(endpoint.slice),
    ]


def _choice(is_selected: bool, words: str) -> str:
    if words == "-":
        return '<span class="faint">list not used</span>'
    sign, _, reason = words.partition(" ")
    said = "selected" if sign == "+" else "not selected"
    kind = "good-text" if is_selected else "faint"
    return f'<span class="{kind}">{said}: {text(reason)}</span>'


def _kernel(held: HeldDocument | None, error: str) -> str:
    content = "<h3>In the kernel now</h3>\n"
    if held is None:
        return content + f'<p class="faint">{text(error or "not read")}</p>\n'
    if held.differences:
        content += items([text(line) for line in held.differences[:_NOTES]], "notes bad")
        if len(held.differences) > _NOTES:
            content += f"<p>and {len(held.differences) - _NOTES:,} more differences</p>\n"
    elif held.lines:
        content += '<p class="faint">Read back just now: as we believe it to be.</p>\n'
    else:
        content += '<p class="faint">Read back just now: nothing, as we believe.</p>\n'
    if held.lines:
        lines = [text(line) for line in held.lines[:ENDPOINTS]]
        if len(held.lines) > ENDPOINTS:
            lines.append(f"… and {len(held.lines) - ENDPOINTS:,} more lines: see JSON")
        content += f'<pre tabindex="0">{chr(10).join(lines)}</pre>\n'
    return content
