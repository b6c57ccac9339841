"""What becomes of connections by rules and sets of iptables as they stand. No code of the backend but names of chains and sets.

Packets of each class of clients are sent through the rules on paper (tests/fakes/packets.py), so a mistake that a planner
makes consistently, on writing and on comparing, is still seen.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from backends.kernel.ipset_objects import Member
from proxy.model import PROTOCOLS, Family
from tests.contract.ipvs_reader import Told
from tests.data_plane import (
    ANY_NODE_ADDRESS,
    Behaviour,
    Connection,
    Marked,
    Range,
    Served,
    Treatment,
    _merged,
)
from tests.fakes.packets import Chains, Host, Packet

_NUMBERS: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
_OWN: Final[dict[Family, str]] = {"IPv4": "192.0.2.1", "IPv6": "2001:db8:1::1"}
_OUTSIDE: Final[dict[Family, str]] = {"IPv4": "198.18.0.77", "IPv6": "2001:db8:f::77"}
_POD: Final[dict[Family, str]] = {"IPv4": "10.244.200.200", "IPv6": "fd00:10:244:ffff::9"}
_LEAD: Final = re.compile(
    r"(?:.*-d (?P<address>\S+)/(?:32|128) )?.*-p (?P<protocol>\S+) .*--dport (?P<port>[0-9]+) -g (?P<target>SLICEPROXY-[SLE]-\S+)"
).fullmatch


class Tables(NamedTuple):
    """The rules of one family."""

    nat: Chains
    filter: Chains


def programmed(
    tables: Mapping[Family, Tables],
    sets: Mapping[str, Collection[Member]],
    leave_out: Collection[Connection] = (),
) -> Behaviour:
    """What becomes of connections to all frontends. Raises AssertionError where rules and sets contradict each other."""
    told = Told()
    for family, each in tables.items():
        told.update(_Reader(family, each, sets).read(leave_out))
    return told


class _Reader:
    """Reads one family."""

    def __init__(
        self, family: Family, tables: Tables, sets: Mapping[str, Collection[Member]]
    ) -> None:
        self._family: Family = family
        self._nat = tables.nat
        self._prefix = f"sliceproxy{family[-1]}-"
        self._sets = {name: set(members) for name, members in sets.items()}
        # who may come in is read from the sets; what becomes of those who do, by packets
        open_sets = {**self._sets, f"{self._prefix}guarded": set[Member]()}
        self._host = Host(tables.nat, tables.filter, open_sets, {_OWN[family]})
        self._leads = dict(self._read_leads())

    def read(self, leave_out: Collection[Connection]) -> Behaviour:
        connections = [*self._frontends(), *self._node_ports()]
        treated = {each: self._treat(each) for each in connections if each not in leave_out}
        for place in self._of("guarded"):
            assert self._connection(place) in connections
        for each in self._of("allowed"):
            assert each._replace(other="") in self._of("guarded")
        return {each: treatment for each, treatment in treated.items() if treatment is not None}

    def _of(self, name: str) -> set[Member]:
        return self._sets.get(f"{self._prefix}{name}", set())

    def _frontends(self) -> Iterator[Connection]:
        for place in self._of("frontends"):
            yield self._connection(place)

    def _connection(self, place: Member) -> Connection:
        address = str(ipaddress.ip_address(place.address))
        return Connection(self._family, _NUMBERS[place.protocol], address, place.port)

    def _node_ports(self) -> Iterator[Connection]:
        for protocol in PROTOCOLS:
            for member in self._of(f"ports-{protocol.lower()}"):
                yield Connection(self._family, protocol, ANY_NODE_ADDRESS, member.port)

    def _treat(self, connection: Connection) -> Treatment | None:
        """Return what becomes of connections, None if the rules do not know of them."""
        outside, from_outside = self._fate(connection, _OUTSIDE[self._family], "eth0")
        pods, from_pods = self._fate(connection, _POD[self._family], "eth0")
        node, from_node = self._fate(connection, _OWN[self._family], "")
        assert pods == node
        if outside == "passed" or pods == "passed":
            return None
        is_cluster_ip = (from_outside, from_pods, from_node) == (True, False, True)
        marked: Marked = "masqueraded" if from_outside and not is_cluster_ip else "kept"
        marked_here: Marked = "kept"
        if from_node and not is_cluster_ip:
            marked_here = "masqueraded" if from_pods else "kept for pods"
        assert from_node is not False, "what the node sends is masqueraded"
        ranges, takes_own = self._ranges(connection)
        is_sticky = self._is_sticky(connection, "C" if is_cluster_ip else "XN")
        return Treatment((outside, marked), (pods, marked_here), is_sticky, ranges, takes_own)

    def _fate(
        self, connection: Connection, source: str, interface: str
    ) -> tuple[Served | Literal["passed"], bool | None]:
        """Return where packets go, each equally often, and whether they are masqueraded."""
        address = connection.address
        to = _OWN[self._family] if address == ANY_NODE_ADDRESS else address
        assert connection.protocol in PROTOCOLS
        protocol = connection.protocol
        fates = self._host.fates(Packet(source, to, protocol, connection.port, interface))
        kinds = {fate.kind for fate in fates}
        if kinds == {"served"}:
            assert all(abs(chance - 1 / len(fates)) < 1e-6 for chance in fates.values()), fates
            (is_masqueraded,) = {fate.is_masqueraded for fate in fates}
            return frozenset([fate.endpoint for fate in fates]), is_masqueraded
        assert len(fates) == 1, (connection, fates)
        outcomes: Mapping[str, Literal["refused", "dropped", "passed"]] = {
            "refused": "refused",
            "dropped": "dropped",
            "passed": "passed",
        }
        return outcomes[kinds.pop()], None

    def _ranges(self, connection: Connection) -> tuple[frozenset[Range] | None, bool]:
        place = next(
            (each for each in self._of("guarded") if self._connection(each) == connection), None
        )
        if place is None:
            return None, False
        allowed = {e.other for e in self._of("allowed") if e._replace(other="") == place}
        own = f"{place.address}/{32 if self._family == 'IPv4' else 128}"
        return _merged(tuple(allowed - {own})), own in allowed

    def _read_leads(self) -> Iterator[tuple[tuple[str, str, str, int], str]]:
        for chain, rules in self._nat.items():
            if not chain.startswith("SLICEPROXY-") or chain.split("-")[1] in {"S", "L", "E", "A"}:
                continue
            for rule in rules:
                found = _LEAD(rule)
                if found is not None:
                    address = found["address"] or ANY_NODE_ADDRESS
                    if found["address"]:
                        address = str(ipaddress.ip_address(address))
                    tree = "X" if chain == "SLICEPROXY-EXTERNAL" else chain[11]
                    key = tree, address, found["protocol"].upper(), int(found["port"])
                    yield key, found["target"]

    def _is_sticky(self, connection: Connection, trees: str) -> bool:
        _, protocol, address, port = connection
        keys = [(tree, address, protocol, port) for tree in trees]
        pending = [self._leads[key] for key in keys if key in self._leads]
        reached = set(pending)
        while pending:
            for rule in self._nat[pending.pop()]:
                if "--add-set" in rule:
                    return True
                target = rule.rpartition("-g ")[2]
                if target in self._nat and target not in reached:
                    reached.add(target)
                    pending.append(target)
        return False
