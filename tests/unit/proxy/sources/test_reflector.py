"""What a reflector asks for next, for everything that can happen to its last request."""

from collections.abc import Callable

import msgspec
import pytest

from proxy.model import NodeInfo
from proxy.sources.backoff import Backoff
from proxy.sources.events import Delete, Problems, Synced, Trouble, Upsert
from proxy.sources.reflector import STEADY_S
from proxy.sources.resources import Request
from tests.builders import make_node, make_service, make_slice, watch_line
from tests.unit.proxy.sources.reflecting import (
    FIRST_S,
    LIMITS,
    LISTING,
    MAX_S,
    Bench,
    bookmark,
    error,
    page,
    slice_at,
)

STREAM = {
    "watch": "1",
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "resourceVersion": "",
    "allowWatchBookmarks": "true",
    "timeoutSeconds": "300",
}


def _watch(version: str, timeout_s: int = 300) -> dict[str, str]:
    return {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(timeout_s),
    }


def _watching(*names: str, limits: object = None) -> Bench:
    """Return a bench on which a watch goes on after everything was streamed."""
    bench = Bench() if limits is None else Bench(LISTING)
    if limits is None:
        bench.stream(*(slice_at(name, 50) for name in names))
    else:
        bench.listing(*(slice_at(name, 50) for name in names))
        bench.ask()
        bench.accept()
    return bench


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
    bench = _watching("a")

    bench.line(
        watch_line("ADDED", slice_at("b", 101)),
        watch_line("MODIFIED", slice_at("a", 102)),
        watch_line("DELETED", slice_at("b", 103)),
    )

    assert bench.names == {"a"}
    assert bench.events[-1] == Delete("EndpointSlice", "default", "b")
    assert bench.reflector.report().resource_version == "103"


def test_blank_lines_mean_nothing() -> None:
    assert _watching().line(b"", b"\r", b"  ") == []


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
    bench = _watching("a", "b", "c")
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
    bench = _watching("a")
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
    assert bench.ask(jitter=0.5) == _watch("70", 450)
    assert bench.reflector.report().lists == 1


def test_an_empty_list_is_a_list() -> None:
    assert Bench(LISTING).listing() == [Synced("EndpointSlice")]


def test_nothing_is_deleted_before_the_last_page() -> None:
    bench = _watching("a", "b", limits=LISTING)
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
    bench = _watching("a", limits=LISTING)
    bench.line(bookmark(150))

    bench.line(error(410))

    assert bench.ask() == {"resourceVersion": "150"}


@pytest.mark.parametrize("code", [410, 504])
def test_a_list_that_cannot_be_had_at_a_version_is_asked_for_at_the_newest(code: int) -> None:
    bench = _watching("a", limits=LISTING)
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


# Watches


def test_a_watch_that_the_server_ends_goes_on_from_its_last_version() -> None:
    bench = _watching("a")
    bench.line(watch_line("MODIFIED", slice_at("a", 120)), bookmark(130))
    bench.watch_for(STEADY_S)

    bench.reflector.end(bench.now_s, is_truncated=False)

    assert bench.ask() == _watch("130")
    assert bench.reflector.report().failures == 0


def test_a_watch_that_breaks_off_within_an_event_goes_on_from_the_last_whole_one() -> None:
    bench = _watching("a")
    bench.line(watch_line("MODIFIED", slice_at("a", 120)))

    bench.reflector.end(bench.now_s, is_truncated=True)

    assert bench.ask() == _watch("120")
    assert bench.reflector.report().errors == {"closed": 1}


def test_a_watch_that_ends_at_once_again_and_again_is_asked_for_ever_more_seldom() -> None:
    bench = _watching("a")
    pauses = []
    for _ in range(5):
        bench.reflector.end(bench.now_s, is_truncated=False)
        pauses.append(bench.pause())
        bench.skip_pause()
        bench.ask()
        bench.accept()

    assert pauses == pytest.approx([0, 0.4, 0.8, MAX_S, MAX_S])


