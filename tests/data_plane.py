"""What a data plane does with connections: as it was asked for, and as the kernel's tables say. No code of a backend.

The reader of nftables tables knows the layout from its description alone (backends/nftables/README.md), so a mistake
that a planner makes consistently, on writing and on comparing, is still seen. What is in the rules of chains is for
tests with packets.
"""

import ipaddress
import re
import struct
from collections.abc import Collection, Mapping
from typing import Final, Literal, NamedTuple

from backends.kernel.nft_table import Data, TableFacts
from proxy.desired import DesiredPort, Frontend
from proxy.model import Endpoint, Family, PortKey

Served = frozenset[str] | Literal["refused", "dropped"]
"""The endpoints among which connections are spread evenly, or what becomes of them without any."""
Marked = Literal["kept", "masqueraded", "kept for pods"]
"""What becomes of the source address."""
Range = tuple[int, int]
"""First address, and the first one beyond."""

ANY_NODE_ADDRESS: Final = "*"


class Connection(NamedTuple):
    """Where clients connect."""

    family: Family
    protocol: str
    address: str
    port: int


class Treatment(NamedTuple):
    """What becomes of connections: of those from outside, and of those from pods here and the node itself.

    `ranges` are who may come in (None: everybody), `takes_own_vip` whether the VIP itself may.
    """

    outside: tuple[Served, Marked]
    here: tuple[Served, Marked]
    is_sticky: bool = False
    ranges: frozenset[Range] | None = None
    takes_own_vip: bool = False


Behaviour = dict[Connection, Treatment]

_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_PICK = re.compile(
    r"goto (pick|external|split)(-nodeport)?(-local)?-(tcp|udp|sctp)-(?:([0-9]+)-of-)?([0-9]+)(-affinity-[0-9]+)?"
)


def wanted(desired: Mapping[PortKey, DesiredPort]) -> Behaviour:
    """What should become of connections to the frontends of services."""
    behaviour: Behaviour = {}
    for key, port in desired.items():
        for frontend in port.frontends:
            connection = Connection(
                key.family,
                key.name.protocol,
                frontend.address or ANY_NODE_ADDRESS,
                frontend.port,
            )
            assert connection not in behaviour
            behaviour[connection] = _wanted(port, frontend)
    return behaviour


def _wanted(port: DesiredPort, frontend: Frontend) -> Treatment:
    def served(pool: tuple[Endpoint, ...] | None) -> Served:
        found = frozenset([endpoint.address for endpoint in pool or ()])
        return found or ("dropped" if port.is_any_usable else "refused")

    is_sticky = port.affinity_timeout_s is not None
    if frontend.kind == "ClusterIP":
        inside: tuple[Served, Marked] = (served(port.internal), "kept")
        return Treatment(inside, inside, is_sticky)
    is_guarded = frontend.kind == "LoadBalancer" and bool(port.source_ranges)
    outside: tuple[Served, Marked] = (served(port.cluster), "masqueraded")
    here = outside
    if port.external_local:
        outside, here = (served(port.local), "kept"), (served(port.cluster), "kept for pods")
    ranges = _merged(port.source_ranges) if is_guarded else None
    return Treatment(outside, here, is_sticky, ranges, is_guarded and port.allows_own_vips)


def _merged(cidrs: tuple[str, ...]) -> frozenset[Range]:
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    found: list[Range] = []
    for network in sorted(networks, key=lambda n: int(n.network_address)):
        first, beyond = int(network.network_address), int(network.broadcast_address) + 1
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], beyond))
        else:
            found.append((first, beyond))
    return frozenset(found)


def wanted_addresses(
    desired: Mapping[PortKey, DesiredPort], *, are_external: bool = False
) -> set[tuple[Family, str]]:
    """The cluster IPs, whose other ports are refused; or the addresses to which only some ports are services."""
    return {
        (key.family, frontend.address)
        for key, port in desired.items()
        for frontend in port.frontends
        if frontend.address is not None and (frontend.kind != "ClusterIP") == are_external
    }


def wanted_hairpins(desired: Mapping[PortKey, DesiredPort]) -> set[tuple[Family, str]]:
    """The pods here that may reach themselves through a service."""
    return {
        (key.family, str(ipaddress.ip_address(endpoint.ip)))
        for key, port in desired.items()
        for endpoint in port.reachable
        if endpoint.is_local or endpoint.node_name is None
    }


def programmed(
    tables: Mapping[Family, TableFacts], leave_out: Collection[Connection] = ()
) -> Behaviour:
    """What becomes of connections by our nftables tables. Raises AssertionError where they contradict themselves."""
    behaviour: Behaviour = {}
    for family, facts in tables.items():
        behaviour |= _Reader(family, facts, leave_out).read()
    return behaviour


