"""Watches: what goes on after a list, and how it goes on when it ends."""

import pytest

from proxy.sources.events import Delete, Problems, Synced
from proxy.sources.reflector import STEADY_S
from tests.builders import make_service, make_slice, watch_line
from tests.unit.proxy.sources.reflecting import (
    LISTING,
    MAX_S,
    Bench,
    bookmark,
    error,
    page,
    slice_at,
    watch_of,
    watching,
)


def test_a_watch_that_the_server_ends_goes_on_from_its_last_version() -> None:
    bench = watching("a")
    bench.line(watch_line("MODIFIED", slice_at("a", 120)), bookmark(130))
    bench.watch_for(STEADY_S)

    bench.reflector.end(bench.now_s, is_truncated=False)

    assert bench.ask() == watch_of("130")
    assert bench.reflector.report().failures == 0


def test_a_watch_that_breaks_off_within_an_event_goes_on_from_the_last_whole_one() -> None:
    bench = watching("a")
    bench.line(watch_line("MODIFIED", slice_at("a", 120)))

    bench.reflector.end(bench.now_s, is_truncated=True)

    assert bench.ask() == watch_of("120")
    assert bench.reflector.report().errors == {"closed": 1}


def test_a_watch_that_ends_at_once_again_and_again_is_asked_for_ever_more_seldom() -> None:
    bench = watching("a")
    pauses = []
    for _ in range(5):
        bench.reflector.end(bench.now_s, is_truncated=False)
        pauses.append(bench.pause())
        bench.skip_pause()
        bench.ask()
        bench.accept()

    assert pauses == pytest.approx([0, 0.4, 0.8, MAX_S, MAX_S])


def test_a_watch_that_is_over_is_not_ended_twice() -> None:
    bench = watching()
    bench.fail("closed")

    bench.reflector.end(bench.now_s, is_truncated=True)

    assert bench.reflector.report().errors == {"closed": 1}


def test_objects_that_stop_matching_come_as_deleted() -> None:
    bench = Bench(kind="Service")
    bench.stream(make_service("web"))

    bench.line(
        watch_line(
            "DELETED",
            make_service("web", labels={"service.kubernetes.io/service-proxy-name": "x"}),
        )
    )

    assert bench.names == set()


def test_a_bad_object_is_told_and_taken_back_when_it_goes() -> None:
    bench = watching()
    bad = make_slice("bad", addressType=7)

    bench.line(watch_line("ADDED", bad))
    assert list(bench.problems) == ["EndpointSlice default/bad"]
    assert bench.is_open()
    bench.line(watch_line("DELETED", make_slice("bad")))

    assert bench.problems == {}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        watch_line("EXPLODED", slice_at("a", 120)),
        b'{"type":"MODIFIED","object":{"kind":"EndpointSlice"}}',
        b'{"type":"DELETED","object":{"kind":"EndpointSlice","metadata":{"name":"a"}}}',
        watch_line("MODIFIED", make_service("a")),
        watch_line("DELETED", {"kind": "Pod", "metadata": {"name": "a", "namespace": "b"}}),
        None,
    ],
)
def test_an_event_that_names_no_object_of_ours_leads_to_a_new_list(line: bytes | None) -> None:
    bench = watching("a", "b")

    bench.line(line)

    assert list(bench.problems) == ["Watch endpointslices"]
    assert bench.names == {"a", "b"}
    assert bench.stream(slice_at("a", 110))[-3:] == [
        Delete("EndpointSlice", "default", "b"),
        Problems("Watch endpointslices", ()),
        Synced("EndpointSlice"),
    ]
    assert bench.reflector.report().errors == {"malformed": 1}


def test_a_list_with_an_unreadable_part_counts_but_deletes_nothing_and_is_repeated() -> None:
    bench = watching("a", "b")
    bench.line(error(410))
    bench.ask()
    bench.accept()

    assert bench.line(watch_line("ADDED", slice_at("a", 110)), b"{", bookmark(200, ends=True))[
        -1
    ] == Synced("EndpointSlice")
    assert bench.names == {"a", "b"}
    pauses = []
    for _ in range(8):
        began_s = bench.now_s
        while bench.is_open():
            bench.expire()
            bench.reflector.heard(bench.now_s)
        pauses.append(bench.now_s - began_s)
        bench.ask()
        bench.accept()
        bench.line(watch_line("ADDED", slice_at("a", 110)), b"{", bookmark(200, ends=True))
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert bench.names == {"a", "b"}

    bench.expire()
    bench.reflector.heard(bench.now_s)
    while bench.is_open():
        bench.expire()
    bench.stream(slice_at("a", 110))
    assert bench.names == {"a"}
    assert bench.problems == {}
    assert bench.reflector.deadline_s > bench.now_s + 60


def test_an_unreadable_item_of_a_page_costs_only_itself() -> None:
    bench = Bench(LISTING)
    bench.ask()

    events = bench.page(page([slice_at("a", 1), {"metadata": {}}, slice_at("b", 1)]))

    assert bench.names == {"a", "b"}
    assert events[-1] == Synced("EndpointSlice")
    assert list(bench.problems) == ["Watch endpointslices"]


def test_a_server_whose_versions_go_back_has_lost_history() -> None:
    bench = watching("a", "b")

    bench.line(bookmark(99))

    assert bench.reflector.report().errors == {"gone": 1}
    bench.stream(slice_at("a", 60), version=98)
    assert bench.names == {"a"}
    bench.line(watch_line("ADDED", slice_at("b", 99)))
    assert bench.names == {"a", "b"}


@pytest.mark.parametrize("version", ["100", "101", "1000", "abc", "0099x", ""])
def test_versions_are_otherwise_opaque(version: str) -> None:
    bench = watching("a")

    bench.line(bookmark(version))

    assert bench.is_open()
    assert bench.reflector.report().resource_version == (version or "100")


def test_a_deletion_may_carry_an_old_version() -> None:
    bench = watching("a")

    bench.line(watch_line("DELETED", slice_at("a", 50)))

    assert bench.is_open()
    assert bench.names == set()
    assert bench.reflector.report().resource_version == "100"