def test_a_watch_that_is_over_is_not_ended_twice() -> None:
    bench = _watching()
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
    bench = _watching()
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
    bench = _watching("a", "b")

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
    bench = _watching("a", "b")
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
    bench = _watching("a", "b")

    bench.line(bookmark(99))

    assert bench.reflector.report().errors == {"gone": 1}
    bench.stream(slice_at("a", 60), version=98)
    assert bench.names == {"a"}
    bench.line(watch_line("ADDED", slice_at("b", 99)))
    assert bench.names == {"a", "b"}


@pytest.mark.parametrize("version", ["100", "101", "1000", "abc", "0099x", ""])
def test_versions_are_otherwise_opaque(version: str) -> None:
    bench = _watching("a")

    bench.line(bookmark(version))

    assert bench.is_open()
    assert bench.reflector.report().resource_version == (version or "100")


def test_a_deletion_may_carry_an_old_version() -> None:
    bench = _watching("a")

    bench.line(watch_line("DELETED", slice_at("a", 50)))

    assert bench.is_open()
    assert bench.names == set()
    assert bench.reflector.report().resource_version == "100"


# Errors


@pytest.mark.parametrize("is_event", [True, False])
@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "server"),
        (410, "gone"),
        (429, "throttled"),
        (500, "server"),
        (503, "server"),
        (302, "server"),
    ],
)
def test_every_refusal_is_counted_by_its_reason(
    code: int, trouble: Trouble, is_event: bool
) -> None:
    bench = _watching("a")
    if is_event:
        bench.line(error(code, "words"))
    else:
        bench.fail("closed")
        bench.ask()
        bench.refuse(code, "", "words")

    report = bench.reflector.report()
    assert not bench.is_open()
    assert report.errors == {trouble: 1} if is_event else {trouble: 1, "closed": 1}
    assert "words" in report.error
    assert bench.names == {"a"}


@pytest.mark.parametrize("trouble", ["gone", "closed", "silent", "malformed", "unauthorized"])
def test_what_one_request_can_heal_is_tried_at_once_but_only_once(trouble: Trouble) -> None:
    bench = _watching("a")

    bench.fail(trouble)
    assert bench.pause() == 0
    bench.ask()
    bench.fail(trouble)

    assert bench.pause() == pytest.approx(2 * FIRST_S)


@pytest.mark.parametrize("trouble", ["connect", "timeout", "server", "throttled", "forbidden"])
def test_other_failures_are_followed_by_a_pause(trouble: Trouble) -> None:
    bench = Bench()
    bench.ask()

    bench.fail(trouble)

    assert bench.pause(jitter=1.0) == pytest.approx(FIRST_S / 2)
    report = bench.reflector.report()
    assert (report.phase, report.failures) == ("waiting", 1)
    assert report.retry_s == pytest.approx(bench.now_s + FIRST_S / 2)


def test_pauses_grow_with_failures_in_a_row_and_a_connection_alone_does_not_end_the_row() -> None:
    bench = Bench()
    pauses = []
    for _ in range(5):
        bench.ask()
        bench.accept()
        bench.refuse(500)
        pauses.append(bench.pause())
        bench.skip_pause()

    assert pauses == pytest.approx([0.2, 0.4, 0.8, MAX_S, MAX_S])


def test_a_watch_that_worked_for_a_while_ends_the_row() -> None:
    bench = Bench()
    for _ in range(4):
        bench.ask()
        bench.fail()
        bench.skip_pause()
    bench.stream()
    assert bench.reflector.deadline_s == pytest.approx(bench.now_s + STEADY_S)
    assert bench.reflector.report().error == "it failed"

    bench.expire(early_s=0.1)
    assert bench.last_trouble() == "connect"
    bench.expire()

    assert bench.is_open()
    assert bench.last_trouble() is None
    assert (bench.reflector.report().failures, bench.reflector.report().error) == (0, "")
    assert bench.reflector.deadline_s == pytest.approx(bench.now_s - STEADY_S + 90)


def test_a_row_also_ends_when_the_watch_breaks_after_a_while() -> None:
    bench = Bench()
    for _ in range(4):
        bench.ask()
        bench.fail()
        bench.skip_pause()
    bench.stream()
    bench.watch_for(STEADY_S)

    bench.fail("connect")

    assert bench.reflector.report().failures == 1


