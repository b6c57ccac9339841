"""The wire structs take what the API may send, and read no more than they must."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from proxy.sources import wire
from tests.builders import make_endpoint, make_node, make_service, make_slice

_STRUCTS: list[tuple[dict[str, Any], type[wire.Object]]] = [
    (make_service(), wire.Service),
    (make_slice(), wire.EndpointSlice),
    (make_node(), wire.Node),
]


def _nulled(value: object) -> object:
    """Return the value with every scalar and every list in it replaced by null."""
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    return None


@pytest.mark.parametrize(("document", "cls"), _STRUCTS)
def test_json_and_plain_values_give_the_same_struct(
    document: dict[str, Any], cls: type[wire.Object]
) -> None:
    assert msgspec.json.decode(json.dumps(document), type=cls) == msgspec.convert(document, cls)


@pytest.mark.parametrize("cls", [wire.Service, wire.EndpointSlice, wire.Node])
def test_every_field_may_be_absent(cls: type[wire.Object]) -> None:
    assert msgspec.json.decode(b"{}", type=cls) == cls()


@pytest.mark.parametrize(("document", "cls"), _STRUCTS)
def test_every_field_may_be_null(document: dict[str, Any], cls: type[wire.Object]) -> None:
    nulled = {key: _nulled(item) for key, item in document.items() if key != "kind"}

    assert isinstance(msgspec.json.decode(json.dumps(nulled), type=cls), cls)


def test_entries_of_lists_may_be_null() -> None:
    document = make_slice(endpoints=[None, make_endpoint(addresses=[None])], ports=[None])

    read = msgspec.convert(document, wire.EndpointSlice)

    assert read.ports == [None]
    assert read.endpoints is not None
    assert read.endpoints[0] is None


@pytest.mark.parametrize("value", ["", "true", True, None, 1, 1.5])
def test_a_label_of_which_presence_counts_may_have_any_scalar_value(value: object) -> None:
    labels = {"service.kubernetes.io/headless": value}

    read = msgspec.convert(make_slice(labels=labels), wire.EndpointSlice)

    assert read.metadata is not None
    assert read.metadata.labels is not None
    assert read.metadata.labels.headless is not UNSET
    assert read.metadata.labels.service_name == "web"


def test_vital_fields_exist() -> None:
    def all_structs(cls: type[wire.Wire]) -> list[type[wire.Wire]]:
        return [cls, *(found for sub in cls.__subclasses__() for found in all_structs(sub))]

    for cls in all_structs(wire.Wire):
        # `labels` is declared by each kind's own metadata.
        missing = cls.vital - set(cls.__struct_fields__) - {"labels"}
        assert not missing, cls
