"""YAML text into plain values: dictionaries, lists, text, numbers, truth values, None.

Pure. The YAML library's own way there builds a graph of nodes and then walks it with generators. Taking the values
straight from the parser's events is five times faster and needs no graph, which matters for a cluster printed by
`kubectl get -o yaml`. It is also safe against text that nests without end: the library recurses in C and ends
the process at some ten thousand levels (PyYAML 6.0.3); here there is no recursion.

Plain scalars mean what they mean to kubectl (YAML 1.1), except that times stay text, and so does what the library
would take for a number to base sixty: `10:20`.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import yaml

_PARSER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TAG: Final = "tag:yaml.org,2002:"
_DEEPEST: Final = 1000
_MERGE: Final = "<<"
_MOST_DIGITS: Final = 100
_MEANINGS: Final = {
    int: (f"{_TAG}int",),
    float: (f"{_TAG}float",),
    bool: (f"{_TAG}bool",),
    type(None): (f"{_TAG}null",),
}

_TRUE: Final = ("yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE: Final = ("no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_WORDS: Final[dict[str, bool | None]] = (
    dict.fromkeys(_TRUE, True)
    | dict.fromkeys(_FALSE, False)
    | dict.fromkeys(("", "~", "null", "Null", "NULL"))
)
_NUMBER_STARTS: Final = frozenset("+-.0123456789")
_INT: Final = re.compile(r"[-+]?(?:0b[01]+|0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9_]*)").fullmatch
_FLOAT: Final = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
).fullmatch


class YamlError(ValueError):
    """The text is no YAML, or means nothing in plain values. `line` counts from 1, if known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class YamlDocument(NamedTuple):
    """A document and the line on which its content begins."""

    value: object
    line: int


def read(data: bytes) -> Iterator[YamlDocument]:
    """Yield every document; one without content is None. Raises YamlError, perhaps after some documents."""
    try:
        parser = _PARSER(data)
        reader = _Reader()
        while (event := parser.get_event()) is not None:
            document = reader.take(event)
            if document is not None:
                yield document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "not YAML"
        raise YamlError(reason, mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:  # a byte that may not stand in YAML
        raise YamlError(" ".join(str(error).split())) from error


class _Open:
    """A list or mapping whose end has not come yet."""

    __slots__ = ("anchor", "has_key", "is_merge", "items", "key", "mapping")

    def __init__(self, anchor: str | None, *, is_mapping: bool) -> None:
        self.anchor = anchor
        self.items: list[object] = []
        self.mapping: dict[object, object] | None = {} if is_mapping else None
        self.has_key = False
        self.is_merge = False
        self.key: object = None


class _Reader:
    """Puts together one document after the other."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, object] = {}
        self._line = 0
        self._value: object = None

    def take(self, event: yaml.Event) -> YamlDocument | None:
        """Take the next event. Return the document if this was its end."""
        match event:
            case yaml.ScalarEvent():
                is_merge = event.value == _MERGE and event.implicit[0]
                self._add(_scalar(event), event, event.anchor, is_merge=is_merge)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self._open.pop()
                value = done.items if done.mapping is None else done.mapping
                self._add(value, event, done.anchor)
            case yaml.AliasEvent():
                # Known only once its value is complete, so that no value can contain itself.
                if event.anchor not in self._anchors:
                    raise YamlError(f"alias {event.anchor!r} stands for nothing", _line(event))
                self._add(self._anchors[event.anchor], event, None)
            case yaml.DocumentStartEvent():
                self._anchors, self._line, self._value = {}, 0, None
            case yaml.DocumentEndEvent():
                return YamlDocument(self._value, self._line)
            case _:
                pass  # the stream begins or ends
        return None

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}map" if is_mapping else f"{_TAG}seq"):
            raise YamlError(f"tag {event.tag!r} means nothing here", _line(event))
        if len(self._open) >= _DEEPEST:
            raise YamlError("nested too deeply", _line(event))
        self._line = self._line or _line(event)
        self._open.append(_Open(event.anchor, is_mapping=is_mapping))

    def _add(
        self, value: object, event: yaml.Event, anchor: str | None, *, is_merge: bool = False
    ) -> None:
        """Put a complete value into what is open: as an item, a key, or the value of the last key."""
        if anchor is not None:
            self._anchors[anchor] = value
        if not self._open:
            self._line, self._value = self._line or _line(event), value
            return
        top = self._open[-1]
        if top.mapping is None:
            top.items.append(value)
        elif not top.has_key:
            if isinstance(value, dict | list):
                raise YamlError("a key cannot be a list or a mapping", _line(event))
            top.key, top.has_key, top.is_merge = value, True, is_merge
        else:
            top.has_key = False
            if top.is_merge:
                _merge(top.mapping, value, event)
            else:
                top.mapping[top.key] = value


def _merge(mapping: dict[object, object], value: object, event: yaml.Event) -> None:
    """Do what the key `<<` asks for: add what is not there yet. A key that follows overrides it."""
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, dict):
            raise YamlError("<< needs a mapping, or a list of mappings", _line(event))
        for key, item in part.items():
            mapping.setdefault(key, item)


def _scalar(event: yaml.ScalarEvent) -> object:
    if event.tag is None:
        return _plain(event.value) if event.implicit[0] else event.value
    if event.tag in ("!", f"{_TAG}str"):
        return event.value
    value = _plain(event.value)
    if event.tag in _MEANINGS.get(type(value), ()):
        return value
    raise YamlError(f"{event.tag!r} is no tag of {event.value!r}", _line(event))


def _plain(text: str) -> object:
    """Return what a scalar without quotes and tag means."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_STARTS:
        if _INT(text):
            return _int(text.replace("_", ""))
        if _FLOAT(text):
            return float(
                text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
            )
    return text


def _int(text: str) -> object:
    digits = text.lstrip("+-")
    if len(digits) > _MOST_DIGITS:
        return text  # no field holds such a number, and Python refuses to read it
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "bx":
        return int(text, 8)
    return int(text, 0)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0
