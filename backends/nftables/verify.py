"""Background verification: compare belief with the kernel, and take back what proves wrong. Shell.

A thread reads everything on a socket of its own while changes go on, so what it finds different is only suspected:
each suspect is read once more, between two transactions, before it counts as drift.
"""

import asyncio
import sys
from typing import Final, NamedTuple

from backends.kernel.nft import Nft
from backends.kernel.nft_table import TableFacts
from backends.nftables.belief import Observed
from backends.nftables.kernel import OURS
from backends.nftables.ranges import LENGTHS
from proxy.backend import Drift
from proxy.model import IPV4, Family, PortKey
from proxy.netlink.socket import DumpInterrupted
from proxy.threads import to_thread

SINGLE_READS: Final = 1000
"""With more suspects than this, those that are suspect twice decide; everything is then observed anew."""
_PARTS: Final = 64
"""What was seen is kept in so many sets: Python lets no other thread run while it enlarges one, or throws one away."""


class Suspects(NamedTuple):
    """Where the kernel seemed to differ: whole tables (in their structure), and single elements.

    `is_unreadable`: a structure was changed so often that it could not be read.
    """

    structures: list[Family]
    elements: dict[tuple[Family, str], list[bytes]]
    is_unreadable: bool = False

    @property
    def total(self) -> int:
        return sum(map(len, self.elements.values()))

    def also_in(self, other: "Suspects") -> "Suspects":
        """Return what two looks have in common: what is just being changed by us differs only once."""
        both = {
            place: sorted(set(keys).intersection(other.elements.get(place, ())))
            for place, keys in self.elements.items()
        }
        return self._replace(elements={place: keys for place, keys in both.items() if keys})


async def verify(nft: Nft, background: Nft, lock: asyncio.Lock, observed: Observed) -> list[Drift]:
    """Return confirmed drift, with belief corrected.

    A drift without a key means that everything must be observed anew.
    """
    async with lock:
        generation, commits = nft.generation(), observed.commits
    suspects = await to_thread(find_suspects, background, observed)
    if suspects.total > SINGLE_READS:
        suspects = suspects.also_in(await to_thread(find_suspects, background, observed))
    async with lock:
        drifts = _confirm(nft, suspects, observed)
        # Whoever changed something since we began is seen by the next look at the generation.
        if not suspects.is_unreadable:
            observed.generation = generation + observed.commits - commits
    return drifts


def find_suspects(nft: Nft, observed: Observed) -> Suspects:
    """Read everything and note what differs from belief, which may change meanwhile."""
    suspects = Suspects([], {})
    for family, belief in observed.tables.items():
        structure = read_structure_patiently(nft, family)
        if structure is None:
            suspects = suspects._replace(is_unreadable=True)
        if differs_in_structure(structure, belief):
            suspects.structures.append(family)
            continue
        for set_name in list(belief.sets):  # one for ranges may come
            believed = belief.elements.get(set_name, {})
            seen: list[set[bytes]] = [set() for _ in range(_PARTS)]
            different: list[bytes] = []
            for block in OURS.list_elements(nft, family, set_name):
                for key, data in block:
                    seen[hash(key) % _PARTS].add(key)
                    if believed.get(key, nft) != data:
                        different.append(key)
            different += [key for key in list(believed) if key not in seen[hash(key) % _PARTS]]
            while seen:
                seen.pop()
            if different:
                suspects.elements[family, set_name] = different
    return suspects


def _confirm(nft: Nft, suspects: Suspects, observed: Observed) -> list[Drift]:
    drifts = [
        Drift(key=None, what=f"{family}: our table, or a chain or set in it")
        for family in suspects.structures
        if differs_in_structure(read_structure_patiently(nft, family), observed.tables[family])
    ]
    if suspects.total > SINGLE_READS:
        return [*drifts, Drift(key=None, what=f"{suspects.total} elements")]
    owners: dict[tuple[Family, str, bytes], PortKey] = {}
    for (family, set_name), keys in suspects.elements.items():
        actual = OURS.read_elements(nft, family, set_name, keys)
        believed = observed.tables[family].elements.get(set_name, {})
        for key in keys:
            if (key in actual) == (key in believed) and actual.get(key) == believed.get(key):
                continue
            owners = owners or _owners(observed, suspects)
            what = "missing" if key not in actual else "changed" if key in believed else "foreign"
            drifts.append(
                Drift(
                    key=owners.get((family, set_name, key)),
                    what=f"{family}: {what} element {key.hex()} of {set_name}",
                )
            )
            observed.correct(family, set_name, (key,), actual)
            if what == "foreign" and set_name in LENGTHS[family]:
                observed.sweep_away(family, set_name, key)
    return drifts


def read_structure_patiently(nft: Nft, family: Family) -> TableFacts | None:
    """Return the structure of a table, None if it is being changed all the time."""
    for _ in range(20):
        try:
            return OURS.read_structure(nft, family)
        except DumpInterrupted:
            continue
    return None


def differs_in_structure(found: TableFacts | None, belief: TableFacts) -> bool:
    return found is not None and found.structure != belief.structure


def _owners(observed: Observed, suspects: Suspects) -> dict[tuple[Family, str, bytes], PortKey]:
    """Return who occupies the suspects; of those who share an element, any one will do to have it planned again."""
    wanted = {(f, name, key) for (f, name), keys in suspects.elements.items() for key in keys}
    # the key of a slot is its row's prefix and a number of four bytes
    by_prefix: dict[tuple[Family, str, bytes], list[bytes]] = {}
    # that of a range is a frontend and a network
    by_frontend: dict[tuple[Family, bytes], list[tuple[Family, str, bytes]]] = {}
    for family, name, key in wanted:
        by_prefix.setdefault((family, name, key[:-4]), []).append(key)
        if name in LENGTHS[family]:
            frontend = key[: -4 if family == IPV4 else -16]
            by_frontend.setdefault((family, frontend), []).append((family, name, key))
    owners: dict[tuple[Family, str, bytes], PortKey] = {}
    for port_key, rendered in observed.rendered.items():
        family = port_key.family
        for name, member in rendered.places():
            owners[family, name, member] = port_key
        for row in rendered.rows():
            for key in by_prefix.get((family, row.set, row.prefix), ()):
                number = int.from_bytes(key[-4:], sys.byteorder) - row.first
                if 0 <= number < row.length:
                    owners[family, row.set, key] = port_key
        for target in rendered.targets if by_frontend else ():
            for place in by_frontend.get((family, target.key), ()):
                owners[place] = port_key
    return {place: owner for place, owner in owners.items() if place in wanted}
