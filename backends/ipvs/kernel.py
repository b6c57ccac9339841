"""The kernel's side: takes steps, reads back what is ours, and translates the kernel's errors. Shell."""

import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from backends.ipvs import messages
from backends.ipvs.belief import Observed, TableFacts
from backends.ipvs.layout import Layout
from backends.ipvs.model import (
    DEVICE,
    MARKING,
    PROBE_TABLE,
    TABLE,
    Data,
    NftStep,
    Operation,
)
from backends.ipvs.render import read_mark
from backends.kernel import nft_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, Load, ServerId, VirtualServer
from backends.kernel.links import Links, is_ours
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_table import NUMBERS, ChainFacts, SetFacts
from proxy.errors import KernelError
from proxy.model import Family, PortKey
from proxy.netlink.socket import DumpInterrupted

_STRICT_ATTEMPTS: Final = 10
_LOOSE_ATTEMPTS: Final = 10
_DORMANT: Final = 1  # NFT_TABLE_F_DORMANT
_KUBE_PROXYS: Final = (
    "kube-ipvs0"  # not another interface's: its addresses go when kube-proxy is cleaned up
)
_GONE: Final = (errno.ESRCH, errno.ENOENT)


class Doors(NamedTuple):
    """What one thread at a time talks to the kernel through."""

    nft: Nft
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


class RefusedElements(KernelError):  # noqa: N818 - reads as a fact in `except`
    """The kernel refused a transaction because of elements; nothing of it was done.

    `owners` are the ServicePorts whose elements it named; empty when it did not say which.
    """

    def __init__(self, refused: Refused, owners: frozenset[PortKey]) -> None:
        super().__init__(refused.request, refused.errno, refused.message)
        self.owners = owners


def commit(nft: Nft, step: NftStep) -> None:
    """Carry out a transaction: all of it, or nothing.

    Raises RefusedElements when elements of ServicePorts are to blame, and KernelError for everything else:
    then what we believe of the tables themselves may be wrong, or the outcome is unknown.
    """
    packed = messages.pack(step)
    try:
        nft.commit(packed.requests)
    except Refused as refused:
        owners: set[PortKey] = set()
        for refusal in refused.refusals:
            if refusal.index is None or not packed.elements[refusal.index]:
                raise
            blamed = packed.element_at(refusal.index, refusal.offset)
            if blamed is None and refusal.offset is not None:
                raise  # the kernel points at something else than an element: the set or table is gone
            if blamed is None or blamed.owner is None:
                raise RefusedElements(refused, frozenset()) from refused
            owners.add(blamed.owner)
        raise RefusedElements(refused, frozenset(owners)) from refused


def carry_out(ipvs: Ipvs, operations: Collection[Operation]) -> dict[int, Refusal]:
    """Carry out messages to IPVS; return the refusals by position. What was to go and is gone already is no refusal.

    Raises KernelError when the outcome is unknown.
    """
    found = ipvs.carry_out([messages.pack_operation(each) for each in operations])
    verbs = [operation.verb for operation in operations]
    return {
        refusal.index: refusal
        for refusal in found
        if not (verbs[refusal.index].startswith("del") and refusal.errno in _GONE)
    }


def read_everything(doors: Doors, layout: Layout) -> Observed:
    """Read all that is ours, as a new belief. Raises KernelError."""
    tables, generation = read_tables(doors.nft, layout.families)
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
    marks = marks_in(tables)
    for server in doors.ipvs.list_servers():
        found = [each for each, _ in doors.ipvs.list_destinations(server.id)]
        if is_our_server(server.id, layout, observed.bound, marks):
            observed.correct_server(server.id, server, found)
        elif server.id.protocol is not None:
            there = {(each.address, each.port): each for each in found}
            observed.strangers.setdefault(server.id.address, {})[server.id] = server, there
    return observed


def is_our_server(
    server: ServerId, layout: Layout, bound: Collection[str], marks: Collection[int] = ()
) -> bool:
    """Whether a virtual server is ours: its address is on our device, or its mark in our range or in our tables.

    Marks outside our range are in our tables where another masquerade bit was configured before.
    """
    if server.family not in layout.families:
        return False
    if server.protocol is None:
        return layout.marks.number(server.mark) is not None or server.mark in marks
    return server.address in bound


def marks_in(tables: Mapping[Family, TableFacts]) -> set[int]:
    """Return the firewall marks that frontends lead to."""
    return {
        read_mark(data)
        for facts in tables.values()
        for name in MARKING
        for data in facts.elements.get(name, {}).values()
        if data is not None and len(data) == 4
    }


def read_server(
    ipvs: Ipvs, server: ServerId
) -> tuple[VirtualServer | None, list[tuple[Destination, Load]]]:
    """Read one virtual server with its destinations."""
    found = ipvs.find_server(server)
    return found, ipvs.list_destinations(server) if found is not None else []


