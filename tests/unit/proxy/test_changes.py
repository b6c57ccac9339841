"""Changes that wait: several of one service are one, and nothing of the first is forgotten."""

from proxy.changes import MOST_TRIGGERS, Change, Changes, Times, Trigger
from proxy.model import Cause
from tests.model_builders import make_service_name

WEB, API = make_service_name("default/web"), make_service_name("default/api")
FIRST, SECOND = (
    Cause(kind="EndpointSlice", namespace="default", name=name) for name in ("s-1", "s-2")
)


def change(cause: Cause, at_s: float, *triggered_s: float) -> Change:
    triggers = tuple(Trigger("IPv4", each_s) for each_s in triggered_s)
    return Change(cause=cause, received_s=at_s, decoded_s=at_s + 0.5, triggers=triggers)


def test_two_changes_are_one_with_the_latest_cause_the_first_times_and_all_triggers() -> None:
    both = change(SECOND, 2.0, 7.0).after(change(FIRST, 1.0, 9.0))

    assert both == change(SECOND, 1.0, 9.0, 7.0)
    assert both.triggered_s == 7.0


def test_a_first_change_stays_as_it_is() -> None:
    first = change(FIRST, 1.0)

    assert first.after(None) is first
    assert first.triggered_s is None


def test_the_oldest_triggers_are_kept_when_there_are_too_many() -> None:
    found = change(FIRST, 0.0)
    for number in range(2 * MOST_TRIGGERS):
        found = change(FIRST, 1.0, float(number)).after(found)

    assert [trigger.at_s for trigger in found.triggers] == list(range(MOST_TRIGGERS))


def test_a_family_waits_from_its_first_change_and_has_changed_with_its_last() -> None:
    changes = Changes()

    changes.mark(WEB, FIRST, Times(1.0, 1.5), ("IPv4",))
    changes.mark(API, FIRST, Times(2.0, 2.5), ("IPv4", "IPv6"))

    assert changes.queued_s == {"IPv4": 1.5, "IPv6": 2.5}
    assert changes.latest_s == {"IPv4": 2.5, "IPv6": 2.5}
    assert list(changes.take()) == [WEB, API]
    assert (changes.queued_s, len(changes), changes.take()) == ({}, 0, {})
    assert changes.latest_s == {"IPv4": 2.5, "IPv6": 2.5}
    assert changes.total == 2


def test_what_was_taken_is_not_changed_by_what_comes_later() -> None:
    changes = Changes()
    changes.mark(WEB, FIRST, Times(1.0, 1.0), ("IPv4",))
    queued_s, taken = changes.queued_s, changes.take()

    changes.mark(WEB, SECOND, Times(2.0, 2.0), ("IPv6",))

    assert (queued_s, taken[WEB].cause) == ({"IPv4": 1.0}, FIRST)
    assert (changes.queued_s, changes.take()[WEB].received_s) == ({"IPv6": 2.0}, 2.0)
