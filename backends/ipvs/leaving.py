"""Gives way to another data plane that has programmed everything: connections through IPVS go on until they end. Shell.

In this order, so that a packet to an address on our device always meets a virtual server or a rule that refuses it:

1. What is new and the other data plane has not decided on is refused.
2. Tracked UDP flows are forgotten: the next packet of each is a new flow, and the other's.
3. Destinations without connections go, and virtual servers without destinations; what has connections gets weight 0, and goes
   when they have ended or their time is up.
4. Addresses at which no virtual server is reached any more go, and when there is none at all, the device and the tables.
"""

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from backends.ipvs import deadlines, kernel
from backends.ipvs.kernel import OURS
from backends.ipvs.layout import Layout, can_be_closed, closed
from backends.ipvs.model import DEVICE, MARKING, SERVICES, Place, has_drains
from backends.ipvs.render import read_mark
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load, ServerId, marked
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.kernel.nft_table import TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.addresses import parse_ip, unpack_ip
from proxy.backend import Retired
from proxy.conntrack_table import ConntrackTable
from proxy.errors import KernelError
from proxy.model import IPV4, PROTOCOLS, Family, Protocol

LOOK_AGAIN_S: Final = 5.0
_PROTOCOLS: Final[dict[int, Protocol]] = {PROTOCOL_NUMBERS[each]: each for each in PROTOCOLS}
_GONE: Final = (errno.ESRCH, errno.ENOENT)

log = logging.getLogger(__name__)


class _Way(NamedTuple):
    """How clients reach a virtual server; without an address by all of this node's own."""

    address: bytes
    protocol: Protocol
    port: bytes


class _Verdict(NamedTuple):
    """What becomes of a virtual server: how many connections go on and are cut, and which destinations stay until when."""

    kept: int
    cut: int
    until_s: Mapping[Place, float]


