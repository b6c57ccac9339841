"""The debug pages as HTML: what all share, and the list of services. Pure.

Pages are made from documents. They work without scripts and by keyboard alone, and are read well by ear.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from proxy.server.listing import SORTS, Query, ServiceRow, Services, Sort
from proxy.server.markup import Column, items, link, table, text, url
from proxy.server.state import StateDocument
from proxy.server.states import LABELS, State
from proxy.server.style import STYLE

ENDPOINTS: Final = 200
"""Rows of endpoints on one page, and lines of what the kernel holds."""
_FRONTENDS: Final = 2
_NOTES: Final = 20
COLOURS: Final[Mapping[State, str]] = {
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


def page(title: str, current: str, frame: Frame, content: str) -> str:
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


def badge(state: State) -> str:
    return f'<span class="state {COLOURS[state]}">{LABELS[state]}</span>'


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
    return page("Services", "Services", frame, content)


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
            f'{badge(state)} <span class="number">{count:,}</span>',
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
        badge(row.state) + why,
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