class _Reader:
    """Reads one table."""

    def __init__(self, family: Family, facts: TableFacts, leave_out: Collection[Connection]):
        self._family = family
        self._facts = facts
        self._elements = facts.elements
        self._leave_out = leave_out
        self._pools = {
            **_pools(family, facts.elements, ""),
            **_pools(family, facts.elements, "nodeport-"),
        }
        self._read: set[tuple[Connection, bool]] = set()
        self._sticky: set[tuple[int, bool]] = set()

    def read(self) -> Behaviour:
        found: Behaviour = {}
        for verdicts, refused in (
            ("services", "refused"),
            ("externals", "refused"),
            ("nodeports", "nodeports-refused"),
        ):
            for key, verdict in self._of(verdicts).items():
                connection = self._connection(key)
                if connection in self._leave_out:
                    self._read |= {(connection, False), (connection, True)}
                    continue
                assert connection not in found
                is_refused = key in self._of(refused)
                outside, here, is_sticky = self._lead(connection, verdict, is_refused=is_refused)
                ranges, takes_own_vip = None, False
                if verdicts == "externals" and key in self._of("guarded"):
                    ranges, takes_own_vip = self._ranges(key)
                found[connection] = Treatment(outside, here, is_sticky, ranges, takes_own_vip)
        self._check_nothing_is_left(found)
        return found

    def _check_nothing_is_left(self, found: Behaviour) -> None:
        assert self._pools.keys() <= self._read, f"slots: {self._pools.keys() - self._read}"
        assert self._of("guarded").keys() <= self._of("externals").keys()
        with_address = self._of("services").keys() | self._of("externals").keys()
        assert self._of("refused").keys() <= with_address
        assert self._of("nodeports-refused").keys() <= self._of("nodeports").keys()
        self._check_no_number_is_left()
        width = 4 if self._family == "IPv4" else 16
        for name in self._elements:
            for key in self._of(name) if name.startswith("ranges-") else ():
                connection = self._connection(key[:-width])
                assert connection in self._leave_out or found[connection].ranges is not None

    def _check_no_number_is_left(self) -> None:
        if self._leave_out:
            return
        left = {(_upper_half(n), False) for n in self._of("affinity-endpoints")}
        left |= {(_upper_half(n), True) for n in self._of("affinity-endpoints-local")}
        for key in self._of("affinity-slots"):
            owner, slot = struct.unpack("=II", key)
            left.add((owner >> 16, slot >= 65536))
        assert left <= self._sticky, f"numbers: {left - self._sticky}"

    def _of(self, name: str) -> Mapping[bytes, Data]:
        return self._elements.get(name, {})

    def _lead(
        self, connection: Connection, verdict: Data, *, is_refused: bool
    ) -> tuple[tuple[Served, Marked], tuple[Served, Marked], bool]:
        """Return what becomes of connections from outside, of those from here, and whether there is session affinity."""
        assert isinstance(verdict, str)
        pick = _PICK.fullmatch(verdict)
        assert pick is not None, f"{connection} leads to {verdict!r}"
        assert pick[4].upper() == connection.protocol
        assert bool(pick[2]) == (connection.address == ANY_NODE_ADDRESS)
        assert verdict.removeprefix("goto ") in self._facts.chains
        is_sticky = bool(pick[7])

        def served(capacity: str, *, is_local: bool) -> Served:
            pool = self._pool(connection, int(capacity), is_local=is_local, is_sticky=is_sticky)
            assert not (pool and is_refused), f"{connection} is refused and served"
            return frozenset(pool.values()) or ("refused" if is_refused else "dropped")

        everywhere = served(pick[6], is_local=bool(pick[3]))
        assert (pick[5] is None) == (pick[1] != "split")
        if pick[5] is not None:
            here = served(pick[5], is_local=True)
            return (here, "kept"), (everywhere, "kept for pods"), is_sticky
        marked: Marked = "masqueraded" if pick[1] == "external" else "kept"
        return (everywhere, marked), (everywhere, marked), is_sticky

    def _pool(
        self, connection: Connection, capacity: int, *, is_local: bool, is_sticky: bool
    ) -> dict[int, str]:
        if is_sticky:
            pool = self._sticky_pool(self._service(connection), is_local=is_local)
        else:
            pool = self._pools.get((connection, is_local), {})
            self._read.add((connection, is_local))
        _check(pool, capacity, connection)
        return pool

    def _service(self, connection: Connection) -> int:
        """The number of the ServicePort to which a frontend with session affinity belongs."""
        is_node_port = connection.address == ANY_NODE_ADDRESS
        numbers = self._of("affinity-nodeports" if is_node_port else "affinity-services")
        (word,) = [data for key, data in numbers.items() if self._connection(key) == connection]
        assert isinstance(word, bytes)
        number, endpoint = divmod(struct.unpack("=I", word)[0], 1 << 16)
        assert 0x1000 <= number < 0x8000
        assert not endpoint
        return int(number)

    def _sticky_pool(self, service: int, *, is_local: bool) -> dict[int, str]:
        """The endpoints in the slots of one list with session affinity. What is in no slot must not be in the list."""
        elements = self._of(f"affinity-endpoints{'-local' if is_local else ''}")
        endpoints = {n: e for n, e in elements.items() if _upper_half(n) == service}
        self._sticky.add((service, is_local))
        first = 65536 if is_local else 0
        pool: dict[int, str] = {}
        for key, number in self._of("affinity-slots").items():
            owner, slot = struct.unpack("=II", key)
            if owner == service << 16 and 0 <= slot - first < 65536:
                assert isinstance(number, bytes)
                assert _upper_half(number) == service
                assert struct.unpack("=I", number)[0] % 16 == 0
                pool[slot - first] = _endpoint(self._family, endpoints[number])
        assert len(endpoints) == len(pool) == len(set(pool.values()))
        return pool

    def _ranges(self, key: bytes) -> tuple[frozenset[Range], bool]:
        width = 4 if self._family == "IPv4" else 16
        cidrs = [
            f"{_address(element[-width:])}/{name.removeprefix('ranges-')}"
            for name in self._elements
            for element in (self._of(name) if name.startswith("ranges-") else ())
            if element[:-width] == key
        ]
        own = f"{_address(key[:width])}/{8 * width}"
        return _merged(tuple([cidr for cidr in cidrs if cidr != own])), own in cidrs

    def _connection(self, key: bytes) -> Connection:
        assert key[-7:-4] == bytes(3)
        address = _address(key[:-8]) if len(key) > 8 else ANY_NODE_ADDRESS
        return Connection(self._family, _PROTOCOLS[key[-8]], address, _port(key[-4:]))


