"""The objects in the text of one manifest file: YAML with any number of documents, or JSON.

Pure. JSON goes through the fast decoder, YAML through plain values; what comes out is the same, and each object
knows where it stands, so that a warning can say so.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy.sources import decode, plain_yaml

_BOM: Final = b"\xef\xbb\xbf"


class UnreadableError(ValueError):
    """The text is neither YAML nor JSON, or a document in it is no object. `line` counts from 1, if known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class Document(NamedTuple):
    """One object and where it stands: the line on which its document begins, and its position in a list there."""

    decoded: decode.Decoded
    line: int
    item: int | None = None


def parse(data: bytes, *, is_json: bool) -> Iterator[Document]:
    """Yield every object in the text. Raises UnreadableError, perhaps after some objects.

    Text that looks like JSON is tried as JSON even where the file's name says nothing of it.
    """
    data = data.removeprefix(_BOM)
    if is_json:
        return _parse_json(data)
    if data.lstrip()[:1] == b"{":
        return _parse_json_or_yaml(data)
    return _parse_yaml(data)


def _parse_json_or_yaml(data: bytes) -> Iterator[Document]:
    try:
        documents = list(_parse_json(data))
    except UnreadableError:
        documents = list(_parse_yaml(data))
    return iter(documents)


def _parse_json(data: bytes) -> Iterator[Document]:
    try:
        for item, decoded in enumerate(decode.decode_json(data), 1):
            yield Document(decoded, 1, item)
    except decode.MalformedError as error:
        line = None if error.position is None else data.count(b"\n", 0, error.position) + 1
        raise UnreadableError(str(error), line) from error


def _parse_yaml(data: bytes) -> Iterator[Document]:
    try:
        for value, line in plain_yaml.read(data):
            if value is None:  # nothing but comments between two separators
                continue
            is_list = isinstance(value, dict) and "items" in value
            try:
                found = list(decode.read_document(value))
            except decode.MalformedError as error:
                found = [decode.no_object(str(error))]
            for item, decoded in enumerate(found, 1):
                yield Document(decoded, line, item if is_list else None)
    except plain_yaml.YamlError as error:
        raise UnreadableError(str(error), error.line) from error
