"""The journal: a ring of the latest changes."""

from proxy.journal import Entry, Journal
from proxy.model import Cause
from tests.model_builders import make_key


def entry(received_s: float) -> Entry:
    return Entry(
        key=make_key(),
        cause=Cause(kind="Service", namespace="default", name="web"),
        received_s=received_s,
        planned_s=received_s,
        acknowledged_s=received_s,
    )


def test_entries_are_kept_oldest_first() -> None:
    journal = Journal()

    journal.add(entry(1.0))
    journal.add(entry(2.0))

    assert list(journal) == [entry(1.0), entry(2.0)]


def test_the_oldest_entries_make_room_and_are_still_counted() -> None:
    journal = Journal(capacity=2)

    for received_s in (1.0, 2.0, 3.0):
        journal.add(entry(received_s))

    assert list(journal) == [entry(2.0), entry(3.0)]
    assert journal.total == 3
