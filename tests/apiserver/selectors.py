"""Label and field selectors, parsed and asked. The grammar is that of the API documentation."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.apiserver.resources import Resource
from tests.apiserver.status import bad_request

Requirement = Callable[[Mapping[str, str]], bool]

_NAME = r"(?:[A-Za-z0-9.\-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9._\-]*"
_IN = re.compile(rf"\s*({_NAME})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUALS = re.compile(rf"\s*({_NAME})\s*(==|!=|=)\s*({_VALUE})\s*")
_COMPARES = re.compile(rf"\s*({_NAME})\s*([<>])\s*(-?\d+)\s*")
_EXISTS = re.compile(rf"\s*(!?)\s*({_NAME})\s*")
_FIELD = re.compile(r"\s*([A-Za-z0-9.]+)\s*(==|!=|=)\s*([^,=!]*?)\s*")


class Selector(NamedTuple):
    """Both selectors of a request. Without any, everything matches."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.labels and not self.fields

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Whether an object with these labels and fields is selected."""
        return all(one(labels) for one in self.labels) and all(one(fields) for one in self.fields)


def parse(resource: Resource, labels: str, fields: str) -> Selector:
    """Raises ApiStatusError (400) for what is no selector, or for a field that none may name."""
    return Selector(
        tuple(_label_requirement(part, labels) for part in _parts(labels)),
        tuple(_field_requirement(resource, part, fields) for part in _parts(fields)),
    )


def _parts(text: str) -> list[str]:
    """At the commas, but for those between parentheses."""
    return re.split(r",(?![^(]*\))", text) if text.strip() else []


def _label_requirement(part: str, whole: str) -> Requirement:
    if found := _IN.fullmatch(part):
        key, word, listed = found.groups()
        values = frozenset(value.strip() for value in listed.split(","))
        return _among(key, values) if word == "in" else _not_among(key, values)
    if found := _EQUALS.fullmatch(part):
        key, sign, value = found.groups()
        one = frozenset({value})
        return _not_among(key, one) if sign == "!=" else _among(key, one)
    if found := _COMPARES.fullmatch(part):
        key, sign, bound = found.groups()
        return _compares(key, sign, int(bound))
    if found := _EXISTS.fullmatch(part):
        negation, key = found.groups()
        return (lambda labels: key not in labels) if negation else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: {part!r} in label selector {whole!r}")


def _among(key: str, values: frozenset[str]) -> Requirement:
    return lambda labels: labels.get(key) in values


def _not_among(key: str, values: frozenset[str]) -> Requirement:
    """An object without the label is selected too."""
    return lambda labels: labels.get(key) not in values


def _compares(key: str, sign: str, bound: int) -> Requirement:
    def matches(labels: Mapping[str, str]) -> bool:
        try:
            number = int(labels[key])
        except (KeyError, ValueError):
            return False
        return number > bound if sign == ">" else number < bound

    return matches


def _field_requirement(resource: Resource, part: str, whole: str) -> Requirement:
    found = _FIELD.fullmatch(part)
    if found is None:
        raise bad_request(f"invalid field selector: {whole!r}; can't understand {part!r}")
    name, sign, value = found.groups()
    if name not in resource.selectable({}):
        raise bad_request(
            f'Unable to find "{resource.group}/{resource.version}, Resource={resource.name}" that match label'
            f' selector "", field selector "{whole}": field label not supported: {name}'
        )
    if sign == "!=":
        return lambda fields: fields[name] != value
    return lambda fields: fields[name] == value
