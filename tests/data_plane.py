"""What a data plane does with connections: as it was asked for, and as the kernel's tables say. No code of a backend.

The reader of nftables tables knows the layout from its description alone (backends/nftables/README.md), so a mistake
that a planner makes consistently, on writing and on comparing, is still seen.
"""

import ipaddress
import re
import struct
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from backends.nftables.belief import TableFacts
from backends.nftables.model import Data
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey

Served = frozenset[str] | Literal["refused", "dropped"]
"""The endpoints among which connections are spread evenly, or what becomes of them without any."""


class Connection(NamedTuple):
    """Where clients connect."""

    family: Family
    protocol: str
    address: str
    port: int


Behaviour = dict[Connection, Served]

_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_PICK = re.compile(r"goto pick-(tcp|udp|sctp)-([0-9]+)")


def wanted(desired: Mapping[PortKey, DesiredPort]) -> Behaviour:
    """What should become of connections to cluster IPs."""
    behaviour: Behaviour = {}
    for key, port in desired.items():
        pool = frozenset([endpoint.address for endpoint in port.internal])
        for frontend in port.frontends:
            assert frontend.address is not None
            connection = Connection(key.family, key.name.protocol, frontend.address, frontend.port)
            assert connection not in behaviour
            behaviour[connection] = pool or ("dropped" if port.is_any_usable else "refused")
    return behaviour


def wanted_addresses(desired: Mapping[PortKey, DesiredPort]) -> set[tuple[Family, str]]:
    """The cluster IPs whose other ports are refused."""
    return {
        (key.family, str(frontend.address))
        for key, port in desired.items()
        for frontend in port.frontends
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
        pools = _pools(family, facts.elements)
        refused = facts.elements.get("refused", {})
        for key, verdict in facts.elements.get("services", {}).items():
            connection = _connection(family, key)
            if connection in leave_out:
                continue
            pool = pools.pop(connection, {})
            _check(pool, verdict, connection)
            if pool:
                assert key not in refused, f"{connection} is refused and served"
                behaviour[connection] = frozenset(pool.values())
            else:
                behaviour[connection] = "refused" if key in refused else "dropped"
        assert not pools, f"slots without a service: {pools}"
        assert refused.keys() <= facts.elements.get("services", {}).keys()
    return behaviour


def programmed_addresses(tables: Mapping[Family, TableFacts]) -> set[tuple[Family, str]]:
    return {
        (family, _address(key))
        for family, facts in tables.items()
        for key in facts.elements.get("cluster-ips", {})
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
    family: Family, elements: Mapping[str, Mapping[bytes, Data]]
) -> dict[Connection, dict[int, str]]:
    """What is in the slots of each pool, by slot number."""
    pools: dict[Connection, dict[int, str]] = {}
    for protocol in ("TCP", "UDP", "SCTP"):
        for key, data in elements.get(f"endpoints-{protocol.lower()}", {}).items():
            address, port, slot = key[:-8], key[-8:-4], struct.unpack("=I", key[-4:])[0]
            connection = Connection(family, protocol, _address(address), _port(port))
            assert isinstance(data, bytes)
            host = _address(data[:-4])
            endpoint = f"[{host}]" if family == "IPv6" else host
            pools.setdefault(connection, {})[slot] = f"{endpoint}:{_port(data[-4:])}"
    return pools


def _check(pool: Mapping[int, str], verdict: Data, connection: Connection) -> None:
    """The chain must find every endpoint, and each equally often."""
    match = _PICK.fullmatch(verdict) if isinstance(verdict, str) else None
    assert match is not None, f"{connection} leads to {verdict!r}"
    assert match[1].upper() == connection.protocol
    capacity = int(match[2])
    assert capacity & (capacity - 1) == 0
    assert sorted(pool) == list(range(len(pool))), f"{connection} has holes"
    assert len(set(pool.values())) == len(pool), f"{connection} has an endpoint twice"
    if pool:
        assert capacity / 2 < len(pool) <= capacity, f"{connection}: {len(pool)} of {capacity}"


def _connection(family: Family, key: bytes) -> Connection:
    assert key[-7:-4] == bytes(3)
    return Connection(family, _PROTOCOLS[key[-8]], _address(key[:-8]), _port(key[-4:]))


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _port(packed: bytes) -> int:
    assert packed[2:] == bytes(2)
    return int.from_bytes(packed[:2], "big")
