"""What is kept of draining destinations over a restart."""

import logging
from pathlib import Path

import pytest

from backends.ipvs.deadlines import load, save
from backends.kernel.ipvs_objects import ServerId, marked

BY_ADDRESS = ServerId("IPv6", "TCP", "fd00:10:96::1", 80)
BY_MARK = marked("IPv4", 0xA6000005)
HERE, THERE = ("10.1.0.1", 80), ("10.1.0.2", 8080)


def test_what_is_saved_is_loaded_whatever_identifies_the_virtual_server(tmp_path: Path) -> None:
    file = tmp_path / "draining.json"

    save(file, {BY_ADDRESS: {("fd00::2", 80): 1.5}, BY_MARK: {HERE: 2000.25, THERE: 3.0}})

    assert load(file) == {
        (BY_ADDRESS, ("fd00::2", 80)): 1.5,
        (BY_MARK, HERE): 2000.25,
        (BY_MARK, THERE): 3.0,
    }


def test_what_is_saved_later_replaces_what_was_there_and_leaves_no_other_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run" / "sliceproxy" / "draining.json"

    save(file, {BY_MARK: {HERE: 1.0, THERE: 2.0}})
    save(file, {BY_MARK: {THERE: 3.0}})

    assert load(file) == {(BY_MARK, THERE): 3.0}
    assert list(file.parent.iterdir()) == [file]


def test_no_file_is_as_usual_as_nothing_that_drains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(tmp_path / "draining.json") == {}
    assert not caplog.records


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"{}", b"[]", b'{"boot_id": "x", "draining": [{}]}', b"\xff"]
)
def test_a_file_that_cannot_be_read_counts_as_none_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    file = tmp_path / "draining.json"
    file.write_bytes(content)

    assert load(file) == {}
    assert [(each.levelno, str(file) in each.getMessage()) for each in caplog.records] == [
        (logging.WARNING, True)
    ]


def test_what_was_saved_before_the_last_boot_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "draining.json"
    save(file, {BY_MARK: {HERE: 1.0}})
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file.write_text(file.read_text().replace(boot_id, "another"))

    assert load(file) == {}
    assert not caplog.records


def test_a_directory_that_cannot_be_made_is_warned_of_and_nothing_else_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file in the way")
    file = tmp_path / "run" / "draining.json"

    save(file, {BY_MARK: {HERE: 1.0}})

    assert [each.levelno for each in caplog.records] == [logging.WARNING]
    assert str(file) in caplog.text


def test_what_cannot_be_replaced_stays_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "draining.json"
    file.mkdir()

    save(file, {BY_MARK: {HERE: 1.0}})

    assert file.is_dir()
    assert load(file) == {}
    assert [each.levelno for each in caplog.records] == [logging.WARNING] * 2
