"""Gives way to another data plane that has programmed everything: connections through IPVS go on until they end. Shell.

In this order, so that a packet to an address on our device always meets a virtual server or a rule that refuses it:

1. What is new and the other data plane has not decided on is refused.
2. Tracked UDP flows are forgotten: the next packet of each is a new flow, and the other's.
3. Destinations without connections go, and virtual servers without destinations; what has connections gets weight 0, and goes
   when they have ended or their time is up.
4. Addresses at which no virtual server is reached any more go, and when there is none at all, the device and the tables.

Whoever loses a connection is to hear of it at once. Those through IPVS whose time is up are forgotten by connection tracking: what
is sent next is translated by the other data plane, and an endpoint that does not know it answers with a reset. Those that
the node itself has begun with an address that goes are ended by the kernel.
"""

import errno
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from backends.ipvs import deadlines, kernel
from backends.ipvs.kernel import Way
from backends.ipvs.layout import Layout
from backends.ipvs.model import DEVICE, Place, has_drains
from backends.ipvs.side import Side
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load, ServerId
from backends.kernel.links import Links
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.kernel.nft_table import TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.kernel.sockets import Sockets
from proxy.addresses import parse_ip, unpack_ip
from proxy.backend import Retired
from proxy.conntrack_table import ConntrackTable
from proxy.errors import KernelError, ProxyError
from proxy.model import Family, Protocol

LOOK_AGAIN_S: Final = 5.0
_GONE: Final = (errno.ESRCH, errno.ENOENT)

log = logging.getLogger(__name__)


class LeavingDoors(NamedTuple):
    """What a departure needs of the kernel: the side rules that there are, perhaps of two sides; no IPVS where there is none."""

    sides: Sequence[Side]
    ipvs: Ipvs | None
    links: Links
    flows: ConntrackTable
    sockets: Sockets


class _Verdict(NamedTuple):
    """What becomes of a virtual server: how many connections go on, which destinations stay until when, and whose are cut."""

    kept: int
    until_s: Mapping[Place, float]
    cut: Mapping[Place, int]


