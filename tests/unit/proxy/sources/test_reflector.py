"""What a reflector asks for next: streams, lists, the own Node. After a list: test_reflector_watches.py; when something fails: test_reflector_errors.py."""

import pytest

from proxy.model import NodeInfo
from proxy.sources.events import Delete, Synced, Upsert
from proxy.sources.resources import Request
from tests.builders import make_node, watch_line
from tests.unit.proxy.sources.reflecting import (
    LISTING,
    STREAM,
    Bench,
    bookmark,
    error,
    page,
    slice_at,
    watch_of,
    watching,
)

# The stream of everything


def test_everything_is_asked_for_as_a_stream_first() -> None:
    bench = Bench()

    assert bench.ask() == STREAM
    assert bench.reflector.report().phase == "listing"


def test_objects_are_handed_on_as_they_come_and_all_are_listed_after_the_marked_end() -> None:
    bench = Bench()
    bench.ask()
    bench.accept()

    assert [type(event) for event in bench.line(watch_line("ADDED", slice_at("a", 5)))] == [Upsert]
    assert bench.synced == 0
    assert bench.line(bookmark(100, ends=True)) == [Synced("EndpointSlice")]
    assert bench.reflector.report().phase == "watching"
    assert bench.reflector.report().resource_version == "100"


def test_a_stream_goes_on_as_a_watch() -> None:
    bench = watching("a")

    bench.line(
        watch_line("ADDED", slice_at("b", 101)),
        watch_line("MODIFIED", slice_at("a", 102)),
        watch_line("DELETED", slice_at("b", 103)),
    )

    assert bench.names == {"a"}
    assert bench.events[-1] == Delete("EndpointSlice", "default", "b")
    assert bench.reflector.report().resource_version == "103"


def test_blank_lines_mean_nothing() -> None:
    assert watching().line(b"", b"\r", b"  ") == []


def test_a_stream_that_breaks_off_before_its_end_starts_anew_and_deletes_nothing() -> None:
    bench = Bench()
    bench.ask()
    bench.accept()
    bench.line(watch_line("ADDED", slice_at("a", 5)))

    bench.reflector.end(bench.now_s, is_truncated=False)

    assert bench.ask() == STREAM
    assert bench.reflector.report().errors == {"closed": 1}
    assert bench.names == {"a"}


def test_what_a_new_stream_does_not_repeat_is_gone_when_it_is_complete() -> None:
    bench = watching("a", "b", "c")
    bench.line(error(410))
    bench.ask()
    bench.accept()

    assert [type(event) for event in bench.line(watch_line("ADDED", slice_at("b", 90)))] == [
        Upsert
    ]
    assert bench.names == {"a", "b", "c"}
    assert bench.line(bookmark(200, ends=True)) == [
        Delete("EndpointSlice", "default", "a"),
        Delete("EndpointSlice", "default", "c"),
        Synced("EndpointSlice"),
    ]


def test_what_comes_and_goes_during_a_stream_is_gone_once() -> None:
    bench = watching("a")
    bench.line(error(410))
    bench.ask()
    bench.accept()

    bench.line(watch_line("ADDED", slice_at("a", 90)), watch_line("DELETED", slice_at("a", 120)))

    assert bench.line(bookmark(200, ends=True)) == [Synced("EndpointSlice")]
    assert bench.names == set()


# Servers without streams


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_refuses_the_stream_is_asked_for_pages_at_once(code: int) -> None:
    bench = Bench()
    bench.ask()

    bench.refuse(code, "Invalid", "sendInitialEvents: Forbidden")

    assert bench.ask() == {"limit": "2", "resourceVersion": "0"}
    assert bench.reflector.no_stream == "sendInitialEvents: Forbidden"
    assert bench.reflector.report().failures == 0


