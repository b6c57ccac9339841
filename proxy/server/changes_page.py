"""The page of the latest and the slowest changes, and the table of changes that a service's page has too. Pure."""

from collections.abc import Sequence
from typing import Literal

from proxy.server.documents import ChangeDocument, ChangesDocument
from proxy.server.markup import Column, link, table, text, url
from proxy.server.pages import Frame, page


def changes(document: ChangesDocument, frame: Frame) -> str:
    """Return the latest and the slowest changes with how long each stage took."""
    content = (
        "<h1>Changes</h1>\n"
        f'<p class="faint">{document.total:,} since the start; the last {document.kept:,} are'
        " remembered. Milliseconds of each stage: in the cluster until it arrived here (by two"
        " clocks), decoded, waiting in the row and selected, planned, acknowledged by the"
        " kernel.</p>\n<h2>Slowest</h2>\n"
    )
    content += changes_table(
        document.slowest, "Slowest first, without those at the start", "Slowest"
    )
    content += "<h2>Latest</h2>\n" + changes_table(document.latest, "Newest first", "Latest")
    return page("Changes", "Changes", frame, content)


def changes_table(found: Sequence[ChangeDocument], caption: str, label: str) -> str:
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
