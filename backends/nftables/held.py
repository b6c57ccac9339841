"""What the kernel holds for ServicePorts at this moment, compared with belief: for somebody who looks. Shell.

Single elements are asked for by their keys, some hundred at a time between two transactions, so that every answer
is compared with the belief of the same instant and others run in between. A pool is read as far as a packet could
draw from it. To look at everything, a thread lists it first; then only what differs from belief is asked for again.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from backends.kernel.nft import Nft
from backends.kernel.nft_table import Data, TableFacts
from backends.nftables.belief import Observed
from backends.nftables.kernel import OURS
from backends.nftables.model import LOCAL_FROM, PLACES, Rendered, Target
from backends.nftables.names import capacity_for, is_picking, parse_picking
from backends.nftables.render import render_port
from backends.nftables.slots import slot_range
from backends.nftables.verify import differs_in_structure, read_structure_patiently
from backends.nftables.words import element_words
from proxy.backend import Held
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey
from proxy.threads import to_thread

ELEMENTS_AT_ONCE: Final = 125
"""How many elements are read before others may run: some two milliseconds."""
_KEYS_AT_ONCE: Final = 5000
_STRANGERS_SHOWN: Final = 100

Place = tuple[Family, str, bytes]
"""Where an element is: family, set and key."""


class Seen(NamedTuple):
    """What was in a place and what we believed to be there, as lines; None for nothing."""

    actual: str | None
    believed: str | None
    data: Data = None

    @property
    def difference(self) -> str | None:
        if self.actual == self.believed:
            return None
        if self.actual is None:
            return f"missing: {self.believed}"
        if self.believed is None:
            return f"unexpected: {self.actual}"
        return f"changed: {self.actual}, was {self.believed}"


class Look:
    """One look at the kernel. The lock keeps our own transactions away while elements are read."""

    def __init__(self, nft: Nft, lock: asyncio.Lock, observed: Observed) -> None:
        self._nft = nft
        self._lock = lock
        self._observed = observed
        self._listed: dict[tuple[Family, str], dict[bytes, Data]] = {}

    async def list_everything(self, background: Nft) -> None:
        """List all elements in a thread. Where belief says the same, that is what is told from now on."""
        self._listed = await to_thread(_list, background, list(self._observed.tables))

    async def at_ports(
        self, desired: Mapping[PortKey, DesiredPort], keys: Iterable[PortKey]
    ) -> AsyncIterator[Held]:
        """Yield what is held for each of some ServicePorts."""
        for targets in self._groups(desired, keys):
            group = list(targets)
            fixed = {key: _fixed(key, targets[key]) for key in group}
            seen = await self.at(itertools.chain.from_iterable(fixed.values()))
            slots = {key: list(self._slots(key, targets[key], seen)) for key in group}
            seen |= await self.at(itertools.chain.from_iterable(slots.values()))
            for key in group:
                yield _held(key, [seen[place] for place in (*fixed[key], *slots[key])])

    async def at(self, places: Iterable[Place]) -> dict[Place, Seen]:
        """Read what is in some places."""
        found: dict[Place, Seen] = {}
        pending = iter(dict.fromkeys(places))
        while batch := list(itertools.islice(pending, ELEMENTS_AT_ONCE)):
            by_set: dict[tuple[Family, str], list[bytes]] = {}
            for family, name, key in batch:
                by_set.setdefault((family, name), []).append(key)
            for (family, name), keys in by_set.items():
                unsure = self._recall(family, name, keys, found)
                if unsure:
                    async with self._lock:
                        self._read(family, name, unsure, found)
            await asyncio.sleep(0)
        return found

    def _recall(
        self, family: Family, name: str, keys: list[bytes], found: dict[Place, Seen]
    ) -> list[bytes]:
        """Note what was listed where it is as believed; return the keys to be asked for."""
        listed = self._listed.get((family, name))
        if listed is None:
            return keys
        believed = self._observed.tables[family].elements.get(name, {})
        unsure = []
        for key in keys:
            if (key in listed) != (key in believed) or listed.get(key) != believed.get(key):
                unsure.append(key)
                continue
            words = element_words(family, name, key, listed[key]) if key in listed else None
            found[family, name, key] = Seen(words, words, listed.get(key))
        return unsure

    def _read(
        self, family: Family, name: str, keys: list[bytes], found: dict[Place, Seen]
    ) -> None:
        actual = OURS.read_elements(self._nft, family, name, keys)
        believed = self._observed.tables[family].elements.get(name, {})
        for key in keys:
            words = element_words(family, name, key, actual[key]) if key in actual else None
            belief = words
            if (key in believed) != (key in actual) or believed.get(key) != actual.get(key):
                belief = (
                    element_words(family, name, key, believed[key]) if key in believed else None
                )
            found[family, name, key] = Seen(words, belief, actual.get(key))

    def _groups(
        self, desired: Mapping[PortKey, DesiredPort], keys: Iterable[PortKey]
    ) -> Iterator[dict[PortKey, Rendered]]:
        """Divide ServicePorts, with what they occupy, by how many elements they stand for."""
        group: dict[PortKey, Rendered] = {}
        weight = 0
        for key in keys:
            group[key] = self._rendered(key, desired.get(key))
            weight += 4 + sum([row.length for row in group[key].rows()])
            if weight >= ELEMENTS_AT_ONCE:
                yield group
                group, weight = {}, 0
        if group:
            yield group

    def _rendered(self, key: PortKey, port: DesiredPort | None) -> Rendered:
        """Return what a ServicePort occupies, or would where the kernel would not take it."""
        rendered = self._observed.rendered.get(key)
        if rendered is not None:
            return rendered
        if port is None or key.family not in self._observed.tables:
            return Rendered()
        made = render_port(port)
        return Rendered(targets=tuple([f.target for f in made.frontends]), shared=made.shared)

    def _slots(
        self, key: PortKey, rendered: Rendered, seen: Mapping[Place, Seen]
    ) -> Iterator[Place]:
        """Yield all slots a packet could draw by the verdicts that are there, and those we believe in."""
        family = key.family
        for target in rendered.targets:
            name = PLACES[target.kind].slots[target.protocol]
            for first, count in _reach(family, target, seen).items():
                for slot in slot_range(target.prefix, first, count):
                    yield family, name, slot
        for row in rendered.sticky.rows if rendered.sticky is not None else ():
            for slot in slot_range(row.prefix, row.first, capacity_for(row.length)):
                yield family, row.set, slot

    async def at_strangers(self) -> Held:
        """Return what is there in all, and what nobody asked for. Everything was listed before."""
        lines: list[str] = []
        differences: list[str] = []
        strangers: list[Place] = []
        for family, belief in self._observed.tables.items():
            facts = await self._structure(family)
            if differs_in_structure(facts, belief):
                differences.append(f"{family}: our table, or a chain or set in it, was changed")
            if facts is not None:
                lines.append(_structure_words(family, facts))
        for (family, name), listed in self._listed.items():
            lines.append(f"{family}: {len(listed)} elements in {name}")
            believed = self._observed.tables[family].elements.get(name, {})
            for keys in _pieces(listed):
                strangers += [(family, name, key) for key in keys if key not in believed]
                await asyncio.sleep(0)
        if not differences:
            seen = await self.at(strangers[:_STRANGERS_SHOWN])
            differences += [d for one in seen.values() if (d := one.difference) is not None]
        if len(strangers) > _STRANGERS_SHOWN:
            differences.append(f"{len(strangers) - _STRANGERS_SHOWN} more that we did not make")
        return Held(key=None, lines=tuple(lines), differences=tuple(differences))

    async def _structure(self, family: Family) -> TableFacts | None:
        async with self._lock:
            return read_structure_patiently(self._nft, family)


def _fixed(key: PortKey, rendered: Rendered) -> list[Place]:
    return [(key.family, name, member) for name, member in _in_order(rendered)]


def _in_order(rendered: Rendered) -> list[tuple[str, bytes]]:
    """Return all places but slots: each frontend's verdict first, then endpoints with affinity, what is shared last."""
    own = Rendered(targets=rendered.targets, sticky=rendered.sticky)
    return [*own.places(), *sorted(rendered.shared)]


