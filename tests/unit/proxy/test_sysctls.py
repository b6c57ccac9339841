"""Connection tracking's settings: what is written, with which caps, and what is said when that fails."""

import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec import structs

from proxy import sysctls
from proxy.config.settings import ConntrackSettings
from proxy.errors import KernelError
from proxy.sysctls import (
    HASH_SIZE,
    MAX,
    TCP_BE_LIBERAL,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    UDP,
    UDP_STREAM,
    Write,
)

NOTHING = ConntrackSettings(
    max_per_core=0,
    min=0,
    tcp_established_timeout_s=0.0,
    tcp_close_wait_timeout_s=0.0,
    tcp_be_liberal=False,
    udp_timeout_s=0.0,
    udp_stream_timeout_s=0.0,
)


def settings(**changes: float) -> ConntrackSettings:
    return structs.replace(NOTHING, **changes)


def written(
    of: ConntrackSettings, present: Mapping[str, int], processors: int = 4
) -> dict[str, int]:
    """What is written over these values."""
    return {each.file: each.wanted for each in sysctls.plan(of, processors, present.get)}


# --- the limit


@pytest.mark.parametrize(
    ("per_core", "least", "processors", "limit"),
    [
        (32768, 131072, 2, 131072),
        (32768, 131072, 8, 262144),
        (32768, 0, 1, 32768),
        (32768, 0, 32, 1048576),
        (32768, 0, 33, 1048576),
        (32768, 2000000, 64, 2000000),
        (0, 131072, 8, 0),
    ],
)
def test_the_limit_grows_with_the_processors_between_its_floor_and_its_cap(
    per_core: int, least: int, processors: int, limit: int
) -> None:
    asked = settings(max_per_core=per_core, min=least)

    assert sysctls.most_connections(asked, processors) == limit
    plan = written(asked, {MAX: 7, HASH_SIZE: 1 << 30}, processors)
    assert plan == ({MAX: limit} if limit else {})


@pytest.mark.parametrize(
    ("buckets", "is_enlarged"), [(9999, True), (10000, False), (10001, False)]
)
def test_the_hash_table_is_enlarged_to_a_quarter_of_the_limit_never_made_smaller(
    buckets: int, is_enlarged: bool
) -> None:
    plan = written(settings(max_per_core=10000), {MAX: 40000, HASH_SIZE: buckets})

    assert plan == ({HASH_SIZE: 10000} if is_enlarged else {})


def test_the_hash_table_is_left_alone_with_the_limit() -> None:
    assert written(settings(min=1 << 20), {MAX: 1, HASH_SIZE: 1}) == {}


def test_a_limit_that_is_higher_already_is_lowered_but_enough() -> None:
    asked = settings(max_per_core=10000)

    assert sysctls.plan(asked, 1, {MAX: 10001, HASH_SIZE: 10000}.get) == [
        Write(file=MAX, wanted=10000, present=10001, is_enough=True)
    ]
    assert sysctls.plan(asked, 1, {MAX: 9999, HASH_SIZE: 10000}.get) == [
        Write(file=MAX, wanted=10000, present=9999)
    ]


# --- the rest


@pytest.mark.parametrize(
    ("field", "file"),
    [
        ("tcp_established_timeout_s", TCP_ESTABLISHED),
        ("tcp_close_wait_timeout_s", TCP_CLOSE_WAIT),
        ("udp_timeout_s", UDP),
        ("udp_stream_timeout_s", UDP_STREAM),
    ],
)
def test_a_timeout_is_written_in_seconds_if_it_is_set_and_another(field: str, file: str) -> None:
    assert written(settings(**{field: 90.0}), {file: 30}) == {file: 90}
    assert written(settings(**{field: 90.0}), {file: 90}) == {}
    assert written(settings(**{field: 90.0}), {}) == {file: 90}
    assert written(settings(**{field: 0.0}), {file: 30}) == {}


def test_being_liberal_is_only_ever_switched_on() -> None:
    assert written(settings(tcp_be_liberal=True), {TCP_BE_LIBERAL: 0}) == {TCP_BE_LIBERAL: 1}
    assert written(settings(tcp_be_liberal=True), {TCP_BE_LIBERAL: 1}) == {}
    assert written(settings(tcp_be_liberal=False), {TCP_BE_LIBERAL: 1}) == {}


# --- files

