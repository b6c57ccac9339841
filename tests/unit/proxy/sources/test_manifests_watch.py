"""Whatever way a manifest changes, the change is delivered, and nothing is believed too early."""

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from proxy.model import Service
from proxy.sources.events import Synced, Upsert
from proxy.sources.manifests_watch import ManifestSource
from proxy.sources.notify import PathWatch
from tests.builders import make_list, make_service, make_slice
from tests.fakes.recorder import Recorder, running

# So long that only inotify can be what noticed a change.
_NEVER_S = 3600.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


def _source(path: Path, *, poll_s: float = _NEVER_S, settle_s: float = 0.02) -> ManifestSource:
    return ManifestSource(path, "node-1", poll_s=poll_s, settle_s=settle_s)


def _write(path: Path, *names: str, ip: str = "10.96.0.10") -> None:
    documents = (make_service(name, cluster_ips=[ip]) for name in names)
    path.write_text("---\n".join(yaml.safe_dump(document) for document in documents))


def _remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


def _make(directory: Path) -> None:
    directory.mkdir()


def _ip(recorder: Recorder, name: str) -> str:
    service = recorder.objects["Service", "default", name]
    assert isinstance(service, Service)
    return service.ports[0].cluster_ip


def test_everything_is_delivered_before_synced_and_changes_after(
    run: Run, directory: Path
) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        (directory / "b.yaml").write_text(yaml.safe_dump(make_slice("b")))
        started = time.monotonic()
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            assert recorder.names == {"a", "b"}
            assert [type(event) for event in recorder.events] == [Upsert] * 2 + [Synced] * 3

            _write(directory / "c.yaml", "c")
            await recorder.until(lambda: "c" in recorder.names)
            assert recorder.received == sorted(recorder.received)
            assert recorder.received[0] >= started

    run(scenario())


