"""The debug endpoint: who may ask, and what it says."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from backends.null.backend import NullBackend
from proxy.backlog import Quarantined
from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.model import NodeInfo, Rejected
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.server import debug
from proxy.sources.events import KINDS, Problems, Synced, Upsert
from tests.model_builders import make_key, make_node, make_service


@pytest.fixture
def reconciler() -> Reconciler:
    return Reconciler(
        Cache(NodeInfo(name="node-a")), DesiredState(), NullBackend(), Schedule(now_s=0.0)
    )


@pytest.mark.parametrize(
    "header",
    ["127.0.0.1", "127.0.0.1:10249", "localhost:10249", "[::1]:10249", "::1", "10.0.0.7:10249"],
)
def test_a_host_header_with_an_address_or_a_local_name_is_accepted(header: str) -> None:
    assert debug.is_local_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "evil.example:10249",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
    ],
)
def test_a_foreign_host_header_is_refused(header: str) -> None:
    assert not debug.is_local_host(header)


def test_what_is_waited_for_is_a_degradation(reconciler: Reconciler) -> None:
    assert debug.degraded(reconciler, 0.0) == ["waiting for EndpointSlice, Node, Service"]


def test_a_node_that_stays_unknown_is_a_degradation_after_the_start(
    reconciler: Reconciler,
) -> None:
    reconciler.is_synced.set()

    assert debug.degraded(reconciler, 0.0) == [
        "the own Node is not known: neither its zone nor its addresses"
    ]


def test_a_healthy_proxy_has_no_degradation(reconciler: Reconciler) -> None:
    reconciler.cache.apply([*map(Synced, KINDS), Upsert(make_node())], 0.0)
    reconciler.is_synced.set()

    assert debug.degraded(reconciler, 0.0) == []


async def _get(reconciler: Reconciler, method: str, headers: dict[str, str]) -> tuple[int, object]:
    async with TestClient(TestServer(debug.application(reconciler, "null"))) as client:
        response = await client.request(method, "/debug/state", headers=headers)
        body = await response.json() if response.status == 200 else None
        return response.status, body


def test_the_state_names_what_was_rejected_refused_and_contested(reconciler: Reconciler) -> None:
    rejected = Rejected(kind="Service", name="default/web", field="spec.ports[0].port", reason="0")
    older = make_service("default/old", created="2025-01-01T00:00:00Z")
    younger = make_service("default/young", created="2026-01-01T00:00:00Z")
    reconciler.cache.apply([Problems("Service default/web", (rejected,))], 0.0)
    for service in (older, younger):
        reconciler.desired.update(service.name, service, {}, make_node())
    reconciler.backlog.quarantine[make_key("default/old")] = Quarantined(
        reason="no memory", failures=3, retry_s=0.0
    )

    state = debug.state(reconciler, "null")

    assert state["rejected"] == [rejected]
    assert [entry["reason"] for entry in state["quarantined"]] == ["no memory"]
    assert {entry["servicePort"] for entry in state["contested"]} == {"default/young"}


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"Host": "evil.example"}, 403),
        ("POST", {}, 405),
        ("HEAD", {}, 405),
    ],
)
def test_only_get_from_this_host_is_answered(
    reconciler: Reconciler, method: str, headers: dict[str, str], status: int
) -> None:
    assert asyncio.run(_get(reconciler, method, headers))[0] == status
