"""What the kernel holds for ServicePorts at this moment, compared with belief: for somebody who looks. Shell.

Single objects are asked for by name, between two steps, so that every answer is compared with the belief of the same
instant. To look at everything, a thread lists it first; then only what differs from belief is asked for again.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from backends.ipvs import kernel
from backends.ipvs.belief import Observed
from backends.ipvs.kernel import Doors
from backends.ipvs.layout import Layout
from backends.ipvs.model import ALLOWED, PLACES, Place, Rendered
from backends.ipvs.render import render_port
from backends.ipvs.verify import Owners, Suspects, changed_structures, compare
from backends.ipvs.words import element_words
from backends.kernel.ipvs_objects import Destination, Load, ServerId, VirtualServer
from backends.kernel.nft_table import Data
from backends.kernel.nft_values import ABSENT
from proxy.addresses import join_host_port
from proxy.backend import Held
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey
from proxy.threads import to_thread

_STRANGERS_SHOWN: Final = 100
_READ_AT_ONCE: Final = 100
_NOTHING: Final = Rendered()


class Look:
    """One look at the kernel. The lock keeps our own steps away while objects are read."""

    def __init__(
        self, doors: Doors, lock: asyncio.Lock, observed: Observed, layout: Layout, now_s: float
    ) -> None:
        self._doors = doors
        self._lock = lock
        self._observed = observed
        self._layout = layout
        self._now_s = now_s
        self._found: Observed | None = None

    async def read_everything(self, background: Doors) -> None:
        """List everything in a thread. Where belief says the same, that is what is told from now on."""
        self._found = await to_thread(kernel.read_everything, background, self._layout)

    async def at_port(self, port: DesiredPort | None, key: PortKey) -> Held:
        """Return what is held for one ServicePort."""
        rendered = self._rendered(port, key)
        if self._found is not None:
            held = self._recall(key, rendered, self._found)
            if held is not None:
                return held
        lines: list[str] = []
        differences: list[str] = []
        async with self._lock:
            for name, keys in _elements(rendered).items():
                actual = self._doors.side.read_elements(key.family, name, keys)
                believed = self._observed.tables[key.family].elements.get(name, {})
                _tell_elements(key.family, name, (keys, actual, believed), lines, differences)
            for server in self._servers(rendered):
                found, destinations = kernel.read_server(self._doors.ipvs, server)
                self._tell_server(server, (found, destinations), lines, differences)
        return Held(key=key, lines=tuple(lines), differences=tuple(differences))

    def _rendered(self, port: DesiredPort | None, key: PortKey) -> Rendered:
        """Return what a ServicePort occupies, or would where the kernel would not take it."""
        rendered = self._observed.rendered.get(key)
        if rendered is not None:
            return rendered
        if port is None or key.family not in self._layout.families:
            return _NOTHING
        layout = self._layout
        made = render_port(port, layout.settings, layout.marks, self._observed.elsewhere, 0)
        return Rendered(frontends=made.rendered.frontends, shared=made.rendered.shared)

    def _servers(self, rendered: Rendered) -> Iterator[ServerId]:
        """Yield the virtual servers of a ServicePort that are there or should be."""
        for frontend in rendered.frontends:
            if frontend.server is not None:
                yield frontend.server
        yield from rendered.marked

    def _recall(self, key: PortKey, rendered: Rendered, found: Observed) -> Held | None:
        """Return what was listed if it is as believed."""
        lines: list[str] = []
        for name, keys in _elements(rendered).items():
            actual = found.tables[key.family].elements.get(name, {})
            believed = self._observed.tables[key.family].elements.get(name, {})
            for one in keys:
                if (one in actual) != (one in believed) or actual.get(one) != believed.get(one):
                    return None
                if one in actual:
                    lines.append(element_words(key.family, name, one, actual[one]))
        for server in self._servers(rendered):
            there = found.destinations.get(server, {})
            if found.servers.get(server) != self._observed.servers.get(
                server
            ) or there != self._observed.destinations.get(server, {}):
                return None
            if server in found.servers:
                lines.append(_server_words(found.servers[server]))
                lines += [self._destination_words(server, each) for each in there.values()]
        return Held(key=key, lines=tuple(lines))

    def _tell_server(
        self,
        server: ServerId,
        read: tuple[VirtualServer | None, list[tuple[Destination, Load]]],
        lines: list[str],
        differences: list[str],
    ) -> None:
        found, listed = read
        if found is not None:
            lines.append(_server_words(found))
            lines += [self._destination_words(server, each, load) for each, load in listed]
        believed = self._observed.servers.get(server)
        if found != believed:
            differences.append(
                f"virtual server {server}: {_words_of(found)}, was {_words_of(believed)}"
            )
        there = {(each.address, each.port): each for each, _ in listed}
        before = self._observed.destinations.get(server, {})
        differences += [
            _destination_difference(server, place, there, before)
            for place in sorted(there.keys() | before.keys())
            if there.get(place) != before.get(place)
        ]

    def _destination_words(
        self, server: ServerId, destination: Destination, load: Load | None = None
    ) -> str:
        place = destination.address, destination.port
        until_s = self._observed.draining.get(server, {}).get(place)
        drains = "" if until_s is None else f" drains, {until_s - self._now_s:.0f} s left"
        counts = "" if load is None else f" active {load.active} inactive {load.inactive}"
        return f"→ {destination} weight {destination.weight}{counts}{drains}"

    async def at_strangers(self) -> Held:
        """Return what is there in all, and what no ServicePort stands for. Everything was listed before."""
        found = self._found
        if found is None:
            return Held(key=None)
        suspects = await to_thread(compare, found, self._observed)
        lines = [f"side rules: {self._doors.side.words}"]
        for family, facts in found.tables.items():
            lines.append(f"{family}: {len(facts.chains)} chains, {len(facts.sets)} sets")
            for name, elements in facts.elements.items():
                lines.append(f"{family}: {len(elements)} elements in {name}")
        lines.append(f"{len(found.servers)} virtual servers, {len(found.bound)} addresses")
        differences = await self._shared_differences(suspects)
        strange = sorted(await self._strange(suspects))
        differences += strange[:_STRANGERS_SHOWN]
        if len(strange) > _STRANGERS_SHOWN:
            differences.append(
                f"{len(strange) - _STRANGERS_SHOWN} more that are not as they should be"
            )
        return Held(key=None, lines=tuple(lines), differences=tuple(differences))

    async def _shared_differences(self, suspects: Suspects) -> list[str]:
        """Return in words what of the tables' structure, and of all addresses, differs now."""
        doors, observed = self._doors, self._observed
        async with self._lock:
            changed = [
                f"{family}: our table, or a chain or set in it, was changed"
                for family in await changed_structures(doors, suspects, observed)
            ]
            if not suspects.has_addresses:
                return changed
            found = kernel.read_addresses(doors.links)
            if found.device != observed.device:
                return [*changed, "our device was made, removed or set down"]
            addresses = [
                f"{'unexpected' if address in found.bound else 'missing'}: address {address}"
                for address in sorted(found.bound ^ observed.bound.keys())
            ]
            return changed + addresses

    async def _strange(self, suspects: Suspects) -> list[str]:
        """Return in words what nobody occupies and still differs. In parts: changes go on in between."""
        doors, observed, owners = self._doors, self._observed, Owners(self._observed)
        strange: list[str] = []
        for (family, name), keys in suspects.elements.items():
            nobodys = [key for key in keys if owners.of_element(family, name, key) is None]
            for start in range(0, len(nobodys), _READ_AT_ONCE):
                part = nobodys[start : start + _READ_AT_ONCE]
                async with self._lock:
                    actual = doors.side.read_elements(family, name, part)
                    believed = observed.tables[family].elements.get(name, {})
                    strange += [
                        f"{family}: {element_words(family, name, key, None)}"
                        for key in part
                        if actual.get(key, ABSENT) != believed.get(key, ABSENT)
                    ]
                await asyncio.sleep(0)
        for server in suspects.servers:
            if owners.of_server(server) is None:
                async with self._lock:
                    found, listed = kernel.read_server(doors.ipvs, server)
                    there = {(each.address, each.port): each for each, _ in listed}
                    believed_there = observed.destinations.get(server, {})
                    if (found, there) != (observed.servers.get(server), believed_there):
                        strange.append(f"virtual server {server}")
                await asyncio.sleep(0)
        return strange


