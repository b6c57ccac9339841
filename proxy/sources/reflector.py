"""List and watch of one kind of objects: which request comes next, and what the answers mean for what we know.

Pure: the time and the jitter come in as arguments, bytes come in as lines and pages, and what comes out are the next
request or how long to wait, and the events for the rest of the program. `apiserver` does what is asked here; `known`
holds what the server has, `position` how far we have come, and `failures` what went wrong.

Everything is listed once, as a stream (WatchList, KEP-3157) or in pages, then a watch goes on from there. The rules:

- Nothing is deleted before a list is complete. Then everything that is known and was not in it goes.
- Versions are compared for one purpose only (`position`): a watch that goes on at a lower one than it began with belongs
  to a server that lost history.
- A watch that ends is taken up where it broke off. After 410, after an event of which not even the object's name can be
  read, and after a server that was away for long (it may be back from a backup), everything is listed anew.
- A watch that has brought nothing at all, not even a bookmark, may have begun at a version that the server has lost. Or
  nothing has changed: then no bookmark comes either, unless etcd is set up to report progress more often than every ten
  minutes. One object is asked for, which says how far the server is, and everything only where that is not so far.
- A list of which a part cannot be read deletes nothing, but counts as one, so that one bad object does not keep
  everything else from being served. It is repeated, at growing intervals.
- Failures in a row make the pauses longer (`failures`). The row ends when a watch has worked for a while.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from msgspec import structs

from proxy.model import Value
from proxy.sources.answers import ListPage, Status, decode_page, read_status
from proxy.sources.backoff import Backoff
from proxy.sources.decode import Decoded, MalformedError, WatchEvent, decode_event, decode_item
from proxy.sources.events import Event, Phase, Synced, Trouble, WatchReport
from proxy.sources.failures import UNREACHABLE, Failures
from proxy.sources.findings import quoted
from proxy.sources.known import Known
from proxy.sources.position import Position, is_before
from proxy.sources.resources import NOT_SELECTABLE, Request, Resource

STEADY_S: Final = 5.0
"""How long a watch has to last before it counts as working."""
_WATCH_AT_LEAST_S: Final = 300
"""Servers end watches after five to ten minutes, so that these spread over their replicas; we say when."""
_LISTS_FOR_S: Final = 3600.0
"""After that long a server that did not stream its lists is asked again: it may have been upgraded."""
_STREAM_AT_MOST: Final = 6
_STREAM_FAILURES: Final = 3
"""After so many failures in a row every other attempt is a list."""
_RELIST_FIRST_S: Final = 1.0
_RELIST_MAX_S: Final = 60.0
_ABSENT_S: Final = 600.0
"""After that long a server that does not have an optional kind is asked again: it may have been upgraded."""
_AWAY: Final = UNREACHABLE | {"server"}


class Limits(Value, frozen=True, kw_only=True):
    """The settings of a reflector. Durations are seconds."""

    backoff: Backoff
    away_backoff: Backoff
    """While the server cannot be reached."""
    silence_s: float
    resume_within_s: float
    page_size: int
    uses_watch_list: bool
    watch_list_s: float


class Wait(NamedTuple):
    """Nothing is to be done before this time (monotonic seconds)."""

    until_s: float


_Task = Literal["list", "stream", "watch", "probe"]


class Reflector:
    """What is known of one kind of objects at the server, and how to learn the rest."""

    def __init__(self, resource: Resource, limits: Limits, node_name: str, now_s: float) -> None:
        self._resource = resource
        self._limits = limits
        self._known = Known(resource, node_name)
        self._incomplete_lists = 0

        self._task: _Task = "list"
        self._is_open = False
        self._is_accepted = False
        self._is_watching = False
        self._began_s = now_s  # the request, or the watch after its list
        self._list_began_s = now_s
        self._list_took_s = 0.0
        self._added_s = now_s
        self._relist_s = 0.0

        self._position = Position(limits.page_size)
        self._is_in_doubt = False  # whether this server has come as far as our version
        self._lists_until_s = 0.0
        self.no_stream = ""
        """Why objects are listed in pages although a stream was wanted."""

        self.is_unauthorized = False
        """The credentials were refused and have to be read again before the next request."""
        self._is_away = False
        self._is_down = False  # and it is worth a try as soon as it answers somebody else
        self._contact_s = now_s
        self._failures = Failures(limits.backoff, limits.away_backoff)
        self._phase: Phase = "listing"
        self._since_s = now_s
        self._heard_s = 0.0
        self._lists = 0
        self._watches = 0

    # What to do

    def next(self, now_s: float, jitter: float) -> Request | Wait:
        """Return the next request, or how long to wait. `jitter` is a random number from 0 to 1."""
        until_s = self._failures.pause_until_s(jitter, self._list_took_s)
        if now_s < until_s:
            self._enter("waiting", now_s)
            return Wait(until_s)
        self._failures.end_pause()
        return self._request(now_s, jitter)

    def hurry(self, now_s: float) -> bool:
        """Return whether a pause is over because the server, which was away, has answered somebody else.

        Not if it has refused us since: two kinds that are refused would take turns in hurrying each other.
        """
        if self._is_open or not self._is_down or now_s >= self._failures.retry_s:
            return False
        self._failures.end_pause()
        return True

    @property
    def is_open(self) -> bool:
        """Whether the request goes on; when not, its answer is of no more interest."""
        return self._is_open

    @property
    def deadline_s(self) -> float:
        """When to call `expire` if nothing has come until then."""
        deadline = max(self._heard_s, self._began_s) + self._limits.silence_s
        if self._is_watching:
            if self._failures.in_row:
                deadline = min(deadline, self._began_s + STEADY_S)
            if self._relist_s:
                deadline = min(deadline, self._relist_s)
        elif self._task == "stream" and self._is_accepted:
            deadline = min(deadline, self._stream_deadline_s)
        return deadline

    def report(self) -> WatchReport:
        """Return how it stands."""
        return WatchReport(
            kind=self._resource.kind,
            phase=self._phase,
            since_s=self._since_s,
            heard_s=self._heard_s,
            resource_version=self._position.version,
            objects=len(self._known),
            lists=self._lists,
            watches=self._watches,
            failures=self._failures.in_row,
            retry_s=self._failures.retry_s,
            error=self._failures.error,
            errors=dict(self._failures.counts),
        )

    @property
    def last_trouble(self) -> Trouble | None:
        """What went wrong last; None once a watch has worked for a while."""
        return self._failures.last

    # What happened

    def accept(self, now_s: float) -> None:
        """Take note that the server answers with what was asked for."""
        self._is_accepted = True
        self._is_away = False
        self.is_unauthorized = False
        self._began_s = self._added_s = now_s
        self.heard(now_s)
        if self._task == "watch":
            self._start_watching(now_s)

    def heard(self, now_s: float) -> None:
        """Take note that bytes came."""
        self._heard_s = now_s
        if self._is_accepted:  # a refusal is no sign that the server is what it was
            self._contact_s = now_s

    def read_line(self, line: bytes | None, now_s: float) -> list[Event]:
        """Return the events of one line of a watch; None stands for a line that was too long to keep."""
        if line is None:
            return self._cannot_read("an event is too long", now_s)
        if not line or line.isspace():
            return []
        try:
            event = decode_event(line)
        except MalformedError as error:
            return self._cannot_read(str(error), now_s)
        return self._take_event(event, now_s)

    def read_page(self, body: bytes | bytearray, now_s: float) -> Iterator[list[Event]]:
        """Yield the events of one page of a list, object by object."""
        try:
            page = decode_page(body, self._resource.kind)
            if not page.resource_version:
                raise MalformedError("a list without resourceVersion")  # noqa: TRY301 - as bad as no list
        except MalformedError as error:
            self.fail("malformed", str(error), now_s)
            return
        if self._task == "probe":
            self._compare(page.resource_version)
            return
        for item in page.items:
            try:
                decoded = decode_item(item, self._resource.kind)
            except MalformedError as error:
                yield self._cannot_read(str(error), now_s)
            else:
                yield self._take_object(decoded, now_s)
        yield self._end_page(page, now_s)

    def refuse(self, status: Status, now_s: float) -> None:
        """Take note that the server did not do what was asked, or no longer does."""
        self._heard_s = now_s
        code = status.code
        words = ": ".join(filter(None, (f"{code} {status.reason}".rstrip(), status.message)))
        self.is_unauthorized = code == 401
        if code == 400 and self._resource.field_selector and NOT_SELECTABLE in status.message:
            self._resource = structs.replace(self._resource, field_selector="")
            self._close()
            return
        if self._task == "stream" and not self._is_watching and code in (400, 422):
            self._use_lists(status.message or words, now_s)
            return
        match code:
            case 401:
                self.fail("unauthorized", f"the credentials are refused ({words})", now_s)
            case 403:
                self.fail("forbidden", f"{words}; needed is the rule {self._resource.rule}", now_s)
            case 404 if self._resource.is_optional:
                self._close()
                self._is_away = self._is_down = False
                self._failures.rest_until(now_s + _ABSENT_S)
            case 404:
                words = f"the server has no {self._resource.path} ({words})"
                self.fail("server", words, now_s, status.retry_after_s)
            case 410:
                if self._task == "list":
                    self._position.forget_list()
                else:
                    # The history is gone; a state at least as new as ours the server does have.
                    self._list_anew(is_expired=False)
                self.fail("gone", words, now_s)
            case 429:
                self.fail("throttled", words, now_s, status.retry_after_s)
            case _:
                self._refuse_otherwise(status, words, now_s)

    def _refuse_otherwise(self, status: Status, words: str, now_s: float) -> None:
        if status.is_too_large:
            self._list_anew(is_expired=True)
            self.fail("gone", words, now_s)
        elif self._is_watching and self._failures.last == "server":
            # It will not get beyond this: the next watch would meet it again.
            self._list_anew(is_expired=False)
            self.fail("gone", words, now_s)
        else:
            if status.code in (400, 422):  # whatever it is that the server does not like about us
                self._list_anew(is_expired=True)
            self.fail("server", words, now_s, status.retry_after_s)
            self._is_down = status.code >= 500 and not status.retry_after_s

    def end(self, now_s: float, *, is_truncated: bool) -> None:
        """Take note that a watch has ended without an error; `is_truncated` if it did within an event."""
        if not self._is_open:
            return
        if is_truncated:
            self.fail("closed", "the watch was cut off within an event", now_s)
        elif not self._is_watching:
            self.fail("closed", "the server ended the stream of its objects before the end", now_s)
        elif now_s - self._began_s < STEADY_S:
            self.fail("closed", "the server ended the watch at once", now_s)
        else:
            self._failures.end_row()
            self._contact_s = now_s
            self._close()

    def expire(self, now_s: float) -> None:
        """Take note that `deadline_s` has come."""
        if self._is_watching and now_s >= self._began_s + STEADY_S:
            self._failures.end_row()
        if now_s < self.deadline_s:
            return
        if self._is_watching and self._relist_s and now_s >= self._relist_s:
            self._list_anew(is_expired=False)
            self._close()
        elif self._is_watching:
            if self._task == "watch" and self._heard_s <= self._began_s:
                self._is_in_doubt = True
            self.fail("silent", f"nothing came for {self._limits.silence_s:g} s", now_s)
        elif self._task == "stream" and self._is_accepted and now_s >= self._stream_deadline_s:
            self._use_lists("the end of the initial events was not marked", now_s)
        else:
            self.fail("timeout", f"no answer within {self._limits.silence_s:g} s", now_s)

    def fail(
        self, trouble: Trouble, message: str, now_s: float, retry_after_s: float = 0.0
    ) -> None:
        """Take note that the request came to nothing."""
        if self._is_watching and now_s - self._began_s >= STEADY_S:
            self._failures.end_row()
        self._is_down = trouble in UNREACHABLE
        if trouble in _AWAY and not self._is_accepted:
            self._is_away = True
        elif self._is_accepted and trouble != "silent":
            self._contact_s = now_s
        self._close()
        self._failures.add(trouble, message, now_s, retry_after_s)

    # Requests

    @property
    def _stream_deadline_s(self) -> float:
        """When a stream that has not marked its end is given up: a busy server of old would go on for ever."""
        wait_s = self._limits.watch_list_s
        return min(self._added_s + wait_s, self._began_s + _STREAM_AT_MOST * wait_s)

    def _request(self, now_s: float, jitter: float) -> Request:
        if self._is_away and now_s - self._contact_s > self._limits.resume_within_s:
            # It may have been restored from a backup, or upgraded.
            self._position.lose_touch()
            self._lists_until_s = 0.0
        self._is_open, self._is_accepted, self._is_watching = True, False, False
        self._began_s = now_s
        timeout_s = int(_WATCH_AT_LEAST_S * (1 + jitter))
        if self._position.version and self._is_in_doubt:
            self._task = "probe"
            self._enter("listing", now_s)
            return self._resource.list_request("", page_size=1, token="")
        if self._position.version:
            self._task = "watch"
            self._watches += 1
            self._enter("watching", now_s)
            return self._resource.watch_request(self._position.version, timeout_s)
        self._enter("listing", now_s)
        if not self._position.token:
            self._lists += 1
            self._list_began_s = now_s
            self._known.begin_list()
        if self._may_stream(now_s):
            self._task = "stream"
            self._watches += 1
            return self._resource.watch_list_request(timeout_s)
        self._task = "list"
        return self._position.list_request(self._resource)

    def _may_stream(self, now_s: float) -> bool:
        if self._position.token or not self._limits.uses_watch_list:
            return False
        in_row = self._failures.in_row
        # It may be streaming that the server fails at, and there may be something in between.
        is_turn_of_lists = in_row >= _STREAM_FAILURES and in_row % 2 == 1
        if is_turn_of_lists and self._failures.last in ("server", "closed", "malformed"):
            return False
        return now_s >= self._lists_until_s

    def _close(self) -> None:
        self._is_open = self._is_watching = False

    def _enter(self, phase: Phase, now_s: float) -> None:
        if phase != self._phase:
            self._phase, self._since_s = phase, now_s

    def _use_lists(self, reason: str, now_s: float) -> None:
        self.no_stream = reason
        self._lists_until_s = now_s + _LISTS_FOR_S
        self._close()

    def _list_anew(self, *, is_expired: bool) -> None:
        self._position.forget(is_expired=is_expired)
        self._relist_s = 0.0

    # Answers

    def _take_event(self, event: WatchEvent, now_s: float) -> list[Event]:
        match event.type:
            case "ADDED" | "MODIFIED":
                if event.type == "ADDED":
                    self._added_s = now_s
                events = self._take_object(event.decoded, now_s)
                self._advance(event.decoded, now_s)
                return events
            case "DELETED":
                events = self._drop_object(event.decoded, now_s)
                # Before Kubernetes 1.10 a deleted object came with the version it had before.
                self._advance(event.decoded, now_s, can_be_old=True)
                return events
            case "BOOKMARK":
                return self._take_bookmark(event, now_s)
            case "ERROR":
                self.refuse(read_status(event.status or {}), now_s)
                return []
            case _:
                return self._cannot_read(f"{quoted(event.type)} is no type of event", now_s)

    def _take_object(self, decoded: Decoded, now_s: float) -> list[Event]:
        events = self._known.put(decoded)
        if events is None:
            return self._cannot_read("an object without a name, or of another kind", now_s)
        return events

    def _drop_object(self, decoded: Decoded, now_s: float) -> list[Event]:
        events = self._known.drop(decoded)
        if events is None:
            return self._cannot_read("the deletion of an object without a name", now_s)
        return events

    def _take_bookmark(self, event: WatchEvent, now_s: float) -> list[Event]:
        if self._is_watching:
            self._advance(event.decoded, now_s)
            return []
        if not event.ends_initial_list:
            # Where lists are streamed, the first bookmark is the one that ends them.
            self._use_lists("bookmarks come, but none that ends the initial events", now_s)
            return []
        version = _version_of(event.decoded)
        if not version:
            return self._cannot_read("a bookmark without resourceVersion", now_s)
        events = self._complete(version, now_s)
        self._start_watching(now_s)
        return events

    def _advance(self, decoded: Decoded, now_s: float, *, can_be_old: bool = False) -> None:
        """Note how far the watch has come. In a list that is streamed, versions follow no order."""
        version = _version_of(decoded)
        if not self._is_watching or not version:
            return
        if not self._position.advance(version) and not can_be_old:
            self._list_anew(is_expired=True)
            self.fail("gone", f"version {version} is an old one: history was lost", now_s)

    def _start_watching(self, now_s: float) -> None:
        self._is_watching = True
        self._began_s = now_s
        self._position.begin_watch()
        self._enter("watching", now_s)

    def _compare(self, newest_version: str) -> None:
        """Go on with the watch, unless the server has not come as far."""
        self._close()
        self._is_in_doubt = False
        if is_before(newest_version, self._position.version):
            self._list_anew(is_expired=True)

    def _end_page(self, page: ListPage, now_s: float) -> list[Event]:
        self._close()
        if page.token:
            self._position.token = page.token
            return []
        return self._complete(page.resource_version, now_s)

    def _complete(self, version: str, now_s: float) -> list[Event]:
        """Return what the end of a list means: deletions, and that there is no more."""
        events = self._known.end_list()
        if self._known.is_complete:
            self._incomplete_lists, self._relist_s = 0, 0.0
        else:
            pause_s = min(_RELIST_FIRST_S * (1 << self._incomplete_lists), _RELIST_MAX_S)
            self._incomplete_lists = min(self._incomplete_lists + 1, 10)
            self._relist_s = now_s + pause_s
        self._list_took_s = now_s - self._list_began_s
        self._position.reach(version)
        self._is_in_doubt = False
        return [*events, Synced(self._resource.kind)]

    def _cannot_read(self, reason: str, now_s: float) -> list[Event]:
        """Report what came instead of an object, and see to it that no deletion is lost with it."""
        if self._is_watching:
            self._list_anew(is_expired=False)
            self.fail("malformed", reason, now_s)
        else:
            self._failures.count("malformed")
        return self._known.miss(reason)


def _version_of(decoded: Decoded) -> str:
    metadata = decoded.object.metadata if decoded.object is not None else None
    return (metadata.resource_version if metadata is not None else None) or ""
