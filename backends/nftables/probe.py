"""Whether this kernel can do what our rules need, tried for real in a throw-away table. Shell.

The table is dormant: its chains are created like ours but not hooked in, so no packet sees them. Where an earlier
process has left all of our rules there is nothing to try, and a restart writes nothing.
"""

import errno
from collections.abc import Iterator

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft
from backends.nftables import kernel, messages
from backends.nftables.layout import Layout, is_picking, picking_chain
from backends.nftables.model import PROBE_TABLE, SERVICES, ChainSpec
from proxy.errors import KernelError, Unsupported
from proxy.model import PROTOCOLS, Family
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted


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
        number = messages.NUMBERS[family]
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
        chains.get(spec.name) == spec.facts for spec in layout.skeleton(family)
    )


def _remove(nft: Nft, number: int) -> None:
    if nft.find_table(number, PROBE_TABLE) is not None:
        nft.commit([nft_messages.del_table(number, PROBE_TABLE)])


def _steps(layout: Layout, family: Family) -> Iterator[tuple[str, list[Request]]]:
    number = messages.NUMBERS[family]
    yield "nftables tables", [nft_messages.new_table(number, PROBE_TABLE, is_dormant=True)]
    for spec in layout.sets(family):
        yield f"set {spec.name}", [messages.pack_set(family, spec, PROBE_TABLE)]
    for chain in layout.skeleton(family):
        yield from _chain_steps(family, chain)
    for protocol in PROTOCOLS:
        name = picking_chain(protocol, 4)
        yield from _chain_steps(family, layout.chain(family, name))
    key = bytes(layout.sets(family)[0].facts.key_length)
    element = messages.pack_element(key, f"goto {name}")
    yield (
        "element that leads to a chain",
        nft_elements.new_elements(number, PROBE_TABLE, SERVICES, [element]),
    )


def _chain_steps(family: Family, chain: ChainSpec) -> Iterator[tuple[str, list[Request]]]:
    make, flush, *rules = messages.pack_chain(family, chain, PROBE_TABLE)
    yield f"chain {chain.name}", [make, flush]
    for rule, request in zip(chain.rules, rules, strict=True):
        yield f"rule of chain {chain.name}: {rule.comment}", [request]
