"""Watch events arrive in pieces of any size, and come out as if they had come in one."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.model import Service
from proxy.sources import stream
from proxy.sources.events import Delete, Event, Problems, Synced, Upsert
from proxy.sources.stream import EventReader, StreamSource
from tests.builders import make_bookmark, make_node, make_service, make_slice, watch_line
from tests.fakes.recorder import Recorder, running

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    os.mkfifo(path)
    return path


def _read_lines(*lines: bytes) -> list[Event]:
    reader = EventReader("-", "node-1")
    return [event for line in lines for event in reader.read(line)]


def _reasons(events: Sequence[Event]) -> list[str]:
    return [
        str(rejected)
        for event in events
        if isinstance(event, Problems)
        for rejected in event.rejected
    ]


def test_objects_come_change_and_go() -> None:
    events = _read_lines(
        watch_line("ADDED", make_service("a")),
        watch_line("MODIFIED", make_service("a", cluster_ips=["10.96.0.99"])),
        watch_line("ADDED", make_slice("b")),
        watch_line("ADDED", make_node("node-1")),
        watch_line("ADDED", make_node("node-2")),
        watch_line("DELETED", make_service("a")),
    )

    assert list(map(type, events)) == [Upsert, Upsert, Upsert, Upsert, Delete]
    assert isinstance(events[1], Upsert)
    assert isinstance(events[1].object, Service)
    assert events[1].object.ports[0].cluster_ip == "10.96.0.99"
    assert events[-1] == Delete("Service", "default", "a")


@pytest.mark.parametrize("kind", ["Service", "EndpointSlice", "Node"])
def test_a_bookmark_that_ends_the_initial_list_marks_its_kind_as_listed(kind: str) -> None:
    plain = make_bookmark(kind, ends_initial_list=False)

    assert _read_lines(watch_line("BOOKMARK", plain)) == []
    [event] = _read_lines(watch_line("BOOKMARK", make_bookmark(kind)))
    assert isinstance(event, Synced)
    assert event.kind == kind


def test_a_bookmark_of_a_foreign_kind_means_nothing() -> None:
    assert _read_lines(watch_line("BOOKMARK", make_bookmark("Pod"))) == []


def test_the_deleted_own_node_is_still_ours() -> None:
    events = _read_lines(watch_line("ADDED", make_node()), watch_line("DELETED", make_node()))

    assert list(map(type, events)) == [Upsert]


def test_an_object_without_a_namespace_cannot_be_used() -> None:
    service = make_service(metadata={"namespace": ""})

    assert _reasons(_read_lines(watch_line("ADDED", service))) == [
        "Service web metadata.namespace: missing"
    ]


def test_a_deleted_object_takes_its_problems_along() -> None:
    odd = make_service(type="odd")

    events = _read_lines(watch_line("ADDED", odd), watch_line("DELETED", odd))

    assert events[-1] == Problems("Service default/web", ())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: "),
        (b"[]", "line 2: not a watch event"),
        (watch_line("EXPLODED", make_service()), "line 2: 'EXPLODED' is no type of event"),
        (watch_line("ERROR", {"kind": "Status", "code": 410, "message": "gone"}), "410 : gone"),
    ],
)
def test_a_line_that_cannot_be_used_costs_only_itself(
    line: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = _read_lines(b"", line, watch_line("ADDED", make_service()))

    assert list(map(type, events)) == [Problems, Upsert]
    [reason] = _reasons(events)
    assert reason.startswith("Stream - line 2:")
    assert words in reason
    assert reason in caplog.text


@pytest.mark.parametrize("line", [b"", b" ", b"\r"])
def test_blank_lines_mean_nothing(line: bytes) -> None:
    assert _read_lines(line) == []


def test_a_line_that_was_too_long_is_told() -> None:
    assert "longer than" in _reasons(EventReader("-", "node-1").read(None))[0]


def _everything() -> bytes:
    objects = [make_service("a"), make_slice("b"), make_node()]
    kinds = ("Service", "EndpointSlice", "Node")
    lines = [watch_line("ADDED", obj) for obj in objects]
    return b"".join(lines + [watch_line("BOOKMARK", make_bookmark(kind)) for kind in kinds])


def test_a_file_is_read_to_its_end(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(_everything().rstrip(b"\n"))

    async def scenario() -> None:
        recorder = Recorder()
        await StreamSource(str(path), "node-1").run(recorder.deliver)
        assert recorder.names == {"a", "b", "node-1"}
        assert recorder.is_synced
        assert not recorder.problems

    run(scenario())


def test_a_last_line_that_was_cut_off_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(_everything() + b'{"type":"ADDED","obj')

    async def scenario() -> None:
        recorder = Recorder()
        await StreamSource(str(path), "node-1").run(recorder.deliver)
        assert recorder.is_synced
        assert list(recorder.problems) == [f"Stream {path}"]

    run(scenario())


def test_a_pipe_is_read_as_it_is_written_and_ends_with_its_writer(run: Run, pipe: Path) -> None:
    async def scenario() -> None:
        recorder = Recorder()
        ended = asyncio.create_task(StreamSource(str(pipe), "node-1").run(recorder.deliver))
        await asyncio.sleep(0)
        # Opening for both never waits, so the test cannot hang here.
        keeper = os.open(pipe, os.O_RDWR)
        os.write(keeper, _everything())
        await recorder.until(lambda: recorder.is_synced)
        before = time.monotonic()
        os.write(keeper, watch_line("DELETED", make_service("a"))[:20])
        os.write(keeper, watch_line("DELETED", make_service("a"))[20:])
        await recorder.until(lambda: recorder.names == {"b", "node-1"})
        assert before <= recorder.received[-1] <= time.monotonic()
        assert not ended.done()

        os.close(keeper)
        await ended
        assert recorder.names == {"b", "node-1"}

    run(scenario())


def test_a_pipe_waits_for_its_first_writer(run: Run, pipe: Path) -> None:
    async def scenario() -> None:
        async with running(StreamSource(str(pipe), "node-1")) as recorder:
            for _ in range(10):
                await asyncio.sleep(0)
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(writer, _everything())
            await recorder.until(lambda: recorder.is_synced)
            os.close(writer)

    run(scenario())


@contextlib.contextmanager
def _as_stdin(descriptor: int) -> Iterator[None]:
    saved = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
        os.fstat(0)  # still open
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(descriptor)


def test_standard_input_is_read_and_stays_as_it_is(run: Run) -> None:
    reading, writing = os.pipe()

    async def scenario() -> None:
        recorder = Recorder()
        ended = asyncio.create_task(StreamSource("-", "node-1").run(recorder.deliver))
        os.write(writing, _everything())
        await recorder.until(lambda: recorder.is_synced)
        assert os.get_blocking(0)
        os.close(writing)
        await ended

    with _as_stdin(reading):
        run(scenario())


def test_a_file_as_standard_input_is_read_from_where_it_stands(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"already read\n" + _everything())
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, len(b"already read\n"))

    async def scenario() -> None:
        recorder = Recorder()
        await StreamSource("-", "node-1").run(recorder.deliver)
        assert recorder.is_synced
        assert not recorder.problems

    with _as_stdin(descriptor):
        run(scenario())


def test_a_socket_as_standard_input_is_read(run: Run) -> None:
    ours, theirs = socket.socketpair()

    async def scenario() -> None:
        recorder = Recorder()
        ended = asyncio.create_task(StreamSource("-", "node-1").run(recorder.deliver))
        theirs.send(_everything())
        await recorder.until(lambda: recorder.is_synced)
        theirs.close()
        await ended

    with _as_stdin(ours.detach()):
        run(scenario())


def test_a_stream_that_does_not_exist_is_an_error(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(FileNotFoundError):
            await StreamSource(str(tmp_path / "nothing"), "node-1").run(Recorder().deliver)

    run(scenario())


def test_a_long_list_leaves_the_event_loop_its_turns(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BUDGET_S", 0.0)
    path = tmp_path / "events"
    path.write_bytes(b"".join(watch_line("ADDED", make_service(f"s{i}")) for i in range(50)))

    async def scenario() -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        recorder = Recorder()
        await StreamSource(str(path), "node-1").run(recorder.deliver)
        counting.cancel()
        assert len(recorder.objects) == 50
        assert turns >= 50
        assert len(set(recorder.received)) == 1

    run(scenario())


def test_what_the_consumer_raises_ends_the_source(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(_everything())

    def refuse(batch: Sequence[Event], received: float) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            await StreamSource(str(path), "node-1").run(refuse)

    run(scenario())


def test_the_order_of_keys_and_unknown_fields_do_not_matter() -> None:
    obj = make_service("a") | {"extra": {"deep": [1, 2, {"x": None}]}}
    line = json.dumps({"object": dict(reversed(obj.items())), "type": "ADDED", "more": 1}).encode()

    assert _read_lines(line) == _read_lines(watch_line("ADDED", make_service("a")))
