"""What is ours and nobody asks for: found by a full walk, and removed. Pure."""

import ipaddress
from collections.abc import Collection, Iterable

from backends.ipvs.belief import Observed
from backends.ipvs.draft import Draft
from backends.ipvs.layout import Layout
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    HAIRPIN,
    MARKING,
    PLACES,
    Rendered,
)
from backends.ipvs.plan import finish
from backends.ipvs.planned import IpvsPlan
from backends.ipvs.render import read_mark, render_port
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.nft_node import plan_node
from backends.kernel.nft_table import TableFacts
from backends.kernel.nft_values import ABSENT
from proxy.addresses import pack_ip, unpack_ip
from proxy.desired import Desired, DesiredPort
from proxy.model import Family


class _Occupied:
    """What is needed: elements by set, and virtual servers."""

    def __init__(self, layout: Layout) -> None:
        self.elements: dict[tuple[Family, str], set[bytes]] = {
            (family, spec.name): set()
            for family in layout.families
            for spec in layout.sets(family)
        }
        self.servers: set[ServerId] = set()

    def add(self, family: Family, rendered: Rendered) -> None:
        for frontend in rendered.frontends:
            for name in PLACES[frontend.kind].all:
                self.elements[family, name].add(frontend.key)
            self.elements[family, ALLOWED] |= frontend.allowed
            if frontend.server is not None:
                self.servers.add(frontend.server)
        self.servers.update(rendered.marked)
        for name, member in rendered.shared:
            self.elements[family, name].add(member)


def prune(desired: Desired, observed: Observed, layout: Layout) -> IpvsPlan:
    """Return what removes everything of ours that no ServicePort occupies. A full walk.

    What an earlier process left for a ServicePort whose new state the kernel refuses stays: old is better than none.
    """
    layout = layout.for_node(desired.node)
    draft = Draft(observed, layout)
    occupied = _Occupied(layout)
    for key, rendered in observed.rendered.items():
        occupied.add(key.family, rendered)
    for key, port in desired.ports.items():
        if key not in observed.rendered and key.family in layout.families:
            _keep_for(port, observed, layout, occupied)
    node = plan_node(draft.values, layout.families, observed.node, desired.node, is_settled=True)
    part = node or observed.node
    for family, name, member in part.members if part is not None else ():
        occupied.elements[family, name].add(member)
    for (family, name), needed in occupied.elements.items():
        surplus = observed.tables[family].elements.get(name, {}).keys() - needed
        draft.values(family, name).update(dict.fromkeys(surplus, (ABSENT, None)))
    _prune_addresses(draft, occupied)
    excluded = [ipaddress.ip_network(cidr) for cidr in layout.settings.exclude_cidrs]
    for server in observed.servers:
        is_kept = server in occupied.servers or server in observed.draining
        if is_kept or _is_excluded(server, excluded) or _drains_on(draft, server):
            continue
        draft.put_server(None, server, None)
    return finish(draft, {}, node)


def _prune_addresses(draft: Draft, occupied: _Occupied) -> None:
    needed = {
        unpack_ip(member).text
        for (_, name), members in occupied.elements.items()
        if name == BOUND
        for member in members
    }
    for address in draft.observed.bound:
        if address not in needed:
            draft.addresses[address] = (False, None)


def _drains_on(draft: Draft, server: ServerId) -> bool:
    """Have a virtual server that an earlier process left to drain go on with that, where it still can be reached.

    Such are those of a frontend that its ServicePort has no longer; nobody asks for them any more.
    """
    observed = draft.observed
    places = [
        place
        for place, destination in observed.destinations[server].items()
        if not destination.weight and (server, place) in observed.deadlines
    ]
    if server.address in draft.addresses or len(places) < len(observed.destinations[server]):
        return False
    draft.drains += [(server, place) for place in places]
    return bool(places)


def _is_excluded(
    server: ServerId, excluded: Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    if server.protocol is None or not excluded:
        return False
    address = ipaddress.ip_address(server.address)
    return any(address in network for network in excluded)


def _keep_for(port: DesiredPort, observed: Observed, layout: Layout, occupied: _Occupied) -> None:
    """Keep what a ServicePort that is not programmed occupies, should the kernel hold it from before."""
    family = port.key.family
    facts = observed.tables.get(family, TableFacts())
    made = render_port(port, layout.settings, layout.marks, observed.elsewhere, 0)
    occupied.add(family, Rendered(frontends=made.rendered.frontends, shared=made.rendered.shared))
    for frontend in made.rendered.frontends:
        for name in MARKING:
            data = facts.elements.get(name, {}).get(frontend.key)
            number = layout.marks.number(read_mark(data)) if isinstance(data, bytes) else None
            if number is not None:
                servers = layout.marks.servers(family, number)
                occupied.servers.update(servers)
                _keep_hairpins(family, servers, observed, occupied)
        if frontend.allowed:
            width = len(pack_ip(frontend.server.address)) if frontend.server else 0
            stays = [
                key
                for key in facts.elements.get(ALLOWED, {})
                if key[width : width + len(frontend.key)] == frontend.key
            ]
            occupied.elements[family, ALLOWED].update(stays)
        if frontend.server is not None:
            _keep_hairpins(family, [frontend.server], observed, occupied)


def _keep_hairpins(
    family: Family, servers: Iterable[ServerId], observed: Observed, occupied: _Occupied
) -> None:
    for server in servers:
        for address, _ in observed.destinations.get(server, ()):
            member = pack_ip(address)
            occupied.elements[family, HAIRPIN].add(member + member)
