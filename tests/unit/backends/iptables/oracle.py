"""What should become of a packet, said from DesiredPorts alone; and packets worth asking about."""

import ipaddress
import random
from collections.abc import Collection, Iterator, Mapping

from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode, is_in_any
from proxy.model import PROTOCOLS, Family, PortKey
from tests.fakes.packets import DROPPED, PASSED, REFUSED, Fate, Fates, Packet
from tests.unit.backends.iptables.planning import OWN

PODS: Mapping[Family, str] = {"IPv4": "10.244.1.0/24", "IPv6": "fd00:10:244:1::/64"}
_SOURCES: Mapping[Family, tuple[str, ...]] = {
    "IPv4": ("192.0.2.77", "203.0.113.9", "10.1.2.3", "10.244.1.3", "10.244.1.200"),
    "IPv6": ("2001:db8::77", "fd00:ffff::1", "2001:db9::9", "fd00:10:244:1::3"),
}
_FREE: Mapping[Family, str] = {"IPv4": "198.51.100.1", "IPv6": "2001:db8:ffff::1"}


def expected(
    packet: Packet, ports: Collection[DesiredPort], node: DesiredNode, family: Family
) -> Fates:
    """Return what should become of a packet that meets nothing but what these ports ask for."""
    found = [
        (port, frontend)
        for port in ports
        for frontend in port.frontends
        if _is_meant(packet, port, frontend, node, family)
    ]
    by_address = [each for each in found if each[1].address is not None]
    if found:
        port, frontend = (by_address or found)[0]
        return _at_frontend(packet, port, frontend, _reflecting(ports, packet))
    addresses = {
        frontend.address
        for port in ports
        for frontend in port.frontends
        if frontend.kind == "ClusterIP" and port.key.family == family
    }
    if packet.destination in addresses:
        return {REFUSED: 1}
    if packet.destination != OWN[family] and is_in_any(packet.destination, node.service_cidrs):
        return {DROPPED: 1}
    return {PASSED: 1}


def endpoints_behind(
    packet: Packet, ports: Collection[DesiredPort], node: DesiredNode
) -> set[str]:
    """Return all endpoints of the ports that a packet may be meant for."""
    return {
        endpoint.address
        for port in ports
        for frontend in port.frontends
        if _is_meant(packet, port, frontend, node, port.key.family)
        for endpoint in port.reachable
    }


def _is_meant(
    packet: Packet, port: DesiredPort, frontend: Frontend, node: DesiredNode, family: Family
) -> bool:
    if (family, packet.protocol, packet.port) != (
        port.key.family,
        port.key.name.protocol,
        frontend.port,
    ):
        return False
    if frontend.address is not None:
        return packet.destination == frontend.address
    listened_on = node.node_port_addresses.get(family)
    return packet.destination in (
        (OWN[family], "127.0.0.1") if listened_on is None else listened_on
    )


def _at_frontend(
    packet: Packet, port: DesiredPort, frontend: Frontend, reflecting: Collection[str]
) -> Fates:
    family = port.key.family
    is_pod = bool(packet.interface) and is_in_any(packet.source, [PODS[family]])
    is_node = not packet.interface
    if frontend.kind == "LoadBalancer" and port.source_ranges:
        own = [frontend.address] if port.allows_own_vips else []
        if not is_in_any(packet.source, port.source_ranges) and packet.source not in own:
            return {DROPPED: 1}
    if frontend.kind == "ClusterIP":
        pool, is_masqueraded = port.internal, not is_pod
    elif not port.external_local:
        pool, is_masqueraded = port.cluster or (), True
    elif is_pod or is_node:
        pool, is_masqueraded = port.cluster or (), is_node
    else:
        pool, is_masqueraded = port.local or (), False
    if not pool:
        return {DROPPED if port.is_any_usable else REFUSED: 1}
    return {
        Fate("served", each.address, is_masqueraded or each.address in reflecting): 1 / len(pool)
        for each in pool
    }


def _reflecting(ports: Collection[DesiredPort], packet: Packet) -> Collection[str]:
    """Return the endpoints that are the packet's own source, as far as any port knows them to be here."""
    return {
        endpoint.address
        for port in ports
        for endpoint in port.reachable
        if endpoint.ip == packet.source and port.key.name.protocol == packet.protocol
        if endpoint.is_local or endpoint.node_name is None
    }


def is_as_expected(found: Fates, wanted: Fates) -> bool:
    """Whether the same can happen, and as often."""
    return found.keys() == wanted.keys() and all(
        abs(chance - wanted[fate]) < 1e-6 for fate, chance in found.items()
    )


def packets(
    rng: random.Random, ports: Mapping[PortKey, DesiredPort], family: Family, count: int
) -> Iterator[Packet]:
    """Yield packets from all sides to frontends, and some that nearly go there."""
    places = [
        (
            frontend.address or rng.choice([OWN[family], _FREE[family]]),
            port.key.name.protocol,
            frontend.port,
        )
        for port in ports.values()
        for frontend in port.frontends
        if port.key.family == family
    ]
    for _ in range(count):
        address, protocol, number = rng.choice([*places, (_FREE[family], "TCP", 80)])
        near = rng.random()
        if near < 0.1:
            number = rng.choice([1, 53, 80, 30001, 30002])
        elif near < 0.15:
            protocol = rng.choice(PROTOCOLS)
        elif near < 0.2:
            address = str(ipaddress.ip_address(address) + 1)
        if rng.random() < 0.25:
            yield Packet(OWN[family], address, protocol, number)
            continue
        source = rng.choice([*_SOURCES[family], address])
        is_own = source == OWN[family]
        yield Packet(source, address, protocol, number, "" if is_own else "eth0")
