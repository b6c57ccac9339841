"""The table of changes. As a page it is read in test_pages."""

from msgspec import structs

from proxy.server.changes_page import _ago, changes_table
from proxy.server.documents import change_document
from tests.unit.proxy.server.test_documents import NOW, make_entry
from tests.unit.proxy.server.test_markup import read


def test_a_change_is_a_row_with_a_link_to_its_service() -> None:
    change = change_document(make_entry(0.01, triggered_s=NOW.unix_s - 12), NOW)
    page = read(changes_table([change], "Newest first", "Latest"))

    assert [a["href"] for tag, a in page.tags if tag == "a"] == [
        "/debug/services/default/web?output=html"
    ]
    cells = ["10 s", "10.0", "1,990", "1.0", "2.0", "3.0", "4.0"]
    assert [cell for cell in page.text if cell in cells] == cells


def test_what_was_refused_says_why() -> None:
    refused = structs.replace(change_document(make_entry(), NOW), error="<full>")

    assert "refused: <full>" in "".join(read(changes_table([refused], "", "x")).text)


def test_without_changes_there_is_a_sentence_and_no_table() -> None:
    page = read(changes_table([], "Newest first", "Latest"))

    assert page.text == ["None so far.", "\n"]


def test_ages_are_told_in_one_unit() -> None:
    assert [_ago(s) for s in (0.2, 119, 600, 7300, 10**6)] == [
        "0 s",
        "119 s",
        "10 min",
        "2 h",
        "12 d",
    ]
