"""docs/semantics.md says something of every field that the API has, and calls used what the code reads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from msgspec import inspect

from proxy.sources import wire

PAGE = Path(__file__).parents[2] / "docs/semantics.md"
KINDS: dict[str, tuple[type[wire.Object], Any]] = {
    "Service": (wire.Service, client.V1Service),
    "EndpointSlice": (wire.EndpointSlice, client.V1EndpointSlice),
    "Node": (wire.Node, client.V1Node),
    "ServiceCIDR": (wire.ServiceCIDR, client.V1ServiceCIDR),
}
# Not in the API of today: read only to tell whoever writes them.
WARNED = {
    "Service": {"spec.topologyKeys", "spec.endpointSliceProxying"},
    "EndpointSlice": {"endpoints[].topology", "spec"},
    "Node": set[str](),
    "ServiceCIDR": set[str](),
}


def documented(kind: str) -> list[tuple[str, str]]:
    """Field and verdict, row by row; a row may name several fields."""
    _, _, rest = PAGE.read_text().partition(f"\n## {kind}\n")
    rows = re.findall(r"^\| (`.*?) \| ([^|]*) \|", rest.partition("\n## ")[0], re.MULTILINE)
    return [
        (field, verdict) for fields, verdict in rows for field in re.findall("`(.*?)`", fields)
    ]


def fields_of(kind: str, *verdicts: str) -> set[str]:
    return {field for field, verdict in documented(kind) if not verdicts or verdict in verdicts}


def read(kind: str) -> set[str]:
    """What the code reads, and the tags by which it tells kinds."""
    return {"kind", *_read(inspect.type_info(KINDS[kind][0]), "")}


def _read(found: inspect.Type, path: str) -> Iterator[str]:
    choices = found.types if isinstance(found, inspect.UnionType) else (found,)
    for choice in choices:
        if isinstance(choice, inspect.ListType) and isinstance(
            _plain(choice.item_type), inspect.StructType
        ):
            yield from _read(choice.item_type, f"{path}[]")
            return
        if isinstance(choice, inspect.StructType) and choice.cls is not wire.Misplaced:
            is_map = path.endswith(("labels", "annotations"))
            for field in choice.fields:
                name = field.encode_name
                inner = f'["{name}"]' if is_map else f".{name}" if path else name
                yield from _read(field.type, f"{path}{inner}")
            return
    yield path


def _plain(found: inspect.Type) -> inspect.Type:
    return found.types[0] if isinstance(found, inspect.UnionType) else found


def known(kind: str) -> set[str]:
    """Every field of the API, as deep as anything below it is read; of labels and annotations those that are read."""
    return set(_known(KINDS[kind][1], "", read(kind)))


def _known(model: Any, path: str, wanted: set[str]) -> Iterator[str]:
    for attribute, name in model.attribute_map.items():
        here = f"{path}.{name}" if path else name
        type_name = model.openapi_types[attribute]
        is_list = type_name.lower().startswith("list[")
        inner = type_name[len("list[") : -1] if is_list else type_name
        below = f"{here}[]" if is_list else here
        if any(field.startswith(f'{here}["') for field in wanted):
            yield from (field for field in wanted if field.startswith(f'{here}["'))
        elif any(field.startswith(f"{below}.") for field in wanted):
            yield from _known(getattr(client, inner), below, wanted)
        else:
            yield here


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_is_named_twice(kind: str) -> None:
    fields = [field for field, _ in documented(kind)]

    assert sorted(fields) == sorted(set(fields))


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_one_of_three_verdicts(kind: str) -> None:
    assert {verdict for _, verdict in documented(kind)} <= {"used", "no", "only to warn"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_is_what_is_read(kind: str) -> None:
    assert fields_of(kind, "used") == read(kind) - WARNED[kind]
    assert fields_of(kind, "only to warn") == WARNED[kind] <= read(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_the_api_is_forgotten(kind: str) -> None:
    missing = known(kind) - fields_of(kind)
    unknown = fields_of(kind) - known(kind) - WARNED[kind]

    assert (missing, unknown) == (set(), set())
