"""Background verification: compare belief with the kernel, and take back what proves wrong. Shell.

A thread reads everything through doors of its own while changes go on, so what it finds different is only suspected:
each suspect is read once more, between two steps, before it counts as drift.
"""

import asyncio
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final, NamedTuple

from backends.ipvs import kernel
from backends.ipvs.belief import Observed
from backends.ipvs.kernel import Doors
from backends.ipvs.layout import Layout
from backends.ipvs.model import ALLOWED, BOUND, ELSEWHERE, PLACES
from backends.kernel.ipvs_objects import ServerId
from proxy.addresses import pack_ip
from proxy.backend import Drift
from proxy.model import Family, PortKey
from proxy.netlink.route import InterfaceAddress
from proxy.threads import to_thread

SINGLE_READS: Final = 200
"""With more suspects than this, those that are suspect twice decide; everything is then observed anew."""


class Suspects(NamedTuple):
    """Where the kernel seemed to differ: whole tables (in their structure), elements, virtual servers, addresses."""

    structures: list[Family]
    elements: dict[tuple[Family, str], list[bytes]]
    servers: list[ServerId]
    has_addresses: bool

    @property
    def total(self) -> int:
        return sum(map(len, self.elements.values())) + len(self.servers)

    def also_in(self, other: "Suspects") -> "Suspects":
        """Return what two looks have in common: what is just being changed by us differs only once."""
        elements = {
            place: sorted(set(keys).intersection(other.elements.get(place, ())))
            for place, keys in self.elements.items()
        }
        servers = sorted(set(self.servers).intersection(other.servers), key=str)
        return self._replace(elements=elements, servers=servers)


async def verify(
    doors: Doors, background: Doors, lock: asyncio.Lock, observed: Observed, layout: Layout
) -> list[Drift]:
    """Return confirmed drift, with belief corrected.

    A drift without a key means that everything must be observed anew.
    """
    async with lock:
        generation, commits = doors.side.generation(), observed.commits
    suspects = await to_thread(find_suspects, background, observed, layout)
    if suspects.total > SINGLE_READS:
        suspects = suspects.also_in(await to_thread(find_suspects, background, observed, layout))
    async with lock:
        drifts = [
            Drift(key=None, what=f"{family}: our table, or a chain or set in it")
            for family in await changed_structures(doors, suspects, observed)
        ]
        drifts += _confirm(doors, suspects, observed)
        # Whoever changed something since we began is seen by the next look at the generation.
        observed.generation = generation + observed.commits - commits
    return drifts


def find_suspects(background: Doors, observed: Observed, layout: Layout) -> Suspects:
    """Read everything and note what differs from belief, which may change meanwhile."""
    found = kernel.read_everything(background, layout)
    suspects = compare(found, observed)
    while found.destinations:  # Python lets no other thread run while it throws away all at once
        found.destinations.popitem()
    return suspects


def compare(found: Observed, observed: Observed) -> Suspects:
    """Return where two beliefs differ, of which the second may change meanwhile. A full walk."""
    structures: list[Family] = []
    elements: dict[tuple[Family, str], list[bytes]] = {}
    for family, belief in list(observed.tables.items()):
        facts = found.tables[family]
        if facts.structure != belief.structure:
            structures.append(family)
            continue
        for name, believed in list(belief.elements.items()):
            actual = facts.elements.get(name, {})
            if actual != believed:
                keys = {key for key, _ in actual.items() ^ believed.items()}
                elements[family, name] = sorted(keys)
    servers = [
        server
        for server in found.servers.keys() | observed.servers.keys()
        if found.servers.get(server) != observed.servers.get(server)
        or found.destinations.get(server) != observed.destinations.get(server)
    ]
    has_addresses = (found.device, found.bound, found.elsewhere) != (
        observed.device,
        observed.bound,
        observed.elsewhere,
    )
    return Suspects(structures, elements, servers, has_addresses)


async def changed_structures(doors: Doors, suspects: Suspects, observed: Observed) -> list[Family]:
    """Return the suspect tables that are not as believed now. For the lock: it is done in a thread, since programs may have to run."""
    return [
        family
        for family in suspects.structures
        if (await to_thread(doors.side.read_structure, family)).structure
        != observed.tables[family].structure
    ]


def _confirm(doors: Doors, suspects: Suspects, observed: Observed) -> Iterator[Drift]:
    if suspects.total > SINGLE_READS:
        yield Drift(key=None, what=f"{suspects.total} objects")
        return
    owners = Owners(observed)
    for (family, name), keys in suspects.elements.items():
        actual = doors.side.read_elements(family, name, keys)
        believed = observed.tables[family].elements.get(name, {})
        for key in keys:
            if (key in actual) == (key in believed) and actual.get(key) == believed.get(key):
                continue
            what = "missing" if key not in actual else "changed" if key in believed else "foreign"
            yield Drift(
                key=owners.of_element(family, name, key),
                what=f"{family}: {what} element {key.hex()} of {name}",
            )
            observed.correct_elements(family, name, (key,), actual)
    for server in suspects.servers:
        yield from _confirm_server(doors, server, observed, owners)
    if suspects.has_addresses:
        yield from _confirm_addresses(doors, observed, owners)


