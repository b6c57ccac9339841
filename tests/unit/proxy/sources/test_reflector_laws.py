"""Whatever happens between server and reflector: in the end both have the same, and nothing was deleted that was not.

A model of a server keeps its objects and its history. Hypothesis lets it change, forget and lose history, and lets
answers be refused, cut off, repeated and mutated. When that is over, one undisturbed exchange has to do.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.model import EndpointSlice
from proxy.sources.events import Delete, Upsert
from proxy.sources.reflector import Wait
from tests.builders import watch_line
from tests.unit.proxy.sources.reflecting import LIMITS, Bench, bookmark, error, page, slice_at

_NAMES: Final = ("a", "b", "c", "d")


class _Change(NamedTuple):
    version: int
    type: str
    name: str
    content: str


class Server:
    """Objects, their history, and answers to requests."""

    def __init__(self, *, knows_streams: bool) -> None:
        self.knows_streams = knows_streams
        self.version = 100
        self.objects: dict[str, tuple[int, str]] = {}
        self.history: list[_Change] = []
        self.oldest = 100
        self.ever_absent: set[str] = set(_NAMES)
        self.contents = 0

    def put(self, name: str) -> None:
        self.version += 1
        self.contents += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        content = f"10.0.{self.contents >> 8}.{self.contents & 255}"
        self.objects[name] = (self.version, content)
        self.history.append(_Change(self.version, kind, name, content))

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            _, content = self.objects.pop(name)
            self.history.append(_Change(self.version, "DELETED", name, content))

    def compact(self) -> None:
        self.oldest = self.version
        self.history.clear()

    def lose(self, count: int) -> None:
        """Forget the last changes as if they had never been: a backup is restored."""
        lost, self.history = self.history[-count:], self.history[:-count]
        if lost:
            self.version = lost[0].version - 1
        for name in {change.name for change in lost}:
            past = [change for change in self.history if change.name == name]
            if past and past[-1].type != "DELETED":
                self.objects[name] = (past[-1].version, past[-1].content)
            else:
                self.objects.pop(name, None)

    def wire(self, name: str) -> dict[str, Any]:
        version, content = self.objects[name]
        return slice_at(name, version, endpoints=(content,))

    def lines(self, query: dict[str, str]) -> Iterator[bytes]:
        """Yield the lines that answer a watch."""
        if query.get("sendInitialEvents"):
            for name in sorted(self.objects):
                yield watch_line("ADDED", self.wire(name))
            if self.knows_streams:
                yield bookmark(self.version, ends=True)
            return
        since = int(query["resourceVersion"])
        if since < self.oldest:
            yield error(410, "too old resource version")
            return
        for change in self.history:
            if change.version > since:
                obj = slice_at(change.name, change.version, endpoints=(change.content,))
                yield watch_line(change.type, obj)

    def page(self, query: dict[str, str]) -> bytes | int:
        """Return a page, or the status of a refusal. A token is the version and the name to go on after."""
        version, _, after = query.get("continue", "").partition("/")
        if version and int(version) != self.version:
            return 410
        asked = query.get("resourceVersion", "")
        if asked not in ("", "0") and int(asked) > self.version:
            return 504
        names = [name for name in sorted(self.objects) if name > after]
        limit = int(query.get("limit", "0")) or len(names)
        token = f"{self.version}/{names[limit - 1]}" if len(names) > limit else ""
        return page([self.wire(name) for name in names[:limit]], self.version, token)


class World:
    """The server, the reflector, and what the rest of the program believes."""

    def __init__(self, *, knows_streams: bool, uses_streams: bool) -> None:
        self.server = Server(knows_streams=knows_streams)
        limits = msgspec.structs.replace(LIMITS, uses_watch_list=uses_streams)
        self.bench = Bench(limits)
        self.believed: dict[str, str] = {}
        self.may_be_deleted: set[str] = set()
        self._seen_events = 0

    def exchange(self, fault: str, at: int) -> None:
        """Let one request be made, and something happen to its answer after some lines."""
        bench = self.bench
        if isinstance(bench.reflector.next(bench.now_s, 0.0), Wait):
            bench.skip_pause()
        query = bench.ask()
        if fault == "connect":
            bench.fail("connect")
        elif fault in ("401", "403", "429", "500"):
            bench.refuse(int(fault))
        elif "watch" in query:
            self._watch(query, fault, at)
        else:
            self._list(query, fault)
        self._fold()

    def _list(self, query: dict[str, str], fault: str) -> None:
        answer = self.server.page(query)
        if isinstance(answer, int):
            self.bench.refuse(answer, is_too_large=answer == 504)
        elif fault == "cut":
            self.bench.accept()
            self.bench.fail("closed")
        elif fault == "mutate":
            self.bench.page(answer[:-1])
        else:
            self.bench.page(answer)

    def _watch(self, query: dict[str, str], fault: str, at: int) -> None:
        bench = self.bench
        bench.accept()
        lines = list(self.server.lines(query))
        if fault == "repeat":
            lines[at:at] = [
                line for line in lines[:at] if b'"ADDED"' in line or b'"MODIFIED"' in line
            ]
        if fault == "mutate" and lines:
            lines[min(at, len(lines) - 1)] = b'{"type":"ADDED","object":{"kind":"Endp'
        if fault == "410":
            lines[at:] = [error(410)]
        if fault in ("cut", "silent"):
            del lines[at:]
        for line in lines:
            if bench.is_open():
                bench.line(line)
            self._fold()
        self._end(query, fault)

    def _end(self, query: dict[str, str], fault: str) -> None:
        bench = self.bench
        if not bench.is_open():
            return
        if fault == "cut":
            bench.reflector.end(bench.now_s, is_truncated=True)
        elif "sendInitialEvents" in query and not self.server.knows_streams:
            bench.expire()
        elif fault == "silent":
            while bench.is_open():
                bench.expire()
        elif fault != "none":
            bench.watch_for(6)
            bench.reflector.end(bench.now_s, is_truncated=False)

    def _fold(self) -> None:
        for one in self.bench.events[self._seen_events :]:
            match one:
                case Upsert(EndpointSlice() as obj):
                    [(_, [endpoint])] = obj.ports
                    self.believed[obj.name] = endpoint.ip
                case Delete(name=name):
                    assert name in self.may_be_deleted, f"{name} was never deleted"
                    self.believed.pop(name, None)
                case _:
                    pass
        self._seen_events = len(self.bench.events)

    def settle(self) -> None:
        """Let undisturbed exchanges be made until the reflector has heard everything."""
        bench, server = self.bench, self.server
        for _ in range(12):
            if bench.is_open():
                _continue(self, "none", 0)
            if bench.is_open():
                bench.line(bookmark(server.version))
            if bench.is_open() and bench.reflector.deadline_s <= bench.now_s + 61:
                bench.now_s = bench.reflector.deadline_s
                bench.reflector.heard(bench.now_s - 1)
                bench.reflector.expire(bench.now_s)
            if not bench.is_open():
                self.exchange("none", 0)
        self._fold()

    def expected(self) -> dict[str, str]:
        return {name: content for name, (_, content) in self.server.objects.items()}


_FAULTS = st.sampled_from(
    ["none", "end", "end", "connect", "401", "403", "429", "500", "410", "cut", "repeat", "mutate", "silent"]
)  # fmt: skip
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(_NAMES)),
        st.tuples(st.just("delete"), st.sampled_from(_NAMES[1:])),
        st.tuples(st.just("exchange"), st.tuples(_FAULTS, st.integers(0, 4))),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("restore"), st.integers(1, 3)),
    ),
    max_size=25,
)


@given(steps=_STEPS, knows_streams=st.booleans(), uses_streams=st.booleans())
@settings(max_examples=300, deadline=None)
def test_in_the_end_everything_is_as_on_the_server_and_nothing_was_deleted_early(
    steps: list[tuple[str, Any]], knows_streams: bool, uses_streams: bool
) -> None:
    world = World(knows_streams=knows_streams, uses_streams=uses_streams)
    server = world.server
    for step, argument in steps:
        if step == "put":
            server.put(argument)
        elif step == "delete":
            world.may_be_deleted.add(argument)
            server.delete(argument)
        elif step == "compact":
            server.compact()
        elif step == "restore":
            _restore(world, argument)
        elif not world.bench.is_open():
            world.exchange(*argument)
        else:
            _continue(world, *argument)

    world.settle()

    assert world.believed == world.expected()
    event(f"lists {min(world.bench.reflector.report().lists, 4)}")


def _continue(world: World, fault: str, at: int) -> None:
    """Let an open watch hear what has changed since, or break off."""
    bench = world.bench
    if fault in ("end", "none", "repeat"):
        query = {"resourceVersion": bench.reflector.report().resource_version}
        for line in world.server.lines(query):
            if bench.is_open():
                bench.line(line)
    elif fault == "mutate":
        bench.line(b'{"type":"DEL')
    elif fault == "410":
        bench.line(error(410))
    elif at % 2:
        bench.watch_for(at * 2)
        bench.fail("closed")
    else:
        bench.reflector.end(bench.now_s, is_truncated=bool(at))
    world._fold()


def _restore(world: World, count: int) -> None:
    """Take the server away for a while and bring it back with an older past, and new changes that hide it."""
    bench = world.bench
    if bench.is_open():
        bench.fail("closed")
    bench.now_s += 4
    if not isinstance(bench.reflector.next(bench.now_s, 0.0), Wait):
        bench.fail("connect")
    bench.now_s += 4
    if not isinstance(bench.reflector.next(bench.now_s, 0.0), Wait):
        bench.fail("connect")
    world.may_be_deleted.update(change.name for change in world.server.history[-count:])
    world.server.lose(count)
    for _ in range(count + 1):
        world.server.put("a")
