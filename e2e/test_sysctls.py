"""Connection tracking's settings on a kernel: each namespace has timeouts of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.capabilities import UNSHARE
from e2e.namespace import Namespace
from proxy import sysctls
from proxy.config.settings import ConntrackSettings

SETTINGS = ConntrackSettings(
    max_per_core=0,
    min=0,
    tcp_established_timeout_s=86400.0,
    tcp_close_wait_timeout_s=3601.0,
    tcp_be_liberal=True,
    udp_timeout_s=31.0,
    udp_stream_timeout_s=181.0,
)
WRITTEN = {
    sysctls.TCP_ESTABLISHED: 86400,
    sysctls.TCP_CLOSE_WAIT: 3601,
    sysctls.TCP_BE_LIBERAL: 1,
    sysctls.UDP: 31,
    sysctls.UDP_STREAM: 181,
}


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace("node") as made:
        yield made


def test_the_kernel_takes_every_setting_and_needs_none_twice(node: Namespace) -> None:
    with node.entered():
        before = {file: _value(file) for file in WRITTEN}
        sysctls.require(SETTINGS)
        after = {file: _value(file) for file in WRITTEN}
        left = sysctls.plan(SETTINGS, 1, _value)

    assert after == WRITTEN
    assert before.keys() == WRITTEN.keys()
    assert all(before[file] != value for file, value in WRITTEN.items())
    assert left == []
    assert _value(sysctls.UDP) != WRITTEN[sysctls.UDP], "nobody else's are touched"


def test_what_is_read_only_is_named_with_the_value_that_is_there(node: Namespace) -> None:
    program = (
        "import e2e.test_sysctls as t; print(*map(str, t.sysctls.apply(t.SETTINGS)), sep='\\n')"
    )
    read_only = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
    said = node.run([*UNSHARE, "sh", "-c", read_only, "sh", sys.executable, "-c", program])

    (udp,) = [line for line in said.splitlines() if line.startswith(f"/{sysctls.UDP} ")]
    assert udp == f"/{sysctls.UDP} is 30, 31 is wanted: Read-only file system"
    assert len(said.splitlines()) == len(WRITTEN)


def _value(file: str) -> int:
    return int(Path("/", file).read_text())