def _reach(family: Family, target: Target, seen: Mapping[Place, Seen]) -> dict[int, int]:
    """Return how many slots from which number on a packet to a frontend could draw."""
    reach = {0: target.slots, LOCAL_FROM: target.local_slots}
    reach = {first: capacity_for(count) for first, count in reach.items() if count}
    verdict = seen[family, PLACES[target.kind].verdicts, target.key].data
    chain = verdict.removeprefix("goto ") if isinstance(verdict, str) else ""
    picking = parse_picking(chain) if is_picking(chain, target.protocol) else None
    if picking is not None and not picking.timeout_s:  # else its slots are not the frontend's
        first = LOCAL_FROM if picking.is_local else 0
        for number, capacity in ((first, picking.capacity), (LOCAL_FROM, picking.here)):
            reach[number] = max(reach.get(number, 0), capacity)
    return reach


def _held(key: PortKey, seen: Collection[Seen]) -> Held:
    return Held(
        key=key,
        lines=tuple([one.actual for one in seen if one.actual is not None]),
        differences=tuple([d for one in seen if (d := one.difference) is not None]),
    )


def _structure_words(family: Family, facts: TableFacts) -> str:
    if not facts.is_present:
        return f"{family}: no table"
    state = ", dormant" if facts.is_dormant else ""
    return f"{family}: {len(facts.chains)} chains, {len(facts.sets)} sets{state}"


def _pieces(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    pending = iter(keys)
    while piece := list(itertools.islice(pending, _KEYS_AT_ONCE)):
        yield piece


def _list(nft: Nft, families: Iterable[Family]) -> dict[tuple[Family, str], dict[bytes, Data]]:
    """List the elements of our sets, whatever is changed meanwhile."""
    listed: dict[tuple[Family, str], dict[bytes, Data]] = {}
    for family in families:
        facts = read_structure_patiently(nft, family)
        for name in sorted(facts.sets) if facts is not None else ():
            listed[family, name] = {
                key: data for block in OURS.list_elements(nft, family, name) for key, data in block
            }
    return listed
