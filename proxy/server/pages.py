"""The debug pages as HTML, made from documents. Pure. They work without scripts, and by keyboard alone."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from proxy.explain import EndpointDocument, choice_words
from proxy.server.documents import (
    ChangeDocument,
    ChangesDocument,
    HeldDocument,
    OutcomeDocument,
    PortDocument,
    ServiceDocument,
)
from proxy.server.listing import SORTS, Query, ServiceRow, Services, Sort
from proxy.server.markup import Column, facts, items, link, table, text, url
from proxy.server.state import StateDocument
from proxy.server.states import LABELS, State
from proxy.server.style import STYLE

ENDPOINTS: Final = 200
"""Rows of endpoints on one page, and lines of what the kernel holds."""
_FRONTENDS: Final = 2
_NOTES: Final = 20
_COLOURS: Final[Mapping[State, str]] = {
    "refused-by-kernel": "bad",
    "refusing": "bad",
    "dropping": "warn",
    "partly-owned": "warn",
    "pending": "warn",
    "some-not-ready": "warn",
    "ok": "good",
    "skipped": "",
}
_HEADINGS: Final[Mapping[Sort, str]] = {
    "name": "Service",
    "state": "State",
    "ready": "Ready",
    "endpoints": "Endpoints",
    "used": "Used here",
}
_SORT_WORDS: Final[Mapping[Sort, str]] = {
    "name": "name",
    "state": "state, worst first",
    "endpoints": "most endpoints",
    "ready": "most not ready",
    "used": "most used here",
}
_LINKS: Final = (
    ("Services", "/debug/"),
    ("Changes", "/debug/changes?output=html"),
    ("State", "/debug/state?output=text"),
    ("Explain", "/debug/explain?output=text"),
    ("Kernel", "/debug/kernel"),
    ("Config", "/debug/config"),
)


class Frame(NamedTuple):
    """What stands at the top of every page."""

    node: str
    zone: str
    mode: str
    version: str


def _page(title: str, current: str, frame: Frame, content: str) -> str:
    where = [f"node {text(frame.node)}", text(frame.zone) or "zone unknown", text(frame.mode)]
    links = [
        link(target, name, aria_current="page" if name == current else "")
        for name, target in _LINKS
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)} – sliceproxy</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f"<header>\n<p>{link('/debug/', 'sliceproxy', class_='brand')}"
        f' <span class="faint">{text(frame.version)} · {" · ".join(where)}</span></p>\n'
        f'<nav aria-label="Debug pages">{items(links)}</nav>\n</header>\n'
        f'<main id="main" tabindex="-1">\n{content}</main>\n</body>\n</html>\n'
    )


def _state(state: State) -> str:
    return f'<span class="state {_COLOURS[state]}">{LABELS[state]}</span>'


# --- all services


def front(found: Services, query: Query, state: StateDocument) -> str:
    """Return the list of services with what is wrong with the proxy itself."""
    frame = Frame(state.node.name, state.node.zone, state.mode, state.version)
    content = "<h1>Services</h1>\n" + _how_it_goes(state)
    content += _state_links(found, query) + _search(query)
    first = (found.page - 1) * found.limit + 1
    last = first + len(found.services) - 1
    which = f"{first:,}–{last:,} of {found.matched:,}" if found.services else "None"
    if found.matched != found.total:
        which += f" that match, of {found.total:,} in all"
    columns = [
        Column(
            link(url(["debug", ""], {**query._replace(page=1, sort=sort).parameters}), heading),
            kind="name" if sort == "name" else "" if sort == "state" else "number",
            sort=_direction(sort) if query.sort == sort else "",
        )
        for sort, heading in _HEADINGS.items()
    ]
    columns.insert(2, Column("Frontends", "mono"))
    content += table(which, columns, map(_service_row, found.services), "Services")
    content += _turning(found.page, found.pages, query)
    return _page("Services", "Services", frame, content)


def _direction(sort: Sort) -> str:
    return "ascending" if sort in ("name", "state") else "descending"


def _how_it_goes(state: StateDocument) -> str:
    waiting = (
        f"waiting for {', '.join(state.waiting_for)}" if state.waiting_for else "not yet synced"
    )
    words = (
        f"{'Synced' if state.synced else waiting.capitalize()}."
        f" {state.service_ports:,} service ports, {state.changes:,} changes since the start."
    )
    notes = [text(one.words) for one in state.degraded]
    rejected = [text(str(one)) for one in state.rejected[:_NOTES]]
    if state.rejected_total > len(rejected):
        rejected.append(f"and {state.rejected_total - len(rejected):,} more: see State")
    html = f'<p class="faint">{text(words)}</p>\n'
    if notes:
        html += items(notes, "notes bad")
    if rejected:
        html += "<h2>What cannot be used of the objects</h2>\n" + items(rejected, "notes")
    return html


def _state_links(found: Services, query: Query) -> str:
    entries = [
        link(
            url(["debug", ""], query._replace(state="", page=1).parameters),
            f'all <span class="number">{found.total:,}</span>',
            aria_current="" if query.state else "true",
        )
    ]
    entries += [
        link(
            url(["debug", ""], query._replace(state=state, page=1).parameters),
            f'{_state(state)} <span class="number">{count:,}</span>',
            aria_current="true" if query.state == state else "",
        )
        for state, count in found.states.items()
        if count or query.state == state
    ]
    return f'<nav aria-label="By state" class="states">{items(entries)}</nav>\n'


def _search(query: Query) -> str:
    options = "".join(
        [
            f'<option value="{sort}"{" selected" if sort == query.sort else ""}>'
            f"{_SORT_WORDS[sort]}</option>"
            for sort in SORTS
        ]
    )
    state = f'<input type="hidden" name="state" value="{query.state}">' if query.state else ""
    return (
        '<form method="get" action="/debug/" role="search">\n'
        "<label>Name or address"
        f'<input type="search" name="q" value="{text(query.q)}" autocomplete="off"></label>\n'
        f'<label>Order<select name="sort">{options}</select></label>\n'
        f'{state}<button type="submit">Search</button>\n</form>\n'
    )


def _service_row(row: ServiceRow) -> list[str]:
    frontends = [text(words) for words in row.frontends[:_FRONTENDS]]
    if len(row.frontends) > _FRONTENDS:
        frontends.append(f"and {len(row.frontends) - _FRONTENDS} more")
    why = f"<small>{text(row.why)}</small>" if row.state != "ok" else ""
    return [
        link(
            url(["debug", "services", row.namespace, row.name]),
            text(f"{row.namespace}/{row.name}"),
        ),
        _state(row.state) + why,
        "<br>".join(frontends),
        f"{row.ready:,}",
        f"{row.endpoints:,}",
        f"{row.used:,}",
    ]


def _turning(page: int, pages: int, query: Query) -> str:
    if pages == 1:
        return ""
    parts = []
    if page > 1:
        target = url(["debug", ""], query._replace(page=page - 1).parameters)
        parts.append(link(target, "← Previous", rel="prev"))
    parts.append(f'<span class="faint">Page {page:,} of {pages:,}</span>')
    if page < pages:
        target = url(["debug", ""], query._replace(page=page + 1).parameters)
        parts.append(link(target, "Next →", rel="next"))
    return f'<nav aria-label="Pages" class="pages">{" ".join(parts)}</nav>\n'


# --- one service


def service(document: ServiceDocument, page: int, frame: Frame) -> str:
    """Return everything about one service; `page` is that of its endpoints."""
    name = f"{document.namespace}/{document.name}"
    content = f"<h1>{text(name)}</h1>\n<p>{_state(document.state)}</p>\n"
    if document.findings:
        kind = "notes bad" if _COLOURS[document.state] == "bad" else "notes"
        content += items(
            [text(f"{f.where}: {f.text}" if f.where else f.text) for f in document.findings], kind
        )
    content += facts(_facts(document))
    held = {(h.service_port, h.protocol, h.family): h for h in document.kernel}
    for port in document.ports:
        one = port.explained
        found = held.get((one.service_port, one.protocol, one.family))
        content += _port(port, found, document, page)
    content += "<h2>Latest changes</h2>\n" + _changes(document.changes, "Newest first", "Changes")
    if document.problems:
        content += "<h2>What cannot be used of it</h2>\n"
        content += items([text(str(problem)) for problem in document.problems], "notes")
    return _page(name, "", frame, content)


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
    port: PortDocument, held: HeldDocument | None, document: ServiceDocument, page: int
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
    content += _endpoints(port, document, page)
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


def _endpoints(port: PortDocument, document: ServiceDocument, page: int) -> str:
    endpoints = port.explained.endpoints
    if not endpoints:
        return '<p class="faint">No slice states an endpoint for this port.</p>\n'
    pages = -(-len(endpoints) // ENDPOINTS)
    page = min(page, pages)
    first = (page - 1) * ENDPOINTS
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
        link(url(path, {"output": "html", "page": str(number)}), words)
        for number, words in ((page - 1, "← Previous"), (page + 1, "Next →"))
        if 1 <= number <= pages
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


# --- changes


def changes(document: ChangesDocument, frame: Frame) -> str:
    """Return the latest and the slowest changes with how long each stage took."""
    content = (
        "<h1>Changes</h1>\n"
        f'<p class="faint">{document.total:,} since the start; the last {document.kept:,} are'
        " remembered. Milliseconds of each stage: in the cluster until it arrived here (by two"
        " clocks), decoded, waiting in the row and selected, planned, acknowledged by the"
        " kernel.</p>\n<h2>Slowest</h2>\n"
    )
    content += _changes(document.slowest, "Slowest first, without those at the start", "Slowest")
    content += "<h2>Latest</h2>\n" + _changes(document.latest, "Newest first", "Latest")
    return _page("Changes", "Changes", frame, content)


def _changes(found: Sequence[ChangeDocument], caption: str, label: str) -> str:
    if not found:
        return '<p class="faint">None so far.</p>\n'
    columns = [
        Column("Service port", "name"),
        Column("Because of"),
        *[
            Column(heading, "number")
            for heading in ("Ago", "Total ms", "Cluster", "Decoded", "Queued", "Planned", "Kernel")
        ],
    ]
    return table(caption, columns, map(_change_row, found), label)


def _change_row(change: ChangeDocument) -> list[str]:
    namespace, _, rest = change.service_port.partition("/")
    page = url(["debug", "services", namespace, rest.partition(":")[0]], {"output": "html"})
    error = (
        f'<small class="bad-text">refused: {text(change.error)}</small>' if change.error else ""
    )
    return [
        link(page, text(change.service_port))
        + f" <small>{text(change.protocol)} {text(change.family)}</small>{error}",
        text(change.cause),
        _ago(change.ago_seconds),
        f"{change.total_ms:,.1f}",
        "–" if change.cluster_ms is None else f"{change.cluster_ms:,.0f}",
        f"{change.decoded_ms:,.1f}",
        f"{change.queued_ms:,.1f}",
        f"{change.planned_ms:,.1f}",
        f"{change.acknowledged_ms:,.1f}",
    ]


def _ago(seconds: float) -> str:
    units: Sequence[tuple[float, Literal["s", "min", "h", "d"]]] = (
        (120, "s"),
        (7200, "min"),
        (172_800, "h"),
        (float("inf"), "d"),
    )
    sizes = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    unit = next(unit for below, unit in units if seconds < below)
    return f"{seconds / sizes[unit]:.0f} {unit}"