def _elements(rendered: Rendered) -> dict[str, list[bytes]]:
    """Return where elements of a ServicePort may be: keys by set."""
    found: dict[str, list[bytes]] = {}
    for frontend in rendered.frontends:
        for name in PLACES[frontend.kind].all:
            found.setdefault(name, []).append(frontend.key)
        if frontend.allowed:
            found.setdefault(ALLOWED, []).extend(sorted(frontend.allowed))
    for name, member in sorted(rendered.shared):
        found.setdefault(name, []).append(member)
    return found


def _tell_elements(
    family: Family,
    name: str,
    read: tuple[Iterable[bytes], Mapping[bytes, Data], Mapping[bytes, Data]],
    lines: list[str],
    differences: list[str],
) -> None:
    keys, actual, believed = read
    for key in keys:
        if key in actual:
            lines.append(element_words(family, name, key, actual[key]))
        if (key in actual) == (key in believed) and actual.get(key) == believed.get(key):
            continue
        what = "missing" if key not in actual else "changed" if key in believed else "unexpected"
        data = actual.get(key, believed.get(key))
        differences.append(f"{what}: {element_words(family, name, key, data)}")


def _words_of(server: VirtualServer | None) -> str:
    return "none" if server is None else f"{server.scheduler}, flags {server.flags:#x}"


def _server_words(server: VirtualServer) -> str:
    sticky = f" persistent {server.timeout_s} s" if server.timeout_s else ""
    return f"{server.id} {server.scheduler}{sticky}"


def _destination_difference(
    server: ServerId,
    place: Place,
    there: Mapping[Place, Destination],
    before: Mapping[Place, Destination],
) -> str:
    now, then = there.get(place), before.get(place)
    words = [f"weight {each.weight}" if each else "none" for each in (now, then)]
    return f"destination {join_host_port(*place)} of {server}: {words[0]}, was {words[1]}"