class Leaving:
    """One departure, from the first look at what is there to the last."""

    def __init__(self, layout: Layout, file: Path | None, drain_s: float) -> None:
        self._layout = layout
        self._file = file
        self._drain_s = drain_s
        self._deadlines = deadlines.load(file) if file is not None else {}
        self._ways: dict[ServerId, list[Way]] = {}
        self._is_begun = False

    def begin(self, sides: Sequence[Side], links: Links, flows: ConntrackTable) -> bool:
        """Have all that is new go by the other data plane; return whether there is anything of ours. Raises KernelError."""
        if self._is_begun:
            return True
        if links.find(DEVICE) is None and not sides:
            return False
        for side in sides:
            tables, _ = side.read_tables(self._layout.families)
            for server, ways in kernel.servers_in(tables).items():
                self._ways.setdefault(server, []).extend(ways)
            refuse_new(side, tables)
        self._forget("UDP", dict.fromkeys(self._ways, ()), links, flows)
        self._is_begun = True
        return True

    def _forget(
        self,
        protocol: Protocol,
        servers: Mapping[ServerId, Collection[Place]],
        links: Links,
        flows: ConntrackTable,
    ) -> None:
        """Have the next packets of flows through virtual servers to some of their destinations, or any, be new ones."""
        here = [parsed.packed for each in links.addresses() if (parsed := parse_ip(each.address))]
        ends: dict[Family, dict[bytes, set[bytes]]] = {}
        for server, places in servers.items():
            to = {
                found.packed + port.to_bytes(2)
                for text, port in places
                if (found := parse_ip(text))
            }
            for way in self._ways_to(server):
                if way.protocol == protocol:
                    addresses = [way.address] if way.address else here
                    for address in addresses:
                        known = ends.setdefault(server.family, {})
                        known.setdefault(address + way.port, set()).update(to)
        for family, meant in ends.items():
            flows.forget(family, meant, PROTOCOL_NUMBERS[protocol])

    def go_on(self, doors: LeavingDoors, now_s: float) -> Retired:
        """Remove what no connection needs; without IPVS there is no virtual server. Raises KernelError."""
        servers = self._servers(doors) if doors.ipvs is not None else []
        if doors.ipvs is None or not servers:
            return Retired(removed=tuple(_remove_rest(doors)))
        verdicts: dict[ServerId, _Verdict] = {}
        messages: list[bytes] = []
        for server in servers:
            listed = doors.ipvs.list_destinations(server)
            verdicts[server] = verdict = self._judge(server, listed, now_s)
            messages += _messages(server, listed, verdict)
        for refusal in doors.ipvs.carry_out(messages):
            if refusal.errno not in _GONE:
                raise KernelError("give way", refusal.errno, str(refusal))
        if self._file is not None:
            until_s = {server: each.until_s for server, each in verdicts.items() if each.kept}
            deadlines.save(self._file, until_s)
        if cut := {server: each.cut for server, each in verdicts.items() if each.cut}:
            count = sum([sum(each.values()) for each in cut.values()])
            log.warning("%d connections through IPVS are cut: their time is up", count)
            self._forget("TCP", cut, doors.links, doors.flows)
        return self._tell(verdicts, doors)

    def _servers(self, doors: LeavingDoors) -> list[ServerId]:
        bound = kernel.read_addresses(doors.links).bound
        found = [each.id for each in doors.ipvs.list_servers()] if doors.ipvs is not None else []
        return [e for e in found if kernel.is_our_server(e, self._layout, bound, self._ways)]

    def _ways_to(self, server: ServerId) -> list[Way]:
        """Return how a virtual server is reached; one at an address is so even where the rules do not say it."""
        ways = self._ways.get(server, [])
        address = parse_ip(server.address)
        if ways or server.protocol is None or address is None:
            return ways
        return [Way(address.packed, server.protocol, server.port.to_bytes(2))]

    def _judge(
        self, server: ServerId, listed: Iterable[tuple[Destination, Load]], now_s: float
    ) -> _Verdict:
        kept, until_s, cut = 0, dict[Place, float](), dict[Place, int]()
        # perhaps no rule leads there any more: then nothing says that its connections are none that end
        if any(not has_drains(way.protocol) for way in self._ways_to(server)):
            return _Verdict(0, {}, {})
        for destination, load in listed:
            place = destination.address, destination.port
            end_s = self._deadlines.setdefault((server, place), now_s + self._drain_s)
            count = load.active + load.inactive
            if count and now_s < end_s:
                kept += count
                until_s[place] = end_s
            elif count:
                cut[place] = count
        return _Verdict(kept, until_s, cut)

    def _tell(self, verdicts: Mapping[ServerId, _Verdict], doors: LeavingDoors) -> Retired:
        """Remove addresses or everything, and return what has been done."""
        staying = [server for server, each in verdicts.items() if each.kept]
        gone = len(verdicts) - len(staying)
        removed = [f"{gone} virtual servers"] if gone else []
        if not staying:
            return Retired(removed=(*removed, *_remove_rest(doors)))
        if unbound := self._unbind(staying, doors):
            removed.append(f"{unbound} addresses")
        kept = sum([each.kept for each in verdicts.values()])
        return Retired(
            removed=tuple(removed), waits_for=f"{kept} connections", again_s=LOOK_AGAIN_S
        )

    def _unbind(self, staying: Iterable[ServerId], doors: LeavingDoors) -> int:
        """Take from our device all addresses but those at which virtual servers that stay are reached."""
        ways = [self._ways_to(server) for server in staying]
        if not all(ways):
            return 0  # perhaps one of them leads there: the rules no longer say it
        needed = {unpack_ip(way.address).text for each in ways for way in each if way.address}
        surplus = sorted(kernel.read_addresses(doors.links).bound - needed)
        link = doors.links.find(DEVICE)
        if link is None or not surplus:
            return 0
        for refused in doors.links.unbind(link.ifindex, surplus):
            raise KernelError(f"addresses of {DEVICE}", refused.errno, str(refused))
        _end_own(surplus, doors)
        return len(surplus)


def _remove_rest(doors: LeavingDoors) -> Iterator[str]:
    bound = kernel.read_addresses(doors.links).bound
    if doors.links.find(DEVICE) is not None:
        doors.links.remove_dummy(DEVICE)
        _end_own(bound, doors)
        yield f"device {DEVICE}"
    for side in doors.sides:
        if count := side.delete():
            yield f"{count} {side.objects}"


def _end_own(addresses: Collection[str], doors: LeavingDoors) -> None:
    """End what this node itself has begun with addresses that are gone: its programs begin anew, with one that stays."""
    try:
        count = doors.sockets.end(addresses)
    except ProxyError as error:
        log.warning(
            "connections of this node itself that began with addresses of services time out: %s",
            error,
        )
        return
    if count:
        log.info("ended %d connections of this node itself: their address is gone", count)


def refuse_new(side: Side, tables: Mapping[Family, TableFacts]) -> None:
    """Let nothing new through to IPVS: for the time in which addresses are there without virtual servers. Raises KernelError."""
    chains = [
        (family, spec)
        for family, facts in tables.items()
        for spec in side.layout_of.closed_chains()
        if spec.name in facts.chains
    ]
    if chains:
        side.commit(Transaction(chains=tuple(chains)))


def _messages(
    server: ServerId, listed: Iterable[tuple[Destination, Load]], verdict: _Verdict
) -> Iterator[bytes]:
    """Yield what has to be sent to IPVS for a virtual server."""
    if not verdict.kept:
        yield ipvs_messages.del_server(server)
        return
    for destination, _ in listed:
        place = destination.address, destination.port
        if place not in verdict.until_s:
            yield ipvs_messages.del_destination(server, *place)
        elif destination.weight:
            yield ipvs_messages.set_destination(server, destination._replace(weight=0))