def test_a_server_that_cannot_select_by_a_field_is_asked_for_everything_at_once() -> None:
    bench = Bench(kind="Service")
    targets: list[str] = []
    for _ in range(2):
        request = bench.reflector.next(bench.now_s, 0.0)
        assert isinstance(request, Request)
        targets.append(request.target)
        bench.refuse(
            400,
            "BadRequest",
            'Unable to find "/v1, Resource=services" that match field selector "spec.clusterIP!=None": '
            "field label not supported: spec.clusterIP",
        )
        if len(targets) == 1:
            assert bench.reflector.report().failures == 0

    assert ["fieldSelector=" in target for target in targets] == [True, False]
    assert all("labelSelector=" in target and "sendInitialEvents" in target for target in targets)


def test_a_server_that_does_not_mark_the_end_is_asked_for_pages_after_a_while() -> None:
    bench = Bench()
    bench.ask()
    bench.accept()
    bench.now_s += 6
    bench.line(watch_line("ADDED", slice_at("a", 5)), watch_line("ADDED", slice_at("b", 5)))
    bench.now_s += 9.9
    bench.reflector.expire(bench.now_s)
    assert bench.is_open()

    bench.expire()

    assert not bench.is_open()
    assert bench.ask() == {"limit": "2", "resourceVersion": "0"}
    assert bench.page(page([slice_at("a", 5)]))[-2:] == [
        Delete("EndpointSlice", "default", "b"),
        Synced("EndpointSlice"),
    ]


def test_a_busy_server_that_never_marks_the_end_is_asked_for_pages_in_the_end() -> None:
    bench = Bench()
    bench.ask()
    bench.accept()
    began_s = bench.now_s

    while bench.is_open():
        bench.line(watch_line("ADDED", slice_at("a", 5)))
        bench.now_s += 5
        bench.reflector.expire(bench.now_s)

    assert bench.now_s - began_s == pytest.approx(60)
    assert "limit" in bench.ask()


def test_a_bookmark_that_does_not_mark_the_end_shows_a_server_without_streams() -> None:
    bench = Bench()
    bench.ask()
    bench.accept()

    bench.line(watch_line("ADDED", slice_at("a", 5)), bookmark(90))

    assert bench.ask() == {"limit": "2", "resourceVersion": "0"}


def test_a_server_without_streams_is_asked_for_one_again_later() -> None:
    bench = Bench()
    bench.ask()
    bench.refuse(422)
    bench.listing()
    bench.ask()
    bench.accept()

    bench.now_s += 1800
    bench.line(error(410))
    assert "limit" not in bench.ask()
    bench.page(page([]))
    bench.ask()
    bench.accept()
    bench.now_s += 1801
    bench.line(error(410))

    assert bench.ask() == STREAM


def test_streams_can_be_switched_off() -> None:
    assert Bench(LISTING).ask() == {"limit": "2", "resourceVersion": "0"}


# Lists


def test_pages_are_asked_for_until_there_are_no_more_and_then_a_watch_from_there() -> None:
    bench = Bench(LISTING)
    bench.ask()
    assert bench.page(page([slice_at("a", 5), slice_at("b", 6)], 70, "next"))[-1] != Synced(
        "EndpointSlice"
    )
    assert bench.ask() == {"limit": "2", "continue": "next"}

    events = bench.page(page([slice_at("c", 7)], 70))

    assert bench.names == {"a", "b", "c"}
    assert events[-1] == Synced("EndpointSlice")
    assert bench.ask(jitter=0.5) == watch_of("70", 450)
    assert bench.reflector.report().lists == 1


def test_an_empty_list_is_a_list() -> None:
    assert Bench(LISTING).listing() == [Synced("EndpointSlice")]


def test_nothing_is_deleted_before_the_last_page() -> None:
    bench = watching("a", "b", limits=LISTING)
    bench.line(error(410))
    bench.ask()

    assert bench.page(page([], 200, "next")) == []
    bench.ask()
    assert bench.names == {"a", "b"}
    assert bench.page(page([slice_at("b", 5)], 200))[-2:] == [
        Delete("EndpointSlice", "default", "a"),
        Synced("EndpointSlice"),
    ]


def test_after_410_the_list_is_at_least_as_new_as_what_is_known_and_comes_from_memory() -> None:
    bench = watching("a", limits=LISTING)
    bench.line(bookmark(150))

    bench.line(error(410))

    assert bench.ask() == {"resourceVersion": "150"}


