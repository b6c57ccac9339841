"""The objects in the text of one manifest file: YAML with any number of documents, or JSON.

Pure. JSON goes through the fast decoder; YAML becomes plain values first. Scalars are read as kubectl reads
them: a time stays text, and `10:20` is no number to base sixty.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import yaml

from proxy.sources import decode

_TAG: Final = "tag:yaml.org,2002:"
_BOM: Final = b"\xef\xbb\xbf"
_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

# YAML 1.1 as the library has it, without numbers to base sixty.
_INT: Final = re.compile(
    r"(?:[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*))\Z"
)
_FLOAT: Final = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
# What a tag that somebody wrote out (`!!int x`) makes the YAML library raise besides its own errors.
_CONSTRUCTION_ERRORS: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


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
    line = 1
    try:
        loader = _LOADER(data)
        # Looked up on the instance, so the library's own table stays as it is.
        loader.yaml_implicit_resolvers = _RESOLVERS
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            line = node.start_mark.line + 1
            document = loader.construct_document(node)
            if document is None:  # nothing but comments between two separators
                continue
            is_list = isinstance(document, dict) and "items" in document
            for item, decoded in enumerate(decode.read_document(document), 1):
                yield Document(decoded, line, item if is_list else None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableError(
            f"{error.problem or error.context}", mark.line + 1 if mark else line
        ) from error
    except yaml.YAMLError as error:  # a byte that may not stand in YAML
        raise UnreadableError(" ".join(str(error).split()), None) from error
    except RecursionError as error:
        raise UnreadableError("nested too deeply", line) from error
    except _CONSTRUCTION_ERRORS as error:
        raise UnreadableError(f"{error}", line) from error


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return the library's table of what plain scalars mean, with our numbers, and without times and `=`."""
    patterns = {f"{_TAG}int": _INT, f"{_TAG}float": _FLOAT}
    dropped = (f"{_TAG}timestamp", f"{_TAG}value")
    return {
        first: [(tag, patterns.get(tag, pattern)) for tag, pattern in rules if tag not in dropped]
        for first, rules in _LOADER.yaml_implicit_resolvers.items()
    }


_RESOLVERS: Final = _resolvers()
