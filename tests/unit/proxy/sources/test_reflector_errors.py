"""What a reflector does when a request comes to nothing, and when a server is silent or away."""

from collections.abc import Callable

import msgspec
import pytest

from proxy.sources.backoff import Backoff
from proxy.sources.events import Trouble
from proxy.sources.reflector import STEADY_S
from tests.builders import watch_line
from tests.unit.proxy.sources.reflecting import (
    FIRST_S,
    LIMITS,
    LISTING,
    MAX_S,
    STREAM,
    Bench,
    bookmark,
    error,
    page,
    slice_at,
    watch_of,
    watching,
)

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
    bench = watching("a")
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
    bench = watching("a")

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
    bench = watching("a")
    bench.fail("closed")
    assert bench.ask() == watch_of("100")

    bench.refuse(504, "Timeout", is_too_large=True)
    bench.skip_pause()

    assert bench.ask() == STREAM


def test_a_version_that_the_server_does_not_understand_is_given_up() -> None:
    bench = watching("a")
    bench.fail("closed")
    bench.ask()

    bench.refuse(400, "BadRequest", "invalid resource version")
    bench.skip_pause()

    assert bench.ask() == STREAM


def test_a_watch_that_meets_the_same_error_again_does_not_stay_there() -> None:
    bench = watching("a", "b")
    bench.watch_for(60)
    bench.line(error(500, "cannot decode a change"))
    assert bench.last_trouble() == "server"
    bench.skip_pause()
    assert bench.ask() == watch_of("100")
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
    bench = watching("a")
    bench.watch_for(60)
    bench.line(bookmark(140))
    assert bench.reflector.deadline_s == pytest.approx(bench.now_s + 90)

    bench.expire(early_s=0.1)
    assert bench.is_open()
    bench.expire()

    assert not bench.is_open()
    assert bench.reflector.report().errors == {"silent": 1}
    assert bench.ask() == watch_of("140")


def test_a_watch_on_which_a_bookmark_came_is_beyond_doubt() -> None:
    bench = watching("a")
    bench.fail("closed")
    assert bench.ask() == watch_of("100")
    bench.accept()
    bench.now_s += 1
    bench.line(bookmark(100))

    while bench.is_open():
        bench.expire()

    assert bench.last_trouble() == "silent"
    assert bench.ask() == watch_of("100")


PROBE = {"limit": "1", "resourceVersion": ""}


def _in_doubt() -> Bench:
    """Watch a server that has sent nothing since the watch was taken up again at version 100."""
    bench = watching("a", "b")
    bench.fail("closed")
    assert bench.ask() == watch_of("100")
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
    assert bench.ask() == watch_of("100")


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

    assert bench.ask() == watch_of("120")


def test_doubt_remains_until_the_server_has_said_how_far_it_is() -> None:
    bench = _in_doubt()
    for body in (b"", page([], version="")):
        assert bench.ask() == PROBE
        bench.page(body)
        assert bench.last_trouble() == "malformed"
        bench.skip_pause()

    assert bench.ask() == PROBE
    bench.page(page([]))
    assert bench.ask() == watch_of("100")


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
    bench = watching("a")
    bench.watch_for(60)
    bench.reflector.end(bench.now_s, is_truncated=ending == "cut")
    bench.ask()
    bench.fail("connect")
    bench.now_s += 4.9

    assert bench.ask() == watch_of("100")


@pytest.mark.parametrize("code", [0, 503])
def test_after_a_long_absence_everything_is_listed_since_history_may_be_another(code: int) -> None:
    bench = watching("a", "b")
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
    bench = watching("a")
    bench.fail("closed")
    bench.ask()
    bench.refuse(401)
    bench.now_s += 60

    assert bench.ask() == watch_of("100")
