"""One network namespace of our own, and code that runs inside it.

Everything in e2e/ happens in namespaces made here, never in the host's. Their names carry the id of this run
(`sp-<hex>-<role>`), so that a leftover can be told from the namespaces of a run beside it.

No pytest in here: the demo uses the same module. Topology (who is connected to whom) is in topology.py.
"""

import contextlib
import ctypes
import itertools
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

RUN_ID = secrets.token_hex(3)

_NETNS_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_LEAVING_LIMIT_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)
_sequence = itertools.count(1)


class TopologyError(Exception):
    """The network under test could not be built, watched or removed as asked."""


def run(argv: Sequence[str], *, stdin: str = "") -> str:
    """What the command printed. Raises TopologyError with its own words if it fails."""
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise TopologyError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def entered(path: Path) -> Iterator[None]:
    """The calling thread, and what it starts meanwhile, is in the network namespace at `path`.

    A socket stays in the namespace it was opened in, so it can be used after leaving. Only the thread moves:
    its own /proc/sys/net is the namespace's, but /proc/net follows the process and /sys the mount.
    """
    with contextlib.ExitStack() as opened:
        home = _open(Path("/proc/thread-self/ns/net"), opened)
        _set_namespace(_open(path, opened), path)
        try:
            yield
        finally:
            _set_namespace(home, Path("/proc/thread-self/ns/net"))


def _open(path: Path, opened: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TopologyError(f"cannot open the network namespace {path}: {error}") from error
    opened.callback(os.close, descriptor)
    return descriptor


def _set_namespace(descriptor: int, path: Path) -> None:
    # os.setns() is there from Python 3.12 on
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise TopologyError(f"cannot enter the network namespace {path}: {os.strerror(code)}")


class Namespace:
    """A network namespace that lives as long as its `with` block. Its loopback is up.

    Leaving ends every process inside and removes the namespace; if either fails it says so.
    """

    def __init__(self, role: str) -> None:
        self.name = f"sp-{RUN_ID}{next(_sequence):02x}-{role}"
        self.path = _NETNS_DIRECTORY / self.name
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        run(["ip", "netns", "add", self.name])
        try:
            self.write_settings(_QUIET_AND_AT_ONCE)
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is inside for the length of a `with` block."""
        return entered(self.path)

    def ip(self, *lines: str) -> None:
        """Run `ip` commands, one per line without the word `ip`, in one process."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def run(self, argv: Sequence[str], *, stdin: str = "") -> str:
        """What the command printed, run inside. Raises TopologyError if it fails."""
        with self.entered():
            return run(argv, stdin=stdin)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a process inside; it is killed and reaped at the latest on leaving. Its stdin is a pipe.

        Who leaves its stdout a pipe has to read it; a program that writes much should get a file.
        """
        with self.entered():
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                text=True,
            )
        self._started.append(process)
        return process

    def write_settings(self, settings: Iterable[tuple[str, str]]) -> None:
        """Write sysctls, named by their path under /proc/sys/net."""
        with self.entered():
            for name, value in settings:
                (Path("/proc/sys/net") / name).write_text(value)

    def process_ids(self) -> list[int]:
        """The processes inside, whoever started them."""
        here = self.path.stat()
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _is_same_file(entry / "ns/net", here)
        ]

    def close(self) -> None:
        """End every process inside, then remove the namespace."""
        if not self.path.exists():
            raise TopologyError(f"{self.name} was removed by somebody else")
        self._end_processes(time.monotonic() + _LEAVING_LIMIT_S)
        run(["ip", "netns", "delete", self.name])

    def _end_processes(self, deadline: float) -> None:
        while inside := self.process_ids():
            if os.getpid() in inside:
                raise TopologyError(f"this process is still inside {self.name}")
            if time.monotonic() > deadline:
                raise TopologyError(f"{self.name}: processes {inside} outlive SIGKILL")
            for process_id in inside:
                _kill(process_id, deadline)
        for process in self._started:
            reap(process)
        self._started.clear()


def reap(process: subprocess.Popen[str]) -> None:
    """Kill the process if it still runs, take its exit status and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            # what stood in the buffer of a pipe whose reader is gone cannot be delivered
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _is_same_file(path: Path, other: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), other)
    except OSError:  # the process is gone, or ends just now
        return False


def _kill(process_id: int, deadline: float) -> None:
    """Kill and wait for the end, as long as the deadline allows: a process descriptor is readable after it."""
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll(max(0.0, deadline - time.monotonic()) * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


# Addresses are usable at once (no duplicate address detection), nothing is learnt from router advertisements,
# packets may come in on another link than the reverse route's, nobody is redirected around the node, and a rule that
# rejects is heard each time. `all` and `default` differ in when they count; both are written before the first link exists.
_QUIET_AND_AT_ONCE = [
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    *(
        (f"{family}/conf/{which}/{name}", value)
        for which in ("all", "default")
        for family, name, value in (
            ("ipv6", "accept_dad", "0"),
            ("ipv6", "accept_ra", "0"),
            ("ipv4", "rp_filter", "0"),
            ("ipv4", "send_redirects", "0"),
        )
    ),
]
