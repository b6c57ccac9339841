"""The backlog: what waits is not forgotten, however often it is refused."""

import pytest

from proxy.backlog import Backlog, Waiting
from proxy.changes import MOST_TRIGGERS, Change, Trigger
from proxy.model import Cause
from tests.model_builders import make_key, make_service_name

WEB, API = make_key("default/web"), make_key("default/api")
OF_WEB, OF_API = make_service_name("default/web"), make_service_name("default/api")


def change(at_s: float, *triggered_s: float, version: str = "1") -> Change:
    return Change(
        cause=Cause(kind="Service", namespace="default", name="web", resource_version=version),
        received_s=at_s,
        decoded_s=at_s,
        triggers=tuple(Trigger("IPv4", each_s) for each_s in triggered_s),
    )


@pytest.fixture
def backlog() -> Backlog:
    return Backlog()


def test_what_changes_again_while_it_waits_has_waited_from_the_first(backlog: Backlog) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0, 5.0), 2.0)
    backlog.add(OF_WEB, [WEB], change(3.0, 6.0, version="2"), 4.0)

    assert list(backlog) == [WEB]
    assert backlog.done(WEB) == Waiting(change(1.0, 5.0, 6.0, version="2"), 2.0)
    assert (len(backlog), backlog.done(WEB)) == (0, None)


def test_what_changes_again_goes_to_the_end_of_the_row(backlog: Backlog) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0), 2.0)
    backlog.add(OF_API, [API, WEB], change(3.0), 4.0)

    assert list(backlog) == [API, WEB]


def test_what_stands_in_the_row_is_not_put_there_again(backlog: Backlog) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0), 2.0)

    backlog.add_again("repair", WEB, 3.0)
    backlog.add_again("repair", API, 3.0)

    assert backlog.done(WEB) == Waiting(change(1.0), 2.0)
    found = backlog.done(API)
    assert found is not None
    assert (found.change.cause.kind, found.change.received_s, found.queued_s) == (
        "repair",
        3.0,
        3.0,
    )


def test_what_is_refused_waits_from_the_first_time_until_it_is_programmed(
    backlog: Backlog,
) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0, 5.0), 2.0)
    assert backlog.set_aside(WEB, "no", retry_s=10.0) == Waiting(change(1.0, 5.0), 2.0)
    backlog.add_refused(10.0)
    again = backlog.set_aside(WEB, "no again", retry_s=20.0)
    backlog.add(OF_WEB, [WEB], change(15.0, version="2"), 16.0)

    assert again is not None
    assert (again.change.cause.kind, again.change.received_s, again.queued_s) == (
        "retry",
        1.0,
        2.0,
    )
    assert again.change.triggered_s == 5.0
    assert backlog.failures(WEB) == 2
    assert backlog.done(WEB) == Waiting(change(1.0, 5.0, version="2"), 2.0)
    assert (backlog.quarantine, backlog.failures(WEB)) == ({}, 0)


def test_each_is_tried_again_at_its_own_time(backlog: Backlog) -> None:
    backlog.set_aside(WEB, "no", retry_s=20.0)
    backlog.set_aside(API, "no", retry_s=10.0)
    assert backlog.retry_s == 10.0

    backlog.add_refused(9.9)
    assert list(backlog) == []
    backlog.add_refused(10.0)
    assert (list(backlog), backlog.retry_s) == ([API], 20.0)
    backlog.done(API)
    backlog.add_refused(15.0)
    assert backlog.retry_s == 20.0
    backlog.add_refused(20.0)
    assert list(backlog) == [WEB]


def test_triggers_are_taken_once(backlog: Backlog) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0, 5.0), 2.0)
    backlog.add(OF_WEB, [], change(3.0, 6.0), 4.0)
    backlog.add(OF_API, [API], change(3.0, 7.0), 4.0)

    assert backlog.take_triggers() == (("IPv4", 5.0), ("IPv4", 6.0), ("IPv4", 7.0))
    assert backlog.take_triggers() == ()


def test_triggers_of_what_is_refused_wait_with_it(backlog: Backlog) -> None:
    backlog.add(OF_WEB, [WEB], change(1.0, 5.0), 2.0)
    backlog.add(OF_API, [API], change(1.0, 7.0), 2.0)
    backlog.set_aside(WEB, "no", retry_s=10.0)
    backlog.done(API)

    assert backlog.take_triggers() == (("IPv4", 7.0),)
    backlog.add_refused(10.0)
    backlog.done(WEB)
    assert backlog.take_triggers() == (("IPv4", 5.0),)


def test_triggers_of_what_fails_for_long_do_not_pile_up(backlog: Backlog) -> None:
    for number in range(2 * MOST_TRIGGERS):
        backlog.add(OF_WEB, [WEB], change(1.0, float(number)), 2.0)

    assert [trigger.at_s for trigger in backlog.take_triggers()] == list(range(MOST_TRIGGERS))
