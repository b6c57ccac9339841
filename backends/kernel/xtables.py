"""The door to iptables: runs the programs of one flavour and family. Shell; holds no policy.

Everything goes through `iptables-restore --noflush` and `iptables-save`, in texts of `xtables_text`; no shell is involved.
A call takes milliseconds, with a large legacy table most of a second, and may wait for the lock: call from a thread. The
program runs in the network namespace of that thread. That of `iptables-restore` stays for the next call (`xtables_kept`).

All rules of iptables are written under a lock that other programs take as well (/run/xtables.lock); waiting for it is
bounded. The nft flavour has none: it notices other writers by itself and begins anew.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from backends.kernel import xtables_legacy, xtables_text
from backends.kernel.nft import Nft
from backends.kernel.nft_messages import Rule, del_rule
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6
from backends.kernel.xtables_fed import Ended
from backends.kernel.xtables_kept import Call, KeptProgram
from backends.kernel.xtables_text import Chain, Flavour, RefusedLine, Version
from proxy.errors import Busy, KernelError, Unsupported
from proxy.model import IPV4, IPV6, Family

LOCK_WAIT_S: Final = 5
"""How long a program waits for the lock."""
NEEDS_NET_RAW: Final = "needs the capability NET_RAW; in a pod: deploy/mode-iptables.yaml"
_WORKING_S: Final = 60.0
_LOCK: Final = "/run/xtables.lock"
_LOOK_S: Final = 0.05
_STEMS: Final[dict[Family, str]] = {IPV4: "iptables", IPV6: "ip6tables"}
_NUMBERS: Final[dict[Family, int]] = {IPV4: NFPROTO_IPV4, IPV6: NFPROTO_IPV6}
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


class LockHeld(Busy):
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
        self._limit_s = lock_wait_s + _WORKING_S
        wait = ["--wait", str(lock_wait_s)]
        self._argv = [f"{programs.stem}-restore", "--noflush", *wait]
        self._kept = KeptProgram(self._argv, _environment())

    def restore(self, table: str, lines: Sequence[str]) -> None:
        """Carry out lines for one table: all of them or, with Refused or LockHeld, none. Without lines nothing is run.

        Raises KernelError itself when the outcome is unknown (the program was killed, or did not come back): read back
        what the lines are about.
        """
        if lines:
            request, text = self._asked(table, lines)
            self._judge(request, lines, self._carry_out(request, text))

    def begin(self, table: str, lines: Sequence[str]) -> "Begun | None":
        """Begin what `restore` does without waiting, if there is a program that can do it at once; or return None."""
        request, text = self._asked(table, lines)
        call = self._kept.begin(request, text, self._limit_s, waits=False)
        return Begun(call, partial(self._judge, request, lines)) if call is not None else None

    def _asked(self, table: str, lines: Sequence[str]) -> tuple[str, str]:
        """Return the words for a call, and what it is given."""
        request = f"{self._argv[0]}: {len(lines)} lines for table {table}"
        return request, xtables_text.restore_text(table, lines)

    def _carry_out(self, request: str, text: str) -> Ended:
        call = self._kept.begin(request, text, self._limit_s, waits=True)
        if call is not None:
            return call.finish()
        done = _run(request, self._argv, text, self._limit_s)
        return Ended(done.returncode, done.stderr)

    def _judge(self, request: str, lines: Sequence[str], ended: Ended) -> None:
        """Raise what came of a call."""
        if ended.status < 0:
            raise KernelError(request, errno.EINTR, f"killed by signal {-ended.status}")
        # one that gets the lock after a while may speak of it, too
        if ended.status and xtables_text.is_locked(ended.said):
            raise LockHeld(
                request, errno.EAGAIN, f"the xtables lock was held for {self._lock_wait_s} s"
            )
        if ended.status:
            refusals = xtables_text.parse_refusal(ended.said, lines, ended.lines_before)
            raise Refused(request, refusals)

    def save(self, table: str) -> dict[str, Chain]:
        """Return the chains of a table, built-in ones too. A legacy table that nobody has used yet has none, and stays unused.

        Raises Incompatible, where `chain_names` and `has_comment` still answer, and KernelError.
        """
        if not self._has(table):
            return {}
        name = f"{self.programs.stem}-save"
        request = f"{name}: table {table}"
        done = self._run(request, [name, "-t", table], "", _WORKING_S)
        # some such rules it notices beforehand, with others it fails
        if xtables_text.is_incompatible(done.stdout) or xtables_text.is_incompatible(done.stderr):
            raise Incompatible(request, 0, "it has rules that only nft can list")
        if done.returncode:
            raise KernelError(request, 0, done.stderr.strip() or f"exit {done.returncode}")
        return xtables_text.parse_save(done.stdout).get(table, {})

    def chain_names(self, table: str) -> list[str]:
        """Return the names of a table's chains, whatever rules are in them; of the nft flavour. Raises KernelError."""
        with Nft() as nft:
            return [chain.name for chain in nft.list_chains(_NUMBERS[self.programs.family], table)]

    def has_comment(self, table: str, chain: str, comment: str) -> bool:
        """Tell whether a rule with such a comment is in a chain, whatever else is in the table; of the nft flavour.

        The programs cannot be asked: they give up at the first rule that they cannot read. Raises KernelError.
        """
        with Nft() as nft:
            return bool(self._commented(nft, table, chain, comment))

    def remove_commented(self, table: str, chain: str, comment: str) -> int:
        """Remove the rules of a chain that have such a comment, as `has_comment` finds them; return how many. Raises KernelError."""
        with Nft() as nft:
            rules = self._commented(nft, table, chain, comment)
            nft.commit([del_rule(each.family, table, chain, each.handle) for each in rules])
        return len(rules)

    def _commented(self, nft: Nft, table: str, chain: str, comment: str) -> list[Rule]:
        """Return rules by their comment, which some versions store as a match, others beside the rule."""
        rules = nft.list_rules(_NUMBERS[self.programs.family], table, chain)
        return [r for r in rules if comment == r.comment or comment.encode() in r.expressions]

    def _has(self, table: str) -> bool:
        """Tell whether it is there; to ask the nft flavour for one that is not does no harm."""
        is_legacy = self.programs.version.flavour is Flavour.LEGACY
        return not is_legacy or table in xtables_legacy.table_names(self.programs.family)

    def system_s(self) -> float:
        """Return how long the kernel has worked for the program that is kept for the next call (seconds)."""
        return self._kept.system_s()

    def close(self) -> None:
        """End the program that is kept for the next call, which would start another one."""
        self._kept.close()

    def _run(
        self, request: str, argv: Sequence[str], stdin: str, limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        return _run(request, argv, stdin, limit_s)


class Begun:
    """A call of `iptables-restore` that was begun. Has to be finished."""

    def __init__(self, call: Call, judge: Callable[[Ended], None]) -> None:
        self._call = call
        self._judge = judge
        self.limit_s = call.limit_s

    @property
    def is_done(self) -> bool:
        """Whether it was carried out: then to finish it takes no time."""
        return self._call.talk.is_done

    @property
    def is_awaited(self) -> bool:
        """Whether the program has been given all of it, and only its answer is to come."""
        return self._call.talk.is_given and not self._call.talk.is_over

    @property
    def outputs(self) -> Sequence[int]:
        """When there is something to read at one of them, it can go on."""
        return self._call.talk.outputs

    def go_on(self) -> bool:
        """Do what can be done without waiting; return whether it is over."""
        return self._call.talk.go_on()

    def finish(self) -> None:
        """Wait for the end. Raises as `Xtables.restore`."""
        self._judge(self._call.finish())


def lacks_net_raw() -> bool:
    """Whether this process may open no raw sockets: the programs ask about sets through one, those of legacy about everything."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    except PermissionError:
        return True
    except OSError:
        pass  # the programs will say what is the matter
    return False


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


def _environment() -> dict[str, str]:
    """Return what programs are started with: their messages are compared, so they must be in English."""
    return {**os.environ, "LC_ALL": "C"}


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
            # names of others may be in any encoding
            encoding="utf-8",
            errors="surrogateescape",
            env=_environment(),
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(request, errno.ETIMEDOUT, f"no end within {limit_s:.0f} s") from error
    except OSError as error:
        raise KernelError(request, error.errno or 0, error.strerror or str(error)) from error
