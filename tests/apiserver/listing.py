"""Lists: which objects at which revision, in pages. The table of resourceVersion, resourceVersionMatch and limit is the API's.

resourceVersion      unset          "0"                         another
no limit             most recent    any (served as it is now)   not older than
limit                most recent    any, and no pages           exact, unless resourceVersionMatch says otherwise
continue             the first page's revision; resourceVersion must not be given
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import NamedTuple

from tests.apiserver import selectors, status
from tests.apiserver.resources import Resource
from tests.apiserver.selectors import Selector
from tests.apiserver.store import Item, Key, Store, encode, path

_NOW = -1  # the revision in a token that continues a list inconsistently


class Page(NamedTuple):
    """What a list answers. `remaining` is None where the server does not count."""

    resource: Resource
    items: list[Item]
    revision: int
    continue_token: str = ""
    remaining: int | None = None

    @property
    def metadata(self) -> dict[str, object]:
        """The metadata of the list."""
        return {
            "resourceVersion": str(self.revision),
            **({"continue": self.continue_token} if self.continue_token else {}),
            **({"remainingItemCount": self.remaining} if self.remaining else {}),
        }

    def body(self) -> bytes:
        """The whole document."""
        head = {
            "kind": f"{self.resource.kind}List",
            "apiVersion": self.resource.api_version,
            "metadata": self.metadata,
        }
        items = b",".join([item.encoded for item in self.items])
        return b'%b,"items":[%b]}\n' % (encode(head)[:-1], items)


class Question(NamedTuple):
    """The parameters of a list, understood. `revision` is None for the most recent one."""

    resource: Resource
    namespace: str
    selector: Selector
    limit: int
    revision: int | None
    is_exact: bool
    is_any: bool
    start: Key | None
    is_inconsistent: bool

    def is_too_new(self, store: Store) -> bool:
        """Whether the server has not come to the revision that the client has seen."""
        return self.revision is not None and self.revision > store.revision


def ask(resource: Resource, namespace: str, query: Mapping[str, str]) -> Question:
    """Understand the parameters. Raises ApiStatusError (400, 422) for those that do not go together."""
    token, version = query.get("continue", ""), query.get("resourceVersion", "")
    match = query.get("resourceVersionMatch", "")
    _check(query, token, version, match)
    start = _parse_token(token) if token else None
    if start is not None and version not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")
    limit = number(query, "limit") or 0
    revision = start[0] if start else number(query, "resourceVersion") or None
    is_exact = match == "Exact" or (limit > 0 and match == "" and version not in ("", "0"))
    return Question(
        resource=resource,
        namespace=namespace,
        selector=selectors.parse(
            resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        ),
        # a list from the cache comes in one piece
        limit=0 if version == "0" and not token else limit,
        revision=None if revision == _NOW else revision,
        is_exact=is_exact or (start is not None and start[0] != _NOW),
        is_any=version == "0",
        start=start[1] if start else None,
        is_inconsistent=start is not None and start[0] == _NOW,
    )


def answer(store: Store, question: Question) -> Page:
    """Raises ApiStatusError: 410 for a revision, or a token, that is too old; 504 for one that has not come yet."""
    if question.is_too_new(store):
        assert question.revision is not None
        raise status.too_large(question.revision, store.revision)
    revision = question.revision if question.is_exact else None
    try:
        items = store.items(question.resource, revision)
    except status.ApiStatusError:
        if question.start is None:
            raise
        raise status.expired_token(_token(_NOW, question.start)) from None
    shown = store.revision if revision is None else revision
    return _page(question, _selected(question, items), shown)


def _selected(question: Question, items: list[Item]) -> list[Item]:
    start, namespace, selector = question.start, question.namespace, question.selector
    if start is not None:
        last = path(start)
        items = [item for item in items if path(item.key) > last]
    if namespace:
        items = [item for item in items if item.key[0] == namespace]
    if not selector.is_everything:
        items = [item for item in items if selector.matches(item.labels, item.fields)]
    return items


def _page(question: Question, items: list[Item], revision: int) -> Page:
    if not question.limit or len(items) <= question.limit:
        return Page(question.resource, items, revision)
    page = items[: question.limit]
    return Page(
        question.resource,
        page,
        revision,
        _token(_NOW if question.is_inconsistent else revision, page[-1].key),
        # with a selector nobody has counted the rest
        len(items) - question.limit if question.selector.is_everything else None,
    )


def number(query: Mapping[str, str], name: str) -> int | None:
    """A parameter that is a number; None if it is not given. Raises ApiStatusError (400)."""
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal():
        raise status.bad_request(f'{name}: Invalid value: "{text}": invalid syntax')
    return int(text)


def _check(query: Mapping[str, str], token: str, version: str, match: str) -> None:
    causes = []
    if match:
        name = "resourceVersionMatch"
        if not version:
            causes.append((name, f"{name} is forbidden unless resourceVersion is provided"))
        if token:
            causes.append((name, f"{name} is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            causes.append((name, f'supported values: "Exact", "NotOlderThan", not "{match}"'))
        if match == "Exact" and version == "0":
            causes.append((name, f'{name} "exact" is forbidden for resourceVersion "0"'))
    if "sendInitialEvents" in query:
        causes.append(("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if causes:
        raise status.invalid_options(causes)


def _token(revision: int, last: Key) -> str:
    content = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": path(last)})
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = content["start"].split("/")
        return int(content["rv"]), (namespace, name)
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise status.bad_request(f"continue key is not valid: {error}") from None
