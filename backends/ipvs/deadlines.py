"""Until when destinations may drain, kept over a restart: a small file, written atomically. Shell.

The kernel knows only that a destination has weight 0. Without the file, or with one that cannot be read, the time that a
draining destination has begins anew. Times are those of a clock that nobody sets and that begins with the boot: so a file
from before the last boot says nothing, as nothing of what it is about is left.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from backends.ipvs.model import Place
from backends.kernel.ipvs_objects import ServerId
from proxy.model import Family, Protocol, Value

FILE: Final = "ipvs-draining.json"
"""Its name in the directory of the state that must outlive a restart."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)

Deadlines = Mapping[ServerId, Mapping[Place, float]]


class _Entry(Value, frozen=True, kw_only=True):
    """One destination that drains. `until_s` is in seconds since the boot."""

    family: Family
    protocol: Protocol | None
    address: str
    port: int
    mark: int
    destination: str
    destination_port: int
    until_s: float


class _Saved(Value, frozen=True, kw_only=True):
    """All that drains, and which boot its times count from."""

    boot_id: str
    draining: tuple[_Entry, ...]


def now_s() -> float:
    """Return the seconds since the boot, those of a suspended machine too (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def load(file: Path) -> dict[tuple[ServerId, Place], float]:
    """Return what was saved last; nothing if there is no file or it cannot be read."""
    try:
        saved = msgspec.json.decode(file.read_bytes(), type=_Saved)
        is_of_this_boot = saved.boot_id == _boot_id()
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is not read, what drains has all its time again: %s", file, error)
        return {}
    if not is_of_this_boot:
        return {}
    return {
        (
            ServerId(each.family, each.protocol, each.address, each.port, each.mark),
            (each.destination, each.destination_port),
        ): each.until_s
        for each in saved.draining
    }


def save(file: Path, draining: Deadlines) -> None:
    """Replace the file. What cannot be written is logged: only the time after a restart depends on it."""
    entries = tuple(
        [
            _Entry(
                family=server.family,
                protocol=server.protocol,
                address=server.address,
                port=server.port,
                mark=server.mark,
                destination=place[0],
                destination_port=place[1],
                until_s=until_s,
            )
            for server, places in draining.items()
            for place, until_s in places.items()
        ]
    )
    new = file.with_suffix(f".{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(msgspec.json.encode(_Saved(boot_id=_boot_id(), draining=entries)))
        new.replace(file)
    except OSError as error:
        log.warning("%s could not be written: %s", file, error)


def _boot_id() -> str:
    return _BOOT.read_text().strip()
