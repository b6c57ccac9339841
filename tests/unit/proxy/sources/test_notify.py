"""inotify's events become hints of which files are complete, which are unsettled, and when to look anew."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.sources.manifests import is_manifest
from proxy.sources.notify import Hints, PathWatch


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    (path / "a.yaml").write_text("a")
    return path


@pytest.fixture
def watch(directory: Path) -> Iterator[PathWatch]:
    watch = PathWatch(directory, is_manifest)
    watch.renew([])
    yield watch
    watch.close()


def _hints(*complete: Path, unsettled: tuple[Path, ...] = (), must_rescan: bool = False) -> Hints:
    return Hints(set(map(str, complete)), set(map(str, unsettled)), must_rescan=must_rescan)


def test_nothing_happens_while_nothing_happens(watch: PathWatch) -> None:
    assert watch.take() == _hints()


def test_a_file_is_complete_when_its_writer_closes_it(watch: PathWatch, directory: Path) -> None:
    with (directory / "b.yaml").open("w") as file:
        file.write("b")
        file.flush()
        assert watch.take() == _hints()

    assert watch.take() == _hints(directory / "b.yaml")


def test_a_file_that_is_renamed_into_place_is_complete(watch: PathWatch, directory: Path) -> None:
    (directory / "a.tmp").write_text("new")
    (directory / "a.tmp").rename(directory / "a.yaml")

    assert watch.take() == _hints(directory / "a.yaml")


@pytest.mark.parametrize("is_symbolic", [True, False])
def test_a_link_is_complete_when_it_is_made(
    watch: PathWatch, directory: Path, is_symbolic: bool
) -> None:
    (directory.parent / "target").write_text("b")
    if is_symbolic:
        (directory / "b.yaml").symlink_to("../target")
    else:
        (directory / "b.yaml").hardlink_to(directory.parent / "target")

    assert watch.take() == _hints(directory / "b.yaml")


def test_what_vanishes_is_unsettled(watch: PathWatch, directory: Path) -> None:
    (directory / "a.yaml").unlink()

    assert watch.take() == _hints(unsettled=(directory / "a.yaml",))


def test_an_editor_that_moves_the_old_file_away_leaves_a_complete_one(
    watch: PathWatch, directory: Path
) -> None:
    (directory / "a.yaml").rename(directory / "a.yaml~")
    assert watch.take() == _hints(unsettled=(directory / "a.yaml",))

    (directory / "a.yaml").write_text("new")
    (directory / "a.yaml~").unlink()

    assert watch.take() == _hints(directory / "a.yaml")


def test_a_new_mode_is_unsettled_unless_the_file_is_complete(
    watch: PathWatch, directory: Path
) -> None:
    (directory / "a.yaml").chmod(0o600)
    assert watch.take() == _hints(unsettled=(directory / "a.yaml",))

    (directory / "a.yaml").write_text("new")
    (directory / "a.yaml").chmod(0o644)
    assert watch.take() == _hints(directory / "a.yaml")


def test_files_that_are_not_wanted_are_not_reported(watch: PathWatch, directory: Path) -> None:
    (directory / "notes.txt").write_text("x")
    (directory / ".a.yaml.swp").write_text("x")
    (directory / "sub").mkdir()

    assert watch.take() == _hints()


def test_a_link_that_is_switched_calls_for_a_rescan(watch: PathWatch, directory: Path) -> None:
    (directory / "..new").symlink_to("..2026")
    watch.take()
    (directory / "..new").rename(directory / "..data")

    assert watch.take() == _hints(must_rescan=True)


def test_a_change_where_a_link_leads_calls_for_a_rescan(watch: PathWatch, directory: Path) -> None:
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir()
    (directory / "b.yaml").symlink_to(elsewhere / "real")
    watch.take()
    watch.renew([str(directory / "b.yaml")])

    (elsewhere / "real").write_text("b")

    assert watch.take() == _hints(must_rescan=True)


def test_a_directory_that_goes_and_returns_calls_for_rescans(
    watch: PathWatch, directory: Path
) -> None:
    moved = directory.rename(directory.with_name("moved"))
    assert watch.take().must_rescan

    watch.renew([])
    watch.take()
    moved.rename(directory)
    assert watch.take().must_rescan

    watch.renew([])
    watch.take()
    (directory / "a.yaml").write_text("again")
    assert watch.take() == _hints(directory / "a.yaml")


def test_a_directory_that_was_replaced_is_watched_in_place_of_the_old_one(
    watch: PathWatch, directory: Path
) -> None:
    old = directory.rename(directory.with_name("old"))
    directory.mkdir()
    watch.take()
    watch.renew([])
    watch.take()

    (old / "a.yaml").write_text("old")
    assert watch.take() == _hints()
    (directory / "a.yaml").write_text("new")
    assert watch.take() == _hints(directory / "a.yaml")


def test_the_neighbours_of_the_path_do_not_matter(watch: PathWatch, directory: Path) -> None:
    (directory.parent / "other.yaml").write_text("x")
    (directory.parent / "other").mkdir()

    assert watch.take() == _hints()


def test_a_single_file_is_watched_by_its_own_name(directory: Path) -> None:
    path = directory / "cluster.dump"
    path.write_text("x")
    watch = PathWatch(path, is_manifest)
    try:
        watch.renew([])
        (directory / "b.yaml").write_text("b")
        assert watch.take() == _hints()

        (directory / "tmp").write_text("y")
        (directory / "tmp").rename(path)
        assert watch.take() == _hints(path)
    finally:
        watch.close()


def test_a_lost_event_calls_for_a_rescan(watch: PathWatch, directory: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [directory / "a.yaml", directory / "b.yaml"]
    names[1].write_text("b")
    # Two names in turn, as the kernel merges equal events that follow each other.
    for index in range(limit + 1):
        os.utime(names[index % 2])

    assert watch.take().must_rescan


def test_a_path_whose_parent_is_missing_can_be_watched_later(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    watch = PathWatch(path, is_manifest)
    try:
        watch.renew([])
        path.mkdir(parents=True)
        watch.renew([])
        (path / "a.yaml").write_text("a")

        assert str(path / "a.yaml") in watch.take().complete
    finally:
        watch.close()