class Leaving:
    """One departure, from the first look at what is there to the last."""

    def __init__(self, layout: Layout, file: Path | None, drain_s: float) -> None:
        self._layout = layout
        self._file = file
        self._drain_s = drain_s
        self._deadlines = deadlines.load(file) if file is not None else {}
        self._ways: dict[ServerId, list[_Way]] = {}
        self._marks: set[int] = set()
        self._is_begun = False

    def begin(self, nft: Nft, links: Links, flows: ConntrackTable) -> bool:
        """Have all that is new go by the other data plane; return whether there is anything of ours. Raises KernelError."""
        if self._is_begun:
            return True
        tables, _ = OURS.read_tables(nft, self._layout.families)
        if links.find(DEVICE) is None and not any(each.is_present for each in tables.values()):
            return False
        self._marks = kernel.marks_in(tables)
        for family, facts in tables.items():
            for server, way in _ways(family, facts):
                self._ways.setdefault(server, []).append(way)
        refuse_new(nft, tables)
        self._forget_flows(links, flows)
        self._is_begun = True
        return True

    def _forget_flows(self, links: Links, flows: ConntrackTable) -> None:
        here = [parsed.packed for each in links.addresses() if (parsed := parse_ip(each.address))]
        for family in self._layout.families:
            ends: set[bytes] = set()
            for server, ways in self._ways.items():
                for way in ways if server.family == family else ():
                    if way.protocol == "UDP":
                        addresses = [way.address] if way.address else here
                        ends.update([address + way.port for address in addresses])
            if ends:
                flows.forget(family, ends)

    def go_on(self, nft: Nft, ipvs: Ipvs | None, links: Links, now_s: float) -> Retired:
        """Remove what no connection needs; without IPVS there is no virtual server. Raises KernelError."""
        servers = self._servers(ipvs, links) if ipvs is not None else []
        if ipvs is None or not servers:
            return Retired(removed=tuple(self._remove_rest(nft, links)))
        verdicts: dict[ServerId, _Verdict] = {}
        messages: list[bytes] = []
        for server in servers:
            listed = ipvs.list_destinations(server)
            verdicts[server] = verdict = self._judge(server, listed, now_s)
            messages += _messages(server, listed, verdict)
        for refusal in ipvs.carry_out(messages):
            if refusal.errno not in _GONE:
                raise KernelError("give way", refusal.errno, str(refusal))
        if self._file is not None:
            until_s = {server: each.until_s for server, each in verdicts.items() if each.kept}
            deadlines.save(self._file, until_s)
        return self._tell(verdicts, nft, links)

    def _servers(self, ipvs: Ipvs, links: Links) -> list[ServerId]:
        bound = kernel.read_addresses(links).bound
        found = [each.id for each in ipvs.list_servers()]
        return [
            each for each in found if kernel.is_our_server(each, self._layout, bound, self._marks)
        ]

    def _judge(
        self, server: ServerId, listed: Iterable[tuple[Destination, Load]], now_s: float
    ) -> _Verdict:
        kept, cut, until_s = 0, 0, dict[Place, float]()
        protocols = (
            {server.protocol}
            if server.protocol
            else {w.protocol for w in self._ways.get(server, ())}
        )
        if not all(map(has_drains, protocols)):
            return _Verdict(0, 0, {})
        for destination, load in listed:
            place = destination.address, destination.port
            end_s = self._deadlines.setdefault((server, place), now_s + self._drain_s)
            count = load.active + load.inactive
            if count and now_s < end_s:
                kept += count
                until_s[place] = end_s
            else:
                cut += count
        return _Verdict(kept, cut, until_s)

    def _tell(self, verdicts: Mapping[ServerId, _Verdict], nft: Nft, links: Links) -> Retired:
        """Remove addresses or everything, and return what has been done.

        What was cut keeps its address until the next look: its next packets are to be answered by a reset, not lost.
        """
        gone = len([each for each in verdicts.values() if not each.kept])
        removed = [f"{gone} virtual servers"] if gone else []
        staying = [server for server, each in verdicts.items() if each.kept or each.cut]
        if not staying:
            return Retired(removed=(*removed, *self._remove_rest(nft, links)))
        if unbound := self._unbind(links, staying):
            removed.append(f"{unbound} addresses")
        if cut := sum([each.cut for each in verdicts.values()]):
            log.warning("%d connections through IPVS are cut: their time is up", cut)
        kept = sum([each.kept for each in verdicts.values()])
        return Retired(
            removed=tuple(removed), waits_for=f"{kept} connections", again_s=LOOK_AGAIN_S
        )

    def _unbind(self, links: Links, staying: Iterable[ServerId]) -> int:
        """Take from our device all addresses but those at which virtual servers that stay are reached."""
        needed = {
            unpack_ip(way.address).text
            for server in staying
            for way in self._ways.get(server, ())
            if way.address
        }
        needed.update([server.address for server in staying])
        surplus = sorted(kernel.read_addresses(links).bound - needed)
        link = links.find(DEVICE)
        if link is None or not surplus:
            return 0
        for refused in links.unbind(link.ifindex, surplus):
            raise KernelError(f"addresses of {DEVICE}", refused.errno, str(refused))
        return len(surplus)

    def _remove_rest(self, nft: Nft, links: Links) -> Iterator[str]:
        if links.find(DEVICE) is not None:
            links.remove_dummy(DEVICE)
            yield f"device {DEVICE}"
        if count := OURS.delete_tables(nft):
            yield f"{count} nftables tables"


def refuse_new(nft: Nft, tables: Mapping[Family, TableFacts]) -> None:
    """Let nothing new through to IPVS: for the time in which addresses are there without virtual servers.

    Tables of another shape are left as they are. Raises KernelError.
    """
    chains = [
        (family, closed(family))
        for family, facts in tables.items()
        if can_be_closed(facts.chains, facts.sets)
    ]
    if chains:
        OURS.commit(nft, Transaction(chains=tuple(chains)))


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


def _ways(family: Family, facts: TableFacts) -> Iterator[tuple[ServerId, _Way]]:
    """Yield virtual servers with how they are reached, as the rules have it. A key is address, protocol and port."""
    for name in (SERVICES, *MARKING):
        for key, data in facts.elements.get(name, {}).items():
            rest = key[-8:]
            way = _Way(key[:-8], _PROTOCOLS.get(rest[0], "TCP"), rest[4:6])
            if isinstance(data, bytes):
                yield marked(family, read_mark(data)), way
            elif len(way.address) == (4 if family == IPV4 else 16):
                address = unpack_ip(way.address).text
                yield ServerId(family, way.protocol, address, int.from_bytes(way.port)), way
