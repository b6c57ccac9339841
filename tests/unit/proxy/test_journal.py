"""The journal: a ring of the latest changes, and how long their stages took."""

import pytest
from msgspec import structs

from proxy.journal import STAGES, Entry, Journal
from proxy.model import Cause
from tests.model_builders import make_key, make_service_name

CAUSE = Cause(kind="Service", namespace="default", name="web")


def entry(received_s: float, took_s: float = 0.0, service: str = "default/web") -> Entry:
    done_s = received_s + took_s
    return Entry(
        key=make_key(service),
        cause=CAUSE,
        received_s=received_s,
        decoded_s=received_s,
        queued_s=received_s,
        planned_s=done_s,
        acknowledged_s=done_s,
    )


def journal_of(*entries: Entry, capacity: int = 100) -> Journal:
    journal = Journal(capacity=capacity)
    for each in entries:
        journal.add(each)
    return journal


def test_entries_are_kept_oldest_first() -> None:
    journal = journal_of(entry(1.0), entry(2.0))

    assert list(journal) == [entry(1.0), entry(2.0)]


def test_the_oldest_entries_make_room_and_are_still_counted() -> None:
    journal = journal_of(entry(1.0), entry(2.0), entry(3.0), capacity=2)

    assert list(journal) == [entry(2.0), entry(3.0)]
    assert journal.total == 3


def test_the_latest_come_newest_first() -> None:
    journal = journal_of(entry(1.0), entry(2.0), entry(3.0))

    assert journal.latest(2) == [entry(3.0), entry(2.0)]
    assert journal.latest(0) == []
    assert len(journal.latest(10)) == 3


def test_the_slowest_come_slowest_first_and_of_equals_the_newest() -> None:
    journal = journal_of(entry(1.0, 5.0), entry(2.0, 9.0), entry(3.0, 1.0), entry(4.0, 5.0))

    assert journal.slowest(3) == [entry(2.0, 9.0), entry(4.0, 5.0), entry(1.0, 5.0)]


@pytest.mark.parametrize("capacity", [2, 3, 100])
def test_what_was_programmed_at_start_is_not_slow(capacity: int) -> None:
    journal = journal_of(entry(1.0, 99.0), entry(2.0, 99.0), capacity=capacity)
    journal.started()
    journal.add(entry(3.0, 1.0))

    assert journal.slowest(10) == [entry(3.0, 1.0)]
    assert len(list(journal)) == min(capacity, 3)


def test_those_of_one_service_come_newest_first() -> None:
    web_udp = structs.replace(entry(4.0), key=make_key("default/web", "dns", protocol="UDP"))
    journal = journal_of(
        entry(1.0), entry(2.0, service="other/web"), entry(3.0, service="default/api"), web_udp
    )

    assert journal.of(make_service_name("default/web")) == [web_udp, entry(1.0)]
    assert journal.of(make_service_name("default/none")) == []


def test_each_stage_is_measured_from_the_one_before() -> None:
    journal = journal_of(
        structs.replace(
            entry(1.0), decoded_s=2.0, queued_s=4.0, planned_s=8.0, acknowledged_s=16.0
        )
    )

    assert {stage: counted.sum for stage, counted in journal.stages.items()} == {
        "decoded": 1.0,
        "queued": 2.0,
        "planned": 4.0,
        "acknowledged": 8.0,
    }
    assert tuple(journal.stages) == STAGES
    assert journal.durations.sum == 15.0


@pytest.mark.parametrize(
    "unmeasured",
    [
        structs.replace(entry(1.0, 5.0), error="no"),
        structs.replace(entry(1.0, 5.0), cause=Cause(kind="retry", namespace="", name="")),
    ],
)
def test_what_was_refused_or_has_not_changed_is_not_measured(unmeasured: Entry) -> None:
    journal = journal_of(unmeasured)

    assert journal.durations.cumulative()[-1] == 0
    assert {counted.cumulative()[-1] for counted in journal.stages.values()} == {0}
    assert journal.total == 1
