"""The objects in the text of one manifest file: YAML with any number of documents, or JSON.

Pure. JSON goes through the fast decoder; YAML becomes plain values first. Scalars are read as kubectl reads
them: a time stays text, and `10:20` is no number to base sixty.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import yaml

from proxy.sources import decode

_TAG: Final = "tag:yaml.org,2002:"
_BOM: Final = b"\xef\xbb\xbf"
# Deeper than any manifest, and far from where the library's own recursion ends the process (about 10,000, libyaml
# binding of PyYAML 6.0.3).
_DEEPEST: Final = 500
# YAML 1.1 as the library has it, without numbers to base sixty.
_INT: Final = re.compile(
    r"(?:[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*))\Z"
)
_FLOAT: Final = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_NUMBERS: Final = {f"{_TAG}int": _INT, f"{_TAG}float": _FLOAT}
_DROPPED: Final = (f"{_TAG}timestamp", f"{_TAG}value")
# What a tag that somebody wrote out (`!!int x`) makes the YAML library raise besides its own errors.
_CONSTRUCTION_ERRORS: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader as _SafeLoader
else:
    from yaml import CSafeLoader as _SafeLoader


class _Loader(_SafeLoader):
    """The library's loader with our rules for plain scalars and a limit to nesting."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the library declares it
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in rules if tag not in _DROPPED]
        for first, rules in _SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._depth = 0

    def descend_resolver(self, current_node: object, current_index: object) -> None:
        """Called by the library before it composes a node; it has no use for it here."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError

    def ascend_resolver(self) -> None:
        """Called by the library after it composed a node."""
        self._depth -= 1


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
    line: int | None = None
    try:
        loader = _Loader(data)
        while loader.check_node():
            line = None
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