def read_addresses(links: Links) -> Addresses:
    """Read the addresses of this host."""
    link = links.find(DEVICE)
    device = link.ifindex if link is not None and is_ours(link) and link.is_up else None
    index = link.ifindex if link is not None and is_ours(link) else None
    predecessor = links.find(_KUBE_PROXYS)
    bound: set[str] = set()
    elsewhere: set[str] = set()
    for each in links.addresses():
        if each.ifindex == index:
            bound.add(each.address)
        elif predecessor is None or each.ifindex != predecessor.ifindex:
            elsewhere.add(each.address)
    return Addresses(device, frozenset(bound), frozenset(elsewhere))


def _has_to_go(facts: TableFacts, layout: Layout, family: Family) -> bool:
    """Whether the kernel does not let us make a table what it should be: sets and hooks cannot be changed."""
    sets, chains = layout.set_facts[family], layout.chain_facts[family]
    return facts.is_dormant or (
        facts.is_present
        and (
            any(sets.get(name) != found for name, found in facts.sets.items())
            or any(
                name not in chains or chains[name].base != found.base
                for name, found in facts.chains.items()
            )
        )
    )


def read_tables(nft: Nft, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
    """Read everything in our tables, as of one generation of the ruleset.

    Where others change the ruleset all the time, a reading across their changes has to do: it stands for the
    generation before it, so that the next look at the generation leads to a comparison. Raises KernelError.
    """
    for attempt in range(_STRICT_ATTEMPTS + _LOOSE_ATTEMPTS):
        is_strict = attempt < _STRICT_ATTEMPTS
        generation = nft.generation()
        try:
            tables = {family: read_table(nft, family, is_strict=is_strict) for family in families}
        except DumpInterrupted:
            continue
        if nft.generation() == generation or not is_strict:
            return tables, generation
    raise KernelError("read our nftables tables", errno.EAGAIN, "the ruleset changes all the time")


def read_table(nft: Nft, family: Family, *, is_strict: bool = True) -> TableFacts:
    """Read one of our tables. Raises DumpInterrupted when the ruleset changes meanwhile."""
    facts = read_structure(nft, family)
    for name in facts.sets:
        facts.elements[name] = {
            key: data
            for block in list_elements(nft, family, name, is_strict=is_strict)
            for key, data in block
        }
    return facts


def read_structure(nft: Nft, family: Family) -> TableFacts:
    """Read one of our tables without the elements. Raises DumpInterrupted."""
    facts, number = TableFacts(), NUMBERS[family]
    table = nft.find_table(number, TABLE)
    if table is None:
        return facts
    facts.is_present, facts.is_dormant = True, bool(table.flags & _DORMANT)
    comments: dict[str, list[str]] = {}
    for rule in nft.list_rules(number, TABLE):
        comments.setdefault(rule.chain, []).append(rule.comment)
    for chain in nft.list_chains(number, TABLE):
        facts.chains[chain.name] = ChainFacts(chain.base, tuple(comments.get(chain.name, ())))
    for found in nft.list_sets(number, TABLE):
        facts.sets[found.name] = SetFacts(
            found.flags,
            found.key_type,
            found.key_length,
            found.data_type,
            found.data_length,
            found.size,
        )
    return facts


def list_elements(
    nft: Nft, family: Family, name: str, *, is_strict: bool = False
) -> Iterator[list[tuple[bytes, Data]]]:
    """Yield a set's elements, in blocks. A set that is gone has none; if strict, that is a reason to begin anew.

    Raises DumpInterrupted.
    """
    try:
        if name in messages.INTERVALS:
            found = nft.list_all_elements(NUMBERS[family], TABLE, name, is_strict=is_strict)
            yield [(messages.parse_interval(name, element), None) for element in found]
            return
        for block in nft.list_elements(NUMBERS[family], TABLE, name, is_strict=is_strict):
            yield [(key, messages.parse_data(data)) for key, data in block]
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        if is_strict:
            raise DumpInterrupted("a set is gone meanwhile") from error


def read_elements(
    nft: Nft, family: Family, set_name: str, keys: Collection[bytes]
) -> dict[bytes, Data]:
    """Read single elements; those that do not exist are left out."""
    if set_name in messages.INTERVALS:
        # the kernel would find the range that holds a key, not the one that is it; there are few
        found = {key for block in list_elements(nft, family, set_name) for key, _ in block}
        return dict.fromkeys(found.intersection(keys))
    there = nft.find_elements(NUMBERS[family], TABLE, set_name, list(keys))
    return {key: messages.parse_data(data) for key, data in there.items()}


def delete_tables(nft: Nft) -> int:
    """Remove our tables with everything in them, also those of an interrupted probe; return how many there were."""
    found = [
        (number, table)
        for number in NUMBERS.values()
        for table in (TABLE, PROBE_TABLE)
        if nft.find_table(number, table)
    ]
    nft.commit([nft_messages.del_table(number, table) for number, table in found])
    return len(found)
