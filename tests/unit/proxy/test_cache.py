"""The cache: whatever the order, the same latest state; and what does, and what does not, count as a change."""

import pytest
from hypothesis import given, settings

from proxy.cache import Cache
from proxy.model import (
    EndpointSlice,
    Family,
    NodeInfo,
    Rejected,
    Service,
    ServiceCidrs,
    ServiceName,
    SlicePort,
)
from proxy.sources.events import KINDS, Delete, Event, ObjectKind, Problems, Synced, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_name,
    make_service_port,
    make_slice,
)
from tests.model_strategies import SERVICE_NAMES, History, final_states, histories
from tests.worlds import world_after

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, API = make_service_name("default/web"), make_service_name("default/api")
HTTP: tuple[Family, SlicePort] = ("IPv4", SlicePort("", "TCP"))


def cache_of(*events: Event) -> Cache:
    """Return a cache that has seen events, and whose changes so far were taken."""
    cache = Cache(make_node())
    cache.apply(events, 0.0)
    cache.take_changes()
    return cache


def changed_by(cache: Cache, *events: Event) -> list[ServiceName]:
    cache.apply(events, 0.0)
    return list(cache.take_changes())


def test_duplicates_are_decided_in_bytewise_order_of_slice_names() -> None:
    events = [
        Upsert(make_slice("web-9", make_endpoint(A, is_local=True))),
        Upsert(make_slice("web-10", make_endpoint(A))),
        Upsert(make_slice("Web-11", make_endpoint(A))),
    ]

    for order in (events, events[::-1]):
        found = cache_of(*order).endpoints(WEB)[HTTP]

        assert [e.slice for e in found.endpoints] == ["web-9"]
        assert [e.slice for e in found.shadowed] == ["Web-11", "web-10"]


def test_a_slice_whose_service_changes_moves_in_one_step() -> None:
    cache = cache_of(Upsert(make_slice("s-1", make_endpoint(A), service="web")))

    assert set(changed_by(cache, Upsert(make_slice("s-1", make_endpoint(A), service="api")))) == {
        WEB,
        API,
    }
    assert cache.endpoints(WEB) == {}
    assert [e.address for e in cache.endpoints(API)[HTTP].endpoints] == [A]


def test_a_slice_that_loses_its_service_leaves_it() -> None:
    cache = cache_of(Upsert(make_slice("s-1", make_endpoint(A))))

    assert changed_by(cache, Upsert(make_slice("s-1", make_endpoint(A), service=None))) == [WEB]
    assert cache.endpoints(WEB) == {}
    assert changed_by(cache, Upsert(make_slice("s-1", make_endpoint(A)))) == [WEB]
    assert [e.address for e in cache.endpoints(WEB)[HTTP].endpoints] == [A]


def test_slices_of_one_name_in_two_namespaces_have_nothing_to_do_with_each_other() -> None:
    cache = cache_of(
        Upsert(make_slice("s-1", make_endpoint(A))),
        Upsert(make_slice("s-1", make_endpoint(B), namespace="other")),
    )

    assert changed_by(cache, Delete("EndpointSlice", "other", "s-1")) == [
        make_service_name("other/web")
    ]
    assert [e.address for e in cache.endpoints(WEB)[HTTP].endpoints] == [A]


def test_a_change_of_family_is_a_change() -> None:
    cache = cache_of(Upsert(make_slice("s-1", family="IPv4")))

    assert changed_by(cache, Upsert(make_slice("s-1", family="IPv6"))) == [WEB]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            make_slice("s-1", make_endpoint(A), resource_version="1", uid="x"),
            make_slice("s-1", make_endpoint(A), resource_version="2", uid="y", triggered_s=7.0),
            id="EndpointSlice",
        ),
        pytest.param(
            make_service(resource_version="1", uid="x"),
            make_service(resource_version="2", uid="y"),
            id="Service",
        ),
        pytest.param(
            make_service(skipped="headless"),
            make_service(skipped="ExternalName", created="2025-01-01T00:00:00Z"),
            id="Service that is not proxied",
        ),
        pytest.param(
            make_node(addresses=("192.0.2.1",), resource_version="1"),
            make_node(addresses=("192.0.2.2",), leaving="deleted", resource_version="2"),
            id="Node",
        ),
    ],
)
def test_what_changes_nothing_for_a_service_marks_nothing(
    before: Service | EndpointSlice | NodeInfo, after: Service | EndpointSlice | NodeInfo
) -> None:
    cache = cache_of(Upsert(make_service("default/other")), Upsert(before))
    revision = cache.revision

    assert changed_by(cache, Upsert(after)) == []
    assert cache.revision == revision


