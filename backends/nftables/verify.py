"""Background verification: compare belief with the kernel, and take back what proves wrong. Shell.

A thread reads everything on a socket of its own while changes go on, so what it finds different is only suspected:
each suspect is read once more, between two transactions, before it counts as drift.
"""

import asyncio
from typing import Final, NamedTuple

from backends.kernel.nft import Nft
from backends.nftables import kernel, messages
from backends.nftables.belief import Observed, TableFacts
from backends.nftables.model import ENDPOINTS, REFUSED, SERVICES, TABLE
from backends.nftables.plan import slot_keys
from proxy.backend import Drift
from proxy.model import Family, PortKey
from proxy.netlink.socket import DumpInterrupted

SINGLE_READS: Final = 1000
"""With more suspects than this everything is observed anew instead of being read one by one."""


class Suspects(NamedTuple):
    """Where the kernel seemed to differ: whole tables (in their structure), and single elements."""

    structures: list[Family]
    elements: dict[tuple[Family, str], list[bytes]]

    @property
    def total(self) -> int:
        return sum(map(len, self.elements.values()))


async def verify(nft: Nft, background: Nft, lock: asyncio.Lock, observed: Observed) -> list[Drift]:
    """Return confirmed drift, with belief corrected.

    A drift without a key means that everything must be observed anew.
    """
    async with lock:
        generation, commits = nft.generation(), observed.commits
    suspects = await asyncio.to_thread(find_suspects, background, observed)
    async with lock:
        drifts = _confirm(nft, suspects, observed)
        # Whoever changed something since we began is seen by the next look at the generation.
        observed.generation = generation + observed.commits - commits
    return drifts


def find_suspects(nft: Nft, observed: Observed) -> Suspects:
    """Read everything and note what differs from belief, which may change meanwhile."""
    suspects = Suspects([], {})
    for family, belief in observed.tables.items():
        if _differs(_structure(nft, family), belief):
            suspects.structures.append(family)
            continue
        for set_name in belief.sets:
            believed = belief.elements.get(set_name, {})
            seen: set[bytes] = set()
            different: list[bytes] = []
            for block in nft.list_elements(
                messages.NUMBERS[family], TABLE, set_name, is_strict=False
            ):
                for key, data in block:
                    seen.add(key)
                    if believed.get(key, nft) != messages.parse_data(data):
                        different.append(key)
            different += [key for key in list(believed) if key not in seen]
            if different:
                suspects.elements[family, set_name] = different
    return suspects


def _confirm(nft: Nft, suspects: Suspects, observed: Observed) -> list[Drift]:
    drifts = [
        Drift(key=None, what=f"{family}: our table, or a chain or set in it")
        for family in suspects.structures
        if _differs(_structure(nft, family), observed.tables[family])
    ]
    if suspects.total > SINGLE_READS:
        return [*drifts, Drift(key=None, what=f"{suspects.total} elements")]
    owners: dict[tuple[Family, str, bytes], PortKey] = {}
    for (family, set_name), keys in suspects.elements.items():
        actual = kernel.read_elements(nft, family, set_name, keys)
        believed = observed.tables[family].elements.get(set_name, {})
        for key in keys:
            if (key in actual) == (key in believed) and actual.get(key) == believed.get(key):
                continue
            owners = owners or _owners(observed)
            what = "missing" if key not in actual else "changed" if key in believed else "foreign"
            drifts.append(
                Drift(
                    key=owners.get((family, set_name, key)),
                    what=f"{family}: {what} element {key.hex()} of {set_name}",
                )
            )
            observed.correct(family, set_name, (key,), actual)
    return drifts


def _structure(nft: Nft, family: Family) -> TableFacts | None:
    """Return the structure of a table, None if it is being changed all the time."""
    for _ in range(20):
        try:
            return kernel.read_structure(nft, family)
        except DumpInterrupted:
            continue
    return None


def _differs(found: TableFacts | None, belief: TableFacts) -> bool:
    return found is not None and (
        (found.is_present, found.is_dormant) != (belief.is_present, belief.is_dormant)
        or found.chains != belief.chains
        or found.sets != belief.sets
    )


def _owners(observed: Observed) -> dict[tuple[Family, str, bytes], PortKey]:
    """Return who occupies what; of those who share an element, any one will do to have it planned again."""
    owners: dict[tuple[Family, str, bytes], PortKey] = {}
    for port_key, rendered in observed.rendered.items():
        family = port_key.family
        for target in rendered.targets:
            owners[family, SERVICES, target.services_key] = port_key
            owners[family, REFUSED, target.services_key] = port_key
            for slot in slot_keys(target):
                owners[family, ENDPOINTS[target.protocol], slot] = port_key
        for set_name, member in rendered.shared:
            owners[family, set_name, member] = port_key
    return owners