@pytest.mark.parametrize("code", [410, 504])
def test_a_list_that_cannot_be_had_at_a_version_is_asked_for_at_the_newest(code: int) -> None:
    bench = watching("a", limits=LISTING)
    bench.line(error(410))
    bench.ask()

    bench.refuse(code, "Timeout", is_too_large=code == 504)
    bench.skip_pause()

    assert bench.ask() == {"limit": "2", "resourceVersion": ""}


def test_a_list_whose_pages_expire_is_asked_for_as_a_whole() -> None:
    bench = Bench(LISTING)
    bench.ask()
    bench.page(page([slice_at("a", 5)], 70, "next"))
    bench.ask()

    bench.refuse(410, "Expired")

    assert bench.ask() == {"resourceVersion": ""}
    bench.page(page([slice_at("b", 5)]))
    assert bench.names == {"b"}
    bench.ask()
    bench.accept()
    bench.line(error(410))
    bench.skip_pause()
    bench.ask()
    bench.refuse(410)
    bench.skip_pause()
    assert bench.ask()["limit"] == "2"


def test_a_page_that_failed_is_asked_for_again() -> None:
    bench = Bench(LISTING)
    bench.ask()
    bench.page(page([slice_at("a", 5)], 70, "next"))
    bench.ask()

    bench.refuse(500)
    bench.skip_pause()

    assert bench.ask() == {"limit": "2", "continue": "next"}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", page([], kind="Service"), page([], version=""), page([])[:-1]]
)
def test_a_page_that_cannot_be_read_is_no_list(body: bytes) -> None:
    bench = Bench(LISTING)
    bench.ask()

    assert bench.page(body) == []

    assert bench.synced == 0
    assert bench.reflector.report().errors == {"malformed": 1}
    assert bench.ask() == {"limit": "2", "resourceVersion": "0"}


# The own node


def test_the_deleted_own_node_stays_as_it_was_last() -> None:
    bench = Bench(kind="Node")
    [upsert, *_] = bench.stream(make_node())
    assert isinstance(upsert, Upsert)
    assert isinstance(upsert.object, NodeInfo)

    assert bench.line(watch_line("DELETED", make_node())) == []
    assert bench.reflector.report().objects == 0


def test_a_node_that_does_not_exist_is_listed_too() -> None:
    assert Bench(kind="Node").stream() == [Synced("Node")]


# What is reported


def test_a_report_tells_how_it_stands() -> None:
    bench = Bench()
    bench.stream(slice_at("a", 1), slice_at("b", 1))
    bench.watch_for(7)
    bench.line(bookmark(120))
    bench.fail("closed")
    bench.ask()

    report = bench.reflector.report()

    assert report.kind == "EndpointSlice"
    assert (report.phase, report.since_s, report.heard_s) == ("watching", 1000.0, 1007.0)
    assert (report.resource_version, report.objects) == ("120", 2)
    assert (report.lists, report.watches, report.failures) == (1, 2, 1)
    assert (report.retry_s, report.error, report.errors) == (0.0, "it failed", {"closed": 1})


def test_a_server_without_an_optional_kind_is_left_alone_for_long() -> None:
    bench = Bench(kind="ServiceCIDR")
    bench.ask()

    bench.refuse(404, "NotFound")

    assert not bench.is_open()
    assert bench.last_trouble() is None
    assert bench.reflector.report().errors == {}
    assert bench.pause() == 600.0
    assert not bench.reflector.hurry(bench.now_s)
    bench.now_s += 600.0
    assert bench.ask()


def test_an_optional_kind_that_is_not_there_counts_as_trouble_where_it_is_not_allowed() -> None:
    bench = Bench(kind="ServiceCIDR")
    bench.ask()

    bench.refuse(403, "Forbidden")

    assert bench.last_trouble() == "forbidden"


def test_a_server_without_services_is_asked_again_soon() -> None:
    bench = Bench(kind="Service")
    bench.ask()

    bench.refuse(404, "NotFound")

    assert bench.last_trouble() == "server"
    assert bench.pause() <= 1.2
