"""What becomes of connections by virtual servers and the side rules' sets. No code of the backend but names.

The reader knows the layout from its description alone (backends/ipvs/README.md), so a mistake that a planner makes
consistently, on writing and on comparing, is still seen. What is in the rules of chains is for tests with packets.
"""

import ipaddress
from collections.abc import Collection, Mapping
from typing import Final

from backends.ipvs.belief import Observed
from backends.kernel.ipvs_objects import ServerId, marked
from backends.kernel.nft_table import TableFacts
from proxy.model import Family
from tests.data_plane import (
    ANY_NODE_ADDRESS,
    Behaviour,
    Connection,
    Marked,
    Range,
    Served,
    Treatment,
)

_PROTOCOLS: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
_MASQUERADE: Final = 0x4000
_PERSISTENT: Final = 0x1
_HASHES_PORT: Final = 0x10


class Told(dict[Connection, Treatment]):
    """What becomes of connections, but for what becomes of the source where nobody is there to see it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and _relevant(self) == _relevant(other)

    __hash__ = None


def _relevant(behaviour: Mapping[Connection, Treatment]) -> Behaviour:
    found: Behaviour = {}
    for connection, treatment in behaviour.items():
        outside, here = _relevant_part(treatment.outside), _relevant_part(treatment.here)
        is_served = not isinstance(outside[0], str) or not isinstance(here[0], str)
        found[connection] = treatment._replace(
            outside=outside,
            here=here,
            is_sticky=treatment.is_sticky and is_served,
            takes_own_vip=treatment.takes_own_vip or _is_in(connection, treatment.ranges),
        )
    return found


def _is_in(connection: Connection, ranges: frozenset[Range] | None) -> bool:
    """Whether the VIP itself is in the ranges, and may come in by that."""
    if not ranges:
        return False
    vip = int(ipaddress.ip_address(connection.address))
    return any(first <= vip < beyond for first, beyond in ranges)


def _relevant_part(part: tuple[Served, Marked]) -> tuple[Served, Marked]:
    return (part[0], "kept") if isinstance(part[0], str) else part


def programmed(observed: Observed, leave_out: Collection[Connection] = ()) -> Behaviour:
    """What becomes of connections by this belief. Raises AssertionError where it contradicts itself."""
    told = Told()
    for family, facts in observed.tables.items():
        told.update(_Reader(family, facts, observed, leave_out).read())
    return told


def unused(observed: Observed) -> set[ServerId]:
    """The virtual servers nobody is sent to."""
    left = set(observed.servers)
    for family, facts in observed.tables.items():
        reader = _Reader(family, facts, observed, ())
        reader.read()
        left -= reader.servers
    return left


class _Reader:
    """Reads one family."""

    def __init__(
        self,
        family: Family,
        facts: TableFacts,
        observed: Observed,
        leave_out: Collection[Connection],
    ) -> None:
        self._family = family
        self._elements = facts.elements
        self._observed = observed
        self._leave_out = leave_out
        self.servers: set[ServerId] = set()

    def read(self) -> Behaviour:
        found: Behaviour = {}
        for key in self._of("services"):
            connection = self._connection(key)
            served, is_sticky = self._at_address(connection)
            if connection not in self._leave_out:
                found[connection] = Treatment((served, "kept"), (served, "kept"), is_sticky)
        for prefix, sets in (("", "{}"), ("nodeport-", "nodeports-{}")):
            outer = "externals" if not prefix else "nodeports"
            nothing = {
                name: self._of(name if not prefix else sets.format(name))
                for name in ("dropped", "refused")
            }
            keys = self._of(outer).keys() | nothing["dropped"].keys() | nothing["refused"].keys()
            assert self._of(f"{prefix}shortcuts").keys() <= keys
            for key in keys:
                connection = self._connection(key)
                if connection in self._leave_out:
                    continue
                assert connection not in found
                found[connection] = self._outer(key, outer, f"{prefix}shortcuts", nothing)
        self._check(found)
        return found

    def _outer(
        self, key: bytes, outer: str, shortcuts: str, nothing: Mapping[str, Mapping[bytes, object]]
    ) -> Treatment:
        there = [name for name, keys in nothing.items() if key in keys]
        is_sticky = False
        if key in self._of(outer):
            assert not there
            outside, marked_as, is_sticky = self._by_mark(self._of(outer)[key])
        else:
            (word,) = there
            outside, marked_as = ("dropped" if word == "dropped" else "refused"), "kept"
        here: tuple[Served, Marked] = outside, marked_as
        if key in self._of(shortcuts):
            served, masqueraded, is_sticky = self._by_mark(self._of(shortcuts)[key])
            assert masqueraded == "kept"
            here = served, "kept for pods"
        ranges, takes_own = None, False
        if key in self._of("guarded"):
            ranges, takes_own = self._ranges(key)
        return Treatment((outside, marked_as), here, is_sticky, ranges, takes_own)

    def _at_address(self, connection: Connection) -> tuple[Served, bool]:
        family, protocol, address, port = connection
        server = ServerId(family, protocol, address, port)  # type: ignore[arg-type] # one of ours
        if connection in self._leave_out and server not in self._observed.servers:
            return frozenset(), False
        self.servers.add(server)
        found = self._observed.servers[server]
        is_persistent = bool(found.flags & _PERSISTENT)
        assert is_persistent == bool(found.timeout_s)
        return self._pool(server), is_persistent

    def _by_mark(self, data: object) -> tuple[Served, Marked, bool]:
        assert isinstance(data, bytes)
        mark = int.from_bytes(data, "little")
        server = marked(self._family, mark)
        self.servers.add(server)
        found = self._observed.servers[server]
        is_sticky = found.scheduler == "mh" and not found.flags & _HASHES_PORT
        source: Marked = "masqueraded" if mark & _MASQUERADE else "kept"
        return self._pool(server), source, is_sticky

    def _pool(self, server: ServerId) -> Served:
        destinations = self._observed.destinations[server].values()
        served = [each for each in destinations if each.weight]
        assert served
        assert all((each.weight, each.forwarding) == (1, 0) for each in served)
        return frozenset([str(each) for each in served])

    def _ranges(self, key: bytes) -> tuple[frozenset[Range], bool]:
        width = 4 if self._family == "IPv4" else 16
        found: set[Range] = set()
        takes_own = False
        for element in self._of("allowed"):
            half = len(element) // 2
            first, last = element[:half], element[half:]
            assert first[width:] == last[width:]
            if first[width:] != key:
                continue
            if first[:width] == last[:width] == key[:width]:
                takes_own = True
            else:
                bounds = int.from_bytes(first[:width]), int.from_bytes(last[:width]) + 1
                found.add(bounds)
        assert found
        return frozenset(found), takes_own

    def _check(self, found: Behaviour) -> None:
        """Whether everything in the sets is about some frontend."""
        width = 4 if self._family == "IPv4" else 16
        for key in self._of("guarded"):
            connection = self._connection(key)
            assert connection in self._leave_out or found[connection].ranges is not None
        for element in self._of("allowed"):
            connection = self._connection(element[width : len(element) // 2])
            assert connection in self._leave_out or found[connection].ranges is not None
        bound = {str(ipaddress.ip_address(member)) for member in self._of("bound")}
        on_device = {a for a in self._observed.bound if (":" in a) == (self._family == "IPv6")}
        assert bound == on_device

    def _of(self, name: str) -> Mapping[bytes, object]:
        return self._elements.get(name, {})

    def _connection(self, key: bytes) -> Connection:
        assert key[-7:-4] == bytes(3)
        assert key[-2:] == bytes(2)
        address = str(ipaddress.ip_address(key[:-8])) if len(key) > 8 else ANY_NODE_ADDRESS
        port = int.from_bytes(key[-4:-2])
        return Connection(self._family, _PROTOCOLS[key[-8]], address, port)
