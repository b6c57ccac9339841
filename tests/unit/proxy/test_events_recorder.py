"""What happened becomes a request that the API takes, at a bounded pace, and what happens again a series."""

import re

import pytest
from kubernetes.client import EventsV1Event

from proxy.events_recorder import (
    BURST,
    PATCH_EVERY_S,
    PER_S,
    QUEUE,
    SERIES_S,
    Message,
    Recorder,
    Regarding,
    micro_time,
    node_reference,
)

NODE = node_reference("n1")
WEB = Regarding(kind="Service", namespace="shop", name="web", uid="u-1")
START_NS = 1_767_225_610_123_456_789  # 2026-01-01T00:00:10.123456789Z


class Clock:
    """Both clocks of a recorder."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def recorder(self, *, is_on: bool = True) -> Recorder:
        return Recorder(
            "n1",
            is_on=is_on,
            clock=lambda: self.now_s,
            unix_ns=lambda: START_NS + round(self.now_s * 1e9),
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(recorder: Recorder) -> Message:
    message = recorder.take()
    assert message is not None
    return message


def send(recorder: Recorder) -> Message:
    message = taken(recorder)
    recorder.sent(message)
    return message


def test_an_event_has_all_that_the_api_demands(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(WEB, "FailedToStartServiceHealthcheck", "port taken", action="Listen")

    message = taken(recorder)

    assert (message.is_patch, message.path) == (
        False,
        "/apis/events.k8s.io/v1/namespaces/shop/events",
    )
    assert message.body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"web.{START_NS:x}", "namespace": "shop"},
        "eventTime": "2026-01-01T00:00:10.123456Z",
        "reportingController": "sliceproxy",
        "reportingInstance": "n1",
        "action": "Listen",
        "reason": "FailedToStartServiceHealthcheck",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "name": "web",
            "namespace": "shop",
            "uid": "u-1",
        },
        "note": "port taken",
        "type": "Warning",
    }
    assert set(message.body) <= set(EventsV1Event.attribute_map.values())


def test_an_event_of_the_node_is_where_kubectl_looks_for_it(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.normal(NODE, "Starting", "mode nftables", action="StartProxy")

    message = taken(recorder)

    assert message.path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert message.body["metadata"] == {"name": f"n1.{START_NS:x}", "namespace": "default"}
    assert message.body["type"] == "Normal"
    # without a namespace: the API takes no other for an Event in `default`
    assert message.body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "n1",
        "uid": "n1",
    }


def test_what_happens_again_before_it_was_sent_is_one_event_with_a_count(clock: Clock) -> None:
    recorder = clock.recorder()
    for _ in range(3):
        recorder.warn(NODE, "Contended", "again")
        clock.now_s += 1

    message = send(recorder)

    assert message.body["series"] == {
        "count": 3,
        "lastObservedTime": "2026-01-01T00:00:12.123456Z",
    }
    assert message.body["eventTime"] == "2026-01-01T00:00:10.123456Z"
    assert recorder.take() is None


def test_what_happens_again_later_is_a_patch_and_not_too_often(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(NODE, "Contended", "again")
    first = send(recorder)

    clock.now_s += PATCH_EVERY_S / 2
    recorder.warn(NODE, "Contended", "again")
    assert recorder.take() is None

    clock.now_s += PATCH_EVERY_S
    recorder.warn(NODE, "Contended", "again")
    message = send(recorder)

    assert message.is_patch
    assert message.path == f"{first.path}/n1.{START_NS:x}"
    assert message.body == {
        "series": {"count": 3, "lastObservedTime": "2026-01-01T00:01:40.123456Z"}
    }


def test_what_happens_again_much_later_is_a_new_event(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(NODE, "Contended", "again")
    first = send(recorder)

    clock.now_s += SERIES_S + 1
    recorder.warn(NODE, "Contended", "again")

    second = taken(recorder)
    assert not second.is_patch
    assert second.record.name != first.record.name
    assert "series" not in second.body


def test_what_all_nodes_see_has_one_name_and_is_sent_once(clock: Clock) -> None:
    mine, theirs = clock.recorder(), clock.recorder()
    mine.warn(WEB, "UnusableField", "spec.clusterIP: no", is_shared=True)
    clock.now_s += 7
    theirs.warn(WEB, "UnusableField", "spec.clusterIP: no", is_shared=True)
    theirs.warn(WEB, "UnusableField", "spec.clusterIP: else", is_shared=True)

    one, same, other = send(mine), send(theirs), send(theirs)

    assert one.record.name == same.record.name != other.record.name
    clock.now_s += PATCH_EVERY_S + 1
    mine.warn(WEB, "UnusableField", "spec.clusterIP: no", is_shared=True)
    assert mine.take() is None


def test_a_burst_is_sent_at_once_and_the_rest_slowly(clock: Clock) -> None:
    recorder = clock.recorder()
    for number in range(BURST + 2):
        recorder.warn(NODE, "Contended", str(number))

    for _ in range(BURST):
        send(recorder)

    assert recorder.take() is None
    assert recorder.due_s() == pytest.approx(1 / PER_S)
    clock.now_s += 1 / PER_S
    assert send(recorder).body["note"] == str(BURST)
    assert recorder.take() is None


def test_nothing_is_due_where_nothing_happened(clock: Clock) -> None:
    assert clock.recorder().due_s() is None


def test_more_than_the_queue_holds_is_dropped_and_counted(clock: Clock) -> None:
    recorder = clock.recorder()
    for number in range(QUEUE + 3):
        recorder.warn(NODE, "Contended", str(number))

    assert recorder.results == {"sent": 0, "failed": 0, "dropped": 3}
    send(recorder)
    # it happens again, when there is room
    recorder.warn(NODE, "Contended", str(QUEUE + 1))
    assert recorder.results["dropped"] == 3


def test_what_could_not_be_sent_is_tried_again_a_few_times(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(NODE, "Contended", "x")

    for _ in range(3):
        recorder.retry(taken(recorder), at_most=3)

    assert recorder.take() is None
    assert recorder.results == {"sent": 0, "failed": 1, "dropped": 0}


def test_an_event_that_is_gone_is_made_anew(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(NODE, "Contended", "x")
    first = send(recorder)
    clock.now_s += PATCH_EVERY_S
    recorder.warn(NODE, "Contended", "x")

    recorder.retry(taken(recorder), at_most=3, is_gone=True)

    again = taken(recorder)
    assert not again.is_patch
    assert again.body["metadata"] != first.body["metadata"]


def test_without_somebody_who_sends_nothing_is_kept(clock: Clock) -> None:
    recorder = clock.recorder(is_on=False)
    recorder.warn(NODE, "Contended", "x")

    assert (recorder.take(), recorder.due_s()) == (None, None)
    assert recorder.results["dropped"] == 0


def test_whoever_sends_is_woken(clock: Clock) -> None:
    recorder, woken = clock.recorder(), []
    recorder.on_news = lambda: woken.append(True)

    recorder.warn(NODE, "Contended", "x")

    assert woken == [True]


def test_a_note_has_no_more_bytes_than_the_api_takes(clock: Clock) -> None:
    recorder = clock.recorder()
    recorder.warn(NODE, "Contended", "ä" * 1000)

    note = str(taken(recorder).body["note"])

    assert len(note.encode()) <= 1024
    assert note.endswith("ä...")


def test_times_have_six_digits() -> None:
    assert micro_time(1_000_000_000) == "1970-01-01T00:00:01.000000Z"


@pytest.mark.parametrize("name", ["a" * 219 + "-b", "a" * 219 + "." + "b" * 33, "a" * 253])
def test_the_name_of_an_event_is_a_name_however_long_that_of_its_object_is(
    clock: Clock, name: str
) -> None:
    recorder = clock.recorder()
    recorder.warn(Regarding(kind="EndpointSlice", namespace="shop", name=name), "A", "a")

    made = taken(recorder).record.name
    # a DNS subdomain (RFC 1123), as metadata.name of every Event has to be
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", made)
    assert len(made) <= 253
