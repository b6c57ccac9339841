"""The store: one counter, bounded history, earlier states, and a server that is put back."""

import json

import pytest

from tests.apiserver.resources import SERVICES, SLICES
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Store, encode
from tests.builders import make_service, make_slice


def put(store: Store, *names: str, **spec: object) -> None:
    for name in names:
        store.put(SERVICES, make_service(name, **spec))  # type: ignore[arg-type]  # spelled out by the caller


def names(store: Store, revision: int | None = None) -> list[str]:
    return [item.key[1] for item in store.items(SERVICES, revision)]


def test_every_write_of_any_kind_takes_the_next_number() -> None:
    store = Store()
    begun = store.revision

    first = store.put(SERVICES, make_service("a"))
    store.put(SLICES, make_slice("b"))
    deleted = store.delete(SERVICES, ("default", "a"))

    assert (first.revision, deleted.revision, store.revision) == (begun + 1, begun + 3, begun + 3)
    assert deleted.load()["metadata"]["resourceVersion"] == str(begun + 3)
    assert store.get(SERVICES, ("default", "a")) is None


def test_an_object_is_kept_with_its_number_and_without_its_kind() -> None:
    store = Store()

    item = store.put(SERVICES, make_service("a"))

    bare = json.loads(item.encoded)
    assert bare["metadata"]["resourceVersion"] == str(store.revision)
    assert "kind" not in bare
    assert item.load() == {**bare, "kind": "Service", "apiVersion": "v1"}


def test_lists_are_in_the_order_of_paths() -> None:
    store = Store()
    for namespace, name in (("a", "y"), ("a-b", "x"), ("a", "x")):
        store.put(SERVICES, make_service(name, namespace))

    # '-' comes before '/'
    assert [item.key for item in store.items(SERVICES)] == [("a-b", "x"), ("a", "x"), ("a", "y")]


def test_an_earlier_state_is_shown_as_it_was() -> None:
    store = Store()
    put(store, "a", "b")
    then = store.revision
    put(store, "b", labels={"new": "yes"})
    store.delete(SERVICES, ("default", "a"))
    put(store, "c")

    assert names(store) == ["b", "c"]
    assert names(store, then) == ["a", "b"]
    assert store.items(SERVICES, then)[1].labels == {}
    assert store.items(SERVICES)[0].labels == {"new": "yes"}


def test_history_is_bounded_and_what_is_older_is_gone() -> None:
    store = Store(window=3)
    begun = store.revision
    put(store, *"abcdefg")

    assert [change.key[1] for change in store.changes_after(store.oldest)] == ["e", "f", "g"]
    assert store.changes_after(store.revision) == []
    with pytest.raises(ApiStatusError) as raised:
        store.changes_after(begun)
    assert raised.value.code == 410
    assert raised.value.document()["reason"] == "Expired"


def test_compaction_leaves_the_objects_and_no_history() -> None:
    store = Store()
    put(store, "a")

    store.compact()

    assert names(store) == ["a"]
    assert store.oldest == store.revision
    with pytest.raises(ApiStatusError):
        store.items(SERVICES, store.revision - 1)


def test_a_rolled_back_server_gives_the_same_numbers_to_other_content() -> None:
    store = Store()
    put(store, "kept", "changed")
    then = store.revision
    put(store, "changed", labels={"new": "yes"})
    put(store, "lost")
    store.delete(SERVICES, ("default", "kept"))

    assert store.roll_back(to=then) == then

    assert names(store) == ["changed", "kept"]
    assert store.items(SERVICES)[0].labels == {}
    put(store, "other")
    assert store.revision == then + 1
    assert [change.key[1] for change in store.changes_after(then)] == ["other"]


def test_going_back_some_seconds_undoes_what_happened_in_them() -> None:
    store = Store()
    put(store, "a")

    assert store.roll_back(seconds=0.0) == store.revision
    assert names(store) == ["a"]
    store.roll_back(seconds=60.0)
    assert names(store) == []


def test_listeners_hear_of_every_write_and_of_a_rollback() -> None:
    store = Store()
    heard = []
    store.on_change = lambda: heard.append(store.revision)

    put(store, "a")
    store.delete(SERVICES, ("default", "a"))
    store.roll_back(to=store.revision - 1)

    assert heard == [1001, 1002, 1001]


def test_json_is_written_as_go_does() -> None:
    assert encode({"a": "ü<&>\u2028"}) == '{"a":"ü\\u003c\\u0026\\u003e\\u2028"}'.encode()
