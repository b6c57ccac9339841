"""A reflector at work in a test: a clock, answers given by hand, and what came of them."""

import json
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from proxy.model import Service
from proxy.sources.answers import Status
from proxy.sources.backoff import Backoff
from proxy.sources.events import Delete, Event, Problems, Synced, Upsert
from proxy.sources.reflector import Limits, Reflector, Wait
from proxy.sources.resources import resources
from tests.builders import make_bookmark, make_slice, watch_line

FIRST_S: Final = 0.2
MAX_S: Final = 1.2
BACKOFF: Final = Backoff(first_s=FIRST_S, max_s=MAX_S)
LIMITS: Final = Limits(
    backoff=BACKOFF,
    away_backoff=BACKOFF,
    silence_s=90.0,
    resume_within_s=5.0,
    page_size=2,
    uses_watch_list=True,
    watch_list_s=10.0,
)
LISTING: Final = msgspec.structs.replace(LIMITS, uses_watch_list=False)


def status(code: int, reason: str = "", message: str = "", **more: Any) -> Status:
    """Build what a server says when it refuses."""
    filled: dict[str, Any] = {"retry_after_s": 0.0, "is_too_large": False, **more}
    return Status(code, reason, message, **filled)


def error(code: int, message: str = "") -> bytes:
    """Build the line with which a server ends a watch."""
    return watch_line("ERROR", {"kind": "Status", "code": code, "message": message})


def slice_at(name: str, version: int | str, **fields: Any) -> dict[str, Any]:
    """Build an EndpointSlice of some version."""
    return make_slice(name, metadata={"resourceVersion": str(version)}, **fields)


def bookmark(version: int | str, *, ends: bool = False, kind: str = "EndpointSlice") -> bytes:
    """Build the line that says how far a watch has come."""
    obj = make_bookmark(kind, ends_initial_list=ends)
    obj["metadata"]["resourceVersion"] = str(version)
    return watch_line("BOOKMARK", obj)


def page(
    items: Iterable[dict[str, Any]],
    version: int | str = 100,
    token: str = "",
    kind: str = "EndpointSlice",
) -> bytes:
    """Build one page of a list; its items do not repeat their kind, as those of real servers do not."""
    metadata = {"resourceVersion": str(version), "continue": token}
    bare = [
        {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
        for item in items
    ]
    body = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": bare}
    return json.dumps(body).encode()


class Bench:
    """Drives one reflector. `now_s` only moves when a test says so."""

    def __init__(self, limits: Limits = LIMITS, kind: str = "EndpointSlice") -> None:
        self.now_s = 1000.0
        [resource] = [one for one in resources("node-1") if one.kind == kind]
        self.reflector = Reflector(resource, limits, "node-1", self.now_s)
        self.events: list[Event] = []
        self.names: set[str] = set()
        self.synced = 0
        self.problems: dict[str, tuple[str, ...]] = {}

    # Methods, since a type checker takes attributes to stay what they were.

    def is_open(self) -> bool:
        return self.reflector.is_open

    def is_unauthorized(self) -> bool:
        return self.reflector.is_unauthorized

    def last_trouble(self) -> str | None:
        return self.reflector.last_trouble

    def ask(self, jitter: float = 0.0) -> dict[str, str]:
        """Return the query of the next request, which has to be due."""
        step = self.reflector.next(self.now_s, jitter)
        assert not isinstance(step, Wait), f"waits {step.until_s - self.now_s} s"
        query = dict(parse_qsl(urlsplit(step.target).query, keep_blank_values=True))
        query.pop("labelSelector", None)
        query.pop("fieldSelector", None)
        return query

    def pause(self, jitter: float = 0.0) -> float:
        """Return how long the reflector wants to wait now."""
        step = self.reflector.next(self.now_s, jitter)
        return step.until_s - self.now_s if isinstance(step, Wait) else 0.0

    def skip_pause(self) -> None:
        """Let the time pass until a request is due."""
        self.now_s += self.pause()

    def accept(self) -> None:
        self.reflector.accept(self.now_s)

    def line(self, *lines: bytes | None) -> list[Event]:
        """Give lines of a watch, and return the events of all of them."""
        events: list[Event] = []
        for line in lines:
            self.reflector.heard(self.now_s)
            events += self.reflector.read_line(line, self.now_s)
        return self._take(events)

    def page(self, body: bytes) -> list[Event]:
        """Give one page of a list."""
        self.accept()
        events = [event for some in self.reflector.read_page(body, self.now_s) for event in some]
        return self._take(events)

    def refuse(self, code: int, reason: str = "", message: str = "", **more: Any) -> None:
        self.reflector.refuse(status(code, reason, message, **more), self.now_s)

    def fail(self, trouble: Any = "connect") -> None:
        self.reflector.fail(trouble, "it failed", self.now_s)

    def expire(self, *, early_s: float = 0.0) -> None:
        """Let the time pass until the deadline."""
        self.now_s = max(self.now_s, self.reflector.deadline_s - early_s)
        self.reflector.expire(self.now_s)

    def stream(self, *objects: dict[str, Any], version: int = 100) -> list[Event]:
        """Ask for everything as a stream and give all of it."""
        assert self.ask()["sendInitialEvents"] == "true"
        self.accept()
        return self.line(
            *(watch_line("ADDED", obj) for obj in objects), bookmark(version, ends=True)
        )

    def listing(self, *objects: dict[str, Any], version: int = 100) -> list[Event]:
        """Ask for everything as one page and give it."""
        assert "watch" not in self.ask()
        return self.page(page(objects, version))

    def watch_for(self, seconds: float) -> None:
        """Let a watch live for some time."""
        self.now_s += seconds

    def _take(self, events: list[Event]) -> list[Event]:
        self.events += events
        for event in events:
            match event:
                case Upsert(obj):
                    self.names.add(obj.name.name if isinstance(obj, Service) else obj.name)
                case Delete(name=text):
                    self.names.discard(text)
                case Synced():
                    self.synced += 1
                case Problems(what, rejected):
                    self.problems.pop(what, None)
                    if rejected:
                        self.problems[what] = tuple(one.reason for one in rejected)
        return events


STREAM = {
    "watch": "1",
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "resourceVersion": "",
    "allowWatchBookmarks": "true",
    "timeoutSeconds": "300",
}


def watch_of(version: str, timeout_s: int = 300) -> dict[str, str]:
    """Return the parameters of a watch from a version on."""
    return {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(timeout_s),
    }


def watching(*names: str, limits: object = None) -> Bench:
    """Return a bench on which a watch goes on after everything was streamed."""
    bench = Bench() if limits is None else Bench(LISTING)
    if limits is None:
        bench.stream(*(slice_at(name, 50) for name in names))
    else:
        bench.listing(*(slice_at(name, 50) for name in names))
        bench.ask()
        bench.accept()
    return bench
