"""Pieces of HTML. Whatever comes from outside passes `text` or `attribute`: names may hold anything. Pure."""

import html
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from proxy.explain_text import shown


class Column(NamedTuple):
    """A column of a table: its heading as HTML, the class of its cells, and how it is sorted (for aria-sort)."""

    heading: str
    kind: str = ""
    sort: str = ""


def text(value: str) -> str:
    """Return text as HTML. What is not printable is shown escaped, as in a terminal."""
    return html.escape(shown(value))


def link(target: str, content: str, **attributes: str) -> str:
    """Return a link; `content` is HTML. Attributes are named as in HTML, with `_` for `-`."""
    return f"<a{_attributes({'href': target, **attributes})}>{content}</a>"


def url(path: Sequence[str], parameters: Mapping[str, str] | None = None) -> str:
    """Return the address of a page; parts of the path and parameters may hold anything."""
    quoted = "".join([f"/{urllib.parse.quote(part, safe='', errors='replace')}" for part in path])
    query = urllib.parse.urlencode(parameters or {}, errors="replace")
    return f"{quoted}?{query}" if query else quoted


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], label: str = ""
) -> str:
    """Return a table, scrolled sideways where it is too wide; caption and cells are HTML.

    The first cell of a row is its heading.
    """
    head = "".join(
        [
            f"<th{_attributes({'scope': 'col', 'class': c.kind, 'aria-sort': c.sort})}>{c.heading}</th>"
            for c in columns
        ]
    )
    body = "\n".join([_row(columns, cells) for cells in rows])
    region = _attributes(
        {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label or caption}
    )
    return (
        f"<div{region}><table><caption>{caption}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _row(columns: Sequence[Column], cells: Sequence[str]) -> str:
    parts = []
    for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        tag = "th" if place == 0 else "td"
        scope = "row" if place == 0 else ""
        parts.append(f"<{tag}{_attributes({'scope': scope, 'class': column.kind})}>{cell}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _attributes(attributes: Mapping[str, str]) -> str:
    return "".join(
        [
            f' {name.rstrip("_").replace("_", "-")}="{html.escape(shown(value))}"'
            for name, value in attributes.items()
            if value
        ]
    )


def items(contents: Iterable[str], kind: str = "") -> str:
    """Return a list; contents are HTML."""
    inside = "\n".join([f"<li>{content}</li>" for content in contents])
    return f"<ul{_attributes({'class': kind})}>\n{inside}\n</ul>\n"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values; values are HTML."""
    inside = "\n".join([f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs])
    return f"<dl>\n{inside}\n</dl>\n"