def _confirm_server(
    doors: Doors, server: ServerId, observed: Observed, owners: "Owners"
) -> Iterator[Drift]:
    found, listed = kernel.read_server(doors.ipvs, server)
    destinations = {(each.address, each.port): each for each, _ in listed}
    if (found, destinations) == (
        observed.servers.get(server),
        observed.destinations.get(server, {}),
    ):
        return
    observed.correct_server(server, found, destinations.values())
    yield Drift(key=owners.of_server(server), what=f"virtual server {server} or its destinations")


def _confirm_addresses(doors: Doors, observed: Observed, owners: "Owners") -> Iterator[Drift]:
    """Addresses of other interfaces come and go without being drift; whoever has a frontend there is planned again."""
    found = kernel.read_addresses(doors.links)
    if found.device != observed.device:
        observed.device = found.device
        observed.bound = dict.fromkeys(found.bound)
        yield Drift(key=None, what="our device")
        return
    for address in sorted(found.bound ^ observed.bound.keys()):
        owner = owners.of_address(address)
        if address in found.bound:
            observed.bound[address] = None
        else:
            del observed.bound[address]
        what = "foreign" if address in found.bound else "missing"
        yield Drift(key=owner, what=f"{what} address {address} on our device")
    moved = found.elsewhere ^ observed.elsewhere
    observed.elsewhere = found.elsewhere
    for address in sorted(moved):
        for key in owners.all_of_address(address):
            yield Drift(key=key, what=f"{address}, which came to or left another interface")


def concerns(news: Mapping[InterfaceAddress, bool], observed: Observed) -> bool:
    """Whether addresses that came or went are others than those we believe in, and matter to any ServicePort. Pure.

    Those of other interfaces that matter to none are taken into belief, for services that name them later. One that
    moves to another interface stays; one that only leaves one of two counts as gone until the next verification.
    """
    ours: dict[str, bool] = {}
    others: dict[str, bool] = {}
    for each, is_there in news.items():
        there = ours if each.ifindex == observed.device else others
        there[each.address] = is_there or there.get(each.address, False)
    is_of_concern = any(there != (address in observed.bound) for address, there in ours.items())
    changed = {
        address for address, there in others.items() if there != (address in observed.elsewhere)
    }
    named = {address for address in changed if _is_named(address, observed)}
    if changed != named:
        observed.elsewhere ^= changed - named
    return is_of_concern or bool(named)


def _is_named(address: str, observed: Observed) -> bool:
    """Whether any ServicePort needs to know where an address is."""
    family: Family = "IPv6" if ":" in address else "IPv4"
    member = pack_ip(address)
    return any((family, name, member) in observed.references for name in (BOUND, ELSEWHERE))


class Owners:
    """Who occupies what: looked up only when something differs. Of those who share an object, any one will do."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def of_element(self, family: Family, name: str, key: bytes) -> PortKey | None:
        return self._index.elements.get((family, name, key))

    def of_server(self, server: ServerId) -> PortKey | None:
        return self._index.servers.get(server)

    def all_of_address(self, address: str) -> list[PortKey]:
        family: Family = "IPv6" if ":" in address else "IPv4"
        return self._index.addresses.get((family, pack_ip(address)), [])

    def of_address(self, address: str) -> PortKey | None:
        owners = self.all_of_address(address)
        return owners[0] if owners else None

    @cached_property
    def _index(self) -> "_Index":
        """Walk through everything, for the first who asks: mostly it has been us who changed something meanwhile."""
        index = _Index({}, {}, {})
        for key, rendered in self._observed.rendered.items():
            family = key.family
            for frontend in rendered.frontends:
                for name in PLACES[frontend.kind].all:
                    index.elements[family, name, frontend.key] = key
                for allowed in frontend.allowed:
                    index.elements[family, ALLOWED, allowed] = key
                if frontend.server is not None:
                    index.servers[frontend.server] = key
            for server in rendered.marked:
                index.servers[server] = key
            for name, member in rendered.shared:
                index.elements[family, name, member] = key
                if name in (BOUND, ELSEWHERE):
                    index.addresses.setdefault((family, member), []).append(key)
        return index


class _Index(NamedTuple):
    """Who occupies elements and virtual servers, and all who need an address."""

    elements: dict[tuple[Family, str, bytes], PortKey]
    servers: dict[ServerId, PortKey]
    addresses: dict[tuple[Family, bytes], list[PortKey]]