def test_while_the_server_is_away_another_limit_may_hold() -> None:
    limits = msgspec.structs.replace(LIMITS, away_backoff=Backoff(first_s=FIRST_S, max_s=9.0))
    bench = Bench(limits)
    for _ in range(9):
        bench.ask()
        bench.fail("connect")
        pause_s = bench.pause()
        bench.skip_pause()
    assert pause_s == pytest.approx(9.0)
    bench.ask()
    bench.fail("server")
    assert bench.pause() == pytest.approx(MAX_S)


def test_a_pause_for_a_server_that_is_away_ends_when_it_is_back() -> None:
    bench = Bench()
    bench.ask()
    bench.fail("connect")
    assert bench.pause() > 0

    assert bench.reflector.hurry(bench.now_s)

    assert bench.ask() == STREAM
    assert not bench.reflector.hurry(bench.now_s)


@pytest.mark.parametrize("trouble", ["forbidden", "throttled"])
def test_a_pause_for_another_reason_does_not(trouble: Trouble) -> None:
    bench = Bench()
    bench.ask()
    bench.fail(trouble)
    pause_s = bench.pause()

    assert not bench.reflector.hurry(bench.now_s)
    assert bench.pause() == pause_s


@pytest.mark.parametrize(
    ("code", "asked_s", "ends"),
    [(503, 0.0, True), (503, 7.0, False), (429, 0.0, False), (401, 0.0, False), (404, 0.0, False)],
)
def test_a_server_that_is_back_and_refuses_is_not_away(
    code: int, asked_s: float, ends: bool
) -> None:
    bench = Bench(LISTING)
    for _ in range(2):  # so that no refusal is tried again at once
        bench.ask()
        bench.refuse(code) if code == 401 else bench.fail("connect")
        bench.skip_pause()
    bench.ask()

    bench.refuse(code, retry_after_s=asked_s)

    assert bench.pause() > 0
    assert bench.reflector.hurry(bench.now_s) is ends


@pytest.mark.parametrize("code", [404, 429, 503])
def test_a_server_that_asks_for_time_gets_it(code: int) -> None:
    bench = Bench()
    bench.ask()

    bench.refuse(code, retry_after_s=7.0)

    assert bench.pause() == pytest.approx(7.0)


def test_nobody_waits_for_hours_because_a_server_says_so() -> None:
    bench = Bench()
    bench.ask()

    bench.refuse(429, retry_after_s=86400.0)

    assert bench.pause() == pytest.approx(30.0)


def test_credentials_that_are_refused_are_read_again_once_at_once_and_then_with_pauses() -> None:
    bench = Bench()
    assert not bench.is_unauthorized()
    bench.ask()

    bench.refuse(401)
    assert bench.is_unauthorized()
    assert bench.ask() == STREAM
    bench.refuse(401)

    assert bench.is_unauthorized()
    assert bench.pause() == pytest.approx(2 * FIRST_S)
    bench.skip_pause()
    bench.ask()
    bench.refuse(403)
    assert not bench.is_unauthorized()


def test_credentials_are_tried_at_once_however_many_failures_came_before() -> None:
    bench = Bench()
    for _ in range(3):
        bench.ask()
        bench.refuse(500)
        bench.skip_pause()
    bench.ask()

    bench.refuse(401)

    assert bench.pause() == 0


def test_credentials_that_work_are_left_alone() -> None:
    bench = Bench()
    bench.ask()
    bench.refuse(401)

    bench.stream()

    assert not bench.is_unauthorized()


def test_who_is_forbidden_to_list_learns_the_rule_that_is_missing_and_asks_seldom() -> None:
    bench = Bench()
    for _ in range(9):
        bench.ask()
        bench.refuse(403, "Forbidden", 'User "x" cannot list')
        pause_s = bench.pause()
        bench.skip_pause()

    report = bench.reflector.report()
    assert 'User "x" cannot list' in report.error
    assert 'apiGroups: ["discovery.k8s.io"], resources: [endpointslices]' in report.error
    assert pause_s == pytest.approx(10 * MAX_S)


