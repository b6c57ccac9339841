"""Keep what can be kept of an object in which some field has the wrong type.

Pure. The strict decoder refuses a whole object for one number written as text, and one object must never cost
more than it has to. So when strict decoding fails, the object is read again as plain values and fitted to its
wire struct piece by piece. What does not fit is left out, with one finding each:

- a field is dropped and reads as absent;
- a string inside a list of strings becomes "", so that lists whose positions mean something keep them;
- a struct inside a list becomes None for the same reason;
- where a field is `vital` (see `wire.Wire`) its whole struct goes.

This path is slow and never taken for objects that an API server has checked.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

from msgspec import inspect

from proxy.sources.wire import Object, Wire

T = TypeVar("T", bound=Object)

_MOST_MISFITS: Final = 100
_SCALARS: Final[dict[type[inspect.Type], type]] = {
    inspect.NoneType: type(None),
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: float,
}
_WANTED: Final[dict[type[inspect.Type], str]] = {
    inspect.StructType: "an object",
    inspect.ListType: "a list",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
}
_GIVEN: Final[dict[type, str]] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
}


class Misfit(NamedTuple):
    """A field whose value has the wrong type."""

    field: str
    reason: str


def fit(value: object, cls: type[T]) -> tuple[T | None, list[Misfit]]:
    """Return as much of `value` as fits `cls`, or None if nothing usable is left, and what did not fit."""
    misfits: list[Misfit] = []
    result = _fit(value, inspect.type_info(cls), "", misfits)
    return (result if isinstance(result, cls) else None), misfits


class _Absent:
    """What a value that does not fit turns into, until the place it stands in decides."""


_ABSENT: Final = _Absent()


def _fit(value: object, expected: inspect.Type, path: str, misfits: list[Misfit]) -> object:
    # Every union here is some scalars, or one type that may also be null.
    choices = expected.types if isinstance(expected, inspect.UnionType) else (expected,)
    if any(_is_scalar(value, choice) for choice in choices):
        return value
    expected = choices[0]
    if isinstance(expected, inspect.StructType) and isinstance(value, Mapping):
        return _fit_struct(value, expected, path, misfits)
    if isinstance(expected, inspect.ListType) and isinstance(value, list):
        return _fit_list(value, expected.item_type, path, misfits)
    if len(misfits) < _MOST_MISFITS:
        wanted = _WANTED.get(type(expected), "text")
        given = _GIVEN.get(type(value), type(value).__name__)
        misfits.append(Misfit(path, f"expected {wanted}, got {given}"))
    return _ABSENT


def _fit_struct(
    value: Mapping[object, object], expected: inspect.StructType, path: str, misfits: list[Misfit]
) -> object:
    cls = expected.cls
    vital = cls.vital if issubclass(cls, Wire) else frozenset()
    arguments: dict[str, object] = {}
    for field in expected.fields:
        if field.encode_name not in value:
            continue
        where = f"{path}.{field.encode_name}" if path else field.encode_name
        part = _fit(value[field.encode_name], field.type, where, misfits)
        if part is not _ABSENT:
            arguments[field.name] = part
        elif field.name in vital:
            return _ABSENT
    return cls(**arguments)


def _fit_list(
    value: list[object], item_type: inspect.Type, path: str, misfits: list[Misfit]
) -> object:
    filler = "" if _is_scalar("", _first(item_type)) else None
    result = []
    for index, item in enumerate(value):
        part = _fit(item, item_type, f"{path}[{index}]", misfits)
        result.append(filler if part is _ABSENT else part)
    return result


def _is_scalar(value: object, expected: inspect.Type) -> bool:
    if isinstance(value, bool):  # which Python takes for an int
        return isinstance(expected, inspect.BoolType)
    scalar = _SCALARS.get(type(expected))
    return scalar is not None and isinstance(value, scalar)


def _first(expected: inspect.Type) -> inspect.Type:
    return expected.types[0] if isinstance(expected, inspect.UnionType) else expected
