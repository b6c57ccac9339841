"""The bytes of a configuration file into one plain mapping; what both file formats of ours have in common.

Knows JSON and YAML, repeated keys, apiVersion and kind, and turns a mapping into a wire Struct with errors that name file and
field. What the fields mean is not known here.
"""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from proxy.config import duration
from proxy.errors import ConfigError

Mapping = dict[str, object]
_T = TypeVar("_T", bound=msgspec.Struct)
_UNKNOWN: Final = "Object contains unknown field "  # msgspec's words, pinned by the tests of `own`


class Document(NamedTuple):
    """One object read from a file. In `data`, null values are gone: Kubernetes reads null as "not set"."""

    data: Mapping
    nulls: frozenset[str]
    warnings: tuple[str, ...]


def read(path: str, read_file: Callable[[str], bytes]) -> Document:
    """Return the object in the file at `path`; raise ConfigError when there is none to be had."""
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    root, warnings = _parse(path, text)
    if not isinstance(root, dict):
        raise ConfigError(
            f"{path}: must hold one object with apiVersion and kind, got {_kind_of(root)}"
        )
    nulls: set[str] = set()
    data = _without_nulls(root, "", nulls)
    return Document(data, frozenset(nulls), tuple(f"{path}: {warning}" for warning in warnings))


def check_kind(path: str, data: Mapping, api_version: str, kind: str) -> None:
    """Raise ConfigError unless the object is of the one version and kind that is read."""
    got = data.get("kind")
    if got == "ConfigMap":
        raise ConfigError(
            f"{path}: kind: this is the ConfigMap itself; give the file of the key that holds {kind}"
        )
    if got != kind:
        raise ConfigError(f"{path}: kind: must be {kind}, got {_shown(got)}")
    if data.get("apiVersion") != api_version:
        raise ConfigError(
            f"{path}: apiVersion: must be {api_version}, got {_shown(data.get('apiVersion'))}"
        )


def convert(path: str, data: Mapping, wire: type[_T]) -> _T:
    """Return the wire Struct of a mapping; raise ConfigError naming the field whose type is wrong."""
    try:
        return msgspec.convert(data, wire, dec_hook=_decode)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).replace("`", "").partition(" - at $")
        field = where.removeprefix(".")
        name = problem.removeprefix(_UNKNOWN)
        if name != problem:
            raise ConfigError(
                f"{path}: {field}{'.' if field else ''}{name}: unknown field"
            ) from error
        text = problem[:1].lower() + problem[1:]
        raise ConfigError(f"{path}: {field}: {text}") from error


def _parse(path: str, text: str) -> tuple[object, list[str]]:
    if text.lstrip().startswith("{"):
        try:
            return _parse_json(text)
        except json.JSONDecodeError:
            pass  # a YAML flow mapping starts the same way
    from proxy.config import yaml_document  # noqa: PLC0415 (slow to import, needed by those who give a file)

    try:
        documents, repeated = yaml_document.parse(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    warnings = [f"line {line}: {key} stands twice; the last one counts" for key, line in repeated]
    documents = [document for document in documents if document is not None]
    if len(documents) > 1:
        warnings.append(f"holds {len(documents)} documents; only the first is read")
    return (documents[0] if documents else None), warnings


def _parse_json(text: str) -> tuple[object, list[str]]:
    warnings: list[str] = []

    def build(pairs: list[tuple[str, object]]) -> Mapping:
        result: Mapping = {}
        for key, value in pairs:
            if key in result:
                warnings.append(f"{key} stands twice; the last one counts")
            result[key] = value
        return result

    return json.loads(text, object_pairs_hook=build), warnings


def _without_nulls(mapping: dict[object, object], prefix: str, nulls: set[str]) -> Mapping:
    result: Mapping = {}
    for key, value in mapping.items():
        field = f"{prefix}{key}"
        if value is None:
            nulls.add(field)
        else:
            result[str(key)] = (
                _without_nulls(value, f"{field}.", nulls) if isinstance(value, dict) else value
            )
    return result


def _decode(wire: type[Any], value: object) -> object:
    if wire is not duration.Duration:
        raise NotImplementedError
    if not isinstance(value, str):
        raise TypeError(f"must be a duration in quotes or with a unit, such as 30s, got {value!r}")
    return duration.parse(value)


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)


def _kind_of(value: object) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"