@pytest.mark.parametrize("kind", KINDS)
def test_deleting_what_is_not_known_marks_nothing(kind: ObjectKind) -> None:
    cache = cache_of(Upsert(make_service("default/other")))

    assert changed_by(cache, Delete(kind, "default", "web")) == []


def test_deleting_a_service_that_is_not_proxied_marks_nothing() -> None:
    cache = cache_of(Upsert(make_service(skipped="headless")))

    assert changed_by(cache, Delete("Service", "default", "web")) == []
    assert cache.services == {}


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(make_service("default/web", make_service_port(port=81)), id="port"),
        pytest.param(make_service(created="2025-01-01T00:00:00Z"), id="age, which decides claims"),
        pytest.param(make_service(skipped="headless"), id="no longer proxied"),
    ],
)
def test_a_service_that_is_served_differently_is_marked(after: Service) -> None:
    cache = cache_of(Upsert(make_service()))

    assert changed_by(cache, Upsert(after)) == [WEB]


def test_the_latest_version_is_kept_even_if_nothing_is_marked() -> None:
    cache = cache_of(Upsert(make_service(resource_version="1")))

    cache.apply([Upsert(make_service(resource_version="2"))], 0.0)

    assert cache.services[WEB].resource_version == "2"


def test_a_change_of_zone_marks_every_service_that_is_proxied() -> None:
    cache = cache_of(
        Upsert(make_service("default/web")),
        Upsert(make_service("default/api")),
        Upsert(make_service("default/db", skipped="headless")),
    )

    assert set(changed_by(cache, Upsert(make_node(zone="z2")))) == {WEB, API}
    assert cache.node.zone == "z2"
    assert set(changed_by(cache, Upsert(make_node(zone="")))) == {WEB, API}


def test_a_deleted_node_keeps_its_last_state() -> None:
    cache = cache_of(Upsert(make_service()))

    assert changed_by(cache, Delete("Node", "", "n1")) == []
    assert cache.node == make_node()


def test_nothing_is_left_of_objects_that_are_gone() -> None:
    cache = cache_of(
        Upsert(make_service()),
        Upsert(make_slice("s-1", make_endpoint(A))),
        Upsert(make_slice("s-2", make_endpoint(B))),
    )

    cache.apply(
        [
            Delete("Service", "default", "web"),
            Delete("EndpointSlice", "default", "s-1"),
            Delete("EndpointSlice", "default", "s-2"),
        ],
        0.0,
    )

    assert (cache.services, cache._slices, cache._slices_of) == ({}, {}, {})
    assert cache.slices(WEB) == []


def test_a_change_tells_the_latest_cause_and_when_the_first_was_received() -> None:
    cache = cache_of(Upsert(make_service()))

    cache.apply([Upsert(make_slice("s-1", make_endpoint(A), resource_version="7"))], 1.0)
    cache.apply([Upsert(make_slice("s-1", make_endpoint(B), resource_version="8"))], 2.0)

    change = cache.take_changes()[WEB]
    assert (str(change.cause), change.received_s) == ("EndpointSlice default/s-1@8", 1.0)


def test_changes_carry_the_triggers_of_all_slices_that_led_to_them() -> None:
    cache = Cache(make_node(), started_s=100.0)

    cache.apply(
        [
            Upsert(make_slice("s-1", make_endpoint(A), triggered_s=102.0)),
            Upsert(make_slice("s-1", make_endpoint(B), triggered_s=101.0)),
            Upsert(make_slice("s-2", make_endpoint("[fd00::1]:80"), triggered_s=103.0)),
            Upsert(make_slice("s-2", make_endpoint("[fd00::1]:80"), triggered_s=104.0)),
            Upsert(make_slice("s-3", make_endpoint(A), triggered_s=None)),
            Upsert(make_slice("s-4", make_endpoint(A), triggered_s=100.0)),
            Delete("EndpointSlice", "default", "s-2"),
        ],
        1.0,
    )

    change = cache.take_changes()[WEB]
    assert change.triggers == (("IPv4", 102.0), ("IPv4", 101.0), ("IPv6", 103.0))
    assert change.triggered_s == 101.0