def test_a_server_without_the_kind_is_told_by_its_path() -> None:
    bench = Bench()
    bench.ask()

    bench.refuse(404)

    assert "/apis/discovery.k8s.io/v1/endpointslices" in bench.reflector.report().error


def test_the_first_410_leads_to_a_list_at_once_and_a_storm_of_them_to_pauses() -> None:
    bench = Bench()
    pauses = []
    for _ in range(5):
        bench.stream(slice_at("a", 1))
        bench.line(error(410))
        pauses.append(bench.pause())
        bench.skip_pause()

    assert pauses == pytest.approx([0, 0.4, 0.8, MAX_S, MAX_S])


def test_in_a_storm_lists_take_no_more_than_a_third_of_the_time() -> None:
    bench = Bench()
    for _ in range(2):
        bench.ask()
        bench.accept()
        bench.now_s += 4
        bench.line(bookmark(100, ends=True), error(410))
        pause_s = bench.pause()

    assert pause_s == pytest.approx(8.0)


def test_a_version_that_is_too_large_leads_to_a_new_list() -> None:
    bench = _watching("a")
    bench.fail("closed")
    assert bench.ask() == _watch("100")

    bench.refuse(504, "Timeout", is_too_large=True)
    bench.skip_pause()

    assert bench.ask() == STREAM


def test_a_version_that_the_server_does_not_understand_is_given_up() -> None:
    bench = _watching("a")
    bench.fail("closed")
    bench.ask()

    bench.refuse(400, "BadRequest", "invalid resource version")
    bench.skip_pause()

    assert bench.ask() == STREAM


def test_a_watch_that_meets_the_same_error_again_does_not_stay_there() -> None:
    bench = _watching("a", "b")
    bench.watch_for(60)
    bench.line(error(500, "cannot decode a change"))
    assert bench.last_trouble() == "server"
    bench.skip_pause()
    assert bench.ask() == _watch("100")
    bench.accept()

    bench.line(error(500, "cannot decode a change"))

    bench.skip_pause()
    bench.stream(slice_at("a", 50), version=120)
    assert bench.names == {"a"}


@pytest.mark.parametrize(
    ("fail", "kinds"),
    [
        (lambda bench: bench.refuse(500), "sssLsLs"),
        (lambda bench: (bench.accept(), bench.reflector.end(bench.now_s, is_truncated=False)), "sssLsLs"),
        (lambda bench: bench.fail("connect"), "sssssss"),
    ],
)  # fmt: skip
def test_a_server_that_fails_at_streaming_is_listed(
    fail: Callable[[Bench], object], kinds: str
) -> None:
    bench = Bench()
    asked = ""
    for _ in kinds:
        asked += "s" if "sendInitialEvents" in bench.ask() else "L"
        fail(bench)
        bench.skip_pause()

    assert asked == kinds


def test_a_list_in_pages_goes_on_in_pages_even_when_it_is_time_for_streams_again() -> None:
    bench = Bench()
    bench.ask()
    bench.refuse(422)
    bench.ask()
    bench.page(page([slice_at("a", 1), slice_at("b", 2)], token="more"))
    bench.now_s += 3600

    assert bench.ask() == {"limit": "2", "continue": "more"}


# Silence and absence


def test_a_silent_watch_is_given_up_and_goes_on_from_its_last_version() -> None:
    bench = _watching("a")
    bench.watch_for(60)
    bench.line(bookmark(140))
    assert bench.reflector.deadline_s == pytest.approx(bench.now_s + 90)

    bench.expire(early_s=0.1)
    assert bench.is_open()
    bench.expire()

    assert not bench.is_open()
    assert bench.reflector.report().errors == {"silent": 1}
    assert bench.ask() == _watch("140")


def test_a_watch_on_which_a_bookmark_came_is_beyond_doubt() -> None:
    bench = _watching("a")
    bench.fail("closed")
    assert bench.ask() == _watch("100")
    bench.accept()
    bench.now_s += 1
    bench.line(bookmark(100))

    while bench.is_open():
        bench.expire()

    assert bench.last_trouble() == "silent"
    assert bench.ask() == _watch("100")


