"""Whether this kernel can do what our rules need, tried for real in a throw-away table. Shell.

Where an earlier process has left all of our rules there is nothing to try, and a restart writes nothing.
"""

import errno
from collections.abc import Iterator
from typing import Final

from backends.kernel import nft_elements
from backends.kernel.nft import Nft
from backends.kernel.nft_owned import Trial
from backends.kernel.nft_table import NUMBERS
from backends.kernel.nft_transaction import Form, pack_element, pack_interval
from backends.nftables.firewall import firewall_for
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout
from backends.nftables.model import PROBE_TABLE, SERVICES
from backends.nftables.names import is_picking, picking_chain
from backends.nftables.picking import leads_to
from backends.nftables.private import private_specs
from proxy.errors import KernelError, Unsupported
from proxy.model import PROTOCOLS, Family, PortKey, ServicePortName
from proxy.netlink.socket import DumpInterrupted

_RANGES: Final[dict[Family, tuple[str, ...]]] = {
    "IPv4": ("192.0.2.0/24",),
    "IPv6": ("2001:db8::/32",),
}


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
        chains = OURS.read_structure(nft, family).chains
    except DumpInterrupted:
        return False
    picking = [name for name in chains if is_picking(name)]
    return any(chains[name] == layout.chain(family, name).facts for name in picking) and all(
        layout.is_fixed(family, spec.name, chains.get(spec.name))
        for spec in layout.skeleton(family)
    )


def _trials(layout: Layout, family: Family) -> Iterator[Trial]:
    number = NUMBERS[family]
    yield from OURS.trials(family, layout.sets(family), layout.skeleton(family))
    for protocol in PROTOCOLS:
        sticky = picking_chain(protocol, 4, timeout_s=1)
        split = picking_chain(protocol, 4, "external-ip", act="split", here=4)
        names = dict.fromkeys((*leads_to(split), split, *leads_to(sticky), sticky))
        yield from OURS.trials(family, (), [layout.chain(family, name) for name in names])
    firewall = firewall_for(PortKey(ServicePortName("", "", "", "TCP"), family), _RANGES[family])
    sets, chains = private_specs(firewall)
    yield from OURS.trials(family, sets, ())
    bounds = [pack_interval(Form.BOUNDS, key) for key in firewall.bounds]
    messages = nft_elements.new_elements(number, PROBE_TABLE, firewall.set_name, bounds)
    yield "range in a set", messages
    yield from OURS.trials(family, (), chains)
    key = bytes(layout.sets(family)[0].facts.key_length)
    element = pack_element(key, f"goto {sticky}")
    messages = nft_elements.new_elements(number, PROBE_TABLE, SERVICES, [element])
    yield "element that leads to a chain", messages
