"""Manifest files hold YAML or JSON, and everything in them has a place."""

import json

import pytest
import yaml

from proxy.sources import wire
from proxy.sources.documents import Document, UnreadableError, parse
from tests.builders import make_list, make_service, make_slice


def _parse(text: str | bytes, *, is_json: bool = False) -> list[Document]:
    data = text.encode() if isinstance(text, str) else text
    return list(parse(data, is_json=is_json))


def _names(documents: list[Document]) -> list[str]:
    return [document.decoded.name for document in documents]


def test_a_file_may_hold_many_documents_and_each_has_its_line() -> None:
    text = (
        "# web\n---\n"
        + yaml.safe_dump(make_service("a"))
        + "---\n---\n"
        + yaml.safe_dump(make_slice("b"))
    )

    documents = _parse(text)

    assert _names(documents) == ["a", "b"]
    lines = text.splitlines()
    assert [lines[document.line - 1] for document in documents] == [
        "apiVersion: v1",
        "addressType: IPv4",
    ]
    assert [document.item for document in documents] == [None, None]


def test_items_of_a_list_are_counted() -> None:
    text = "# all\n" + yaml.safe_dump(make_list([make_service("a"), make_service("b")]))

    documents = _parse(text)

    assert [(document.decoded.name, document.line, document.item) for document in documents] == [
        ("a", 2, 1),
        ("b", 2, 2),
    ]


@pytest.mark.parametrize("is_json", [True, False])
def test_json_is_read_whatever_the_file_is_called(is_json: bool) -> None:
    text = "\n" + json.dumps(make_list([make_service("a"), make_slice("b")]), indent=1)

    documents = _parse(text, is_json=is_json)

    assert _names(documents) == ["a", "b"]
    assert all(document.decoded.object is not None for document in documents)
    assert [(document.line, document.item) for document in documents] == [(1, 1), (1, 2)]


def test_json_that_is_no_yaml_is_read_whatever_the_file_is_called() -> None:
    text = json.dumps(make_service("a"), indent="\t")

    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)
    assert _names(_parse(text)) == ["a"]


def test_yaml_in_braces_is_no_json_but_is_read() -> None:
    text = "{apiVersion: v1, kind: Service, metadata: {name: a}}\n---\n" + yaml.safe_dump(
        make_service("b")
    )

    assert _names(_parse(text)) == ["a", "b"]


def test_yaml_and_json_of_one_object_mean_the_same() -> None:
    document = make_slice()

    [from_yaml] = _parse(yaml.safe_dump(document))
    [from_json] = _parse(json.dumps(document), is_json=True)

    assert from_yaml.decoded == from_json.decoded


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n# nothing\n", "\ufeff"])
def test_a_file_may_hold_nothing(text: str) -> None:
    assert _parse(text) == []


def test_a_byte_order_mark_is_no_content() -> None:
    assert _names(_parse("\ufeff" + yaml.safe_dump(make_service("a")))) == ["a"]
    assert _names(_parse("\ufeff" + json.dumps(make_service("a")), is_json=True)) == ["a"]


def test_times_stay_text() -> None:
    [document] = _parse(
        "kind: Service\nmetadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}\n"
    )

    assert isinstance(document.decoded.object, wire.Service)
    assert document.decoded.object.metadata is not None
    assert document.decoded.object.metadata.creation_timestamp == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: Service\nmetadata: [\n", 3),
        ("kind: Service\n---\nkind: Service\n\tname: x\n", 4),
        ("kind: Service\n---\nkind: !!int x\n", 3),
        ("kind: Service\n---\nkind: !!timestamp x\n", 3),
        ("kind: Service\n---\nkind: !!python/object:os.system x\n", 3),
        ("kind: Service\n---\nkind: *nobody\n", 3),
        ("kind: Service\n---\n{[]: 1}\n", 3),
        ("kind: Service\n---\nx: " + "[" * 100_000 + "]" * 100_000, 3),
        ("kind: Service\n---\n" + "- " * 100_000, 3),
    ],
)
def test_a_fault_in_yaml_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UnreadableError) as caught:
        _parse(text)

    assert caught.value.line == line
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_fault() -> None:
    with pytest.raises(UnreadableError):
        _parse(b"kind: \xff\xfe\n")
    with pytest.raises(UnreadableError):
        _parse(b'{"kind": "\xff"}', is_json=True)
    with pytest.raises(UnreadableError):
        _parse("kind: a\x00b\n")


def test_a_fault_in_json_is_told_with_its_line() -> None:
    with pytest.raises(UnreadableError) as caught:
        _parse('{\n "kind": "Service",\n "metadata": nil\n}', is_json=True)

    assert caught.value.line == 3
    with pytest.raises(UnreadableError) as caught:
        _parse('{"kind": nil}', is_json=True)
    assert caught.value.line == 1


def test_a_json_file_is_not_taken_for_yaml() -> None:
    with pytest.raises(UnreadableError):
        _parse("kind: Service\n", is_json=True)


@pytest.mark.parametrize("stray", ["- 1", "text", "kind: List\nitems: 5"])
def test_a_yaml_document_that_is_no_object_costs_only_itself(stray: str) -> None:
    first, broken, last = _parse(f"kind: Service\n---\n{stray}\n---\nkind: Service\n")

    assert first.decoded.object is not None
    assert last.decoded.object is not None
    assert broken.line == 3
    assert [rejected.field for rejected in broken.decoded.rejected] == [""]
