"""The kernel's settings for connection tracking: what they should be, and writing those that are not. Shell around `plan`.

As kube-proxy sets them at its start, with its caps. It ends when one cannot be written; here `--init-only` does, while
the daemon, which may well run without the right, says what is missing and goes on: they are about many connections, not
about whether a Service is served. A backend has its own settings written by `enforce`.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from proxy.config.settings import ConntrackSettings
from proxy.errors import KernelError
from proxy.model import Value

_NETFILTER: Final = "proc/sys/net/netfilter/"
MAX: Final = _NETFILTER + "nf_conntrack_max"
HASH_SIZE: Final = "sys/module/nf_conntrack/parameters/hashsize"
TCP_ESTABLISHED: Final = _NETFILTER + "nf_conntrack_tcp_timeout_established"
TCP_CLOSE_WAIT: Final = _NETFILTER + "nf_conntrack_tcp_timeout_close_wait"
TCP_BE_LIBERAL: Final = _NETFILTER + "nf_conntrack_tcp_be_liberal"
UDP: Final = _NETFILTER + "nf_conntrack_udp_timeout"
UDP_STREAM: Final = _NETFILTER + "nf_conntrack_udp_timeout_stream"

MAX_BY_CORES: Final = 1 << 20
"""However many processors a machine has, `maxPerCore` asks for no more connections (kube-proxy from 1.36 on)."""
PER_BUCKET: Final = 4
"""Connections for each bucket of the hash table: with more, it is enlarged."""

log = logging.getLogger(__name__)


class Write(Value, frozen=True, kw_only=True):
    """A setting to be written. `present` is None where it could not be read.

    `is_enough`: what is there does as well, and somebody who cannot write need not mind.
    """

    file: str
    wanted: int
    present: int | None
    is_enough: bool = False


class Refused(Value, frozen=True, kw_only=True):
    """A setting that could not be written, and why."""

    write: Write
    errno: int
    reason: str

    def __str__(self) -> str:
        present = "cannot be read" if self.write.present is None else f"is {self.write.present}"
        return f"/{self.write.file} {present}, {self.write.wanted} is wanted: {self.reason}"


def most_connections(settings: ConntrackSettings, processors: int) -> int:
    """Return how many connections to track at most; 0 leaves that alone, whatever `min` says."""
    if not settings.max_per_core:
        return 0
    return max(min(settings.max_per_core * processors, MAX_BY_CORES), settings.min)


def plan(
    settings: ConntrackSettings, processors: int, present: Callable[[str], int | None]
) -> list[Write]:
    """Return what has to be written, in this order. `present` tells a file's value, None for one that has none. Pure."""
    found: list[Write] = []
    if most := most_connections(settings, processors):
        now = present(MAX)
        if now != most:
            is_enough = now is not None and now > most
            found.append(Write(file=MAX, wanted=most, present=now, is_enough=is_enough))
        buckets = present(HASH_SIZE)
        if buckets is None or buckets < most // PER_BUCKET:
            found.append(Write(file=HASH_SIZE, wanted=most // PER_BUCKET, present=buckets))
    for file, value in (
        (TCP_ESTABLISHED, int(settings.tcp_established_timeout_s)),
        (TCP_CLOSE_WAIT, int(settings.tcp_close_wait_timeout_s)),
        (TCP_BE_LIBERAL, int(settings.tcp_be_liberal)),
        (UDP, int(settings.udp_timeout_s)),
        (UDP_STREAM, int(settings.udp_stream_timeout_s)),
    ):
        if value and (now := present(file)) != value:
            found.append(Write(file=file, wanted=value, present=now))
    return found


def apply(settings: ConntrackSettings, root: Path = Path("/")) -> list[Refused]:
    """Write what is not as it should be; return what could not be written and is not enough as it is.

    `root` stands for the file system's.
    """
    writes = plan(settings, os.cpu_count() or 1, lambda file: read(file, root))
    refused = [_write(root, write) for write in writes]
    return [each for each in refused if each is not None and not each.write.is_enough]


def require(settings: ConntrackSettings, root: Path = Path("/")) -> None:
    """Write what is not as it should be. Raises KernelError naming every file that cannot be written."""
    if refused := apply(settings, root):
        said = "; ".join(map(str, refused))
        raise KernelError("set up connection tracking", refused[0].errno, said)


def attempt(settings: ConntrackSettings, root: Path = Path("/")) -> None:
    """Write what is not as it should be, and say what could not be written."""
    for each in apply(settings, root):
        log.warning(
            "%s; write it yourself, or run this program with --init-only and the right", each
        )


def enforce(wanted: Mapping[str, int], root: Path = Path("/")) -> list[Refused]:
    """Write those settings that are not as they should be, by file; return those that could not be written."""
    present = {file: read(file, root) for file in wanted}
    refused = [
        _write(root, Write(file=file, wanted=value, present=present[file]))
        for file, value in wanted.items()
        if present[file] != value
    ]
    return [each for each in refused if each is not None]


def read(file: str, root: Path = Path("/")) -> int | None:
    """Return a setting's value, None for one that cannot be read. /proc/sys/net is the network namespace's."""
    with contextlib.suppress(OSError, ValueError):
        return int((root / file).read_text())
    return None


def _write(root: Path, write: Write) -> Refused | None:
    """Write one setting; return why not, or None."""
    try:
        # never created: where a setting is missing, so is what would read it
        with open(os.open(root / write.file, os.O_WRONLY | os.O_TRUNC), "wb", 0) as opened:  # noqa: PTH123
            opened.write(b"%d\n" % write.wanted)
    except OSError as error:
        return Refused(write=write, errno=error.errno or 0, reason=error.strerror or str(error))
    return None