def test_a_slice_that_moves_brings_its_trigger_along() -> None:
    cache = cache_of(Upsert(make_slice("s-1", make_endpoint(A))))

    cache.apply([Upsert(make_slice("s-1", make_endpoint(A), service="api", triggered_s=5.0))], 1.0)

    changes = cache.take_changes()
    assert changes[WEB].triggers == ()
    assert changes[API].triggers == (("IPv4", 5.0),)


def test_a_change_tells_when_the_first_was_decoded() -> None:
    cache = cache_of()

    cache.apply([Upsert(make_service())], 1.0, 1.5)
    cache.apply([Upsert(make_service(created=""))], 2.0, 2.5)
    cache.apply([Upsert(make_service("default/api"))], 3.0)

    changes = cache.take_changes()
    assert (changes[WEB].received_s, changes[WEB].decoded_s) == (1.0, 1.5)
    assert (changes[API].received_s, changes[API].decoded_s) == (3.0, 3.0)


V6_PORT = make_service_port(cluster_ip="fd00::10")


@pytest.mark.parametrize(
    ("event", "families"),
    [
        (Upsert(make_slice("s-1", make_endpoint(B))), {"IPv4"}),
        (Upsert(make_slice("s-1", make_endpoint(A))), set()),
        (
            Upsert(make_slice("s-1", make_endpoint("[fd00::1]:80"), service="api")),
            {"IPv4", "IPv6"},
        ),
        (Upsert(make_slice("s-2", make_endpoint("[fd00::1]:80"))), {"IPv6"}),
        (Delete("EndpointSlice", "default", "s-1"), {"IPv4"}),
        (Upsert(make_service("default/web", V6_PORT)), {"IPv4", "IPv6"}),
        (Upsert(make_service("default/api", V6_PORT)), {"IPv6"}),
        (Delete("Service", "default", "web"), {"IPv4"}),
        (Upsert(make_node(zone="z9")), {"IPv4"}),
        (Upsert(make_node(resource_version="9")), set()),
    ],
)
def test_changes_wait_in_the_families_they_concern(event: Event, families: set[Family]) -> None:
    cache = cache_of(Upsert(make_service()), Upsert(make_slice("s-1", make_endpoint(A))))
    assert cache.changes.queued_s == {}

    cache.apply([event], 6.0, 7.0)
    cache.apply([event], 8.0, 9.0)

    assert cache.changes.queued_s == dict.fromkeys(families, 7.0)


def test_what_is_heard_is_counted_whether_or_not_it_changes_anything() -> None:
    cache = cache_of()

    cache.apply(
        [
            *[Upsert(make_slice("s-1", make_endpoint(A)))] * 3,
            Delete("EndpointSlice", "default", "s-9"),
            *[Upsert(make_service())] * 2,
            Delete("Service", "default", "no"),
            Upsert(make_node()),
        ],
        0.0,
    )

    assert (cache.slice_events, cache.service_events) == (4, 3)
    assert (cache.changes.slices, len(cache.changes)) == (1, 1)
    cache.take_changes()
    assert (cache.changes.slices, len(cache.changes)) == (0, 0)


def test_slices_are_counted_by_their_endpoints_and_by_service() -> None:
    cache = cache_of(
        Upsert(make_slice("s-1", make_endpoint(A), make_endpoint(B))),
        Upsert(make_slice("s-2")),
        Upsert(make_slice("s-3", make_endpoint(A), service="api")),
        Upsert(make_slice("s-4", make_endpoint(A), service=None)),
    )

    assert sorted(cache.slice_sizes()) == [0, 1, 1, 2]
    assert sorted(cache.slices_per_service()) == [1, 2]