PROBE = {"limit": "1", "resourceVersion": ""}


def _in_doubt() -> Bench:
    """Watch a server that has sent nothing since the watch was taken up again at version 100."""
    bench = _watching("a", "b")
    bench.fail("closed")
    assert bench.ask() == _watch("100")
    bench.accept()
    while bench.is_open():
        bench.expire()
    assert bench.last_trouble() == "silent"
    return bench


def test_a_quiet_server_is_asked_for_one_object_and_not_for_everything() -> None:
    bench = _in_doubt()

    assert bench.ask() == PROBE
    assert bench.page(page([slice_at("c", 90)], version=100, token="more")) == []

    assert bench.names == {"a", "b"}
    assert bench.ask() == _watch("100")


def test_a_server_that_has_not_come_as_far_is_asked_for_everything() -> None:
    bench = _in_doubt()
    bench.ask()

    assert bench.page(page([slice_at("a", 90)], version=99, token="more")) == []

    assert bench.stream(slice_at("a", 90), version=99)
    assert bench.names == {"a"}


def test_a_list_ends_the_doubt() -> None:
    bench = _in_doubt()
    assert bench.ask() == PROBE
    bench.fail("connect")
    bench.now_s += 200
    assert bench.reflector.report().phase == "listing"

    bench.stream(slice_at("a", 50), version=120)
    bench.watch_for(10)
    bench.fail("closed")

    assert bench.ask() == _watch("120")


def test_doubt_remains_until_the_server_has_said_how_far_it_is() -> None:
    bench = _in_doubt()
    for body in (b"", page([], version="")):
        assert bench.ask() == PROBE
        bench.page(body)
        assert bench.last_trouble() == "malformed"
        bench.skip_pause()

    assert bench.ask() == PROBE
    bench.page(page([]))
    assert bench.ask() == _watch("100")


@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_request_without_an_answer_is_given_up(is_accepted: bool) -> None:
    bench = Bench(LISTING)
    bench.ask()
    if is_accepted:
        bench.accept()

    bench.expire()

    assert bench.reflector.report().errors == {"timeout": 1}
    assert bench.now_s == pytest.approx(1090.0)


@pytest.mark.parametrize("ending", ["cut", "end"])
def test_after_a_short_absence_of_the_server_the_watch_goes_on(ending: str) -> None:
    bench = _watching("a")
    bench.watch_for(60)
    bench.reflector.end(bench.now_s, is_truncated=ending == "cut")
    bench.ask()
    bench.fail("connect")
    bench.now_s += 4.9

    assert bench.ask() == _watch("100")


@pytest.mark.parametrize("code", [0, 503])
def test_after_a_long_absence_everything_is_listed_since_history_may_be_another(code: int) -> None:
    bench = _watching("a", "b")
    bench.fail("closed")
    while bench.now_s < 1006:
        bench.ask()
        bench.refuse(code) if code else bench.fail("connect")
        bench.now_s += 1.3

    assert bench.ask() == STREAM
    bench.accept()
    bench.line(watch_line("ADDED", slice_at("a", 50)), bookmark(60, ends=True))
    assert bench.names == {"a"}


def test_after_a_long_absence_a_list_is_asked_for_at_the_newest_version() -> None:
    bench = Bench(LISTING)
    bench.ask()
    bench.page(page([slice_at("a", 5)], 70, "next"))
    bench.ask()
    bench.fail("connect")
    bench.now_s += 6

    assert bench.ask() == {"limit": "2", "resourceVersion": ""}


def test_a_server_that_was_never_there_is_asked_for_a_list_from_memory() -> None:
    bench = Bench(LISTING)
    bench.ask()
    bench.fail("connect")
    bench.now_s += 60

    assert bench.ask() == {"limit": "2", "resourceVersion": "0"}


def test_credentials_that_were_refused_for_long_are_no_absence() -> None:
    bench = _watching("a")
    bench.fail("closed")
    bench.ask()
    bench.refuse(401)
    bench.now_s += 60

    assert bench.ask() == _watch("100")


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
