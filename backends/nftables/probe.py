"""Whether this kernel can do what our rules need, tried for real in a throw-away table. Shell.

The table is dormant: its chains are created like ours but not hooked in, so no packet sees them. Where an earlier
process has left all of our rules there is nothing to try, and a restart writes nothing.
"""

import errno
from collections.abc import Iterator
from typing import Final

from backends.kernel import nft_elements, nft_messages, nft_table
from backends.kernel.nft import Nft
from backends.kernel.nft_table import ChainSpec
from backends.nftables import kernel, messages
from backends.nftables.firewall import Firewall, interval_keys
from backends.nftables.layout import Layout
from backends.nftables.model import PROBE_TABLE, SERVICES
from backends.nftables.names import is_picking, picking_chain
from backends.nftables.picking import leads_to
from backends.nftables.private import private_specs
from proxy.errors import KernelError, Unsupported
from proxy.model import PROTOCOLS, Family, PortKey, ServicePortName
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted

_RANGES: Final[dict[Family, tuple[str, ...]]] = {
    "IPv4": ("192.0.2.0/24",),
    "IPv6": ("2001:db8::/32",),
}


def probe(nft: Nft, layout: Layout) -> None:
    """Create one of everything, then remove it. Raises Unsupported naming the first thing the kernel refuses."""
    try:
        _probe(nft, layout)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        raise Unsupported("nftables", f"needs the capability NET_ADMIN ({error})") from error


def _probe(nft: Nft, layout: Layout) -> None:
    for family in layout.families:
        number = nft_table.NUMBERS[family]
        _remove(nft, number)  # an earlier probe may have been interrupted
        if _is_proven(nft, layout, family):
            continue
        steps = list(_steps(layout, family))
        try:
            nft.commit([request for _, requests in steps for request in requests])
        except KernelError:
            _name_what_is_refused(nft, family, steps)
            raise
        finally:
            _remove(nft, number)


def _name_what_is_refused(
    nft: Nft, family: Family, steps: list[tuple[str, list[Request]]]
) -> None:
    """Go one step at a time and raise Unsupported at the first that the kernel refuses."""
    for what, requests in steps:
        try:
            nft.commit(requests)
        except KernelError as error:
            raise Unsupported(f"{family} {what}", error.message) from error


def _is_proven(nft: Nft, layout: Layout, family: Family) -> bool:
    """Whether the kernel holds all of our rules already: they were accepted by this very kernel."""
    try:
        chains = kernel.read_structure(nft, family).chains
    except DumpInterrupted:
        return False
    picking = [name for name in chains if is_picking(name)]
    return any(chains[name] == layout.chain(family, name).facts for name in picking) and all(
        layout.is_fixed(family, spec.name, chains.get(spec.name))
        for spec in layout.skeleton(family)
    )


def _remove(nft: Nft, number: int) -> None:
    if nft.find_table(number, PROBE_TABLE) is not None:
        nft.commit([nft_messages.del_table(number, PROBE_TABLE)])


def _steps(layout: Layout, family: Family) -> Iterator[tuple[str, list[Request]]]:
    number = nft_table.NUMBERS[family]
    yield "nftables tables", [nft_messages.new_table(number, PROBE_TABLE, is_dormant=True)]
    for spec in layout.sets(family):
        yield f"set {spec.name}", [nft_table.pack_set(family, spec, PROBE_TABLE)]
    for chain in layout.skeleton(family):
        yield from _chain_steps(family, chain)
    for protocol in PROTOCOLS:
        sticky = picking_chain(protocol, 4, timeout_s=1)
        for name in (picking_chain(protocol, 4), *leads_to(sticky), sticky):
            yield from _chain_steps(family, layout.chain(family, name))
    firewall = Firewall(PortKey(ServicePortName("", "", "", "TCP"), family), _RANGES[family])
    sets, chains = private_specs(firewall)
    for spec in sets:
        yield f"set {spec.name}", [nft_table.pack_set(family, spec, PROBE_TABLE)]
    bounds = [messages.pack_bound(b) for b in interval_keys(family, firewall.ranges)]
    yield (
        "range in a set",
        nft_elements.new_elements(number, PROBE_TABLE, firewall.set_name, bounds),
    )
    for chain in chains:
        yield from _chain_steps(family, chain)
    key = bytes(layout.sets(family)[0].facts.key_length)
    element = messages.pack_element(key, f"goto {name}")
    yield (
        "element that leads to a chain",
        nft_elements.new_elements(number, PROBE_TABLE, SERVICES, [element]),
    )


def _chain_steps(family: Family, chain: ChainSpec) -> Iterator[tuple[str, list[Request]]]:
    make, flush, *rules = nft_table.pack_chain(family, chain, PROBE_TABLE)
    yield f"chain {chain.name}", [make, flush]
    for rule, request in zip(chain.rules, rules, strict=True):
        yield f"rule of chain {chain.name}: {rule.comment}", [request]
