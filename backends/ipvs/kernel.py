"""The kernel's side: takes steps, reads back what is ours, and translates the kernel's errors. Shell."""

import errno
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from backends.ipvs.belief import Observed
from backends.ipvs.layout import Layout
from backends.ipvs.messages import pack_operation
from backends.ipvs.model import (
    DEVICE,
    MARKING,
    SERVICES,
    Operation,
)
from backends.ipvs.render import read_mark
from backends.ipvs.side import Side
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, Load, ServerId, VirtualServer, marked
from backends.kernel.links import KUBE_PROXYS_DEVICE, AddressNews, Links, is_ours
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.kernel.nft_table import TableFacts
from proxy.addresses import unpack_ip
from proxy.closing import Closing
from proxy.model import IPV4, PROTOCOLS, Family, Protocol
from proxy.netlink.route import InterfaceAddress

_PROTOCOLS: Final[dict[bytes, Protocol]] = {
    PROTOCOL_NUMBERS[each].to_bytes(1): each for each in PROTOCOLS
}
_GONE: Final = (errno.ESRCH, errno.ENOENT)


class Doors(NamedTuple):
    """What one thread at a time talks to the kernel through."""

    side: Side
    ipvs: Ipvs
    links: Links

    def close(self) -> None:
        for door in self:
            door.close()


class Addresses(NamedTuple):
    """The index of our device, None without one; the addresses on it, and those on all other interfaces."""

    device: int | None
    bound: frozenset[str]
    elsewhere: frozenset[str]


class Way(NamedTuple):
    """How clients reach a virtual server, as keys of our sets have it; without an address by all of this node's own."""

    address: bytes
    protocol: Protocol
    port: bytes


def carry_out(ipvs: Ipvs, operations: Collection[Operation]) -> dict[int, Refusal]:
    """Carry out messages to IPVS; return the refusals by position. What was to go and is gone already is no refusal.

    Raises KernelError when the outcome is unknown.
    """
    found = ipvs.carry_out([pack_operation(each) for each in operations])
    verbs = [operation.verb for operation in operations]
    return {
        refusal.index: refusal
        for refusal in found
        if not (verbs[refusal.index].startswith("del") and refusal.errno in _GONE)
    }


def read_everything(doors: Doors, layout: Layout) -> Observed:
    """Read all that is ours, as a new belief. Raises KernelError."""
    tables, generation = doors.side.read_tables(layout.families)
    for family, facts in tables.items():
        facts.has_to_go = _has_to_go(facts, layout, family)
    addresses = read_addresses(doors.links)
    observed = Observed(
        tables,
        generation=generation,
        device=addresses.device,
        bound=addresses.bound,
        elsewhere=addresses.elsewhere,
    )
    led_to = servers_in(tables)
    for server in doors.ipvs.list_servers():
        found = [each for each, _ in doors.ipvs.list_destinations(server.id)]
        if is_our_server(server.id, layout, observed.bound, led_to):
            observed.correct_server(server.id, server, found)
        elif server.id.protocol is not None:
            there = {(each.address, each.port): each for each in found}
            observed.strangers.setdefault(server.id.address, {})[server.id] = server, there
    return observed


def is_our_server(
    server: ServerId, layout: Layout, bound: Collection[str], led_to: Collection[ServerId]
) -> bool:
    """Whether a virtual server is ours: its address is on our device, its mark in our range, or our rules lead to it.

    Only the rules tell where another masquerade bit was configured before, or where somebody has removed our device.
    """
    if server.family not in layout.families:
        return False
    if server in led_to:
        return True
    if server.protocol is None:
        return layout.marks.number(server.mark) is not None
    return server.address in bound


def servers_in(tables: Mapping[Family, TableFacts]) -> dict[ServerId, list[Way]]:
    """Return the virtual servers that rules lead to, with how they are reached."""
    found: dict[ServerId, list[Way]] = {}
    for family, facts in tables.items():
        for name in (SERVICES, *MARKING):
            for key, data in facts.elements.get(name, {}).items():
                way = Way(key[:-8], _PROTOCOLS.get(key[-8:-7], "TCP"), key[-4:-2])
                if isinstance(data, bytes) and len(data) == 4:
                    found.setdefault(marked(family, read_mark(data)), []).append(way)
                elif name == SERVICES and len(way.address) == (4 if family == IPV4 else 16):
                    found.setdefault(_server_at(family, way), []).append(way)
    return found


def _server_at(family: Family, way: Way) -> ServerId:
    return ServerId(family, way.protocol, unpack_ip(way.address).text, int.from_bytes(way.port))


def read_server(
    ipvs: Ipvs, server: ServerId
) -> tuple[VirtualServer | None, list[tuple[Destination, Load]]]:
    """Read one virtual server with its destinations."""
    found = ipvs.find_server(server)
    return found, ipvs.list_destinations(server) if found is not None else []


def read_addresses(links: Links) -> Addresses:
    """Read the addresses of this host. Those of kube-proxy's device are nobody's: they go when kube-proxy is cleaned up."""
    link = links.find(DEVICE)
    device = link.ifindex if link is not None and is_ours(link) and link.is_up else None
    index = link.ifindex if link is not None and is_ours(link) else None
    left_out = links.numbers([KUBE_PROXYS_DEVICE])
    bound: set[str] = set()
    elsewhere: set[str] = set()
    for each in links.addresses():
        if each.ifindex == index:
            bound.add(each.address)
        elif each.ifindex not in left_out:
            elsewhere.add(each.address)
    return Addresses(device, frozenset(bound), frozenset(elsewhere))


class News(Closing):
    """What is announced about the addresses that `read_addresses` reads, from the moment this is made."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._heard = AddressNews()
        self._left_out = links.numbers([KUBE_PROXYS_DEVICE])

    def close(self) -> None:
        self._heard.close()

    def take(self) -> dict[InterfaceAddress, bool] | None:
        """Return the addresses that came (True) or went, None if some of that was lost. Raises KernelError."""
        heard = self._heard.take()
        if heard:  # a device that has gone since is remembered
            self._left_out |= self._links.numbers([KUBE_PROXYS_DEVICE])
        if heard is None:
            return None
        return {each: came for each, came in heard.items() if each.ifindex not in self._left_out}


def _has_to_go(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Whether the kernel does not let us make a table what it should be: sets and hooks cannot be changed.

    One that was closed is made anew, too: not all that its sets let through has a virtual server any more.
    """
    sets, chains = layout.set_facts[family], layout.chain_facts[family]
    return facts.is_dormant or (
        facts.is_present
        and (
            layout.is_closed(facts.chains)
            or any(sets.get(name) != found for name, found in facts.sets.items())
            or any(
                name not in chains or chains[name].base != found.base
                for name, found in facts.chains.items()
            )
        )
    )
