"""Whether this kernel can do what our rules need, tried for real in a throw-away table. Shell.

Where an earlier process has left all of our rules there is nothing to try, and a restart writes nothing.
"""

import errno
from collections.abc import Iterator

from backends.kernel import nft_elements
from backends.kernel.nft import Nft
from backends.kernel.nft_owned import Trial
from backends.kernel.nft_table import NUMBERS
from backends.kernel.nft_transaction import pack_element
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout
from backends.nftables.model import PROBE_TABLE, SERVICES
from backends.nftables.names import is_picking, picking_chain
from backends.nftables.picking import leads_to
from backends.nftables.ranges import LENGTHS, set_of_ranges
from proxy.errors import KernelError, Unsupported
from proxy.model import PROTOCOLS, Family
from proxy.netlink.socket import DumpInterrupted


def probe(nft: Nft, layout: Layout) -> None:
    """Create one of everything, then remove it. Raises Unsupported naming the first thing the kernel refuses."""
    try:
        for family in layout.families:
            if _is_proven(nft, layout, family):
                OURS.forget_trial(nft, family)  # one may have been interrupted
            else:
                OURS.try_out(nft, family, _trials(layout, family))
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        raise Unsupported("nftables", f"needs the capability NET_ADMIN ({error})") from error


def _is_proven(nft: Nft, layout: Layout, family: Family) -> bool:
    """Whether the kernel holds all of our rules already: they were accepted by this very kernel."""
    try:
        found = OURS.read_structure(nft, family)
    except DumpInterrupted:
        return False
    chains, fixed = found.chains, layout.fixed(family, found.sets)
    picking = [name for name in chains if is_picking(name)]
    return any(chains[name] == layout.chain(family, name).facts for name in picking) and all(
        layout.is_fixed(family, name, chains.get(name), fixed) for name in fixed.chains
    )


def _trials(layout: Layout, family: Family) -> Iterator[Trial]:
    number = NUMBERS[family]
    ranges = [set_of_ranges(family, name) for name in (min(LENGTHS[family]), max(LENGTHS[family]))]
    names = {spec.name for spec in ranges}
    yield from OURS.trials(family, [*layout.sets(family), *ranges], layout.skeleton(family, names))
    for protocol in PROTOCOLS:
        sticky = picking_chain(protocol, 4, timeout_s=1)
        split = picking_chain(protocol, 4, "external-ip", act="split", here=4)
        needed = dict.fromkeys((*leads_to(split), split, *leads_to(sticky), sticky))
        yield from OURS.trials(family, (), [layout.chain(family, name) for name in needed])
    key = bytes(layout.sets(family)[0].facts.key_length)
    element = pack_element(key, f"goto {sticky}")
    messages = nft_elements.new_elements(number, PROBE_TABLE, SERVICES, [element])
    yield "element that leads to a chain", messages