def test_changes_are_there_until_they_are_taken() -> None:
    cache = Cache(make_node())

    cache.apply([Upsert(make_service())], 1.0)
    before, changes = cache.has_changes, cache.take_changes()

    assert (before, list(changes)) == (True, [WEB])
    assert (cache.has_changes, cache.take_changes()) == (False, {})


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Upsert(make_service(resource_version="5", created="")), "Service default/web@5"),
        (Delete("Service", "default", "web"), "Service default/web"),
        (Delete("EndpointSlice", "default", "s-1"), "EndpointSlice default/s-1"),
        (
            Upsert(make_slice("s-1", service="api", resource_version="6")),
            "EndpointSlice default/s-1@6",
        ),
        (Upsert(make_node(zone="z9", resource_version="7")), "Node n1@7"),
    ],
)
def test_the_cause_names_the_object(event: Event, cause: str) -> None:
    cache = cache_of(Upsert(make_service()), Upsert(make_slice("s-1", make_endpoint(A))))
    cache.apply([Upsert(make_slice("s-1", make_endpoint(B)))], 1.0)

    cache.apply([event], 2.0)

    change = cache.take_changes()[WEB]
    assert (str(change.cause), change.received_s) == (cause, 1.0)


def test_the_revision_grows_with_every_change() -> None:
    cache, revisions = Cache(make_node()), []
    for event in (
        Upsert(make_service()),
        Upsert(make_slice("s-1", make_endpoint(A))),
        Upsert(make_node(zone="z2")),
        Delete("Service", "default", "web"),
    ):
        cache.apply([event], 0.0)
        revisions.append(cache.revision)

    assert revisions == sorted(set(revisions))
    assert revisions[0] > 0


def test_changes_are_taken_oldest_first() -> None:
    cache = cache_of()

    for name in ("default/web", "default/api", "default/web"):
        cache.apply([Upsert(make_service(name, created=str(cache.revision)))], 0.0)

    assert list(cache.take_changes()) == [WEB, API]


def test_kinds_are_unlisted_until_each_was_listed_once() -> None:
    cache = Cache(NodeInfo(name="n1"))
    assert cache.unlisted == set(KINDS)

    cache.apply([Synced("Service"), Synced("Node"), Synced("Service")], 0.0)
    assert cache.unlisted == {"EndpointSlice"}

    cache.apply([Synced("EndpointSlice")], 0.0)
    assert cache.unlisted == frozenset()


def test_problems_replace_each_other_until_they_are_taken_back() -> None:
    first, second = (
        Rejected(kind="Service", name="default/web", field=field, reason="no number")
        for field in ("spec.ports[0].port", "spec.ports[1].port")
    )
    cache = cache_of(Problems("Service default/web", (first,)))

    cache.apply([Problems("Service default/web", (second,))], 0.0)
    assert cache.problems == {"Service default/web": (second,)}

    cache.apply([Problems("Service default/web", ()), Problems("Service default/db", ())], 0.0)
    assert cache.problems == {}


@settings(max_examples=150, deadline=None)
@given(histories())
def test_only_the_final_objects_matter(batches: History) -> None:
    world = world_after(batches)

    expected = world_after([final_states(batches)])
    assert world.cache.services == expected.cache.services
    assert world.cache.node == expected.cache.node
    for name in SERVICE_NAMES:
        assert world.cache.endpoints(name) == expected.cache.endpoints(name)
    assert world.desired.ports == expected.desired.ports


def test_ranges_of_cluster_ips_come_from_all_objects_and_go_with_them() -> None:
    cache = Cache(NodeInfo(name="n1"))

    first = ServiceCidrs(name="a", cidrs=("10.96.0.0/12", "fd00:10::/108"))
    second = ServiceCidrs(name="b", cidrs=("10.200.0.0/16", "10.96.0.0/12"))
    cache.apply([Upsert(first), Upsert(second)], 0.0)
    before = cache.service_cidrs
    cache.apply([Delete("ServiceCIDR", "", "a")], 0.0)

    assert before == ("10.200.0.0/16", "10.96.0.0/12", "fd00:10::/108")
    assert cache.service_cidrs == ("10.200.0.0/16", "10.96.0.0/12")
    assert not cache.has_changes
