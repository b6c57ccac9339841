"""The kernel's table of tracked flows: looks through it and deletes what is stale. Shell.

It works in a thread: with 100,000 flows the kernel takes 30-40 ms for one walk, in which it holds neither the
interpreter nor the event loop, but lets nothing else run on that processor. What comes back is worked off in pieces of
some 100 entries.
"""

import errno
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from proxy.conntrack import Table, is_stale
from proxy.errors import KernelError
from proxy.model import Family, PortKey, Value
from proxy.netlink import codec, conntrack
from proxy.netlink.conntrack import Entry, Filter
from proxy.netlink.socket import DumpInterrupted, NetlinkSocket
from proxy.threads import to_thread

ATTEMPTS: Final = 5
"""How often a dump is begun that the kernel breaks off or calls inconsistent, before what came is made do with."""
_BATCH: Final = 512


class Found(Value, frozen=True):
    """What became of a sweep: entries deleted and seconds taken for each family, endpoints that keep flows.

    `cpu_s` is what the thread used, in the kernel too. `trouble` says why perhaps not everything stale was deleted.
    """

    deleted: dict[Family, int]
    took_s: dict[Family, float]
    kept: dict[PortKey, set[bytes]]
    cpu_s: float
    trouble: str = ""


class Sweeping(Protocol):
    """Whatever holds tracked flows and can be swept."""

    async def sweep(self, wanted: Sequence[Filter], table: Table) -> Found: ...


class NothingTracked:
    """The table of a kernel that has nothing of netfilter."""

    def close(self) -> None:
        """Nothing is held."""

    async def sweep(self, _wanted: Sequence[Filter], _table: Table) -> Found:
        return Found({}, {}, {}, 0.0)


def open_table() -> "ConntrackTable | NothingTracked":
    """Return the table of this network namespace. Raises KernelError."""
    try:
        return ConntrackTable()
    except KernelError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return NothingTracked()


class ConntrackTable:
    """Sweeps the table of the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(codec.NETLINK_NETFILTER)

    def close(self) -> None:
        self._socket.close()

    async def sweep(self, wanted: Sequence[Filter], table: Table) -> Found:
        """Delete what is stale among the flows that fit. Raises KernelError when the kernel will not tell them."""
        return await to_thread(self.sweep_here, wanted, table)

    def sweep_here(self, wanted: Sequence[Filter], table: Table) -> Found:
        """Do what `sweep` does, in the calling thread."""
        began_s = time.thread_time()
        deleted: dict[Family, int] = {}
        took_s: dict[Family, float] = {}
        kept: dict[PortKey, set[bytes]] = {}
        trouble = ""
        for each in wanted:
            started_s = time.monotonic()
            stale, unseen = self._look_through(each, table, kept)
            count, undeleted = self._delete(stale)
            deleted[each.family] = deleted.get(each.family, 0) + count
            took_s[each.family] = took_s.get(each.family, 0.0) + time.monotonic() - started_s
            trouble = trouble or unseen or undeleted
        return Found(deleted, took_s, kept, time.thread_time() - began_s, trouble)

    def forget(
        self,
        family: Family,
        ends: Mapping[bytes, Collection[bytes]],
        protocol: int = conntrack.IPPROTO_UDP,
    ) -> int:
        """Delete flows that connection tracking itself does not translate: their next packets are new to all rules.

        `ends` says for a destination (address and port in network byte order) where answers come from; nothing stands for
        anywhere. Returns how many there were. In the calling thread. Raises KernelError if any may be left.
        """
        wanted = Filter(family, protocol=protocol)
        for attempt in range(1, ATTEMPTS + 1):
            found: dict[bytes, Entry] = {}
            is_strict = attempt < ATTEMPTS
            try:
                for piece in self._socket.dump(conntrack.dump(wanted), is_strict=is_strict):
                    for payload in piece:
                        sources = ends.get(conntrack.destination(payload, protocol))
                        if sources is None or conntrack.is_translated(payload):
                            continue
                        entry = conntrack.parse(payload, protocol)
                        if entry is not None and (not sources or entry.source in sources):
                            found[entry.identity] = entry
            except DumpInterrupted:
                continue
            break
        deleted, refused = self._delete(list(found.values()))
        if refused:
            raise KernelError("delete tracked flows", 0, refused)
        return deleted

    def _look_through(
        self, wanted: Filter, table: Table, kept: dict[PortKey, set[bytes]]
    ) -> tuple[list[Entry], str]:
        """Return what is stale, and why perhaps not all of it."""
        for attempt in range(1, ATTEMPTS + 1):
            is_last = attempt == ATTEMPTS
            stale: dict[bytes, Entry] = {}
            problem = ""
            try:
                for piece in self._socket.dump(conntrack.dump(wanted), is_strict=not is_last):
                    _judge(piece, wanted.family, table, stale, kept)
            except DumpInterrupted:
                continue
            except KernelError as error:
                # EINTR and ENOBUFS: the table is resized, or pieces did not fit
                if error.errno not in (errno.EINTR, errno.ENOBUFS):
                    raise
                problem = str(error)
                continue
            break
        return list(stale.values()), problem

    def _delete(self, stale: Sequence[Entry]) -> tuple[int, str]:
        """Delete entries; return how many, and why not all."""
        deleted, refused = 0, ""
        for first in range(0, len(stale), _BATCH):
            requests = [conntrack.delete(entry) for entry in stale[first : first + _BATCH]]
            requests[-1] = requests[-1]._replace(flags=codec.NLM_F_ACK)
            failures = self._socket.transact(requests)
            deleted += len(requests) - len(failures)
            for failure in failures:
                if failure.errno != errno.ENOENT:  # it has not ended by itself meanwhile
                    refused = failure.text or os.strerror(failure.errno)
        return deleted, refused


def _judge(
    piece: Iterable[memoryview],
    family: Family,
    table: Table,
    stale: dict[bytes, Entry],
    kept: dict[PortKey, set[bytes]],
) -> None:
    """Look through a piece of a dump."""
    for payload in piece:
        owner = table.owner(family, conntrack.destination(payload))
        if owner is None:
            continue
        entry = conntrack.parse(payload)
        if entry is None or table.may_end_at_a_listener(entry):
            continue
        if is_stale(entry, owner):
            stale[entry.identity] = entry
        else:
            kept.setdefault(owner.key, set()).add(entry.source)