Root = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A file system with these settings."""

    def make(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_what_is_wrong_is_written_and_the_rest_is_not_touched(root: Root) -> None:
    top = root({UDP: "30\n", UDP_STREAM: "120\n", TCP_ESTABLISHED: "432000\n"})
    (top / UDP_STREAM).chmod(stat.S_IRUSR)
    long_ago = 1_000_000_000
    os.utime(top / UDP_STREAM, (long_ago, long_ago))

    asked = settings(udp_timeout_s=60.0, udp_stream_timeout_s=120.0)
    assert sysctls.apply(asked, top) == []

    assert (top / UDP).read_text() == "60\n"
    assert (top / UDP_STREAM).stat().st_mtime == long_ago
    assert (top / TCP_ESTABLISHED).read_text() == "432000\n"


def test_the_number_of_processors_is_the_machines(root: Root) -> None:
    top = root({MAX: "1", HASH_SIZE: "1"})

    sysctls.require(settings(max_per_core=1000), top)

    most = 1000 * (os.cpu_count() or 1)
    assert ((top / MAX).read_text(), (top / HASH_SIZE).read_text()) == (
        f"{most}\n",
        f"{most // 4}\n",
    )


def test_what_cannot_be_written_is_named_with_what_is_there_and_what_is_wanted(
    root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    top = root({UDP_STREAM: "1200\n"})
    (top / UDP).mkdir()  # a file that root cannot open for writing
    asked = settings(udp_timeout_s=60.0, udp_stream_timeout_s=180.0)

    with pytest.raises(KernelError) as raised:
        sysctls.require(asked, top)
    with caplog.at_level(logging.WARNING):
        sysctls.attempt(asked, top)

    reason = f"/{UDP} cannot be read, 60 is wanted: Is a directory"
    assert reason in str(raised.value)
    assert caplog.messages == [
        f"{reason}; write it yourself, or run this program with --init-only and the right"
    ]
    assert (top / UDP_STREAM).read_text() == "180\n", "one that fails does not stop the others"


def test_a_setting_this_kernel_does_not_have_is_not_made_up(tmp_path: Path) -> None:
    (refused,) = sysctls.apply(settings(tcp_close_wait_timeout_s=3600.0), tmp_path)

    assert str(refused).startswith(f"/{TCP_CLOSE_WAIT} cannot be read, 3600 is wanted: No such")
    assert list(tmp_path.iterdir()) == []


def test_the_present_value_is_told(root: Root) -> None:
    refused = sysctls.Refused(
        write=Write(file=UDP, wanted=60, present=30), errno=30, reason="Read-only file system"
    )

    assert str(refused) == f"/{UDP} is 30, 60 is wanted: Read-only file system"


def test_nobody_is_bothered_with_a_limit_that_cannot_be_lowered(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = root({MAX: "100000000\n", HASH_SIZE: "100000000\n"})

    def read_only(file: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(os, "open", read_only)

    assert sysctls.apply(settings(max_per_core=1000), top) == []
    (refused,) = sysctls.apply(settings(min=200_000_000, max_per_core=1), root({}))[:1]
    assert (refused.errno, refused.write.file) == (13, MAX)


# --- settings of a backend

REUSE = "proc/sys/net/ipv4/vs/conn_reuse_mode"
NODEST = "proc/sys/net/ipv4/vs/expire_nodest_conn"


def test_settings_by_name_are_written_where_they_are_others(root: Root) -> None:
    top = root({REUSE: "1\n", NODEST: "1\n"})
    (top / NODEST).chmod(stat.S_IRUSR)
    long_ago = 1_000_000_000
    os.utime(top / NODEST, (long_ago, long_ago))

    assert sysctls.enforce({REUSE: 0, NODEST: 1}, top) == []

    assert (top / REUSE).read_text() == "0\n"
    assert (top / NODEST).stat().st_mtime == long_ago


def test_those_that_this_kernel_does_not_have_are_named_and_the_others_written(root: Root) -> None:
    top = root({NODEST: "0\n"})

    (refused,) = sysctls.enforce({REUSE: 0, NODEST: 1}, top)

    assert str(refused).startswith(f"/{REUSE} cannot be read, 0 is wanted: No such file")
    assert (top / NODEST).read_text() == "1\n"


def test_a_setting_is_read_as_a_number_or_not_at_all(root: Root) -> None:
    top = root({REUSE: "1\n", NODEST: "3 50\n"})

    assert sysctls.read(REUSE, top) == 1
    assert sysctls.read(NODEST, top) is None
    assert sysctls.read(UDP, top) is None
