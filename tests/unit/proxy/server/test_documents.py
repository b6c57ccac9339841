"""Documents: what is said of one service, of changes and of settings. Most of it is tested over HTTP in test_debug."""

import json

import msgspec
import pytest

from proxy.backlog import Quarantined
from proxy.desired import Frontend
from proxy.journal import Entry, Journal
from proxy.model import Cause, Rejected
from proxy.server.documents import (
    CHANGES,
    Clock,
    Subject,
    change_document,
    changes_document,
    config_document,
    encode,
    problems_of,
    service_document,
)
from proxy.sources.events import Upsert
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)
from tests.unit.proxy.config.loading import settings_of
from tests.worlds import World

NOW = Clock(monotonic_s=1000.0, unix_s=1_800_000_000.0)


def make_entry(
    took_s: float = 0.01, *, at_s: float = 990.0, triggered_s: float | None = None
) -> Entry:
    return Entry(
        key=make_key(),
        cause=Cause(kind="EndpointSlice", namespace="default", name="web-a", resource_version="7"),
        received_s=at_s - took_s,
        decoded_s=at_s - took_s * 0.9,
        queued_s=at_s - took_s * 0.7,
        planned_s=at_s - took_s * 0.4,
        acknowledged_s=at_s,
        triggered_s=triggered_s,
    )


def test_a_change_is_told_in_milliseconds_of_each_stage() -> None:
    change = change_document(make_entry(0.01), NOW)

    assert change.ago_seconds == 10.0
    assert change.total_ms == pytest.approx(10)
    stages = [change.decoded_ms, change.queued_ms, change.planned_ms, change.acknowledged_ms]
    assert stages == pytest.approx([1, 2, 3, 4])
    assert change.cluster_ms is None
    assert change.cause == "EndpointSlice default/web-a@7"


def test_the_time_in_the_cluster_is_reckoned_by_the_wall_clock() -> None:
    # received 10.01 s ago, triggered 12 s ago
    change = change_document(make_entry(0.01, triggered_s=NOW.unix_s - 12), NOW)

    assert change.cluster_ms == pytest.approx(1990)


def test_only_so_many_changes_are_told() -> None:
    journal = Journal()
    for n in range(CHANGES + 10):
        journal.add(make_entry(n / 1000, at_s=float(n)))
    told = changes_document(journal, NOW)

    assert (told.total, told.kept) == (CHANGES + 10, CHANGES + 10)
    assert len(told.latest) == len(told.slowest) == CHANGES
    assert told.slowest[0].total_ms == pytest.approx(CHANGES + 9)


def subject(world: World, **overrides: object) -> Subject:
    (name,) = world.cache.services
    service = world.cache.services[name]
    fields: dict[str, object] = {
        "service": service,
        "slices": world.cache.slices(name),
        "node": make_node(),
        "ports": [world.desired.ports.get(port.key) for port in service.ports],
        "quarantine": {},
        "owners": {},
        "entries": (),
        "problems": (),
    }
    return Subject(**{**fields, **overrides})  # type: ignore[arg-type] # each is of its field's type


@pytest.fixture
def world() -> World:
    world = World()
    port = make_service_port("default/web", node_port=30080, external_local=True)
    service = make_service("default/web", port)
    endpoints = make_slice("web-a", make_endpoint(), make_endpoint("10.1.0.2:80", ready=False))
    world.cache.apply([Upsert(service), Upsert(endpoints)], 0.0)
    world.describe(service.name)
    return world


def test_each_frontend_says_where_its_connections_go(world: World) -> None:
    (port,) = service_document(subject(world), NOW).ports

    told = [(f.kind, f.policy, f.outcome, f.endpoints) for f in port.frontends]
    assert told == [("ClusterIP", "Cluster", "served", 1), ("NodePort", "Local", "dropped", 0)]
    assert port.cluster_words == "1 of 2 endpoints"
    assert port.local_words.startswith("empty: connections are dropped")


def test_what_the_kernel_refused_is_told_with_when_it_is_tried_again(world: World) -> None:
    quarantine = {make_key(): Quarantined(reason="full", failures=2, retry_s=1003.0)}
    document = service_document(subject(world, quarantine=quarantine), NOW)

    (port,) = document.ports
    assert port.refused is not None
    assert (port.refused.reason, port.refused.failures) == ("full", 2)
    assert port.refused.retry_in_seconds == 3.0
    assert document.state == "refused-by-kernel"


def test_before_it_was_looked_at_a_service_waits(world: World) -> None:
    document = service_document(subject(world, ports=[None]), NOW)

    assert document.state == "pending"
    assert {f.outcome for f in document.ports[0].frontends} == {"pending"}


def test_an_owner_nobody_knows_any_more_is_none(world: World) -> None:
    (key,) = world.desired.ports
    lost = Frontend("ClusterIP", "10.96.0.10", 80)
    port = msgspec.structs.replace(world.desired.ports[key], frontends=(), lost=(lost,))
    document = service_document(subject(world, ports=[port], owners={(key, lost): None}), NOW)

    assert document.ports[0].frontends[0].outcome == "owned by another"
    assert document.ports[0].frontends[0].owner is None


def test_problems_are_those_of_the_service_and_its_slices() -> None:
    def problem(name: str) -> Rejected:
        return Rejected(kind="", name=name, field="", reason="")

    problems = {
        "Service default/web": (problem("a"),),
        "EndpointSlice default/web-a": (problem("b"),),
        "EndpointSlice other/web-a": (problem("c"),),
        "Service default/webber": (problem("d"),),
    }
    found = problems_of(make_service(), [make_slice("web-a", make_endpoint())], problems)

    assert [one.name for one in found] == ["a", "b"]


def test_settings_are_told_in_the_words_of_the_api() -> None:
    given = settings_of("--manifests", "/objects")
    document = json.loads(encode(config_document(given, "nftables")))

    assert document["verifyPeriodSeconds"] == given.verify_period_s > 0
    assert document["manifests"] == "/objects"
    assert document["conntrack"]["tcpBeLiberal"] is False
    assert len(document) == len(msgspec.structs.fields(given)) + 1


def test_a_password_in_a_url_is_left_out() -> None:
    given = settings_of("--manifests", "x", "--master", "https://me:secret@h:1/path")

    assert config_document(given, "")["master"] == "https://…@h:1/path"


@pytest.mark.parametrize("name", ["web", "\udcff", "é\u202e", "\x00"])
def test_any_name_makes_valid_json(name: str) -> None:
    document = Rejected(kind="File", name=name, field="", reason="")

    legible = name.encode("utf-8", "backslashreplace").decode()
    assert json.loads(encode(document))["name"] == legible