def programmed_addresses(
    tables: Mapping[Family, TableFacts], name: str = "cluster-ips"
) -> set[tuple[Family, str]]:
    return {
        (family, _address(key))
        for family, facts in tables.items()
        for key in facts.elements.get(name, {})
    }


def programmed_hairpins(tables: Mapping[Family, TableFacts]) -> set[tuple[Family, str]]:
    found: set[tuple[Family, str]] = set()
    for family, facts in tables.items():
        for key in facts.elements.get("hairpin", {}):
            half = len(key) // 2
            assert key[:half] == key[half:]
            found.add((family, _address(key[:half])))
    return found


def _pools(
    family: Family, elements: Mapping[str, Mapping[bytes, Data]], prefix: str
) -> dict[tuple[Connection, bool], dict[int, str]]:
    """What is in the slots of each list, by frontend and whether it is the local one, and slot number."""
    pools: dict[tuple[Connection, bool], dict[int, str]] = {}
    for protocol in ("TCP", "UDP", "SCTP"):
        for key, data in elements.get(f"{prefix}endpoints-{protocol.lower()}", {}).items():
            address, port, slot = key[:-8], key[-8:-4], struct.unpack("=I", key[-4:])[0]
            where = _address(address) if address else ANY_NODE_ADDRESS
            connection = Connection(family, protocol, where, _port(port))
            is_local = slot >= 65536
            number = slot - 65536 if is_local else slot
            pools.setdefault((connection, is_local), {})[number] = _endpoint(family, data)
    return pools


def _upper_half(word: bytes) -> int:
    number: int = struct.unpack("=I", word)[0]
    return number >> 16


def _endpoint(family: Family, data: Data) -> str:
    assert isinstance(data, bytes)
    host = _address(data[:-4])
    return f"{f'[{host}]' if family == 'IPv6' else host}:{_port(data[-4:])}"


def _check(pool: Mapping[int, str], capacity: int, connection: Connection) -> None:
    """The chain must find every endpoint, and each equally often."""
    assert capacity & (capacity - 1) == 0
    assert sorted(pool) == list(range(len(pool))), f"{connection} has holes"
    assert len(set(pool.values())) == len(pool), f"{connection} has an endpoint twice"
    if pool:
        assert capacity / 2 < len(pool) <= capacity, f"{connection}: {len(pool)} of {capacity}"


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _port(packed: bytes) -> int:
    assert packed[2:] == bytes(2)
    return int.from_bytes(packed[:2], "big")
