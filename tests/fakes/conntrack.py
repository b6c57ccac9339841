"""Tracked flows in a list, which can be swept as the kernel's table is, and out of reach."""

from collections.abc import Sequence

from proxy.addresses import parse_ip
from proxy.conntrack import Table, is_stale
from proxy.conntrack_table import Found
from proxy.errors import KernelError
from proxy.model import IPV4, IPV6, Family, PortKey
from proxy.netlink.conntrack import Entry, Filter


def make_entry(destination: str, source: str | None = None, *, client: int = 1) -> Entry:
    """A flow from a client, told by a number, to `host:port`; without `source` it was not translated."""
    there, back = packed_end(destination), packed_end(source or destination)
    family: Family = IPV4 if len(there) == 6 else IPV6
    return Entry(family, there, back, there + client.to_bytes(4, "big"))


def packed_end(text: str) -> bytes:
    """An address and a port as entries have them."""
    host, _, port = text.rpartition(":")
    address = parse_ip(host.strip("[]"))
    assert address is not None, text
    return address.packed + int(port).to_bytes(2, "big")


class FakeFlows:
    """Holds flows, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.entries: set[Entry] = set()
        self.sweeps: list[list[Filter]] = []
        self.failure: KernelError | None = None
        self.trouble = ""
        """Why entries cannot be deleted; empty when they can."""
        self.cpu_s = 0.0

    async def sweep(self, wanted: Sequence[Filter], table: Table) -> Found:
        self.sweeps.append(list(wanted))
        if self.failure is not None:
            raise self.failure
        deleted: dict[Family, int] = {}
        kept: dict[PortKey, set[bytes]] = {}
        for each in wanted:
            deleted.setdefault(each.family, 0)
            for entry in [entry for entry in self.entries if _fits(entry, each)]:
                owner = table.owner(each.family, entry.destination)
                if owner is None or table.may_end_at_a_listener(entry):
                    continue
                if not is_stale(entry, owner):
                    kept.setdefault(owner.key, set()).add(entry.source)
                elif not self.trouble:
                    self.entries.remove(entry)
                    deleted[each.family] += 1
        took_s = dict.fromkeys(deleted, self.cpu_s)
        return Found(deleted, took_s, kept, self.cpu_s, self.trouble)


def _fits(entry: Entry, wanted: Filter) -> bool:
    return (
        entry.family == wanted.family
        and entry.destination[:-2].startswith(wanted.destination)
        and (not wanted.port or entry.destination[-2:] == wanted.port)
        and entry.source.endswith(wanted.source)
        and not (wanted.is_translated and entry.source == entry.destination)
    )
