"""Every source keeps to the same interface, and what it says can be compared."""

from pathlib import Path

import pytest

from proxy.model import Service, ServiceName
from proxy.sources.events import KINDS, Delete, Problems, Source, Synced, Upsert
from proxy.sources.manifests_watch import ManifestSource
from proxy.sources.stream import StreamSource


@pytest.mark.parametrize(
    "source", [ManifestSource(Path("/nowhere"), "node-1"), StreamSource("-", "node-1")]
)
def test_sources_keep_to_the_interface(source: Source) -> None:
    assert callable(source.run)
    assert source.report() == ()


def test_equal_events_are_equal_and_different_ones_are_not() -> None:
    def upsert(uid: str) -> Upsert:
        return Upsert(Service(name=ServiceName("default", "web"), uid=uid))

    assert upsert("1") == upsert("1")
    assert upsert("1") != upsert("2")
    assert Problems("Service default/web", ()) != Problems("Service default/api", ())
    assert {type(event) for event in (Synced("Node"), Delete("Service", "a", "b"))} == {
        Synced,
        Delete,
    }


def test_the_kinds_are_those_of_the_api() -> None:
    assert KINDS == ("Service", "EndpointSlice", "Node")
