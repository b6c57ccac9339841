"""Watches: where they begin, what they are told, and which parameters are refused."""

from collections.abc import Mapping

import pytest

from tests.apiserver import watching
from tests.apiserver.resources import SERVICES, SLICES
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Store
from tests.apiserver.watching import Question, WatchListSupport
from tests.builders import make_service, make_slice

WATCH_LIST = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
BOOKMARKS = {"allowWatchBookmarks": "true"}


@pytest.fixture
def store() -> Store:
    store = Store()
    store.put(SERVICES, make_service("a"))
    store.put(SERVICES, make_service("b", labels={"hidden": "yes"}))
    return store


def ask(
    *parts: Mapping[str, str], support: WatchListSupport = "served", namespace: str = ""
) -> Question:
    query = {name: value for part in parts for name, value in part.items()}
    return watching.ask(SERVICES, namespace, query, support)


def begun(store: Store, question: Question) -> list[tuple[str, str]]:
    events, _ = watching.begin(store, question)
    return [(event.type, event.item.key[1] if event.item else "") for event in events]


def told(store: Store, question: Question, since: int) -> list[tuple[str, str, int]]:
    return [
        (event.type, event.item.key[1] if event.item else "", event.revision)
        for event in watching.news(question, store.changes_after(since))
    ]


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}])
def test_without_a_version_a_watch_begins_with_what_there_is(
    store: Store, query: dict[str, str]
) -> None:
    assert begun(store, ask(query, BOOKMARKS)) == [("ADDED", "a"), ("ADDED", "b")]


def test_from_a_version_a_watch_begins_with_what_came_later(store: Store) -> None:
    question = ask({"resourceVersion": "1001"})

    events, position = watching.begin(store, question)

    assert (events, position) == ([], 1001)
    assert told(store, question, position) == [("ADDED", "b", 1002)]


def test_a_watch_list_ends_its_first_part_with_a_bookmark(store: Store) -> None:
    question = ask(WATCH_LIST, BOOKMARKS)

    events, position = watching.begin(store, question)

    assert [event.type for event in events] == ["ADDED", "ADDED", "BOOKMARK"]
    assert (events[-1].is_initial_end, events[-1].revision, position) == (True, 1002, 1002)
    assert watching.bookmark(SERVICES, 1002, is_initial_end=True)["metadata"] == {
        "resourceVersion": "1002",
        "creationTimestamp": None,
        "annotations": {"k8s.io/initial-events-end": "true"},
    }


def test_a_watch_list_without_bookmarks_has_no_end_mark(store: Store) -> None:
    assert begun(store, ask(WATCH_LIST)) == [("ADDED", "a"), ("ADDED", "b")]


def test_a_watch_that_wants_no_first_part_begins_now(store: Store) -> None:
    question = ask(WATCH_LIST, {"sendInitialEvents": "false"})

    assert watching.begin(store, question) == ([], 1002)


def test_a_server_that_does_not_know_of_watch_lists_begins_without_an_end_mark(
    store: Store,
) -> None:
    assert begun(store, ask(WATCH_LIST, BOOKMARKS, support="ignored")) == [
        ("ADDED", "a"),
        ("ADDED", "b"),
    ]


def test_what_stops_matching_is_deleted_and_what_begins_to_match_is_added(store: Store) -> None:
    question = ask({"labelSelector": "!hidden"})
    since = store.revision
    store.put(SERVICES, make_service("a", labels={"hidden": "yes"}))
    store.put(SERVICES, make_service("b"))
    store.put(SERVICES, make_service("b", labels={"seen": "yes"}))
    store.delete(SERVICES, ("default", "a"))
    store.delete(SERVICES, ("default", "b"))
    store.put(SLICES, make_slice("c"))

    assert told(store, question, since) == [
        ("DELETED", "a", 1003),
        ("ADDED", "b", 1004),
        ("MODIFIED", "b", 1005),
        ("DELETED", "b", 1007),
    ]


def test_what_stops_matching_is_shown_as_it_last_matched_under_the_new_number(
    store: Store,
) -> None:
    store.put(SERVICES, make_service("a", labels={"hidden": "yes"}))

    (event,) = watching.news(ask({"labelSelector": "!hidden"}), store.changes_after(1002))

    assert event.item is not None
    assert event.item.load()["metadata"]["resourceVersion"] == "1003"
    assert event.item.labels == {}


def test_fields_select_too(store: Store) -> None:
    question = ask({"fieldSelector": "spec.clusterIP!=None"})
    since = store.revision
    store.put(SERVICES, make_service("a", cluster_ips=["None"]))

    assert told(store, question, since) == [("DELETED", "a", 1003)]


def test_a_watch_of_a_namespace_hears_of_no_other(store: Store) -> None:
    since = store.revision
    store.put(SERVICES, make_service("c", "other"))

    assert told(store, ask(namespace="default"), since) == []
    assert told(store, ask(namespace="other"), since) == [("ADDED", "c", 1003)]


def test_a_watch_from_forgotten_history_is_gone(store: Store) -> None:
    store.compact()

    with pytest.raises(ApiStatusError) as raised:
        watching.begin(store, ask({"resourceVersion": "1001"}))

    assert raised.value.code == 410


def test_a_watch_from_a_version_to_come_is_begun_and_hears_nothing(store: Store) -> None:
    question = ask({"resourceVersion": "2000"})

    assert watching.begin(store, question) == ([], 2000)
    assert told(store, question, 2000) == []


def test_a_watch_list_of_a_version_to_come_is_too_large(store: Store) -> None:
    with pytest.raises(ApiStatusError) as raised:
        watching.begin(store, ask({"resourceVersion": "2000"}, WATCH_LIST))

    assert raised.value.code == 504


@pytest.mark.parametrize(
    ("support", "query", "field"),
    [
        ("served", {"sendInitialEvents": "true"}, "resourceVersionMatch"),
        (
            "served",
            {"sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
            "resourceVersionMatch",
        ),
        ("served", {"resourceVersionMatch": "NotOlderThan"}, "resourceVersionMatch"),
        ("refused", WATCH_LIST, "sendInitialEvents"),
    ],
)
def test_what_does_not_go_together_is_invalid(
    support: WatchListSupport, query: dict[str, str], field: str
) -> None:
    with pytest.raises(ApiStatusError) as raised:
        ask(query, support=support)

    document = raised.value.document()
    assert (document["code"], document["reason"]) == (422, "Invalid")
    assert document["details"]["causes"][0]["field"] == field
