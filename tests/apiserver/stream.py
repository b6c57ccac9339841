"""One open watch: its events in lines, as they come, and all that can go wrong with the connection meanwhile."""

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

from aiohttp import web

from tests.apiserver import faults, table, watching
from tests.apiserver.faults import Faults
from tests.apiserver.resources import Object
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Store, encode
from tests.apiserver.watching import Event, Question

_PIECE_BYTES = 256 * 1024
_LONGEST_S = 1800.0


class World(Protocol):
    """What a watch reads, and how it is told that there is something new."""

    store: Store
    faults: Faults
    woken: set[asyncio.Event]


class Cut(Exception):  # noqa: N818 - not an error of ours: the connection was to end here
    """The answer was ended in the middle of an event."""


class Watch:
    """The answer to one watch request."""

    def __init__(
        self, world: World, request: web.Request, question: Question, *, is_table: bool
    ) -> None:
        self._world = world
        self._request = request
        self._question = question
        self._is_table = is_table
        self._has_columns = True
        self._response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        self._response.enable_chunked_encoding()

    async def run(self, first_error: ApiStatusError | None = None) -> web.StreamResponse:
        """Answer until the time is over, or something ends it."""
        await self._response.prepare(self._request)
        woken = asyncio.Event()
        self._world.woken.add(woken)
        try:
            if first_error is not None:
                raise first_error
            await self._follow(woken)
        except ApiStatusError as error:
            # once a watch has been accepted, errors come as its events, with HTTP status 200
            await self._write(_line("ERROR", encode(error.document())))
        except Cut:
            pass
        finally:
            self._world.woken.discard(woken)
        return self._response

    async def _follow(self, woken: asyncio.Event) -> None:
        store, question = self._world.store, self._question
        end_s = time.monotonic() + (question.timeout_s or _LONGEST_S)
        if question.needs_revision > store.revision:
            await self._wait_for(woken, question.needs_revision)
        await self._fall_silent()
        events, position = watching.begin(store, question)
        await self._send(events)
        bookmark_s = time.monotonic() + self._world.faults.bookmark_s
        while True:
            woken.clear()
            await self._fall_silent()
            changes = store.changes_after(position)
            # a watch from a revision to come stays there until the server has come to it
            position = max(position, store.revision)
            await self._send(watching.news(question, changes))
            now_s = time.monotonic()
            if now_s >= bookmark_s or now_s >= end_s:
                if question.has_bookmarks and position == store.revision:
                    await self._send([Event("BOOKMARK", None, position)])
                bookmark_s = now_s + self._world.faults.bookmark_s
            if now_s >= end_s:
                return
            await _wait(woken, min(end_s, bookmark_s) - now_s)

    async def _fall_silent(self) -> None:
        """A watch that has once fallen silent stays so, until its connection ends."""
        if self._world.faults.is_silent:
            await asyncio.sleep(_LONGEST_S)

    async def _wait_for(self, woken: asyncio.Event, revision: int) -> None:
        end_s = time.monotonic() + self._world.faults.freshness_wait_s
        while revision > self._world.store.revision and time.monotonic() < end_s:
            woken.clear()
            await _wait(woken, end_s - time.monotonic())

    async def _send(self, events: Iterable[Event]) -> None:
        """Many events in few writes; one by one where something is to go wrong with each."""
        waiting: list[bytes] = []
        size = 0
        for event in events:
            line = self._encoded(event)
            is_broken = self._world.faults.mutations or self._world.faults.ending
            if is_broken and event.item is not None:
                await self._write(b"".join(waiting))
                waiting, size = [], 0
                await self._send_broken(line)
                continue
            waiting.append(line)
            size += len(line)
            if size > _PIECE_BYTES:
                await self._write(b"".join(waiting))
                waiting, size = [], 0
        await self._write(b"".join(waiting))

    async def _send_broken(self, line: bytes) -> None:
        world = self._world
        if mutation := world.faults.take_mutation():
            await self._write(faults.mutated(mutation, line))
            return
        ending, world.faults.ending = world.faults.ending, ""
        await self._write(line[: len(line) // 2])
        if ending == "reset" and self._request.transport is not None:
            self._request.transport.abort()
        raise Cut

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        await write_in_pieces(self._response, data, self._world.faults.chunk_bytes)

    def _encoded(self, event: Event) -> bytes:
        resource = self._question.resource
        if self._is_table:
            items = [event.item] if event.item is not None else []
            metadata: Object = {"resourceVersion": str(event.revision)}
            shown = table.render(resource, items, metadata, has_columns=self._has_columns)
            self._has_columns = False
            return _line(event.type, encode(shown))
        if event.item is not None:
            return _line(event.type, event.item.whole)
        empty = watching.bookmark(resource, event.revision, is_initial_end=event.is_initial_end)
        return _line(event.type, encode(empty))


async def write_in_pieces(response: web.StreamResponse, data: bytes, piece_bytes: int) -> None:
    """Write, in pieces of that size if it is not 0; each is a chunk and, as far as we have a say, a packet."""
    if not piece_bytes:
        await response.write(data)
        return
    for start in range(0, len(data), piece_bytes):
        await response.write(data[start : start + piece_bytes])
        await asyncio.sleep(0)


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await woken.wait()
    except TimeoutError:
        pass


def _line(event_type: str, obj: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (event_type.encode(), obj)
