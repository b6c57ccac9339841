"""Lists: pages, tokens, and the table of resourceVersion and resourceVersionMatch."""

import json

import pytest

from tests.apiserver import listing
from tests.apiserver.listing import Page
from tests.apiserver.resources import SERVICES
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Store
from tests.builders import make_service


@pytest.fixture
def store() -> Store:
    store = Store()
    for name in "abcde":
        store.put(SERVICES, make_service(name))
    return store


def page(store: Store, namespace: str = "", **query: str) -> Page:
    return listing.answer(store, listing.ask(SERVICES, namespace, query))


def names(page: Page) -> list[str]:
    return [item.key[1] for item in page.items]


def refused(store: Store, **query: str) -> ApiStatusError:
    with pytest.raises(ApiStatusError) as raised:
        page(store, **query)
    return raised.value


def test_the_body_is_a_typed_list_whose_items_have_no_kind(store: Store) -> None:
    body = json.loads(page(store).body())

    assert (body["kind"], body["apiVersion"]) == ("ServiceList", "v1")
    assert body["metadata"] == {"resourceVersion": str(store.revision)}
    assert [item["metadata"]["name"] for item in body["items"]] == list("abcde")
    assert not any("kind" in item for item in body["items"])


def test_pages_show_one_revision_whatever_happens_meanwhile(store: Store) -> None:
    first = page(store, limit="2")
    store.delete(SERVICES, ("default", "c"))
    store.put(SERVICES, make_service("d2"))
    second = page(store, limit="2", **{"continue": first.continue_token})
    third = page(store, limit="2", **{"continue": second.continue_token})

    assert [names(each) for each in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [each.remaining for each in (first, second, third)] == [3, 1, None]
    assert {each.revision for each in (first, second, third)} == {1005}
    assert third.continue_token == ""


def test_a_token_of_forgotten_history_is_gone_and_tells_how_to_go_on(store: Store) -> None:
    token = page(store, limit="2").continue_token
    store.put(SERVICES, make_service("f"))
    store.compact()

    error = refused(store, **{"continue": token})

    assert error.code == 410
    rest = page(store, **{"continue": error.document()["metadata"]["continue"]})
    assert names(rest) == ["c", "d", "e", "f"]
    assert rest.revision == store.revision


def test_with_a_selector_nobody_counts_the_rest(store: Store) -> None:
    chosen = page(store, limit="2", labelSelector="!absent")

    assert (names(chosen), chosen.remaining) == (["a", "b"], None)
    assert chosen.continue_token


def test_a_namespace_holds_its_own(store: Store) -> None:
    store.put(SERVICES, make_service("a", "other"))

    assert [item.key for item in page(store, "other").items] == [("other", "a")]


def test_version_zero_is_the_cache_and_knows_no_pages(store: Store) -> None:
    assert names(page(store, limit="2", resourceVersion="0")) == list("abcde")


def test_a_version_is_a_lower_bound_and_with_a_limit_exact(store: Store) -> None:
    then = str(store.revision)
    store.put(SERVICES, make_service("f"))

    assert names(page(store, resourceVersion=then)) == list("abcdef")
    assert names(page(store, resourceVersion=then, limit="9")) == list("abcde")
    at_least = {"resourceVersion": then, "resourceVersionMatch": "NotOlderThan"}
    assert names(page(store, limit="9", **at_least)) == list("abcdef")
    exactly = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    assert names(page(store, **exactly)) == list("abcde")
    assert page(store, **exactly).revision == int(then)


def test_a_version_to_come_is_too_large(store: Store) -> None:
    error = refused(store, resourceVersion="99999")

    assert error.code == 504
    assert "Too large resource version: 99999, current: 1005" in str(error)
    (cause,) = error.document()["details"]["causes"]
    assert cause["reason"] == "ResourceVersionTooLarge"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422),
        ({"resourceVersionMatch": "Newest", "resourceVersion": "1"}, 422),
        ({"sendInitialEvents": "true"}, 422),
        ({"resourceVersion": "abc"}, 400),
        ({"limit": "-1"}, 400),
        ({"continue": "%%%"}, 400),
        ({"continue": "e30"}, 400),
        ({"labelSelector": "a=b=c"}, 400),
    ],
)
def test_what_does_not_go_together_is_refused(
    store: Store, query: dict[str, str], code: int
) -> None:
    assert refused(store, **query).code == code


def test_a_token_and_a_version_do_not_go_together(store: Store) -> None:
    token = page(store, limit="2").continue_token

    assert refused(store, resourceVersion="1001", **{"continue": token}).code == 400
