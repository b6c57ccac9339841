"""The objects, one counter for all their resource versions, and as much history as the server remembers.

Each change takes the next number, whatever its kind, as in etcd. The history knows what every changed object was before,
so an earlier state can be shown (a list that is continued), and the server can be put back to it: then numbers that
clients have seen are given once more, to other content, as after a restored backup.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.apiserver import status
from tests.apiserver.resources import Object, Resource

Key = tuple[str, str]  # namespace ("" where there is none) and name
FIRST_REVISION = 1000


class Item:
    """An object as it was at one revision, encoded once. Without kind and apiVersion, which lists leave out."""

    __slots__ = ("encoded", "fields", "key", "labels", "resource", "revision")

    def __init__(self, resource: Resource, obj: Object, revision: int) -> None:
        obj = {name: value for name, value in obj.items() if name not in ("kind", "apiVersion")}
        metadata = obj["metadata"] = {**obj["metadata"], "resourceVersion": str(revision)}
        self.resource = resource
        self.revision = revision
        self.key: Key = metadata.get("namespace") or "", metadata["name"]
        self.labels: Mapping[str, str] = metadata.get("labels") or {}
        self.fields = resource.selectable(obj)
        self.encoded = encode(obj)

    @property
    def whole(self) -> bytes:
        """With kind and apiVersion, as it is sent when it comes alone."""
        head = f'{{"kind":"{self.resource.kind}","apiVersion":"{self.resource.api_version}",'
        return head.encode() + self.encoded[1:]

    def load(self) -> Object:
        """The object, for whoever wants to change or show it."""
        obj: Object = json.loads(self.whole)
        return obj

    def at(self, revision: int) -> "Item":
        """The same content under another number: what is told of a deletion."""
        return Item(self.resource, self.load(), revision)


class Change(NamedTuple):
    """One write. `before` is None for a creation, `after` for a deletion."""

    revision: int
    resource: Resource
    before: Item | None
    after: Item | None
    changed_s: float

    @property
    def key(self) -> Key:
        """Which object it was."""
        item = self.after or self.before
        assert item is not None
        return item.key


class Store:
    """What the server holds. `on_change` is called after every write, and after a rollback."""

    def __init__(self, *, window: int = 20_000) -> None:
        self._window = window
        self._items: dict[Resource, dict[Key, Item]] = {}
        self._order: dict[Resource, list[Key] | None] = {}
        self._changes: list[Change] = []
        self.revision = FIRST_REVISION
        self.on_change: Callable[[], None] = lambda: None

    @property
    def oldest(self) -> int:
        """The oldest revision from which a watch can still be told everything."""
        return self.revision - len(self._changes)

    def get(self, resource: Resource, key: Key) -> Item | None:
        """The object as it is now."""
        return self._items.get(resource, {}).get(key)

    def items(self, resource: Resource, revision: int | None = None) -> list[Item]:
        """All objects of a kind, by namespace and name, now or at a revision. Raises 410 or 504 if it is not known."""
        items = self._items.get(resource, {})
        if revision is None or revision == self.revision:
            return [items[key] for key in self._sorted(resource)]
        earlier: dict[Key, Item | None] = {}
        for change in reversed(self.changes_after(revision)):
            if change.resource is resource:
                earlier[change.key] = change.before
        if not earlier:
            return [items[key] for key in self._sorted(resource)]
        then = {key: item for key, item in {**items, **earlier}.items() if item is not None}
        return [then[key] for key in sorted(then, key=path)]

    def count(self, resource: Resource) -> int:
        """How many objects of a kind there are."""
        return len(self._items.get(resource, {}))

    def put(self, resource: Resource, obj: Object) -> Item:
        """Create or replace."""
        item = Item(resource, obj, self.revision + 1)
        items = self._items.setdefault(resource, {})
        before = items.get(item.key)
        if before is None:
            self._order[resource] = None
        items[item.key] = item
        self._append(resource, before, item)
        return item

    def delete(self, resource: Resource, key: Key) -> Item:
        """Remove, and return the object with the number of its deletion. Raises ApiStatusError (404)."""
        before = self._items.get(resource, {}).pop(key, None)
        if before is None:
            raise status.not_found(resource, key[1])
        self._order[resource] = None
        self._append(resource, before, None)
        return before.at(self.revision)

    def changes_after(self, revision: int) -> list[Change]:
        """What happened since, oldest first; nothing for a revision to come. Raises ApiStatusError (410)."""
        if revision < self.oldest:
            raise status.too_old(revision, self.oldest)
        return self._changes[revision - self.oldest :]

    def compact(self) -> None:
        """Forget all history: whoever is behind by a single change has to list anew."""
        self._changes.clear()

    def roll_back(self, *, to: int | None = None, seconds: float = 0.0) -> int:
        """Undo every change after a revision, or of the last seconds, and return the revision. What was undone is forgotten.

        Raises ApiStatusError (410) if the history does not reach back to it.
        """
        if to is None:
            since_s = time.monotonic() - seconds
            to = next(
                (c.revision - 1 for c in self._changes if c.changed_s >= since_s), self.revision
            )
        undone = self.changes_after(to)
        for change in reversed(undone):
            items = self._items[change.resource]
            if change.before is None:
                del items[change.key]
            else:
                items[change.key] = change.before
            self._order[change.resource] = None
        if undone:
            del self._changes[-len(undone) :]
        self.revision = min(self.revision, to)
        self.on_change()
        return self.revision

    def _append(self, resource: Resource, before: Item | None, after: Item | None) -> None:
        self.revision += 1
        self._changes.append(Change(self.revision, resource, before, after, time.monotonic()))
        if len(self._changes) > 2 * self._window:
            del self._changes[: -self._window]
        self.on_change()

    def _sorted(self, resource: Resource) -> list[Key]:
        order = self._order.get(resource)
        if order is None:
            order = self._order[resource] = sorted(self._items.get(resource, {}), key=path)
        return order


def path(key: Key) -> str:
    """Where etcd keeps the object: lists are in this order, in which `a-b/x` comes before `a/x`."""
    return "/".join(key)


def encode(value: object) -> bytes:
    """JSON as Go writes it: no spaces, UTF-8 as it is, and what HTML would read escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()
