"""Which events a watch gets, in which order. Pure: how and when they are sent is the business of stream.py.

A watch sees its own selection only: an object that stops matching comes as DELETED, with its last matching content and
the number of the change; one that begins to match comes as ADDED.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from tests.apiserver import selectors, status
from tests.apiserver.listing import number
from tests.apiserver.resources import Object, Resource
from tests.apiserver.selectors import Selector
from tests.apiserver.store import Change, Item, Store

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
WatchListSupport = Literal["served", "refused", "ignored"]


class Question(NamedTuple):
    """The parameters of a watch, understood. `revision` is None where the watch begins with the state as it is now."""

    resource: Resource
    namespace: str
    selector: Selector
    revision: int | None
    needs_revision: int
    is_watch_list: bool
    has_bookmarks: bool
    timeout_s: float | None

    def wants(self, item: Item | None) -> bool:
        """Whether the watch sees an object."""
        return (
            item is not None
            and (not self.namespace or item.key[0] == self.namespace)
            and self.selector.matches(item.labels, item.fields)
        )


class Event(NamedTuple):
    """One line of the answer. `item` is None for a bookmark."""

    type: str
    item: Item | None
    revision: int
    is_initial_end: bool = False


def ask(
    resource: Resource, namespace: str, query: Mapping[str, str], support: WatchListSupport
) -> Question:
    """Understand the parameters. Raises ApiStatusError (400, 422) for those that do not go together."""
    is_given = "sendInitialEvents" in query and support != "ignored"
    if support != "ignored":
        _check(query, is_given=is_given, is_enabled=support == "served")
    sends_initial = is_given and _is_true(query["sendInitialEvents"])
    version = number(query, "resourceVersion")
    begins_with_state = sends_initial or (not version and not is_given)
    timeout = number(query, "timeoutSeconds")
    return Question(
        resource=resource,
        namespace=namespace,
        selector=selectors.parse(
            resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        ),
        revision=None if begins_with_state else version or 0,
        needs_revision=(version or 0) if sends_initial else 0,
        is_watch_list=sends_initial,
        has_bookmarks=_is_true(query.get("allowWatchBookmarks", "false")),
        timeout_s=float(timeout) if timeout else None,
    )


def begin(store: Store, question: Question) -> tuple[list[Event], int]:
    """The events that a watch starts with, and the revision up to which they tell everything.

    Raises ApiStatusError: 410 if the history does not reach back, 504 if a watch that begins with the state asks for one
    that has not come yet. A plain watch from a revision to come is begun: it hears nothing until then.
    """
    if question.revision is not None:
        start = question.revision or store.revision
        store.changes_after(start)
        return [], start
    if question.needs_revision > store.revision:
        raise status.too_large(question.needs_revision, store.revision)
    now = store.revision
    events = [
        Event("ADDED", item, item.revision)
        for item in store.items(question.resource)
        if question.wants(item)
    ]
    if question.is_watch_list and question.has_bookmarks:
        events.append(Event("BOOKMARK", None, now, is_initial_end=True))
    return events, now


def news(question: Question, changes: list[Change]) -> Iterator[Event]:
    """What the watch is told of some changes."""
    for change in changes:
        if change.resource is not question.resource:
            continue
        was_seen, is_seen = question.wants(change.before), question.wants(change.after)
        if is_seen:
            assert change.after is not None
            yield Event("MODIFIED" if was_seen else "ADDED", change.after, change.revision)
        elif was_seen:
            assert change.before is not None
            yield Event("DELETED", change.before.at(change.revision), change.revision)


def bookmark(resource: Resource, revision: int, *, is_initial_end: bool = False) -> Object:
    """An object with nothing but how far the watch has come, as a typed server writes it."""
    annotations = {"annotations": {INITIAL_EVENTS_END: "true"}} if is_initial_end else {}
    metadata = {"resourceVersion": str(revision), "creationTimestamp": None, **annotations}
    return {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": metadata,
        **resource.empty,
    }


def _check(query: Mapping[str, str], *, is_given: bool, is_enabled: bool) -> None:
    causes = []
    name = "resourceVersionMatch"
    match = query.get(name, "")
    if is_given and match != "NotOlderThan":
        causes.append((name, f"sendInitialEvents requires setting {name} to NotOlderThan"))
    if is_given and not is_enabled:
        message = (
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        )
        causes.append(("sendInitialEvents", message))
    if match and not is_given:
        message = f"{name} is forbidden for watch unless sendInitialEvents is provided"
        causes.append((name, message))
    if match and query.get("continue"):
        causes.append((name, f"{name} is forbidden when continue is provided"))
    if causes:
        raise status.invalid_options(causes)


def _is_true(text: str) -> bool:
    """As the API converts a parameter: only these two words mean no."""
    return text.lower() not in ("false", "0")
