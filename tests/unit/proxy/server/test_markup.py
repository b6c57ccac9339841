"""Pieces of HTML: whatever text goes in is the text a reader sees, and never markup."""

import urllib.parse
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.explain_text import shown
from proxy.server.markup import Column, facts, items, link, table, text, url

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='x",
    "</style></table></body>",
    "&lt;b&gt;&amp;&#60;",
    "a\x00b\x1b[31m\u202eevil\r\n\t",
    "\udcff lone surrogate",
    "]]><!--",
    "../../x?y#z%2f",
    "javascript:alert(1)",
]
names = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Reader(HTMLParser):
    """Reads HTML as a browser would and insists that it is well-formed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        assert len(named) == len(attrs), f"an attribute twice: {attrs}"
        self.tags.append((tag, named))
        if "id" in named:
            assert named["id"] not in self.ids
            self.ids.add(named["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(html: str) -> Reader:
    """Read a page, or a piece of one. Raises AssertionError where it is not well-formed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@given(names)
def test_text_is_read_as_it_was_but_for_what_cannot_be_printed(name: str) -> None:
    page = read(f"<p>{text(name)}</p>")

    assert "".join(page.text) == shown(name)
    assert [tag for tag, _ in page.tags] == ["p"]


@given(names, names)
def test_attributes_are_read_as_they_were(target: str, label: str) -> None:
    (tag, attributes) = read(link(target, "x", aria_label=label, class_="y")).tags[0]

    assert tag == "a"
    expected = {"href": shown(target), "aria-label": shown(label), "class": "y"}
    assert attributes == {name: value for name, value in expected.items() if value}


@given(
    st.text(min_size=1, max_size=30), st.dictionaries(st.sampled_from("pq"), st.text(max_size=20))
)
def test_an_address_holds_its_parts(part: str, parameters: dict[str, str]) -> None:
    whole = url(["debug", part], parameters)
    path, _, query = whole.partition("?")

    assert whole.isascii()
    clean = part.encode("utf-8", "replace").decode()
    assert path.split("/")[1:] == ["debug", urllib.parse.quote(clean, safe="")]
    read_back = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    assert read_back == {k: v.encode("utf-8", "replace").decode() for k, v in parameters.items()}


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_table_has_a_caption_and_headings_for_columns_and_rows(rows: int) -> None:
    columns = [Column("Name"), Column("Size", "number", sort="descending")]
    page = read(table("All of them", columns, [["a", "1"]] * rows))
    tags = page.tags

    assert [tag for tag, _ in tags].count("caption") == 1
    assert [a.get("scope") for tag, a in tags if tag == "th"] == ["col", "col", *["row"] * rows]
    assert [a["aria-sort"] for tag, a in tags if "aria-sort" in a] == ["descending"]
    (region,) = [a for tag, a in tags if a.get("role") == "region"]
    assert (region["tabindex"], region["aria-label"]) == ("0", "All of them")


def test_lists_are_well_formed() -> None:
    assert read(items(["a", "b"], "notes") + facts([("<x>", "y")])).text.count("<x>") == 1
