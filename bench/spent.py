"""What programs have cost that were started here, those that still run too. Shell.

How much of it the kernel worked for them is sampled at its ticks, so it is true of many calls only.
"""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_SELF: Final = Path("/proc/self/task")
# fields utime and stime of /proc/PID/stat, counted from the first one behind the name
_USER_TICKS: Final = 11


class Times(NamedTuple):
    """Processor time: of programs themselves, and of the kernel for them (seconds)."""

    own_s: float
    kernel_s: float


def so_far() -> Times:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = list(_running())
    return Times(
        ended.ru_utime + sum([each.own_s for each in running]),
        ended.ru_stime + sum([each.kernel_s for each in running]),
    )


def since_ms(before: Times) -> dict[str, float]:
    """Return the processor time of all programs since: their own, and the kernel's for them (milliseconds)."""
    now = so_far()
    return {
        "own": (now.own_s - before.own_s) * 1e3,
        "kernel": (now.kernel_s - before.kernel_s) * 1e3,
    }


def _running() -> Iterator[Times]:
    for thread in _SELF.iterdir():
        for child in (thread / "children").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                yield _of(Path("/proc", child))


def _of(process: Path) -> Times:
    """Return the time of a process with one thread: exact in all, by its ticks in parts."""
    all_s = int((process / "schedstat").read_text().split()[0]) / 1e9
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    user, system = (int(field) for field in fields[_USER_TICKS : _USER_TICKS + 2])
    kernel_s = all_s * system / (user + system) if user + system else 0.0
    return Times(all_s - kernel_s, kernel_s)