def test_an_empty_directory_is_synced(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            assert recorder.objects == {}

    run(scenario())


def test_a_rewritten_file_is_read_again_and_the_others_are_not(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        _write(directory / "b.yaml", "b")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            before = len(recorder.events)

            _write(directory / "a.yaml", "a", ip="10.96.0.99")
            await recorder.until(lambda: _ip(recorder, "a") == "10.96.0.99")
            assert len(recorder.events) == before + 1

    run(scenario())


def test_an_editor_that_moves_the_old_file_away_deletes_nothing(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        path = directory / "a.yaml"
        _write(path, "a")
        async with running(_source(directory, settle_s=5)) as recorder:
            await recorder.until(lambda: recorder.is_synced)

            path.rename(directory / "a.yaml~")
            await asyncio.sleep(0)
            _write(path, "a", ip="10.96.0.99")
            (directory / "a.yaml~").unlink()
            await recorder.until(lambda: _ip(recorder, "a") == "10.96.0.99")
            assert all(isinstance(event, Upsert | Synced) for event in recorder.events)

    run(scenario())


def test_a_deleted_file_takes_its_objects_along(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            _remove(directory / "a.yaml")
            await recorder.until(lambda: recorder.objects == {})

    run(scenario())


def test_a_file_that_stops_parsing_keeps_its_objects(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        path = directory / "a.yaml"
        _write(path, "a")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            path.write_text("{")
            await recorder.until(lambda: bool(recorder.problems))
            assert recorder.names == {"a"}
            assert list(recorder.problems) == [f"File {path}"]

            _write(path, "b")
            await recorder.until(lambda: recorder.names == {"b"})
            await recorder.until(lambda: not recorder.problems)

    run(scenario())


def test_a_mounted_config_map_is_followed_when_it_is_switched(run: Run, directory: Path) -> None:
    def publish(version: str, **ips: str) -> None:
        """Do what the kubelet does: fill a new directory, then rename a link over the old one."""
        (directory / version).mkdir()
        for name, ip in ips.items():
            _write(directory / version / f"{name}.yaml", name, ip=ip)
            if not (directory / f"{name}.yaml").is_symlink():
                (directory / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
        (directory / "..data_tmp").symlink_to(version)
        (directory / "..data_tmp").rename(directory / "..data")

    async def scenario() -> None:
        publish("..2026_01", a="10.96.0.1", b="10.96.0.1")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            assert recorder.names == {"a", "b"}

            publish("..2026_02", a="10.96.0.2", b="10.96.0.1")
            await recorder.until(lambda: _ip(recorder, "a") == "10.96.0.2")

            publish("..2026_03", a="10.96.0.3")
            (directory / "b.yaml").unlink()
            await recorder.until(
                lambda: recorder.names == {"a"} and _ip(recorder, "a") == "10.96.0.3"
            )

    run(scenario())


def test_a_file_behind_a_link_is_followed(run: Run, directory: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        target = tmp_path / "elsewhere"
        target.mkdir()
        _write(target / "real.yaml", "a")
        (directory / "a.yaml").symlink_to(target / "real.yaml")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            _write(target / "real.yaml", "a", ip="10.96.0.2")
            await recorder.until(lambda: _ip(recorder, "a") == "10.96.0.2")

    run(scenario())


def test_a_directory_that_is_deleted_and_made_again_keeps_its_objects_meanwhile(
    run: Run, directory: Path
) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        async with running(_source(directory, settle_s=2)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            _remove(directory / "a.yaml")
            _remove(directory)
            await recorder.until(lambda: bool(recorder.problems))
            assert list(recorder.problems) == [f"File {directory}"]
            assert recorder.names == {"a"}

            _make(directory)
            _write(directory / "a.yaml", "a", ip="10.96.0.2")
            await recorder.until(lambda: _ip(recorder, "a") == "10.96.0.2")
            await recorder.until(lambda: not recorder.problems)
            _write(directory / "b.yaml", "b")
            await recorder.until(lambda: "b" in recorder.names)

    run(scenario())


def test_a_directory_behind_a_link_is_followed_when_the_link_is_switched(
    run: Run, directory: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        second = tmp_path / "second"
        second.mkdir()
        _write(directory / "a.yaml", "a")
        _write(second / "b.yaml", "b")
        link = tmp_path / "current"
        link.symlink_to(directory)
        async with running(_source(link)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            (tmp_path / "new").symlink_to(second)
            (tmp_path / "new").rename(link)
            await recorder.until(lambda: recorder.names == {"b"})
            _write(second / "c.yaml", "c")
            await recorder.until(lambda: recorder.names == {"b", "c"})

    run(scenario())


def test_a_path_that_appears_later_is_read_then_and_only_then_synced(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        path = tmp_path / "later"
        async with running(_source(path)) as recorder:
            await recorder.until(lambda: bool(recorder.problems))
            assert not recorder.is_synced

            path.mkdir()
            _write(path / "a.yaml", "a")
            await recorder.until(lambda: recorder.is_synced and recorder.names == {"a"})
            await recorder.until(lambda: not recorder.problems)

    run(scenario())


def test_a_single_file_is_followed(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "cluster.dump"
        _write(path, "a")
        async with running(_source(path)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            _write(tmp_path / "new", "b")
            (tmp_path / "new").rename(path)
            await recorder.until(lambda: recorder.names == {"b"})

            path.unlink()
            await recorder.until(lambda: bool(recorder.problems))
            assert recorder.names == {"b"}
            _write(path, "c")
            await recorder.until(lambda: recorder.names == {"c"})

    run(scenario())


def _refuse(*_: object) -> PathWatch:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_where_inotify_is_not_available_file_times_are_compared(
    run: Run, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        source = ManifestSource(
            directory, "node-1", poll_s=0.02, settle_s=0.02, open_watch=_refuse
        )
        async with running(source) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            _write(directory / "a.yaml", "b")
            await recorder.until(lambda: recorder.names == {"b"})
            _remove(directory / "a.yaml")
            await recorder.until(lambda: recorder.objects == {})
            _remove(directory)
            await recorder.until(lambda: bool(recorder.problems))
            _make(directory)
            _write(directory / "c.yaml", "c")
            await recorder.until(lambda: recorder.names == {"c"})

    run(scenario())
    assert "inotify is not available" in caplog.text


def test_a_difference_that_nobody_reported_has_to_be_seen_twice(run: Run, directory: Path) -> None:
    async def compare(source: ManifestSource, recorder: Recorder) -> set[str]:
        await source._compare(recorder.deliver)
        await source._read_due(recorder.deliver)
        return recorder.names

    async def scenario() -> None:
        source = ManifestSource(directory, "node-1", open_watch=_refuse)
        recorder = Recorder()
        await source._rescan(recorder.deliver)

        _write(directory / "a.yaml", "a")
        assert await compare(source, recorder) == set()
        _write(directory / "a.yaml", "a", "b")
        assert await compare(source, recorder) == set()
        assert await compare(source, recorder) == {"a", "b"}

        _remove(directory / "a.yaml")
        assert await compare(source, recorder) == {"a", "b"}
        assert await compare(source, recorder) == set()

    run(scenario())


def test_files_that_went_with_their_directory_are_kept_until_it_is_back(
    run: Run, directory: Path
) -> None:
    async def scenario() -> None:
        source = ManifestSource(directory, "node-1", settle_s=0, open_watch=_refuse)
        recorder = Recorder()
        _write(directory / "a.yaml", "a")
        await source._rescan(recorder.deliver)
        _remove(directory / "a.yaml")
        _remove(directory)
        source._due[str(directory / "a.yaml")] = (0.0, 0.0)

        await source._rescan(recorder.deliver)
        await source._read_due(recorder.deliver)
        assert recorder.names == {"a"}

        _make(directory)
        await source._rescan(recorder.deliver)
        await source._read_due(recorder.deliver)
        assert recorder.names == set()

    run(scenario())


def test_a_large_first_read_is_delivered_in_batches(run: Run, directory: Path) -> None:
    async def scenario() -> None:
        everything = make_list(make_service(f"s{index}") for index in range(1000))
        (directory / "a.json").write_text(json.dumps(everything))
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)
            assert len(recorder.objects) == 1000
            assert max(map(len, recorder.batches)) <= 256

    run(scenario())


def test_the_same_object_twice_is_logged(
    run: Run, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        _write(directory / "a.yaml", "a")
        _write(directory / "b.yaml", "a")
        async with running(_source(directory)) as recorder:
            await recorder.until(lambda: recorder.is_synced)

    run(scenario())
    assert f"in {directory / 'a.yaml'}:1 and in {directory / 'b.yaml'}:1" in caplog.text
