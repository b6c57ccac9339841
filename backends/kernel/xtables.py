"""The door to iptables: runs the programs of one flavour and family. Shell; holds no policy.

Everything goes through `iptables-restore --noflush` and `iptables-save`, in texts of `xtables_text`; no shell is involved.
A call takes milliseconds, with a large legacy table most of a second, and may wait for the lock: call from a thread. The
program runs in the network namespace of that thread.

All rules of iptables are written under a lock that other programs take as well (/run/xtables.lock); waiting for it is
bounded. The nft flavour has none: it notices other writers by itself and begins anew.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from backends.kernel import xtables_legacy, xtables_text
from backends.kernel.xtables_text import Chain, Flavour, RefusedLine, Version
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, IPV6, Family

LOCK_WAIT_S: Final = 5
"""How long a program waits for the lock."""
_WORKING_S: Final = 60.0
_LOCK: Final = "/run/xtables.lock"
_LOOK_S: Final = 0.05
_STEMS: Final[dict[Family, str]] = {IPV4: "iptables", IPV6: "ip6tables"}
_KNOWS_WAIT: Final = (1, 6, 2)  # from here on iptables-restore takes --wait


class Programs(NamedTuple):
    """The programs of one flavour and family, by name: `iptables-nft` stands for `iptables-nft-restore` and `-save`."""

    family: Family
    stem: str
    version: Version


class Refused(KernelError):  # noqa: N818 (reads as a fact in `except`)
    """Nothing was done, because of these lines; there is always one. Where no line is named, the kernel took offence at all."""

    def __init__(self, request: str, refusals: tuple[RefusedLine, ...]) -> None:
        more = f" and {len(refusals) - 1} more" if len(refusals) > 1 else ""
        super().__init__(request, 0, f"{refusals[0].text}{more}")
        self.refusals = refusals


class LockHeld(KernelError):  # noqa: N818
    """Nothing was done: another program held the lock all the time."""


class Incompatible(KernelError):  # noqa: N818
    """A table of nftables' has something that the programs have no words for, so they do not list it."""


def find_programs(family: Family) -> dict[Flavour, Programs]:
    """Return the programs that are installed. Without a name of their own they are found as plain `iptables`."""
    stem = _STEMS[family]
    found: dict[Flavour, Programs] = {}
    for each in (*[f"{stem}-{flavour}" for flavour in Flavour], stem):
        if version := _version(each):
            found.setdefault(version.flavour, Programs(family, each, version))
    return found


def usual_flavour(family: Family) -> Flavour | None:
    """Return the flavour that this host's administrator gets from plain `iptables`, None if there is none."""
    version = _version(_STEMS[family])
    return version.flavour if version else None


class Xtables:
    """The rules of one flavour and family. Raises Unsupported if the programs are too old."""

    def __init__(self, programs: Programs, lock_wait_s: int = LOCK_WAIT_S) -> None:
        if programs.version.number < _KNOWS_WAIT:
            wanted = ".".join(map(str, _KNOWS_WAIT))
            raise Unsupported(
                f"iptables {wanted}",
                f"{programs.stem} is {programs.version}, which waits for no lock",
            )
        self.programs = programs
        self._lock_wait_s = lock_wait_s

    def restore(self, table: str, lines: Sequence[str]) -> None:
        """Carry out lines for one table: all of them or, with Refused or LockHeld, none. Without lines nothing is run.

        Raises KernelError itself when the outcome is unknown (the program was killed, or did not come back): read back
        what the lines are about.
        """
        if not lines:
            return
        text = xtables_text.restore_text(table, lines)
        name = f"{self.programs.stem}-restore"
        wait = ["--wait", str(self._lock_wait_s)]
        request = f"{name}: {len(lines)} lines for table {table}"
        limit_s = self._lock_wait_s + _WORKING_S
        done = self._run(request, [name, "--noflush", *wait], text, limit_s)
        if done.returncode < 0:
            raise KernelError(request, errno.EINTR, f"killed by signal {-done.returncode}")
        if xtables_text.is_locked(done.stderr):
            raise LockHeld(
                request, errno.EAGAIN, f"the xtables lock was held for {self._lock_wait_s} s"
            )
        if done.returncode:
            raise Refused(request, xtables_text.parse_refusal(done.stderr, lines))

    def save(self, table: str) -> dict[str, Chain]:
        """Return the chains of a table, built-in ones too. A legacy table that nobody has used yet has none, and stays unused.

        Raises Incompatible, KernelError.
        """
        if not self._has(table):
            return {}
        name = f"{self.programs.stem}-save"
        request = f"{name}: table {table}"
        done = self._run(request, [name, "-t", table], "", _WORKING_S)
        if done.returncode:
            raise KernelError(request, 0, done.stderr.strip() or f"exit {done.returncode}")
        if xtables_text.is_incompatible(done.stdout):
            raise Incompatible(request, 0, "it has rules that only nft can list")
        return xtables_text.parse_save(done.stdout).get(table, {})

    def _has(self, table: str) -> bool:
        """Tell whether it is there; to ask the nft flavour for one that is not does no harm."""
        is_legacy = self.programs.version.flavour is Flavour.LEGACY
        return not is_legacy or table in xtables_legacy.table_names(self.programs.family)

    def _run(
        self, request: str, argv: Sequence[str], stdin: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        return _run(request, argv, stdin, limit_s)


@contextlib.contextmanager
def lock_held(limit_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock that the programs of the legacy flavour take, for who writes its tables without them.

    Raises LockHeld when another program keeps it, KernelError when there can be none.
    """
    path = os.environ.get("XTABLES_LOCKFILE", _LOCK)
    request = f"lock {path}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KernelError(request, error.errno or 0, error.strerror or "") from error
    deadline_s = time.monotonic() + limit_s
    try:
        while not _is_locked(descriptor):
            if time.monotonic() >= deadline_s:
                raise LockHeld(request, errno.EAGAIN, f"it was held for {limit_s:.0f} s")
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _version(stem: str) -> Version | None:
    """Return what the program says of itself, None if there is none, or none to speak with."""
    if shutil.which(stem) is None:
        return None
    done = _run(f"{stem} --version", [stem, "--version"], "", _WORKING_S)
    return None if done.returncode else xtables_text.parse_version(done.stdout)


def _run(
    request: str, argv: Sequence[str], stdin: str, limit_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises KernelError if it cannot be started, or did not end in time and was killed."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            check=False,
            # names of others may be in any encoding; messages are compared, so they must be in English
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "LC_ALL": "C"},
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(request, errno.ETIMEDOUT, f"no end within {limit_s:.0f} s") from error
    except OSError as error:
        raise KernelError(request, error.errno or 0, error.strerror or str(error)) from error
