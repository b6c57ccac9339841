"""Remove everything of this mode: virtual servers, our device, side rules. Shell; what it asks blocks."""

import contextlib
import errno
from collections.abc import Callable, Collection

from backends.ipvs import kernel
from backends.ipvs.layout import Layout
from backends.ipvs.leaving import refuse_new
from backends.ipvs.model import DEVICE
from backends.ipvs.sides import Sides
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.links import Links
from proxy.errors import KernelError, Unsupported


def clean_up(
    layout: Layout, sides: Sides, open_ipvs: Callable[[], Ipvs], open_links: Callable[[], Links]
) -> int:
    """Remove all that is ours and nothing else; return the number of objects.

    Virtual servers go while the addresses on our device still say which are ours, and the side rules refuse new connections
    to those addresses meanwhile: nothing else would answer there than this host. Raises KernelError.
    """
    with open_links() as links, contextlib.ExitStack() as stack:
        addresses = kernel.read_addresses(links)
        written = list(sides.found(layout, stack))
        led_to: set[ServerId] = set()
        for side in written:
            tables, _ = side.read_tables(layout.families)
            refuse_new(side, tables)
            led_to |= kernel.servers_in(tables).keys()
        removed = _remove_servers(open_ipvs, layout, addresses.bound, led_to)
        if links.find(DEVICE) is not None:
            links.remove_dummy(DEVICE)
            removed += addresses.device is not None
        return removed + sum([side.delete() for side in written])


def _remove_servers(
    open_ipvs: Callable[[], Ipvs],
    layout: Layout,
    bound: Collection[str],
    led_to: Collection[ServerId],
) -> int:
    try:
        ipvs = open_ipvs()
    except Unsupported:
        return 0  # then there are none
    with ipvs:
        ours = [
            ipvs_messages.del_server(server.id)
            for server in ipvs.list_servers()
            if kernel.is_our_server(server.id, layout, bound, led_to)
        ]
        refused = [each for each in ipvs.carry_out(ours) if each.errno != errno.ESRCH]
        for refusal in refused:
            raise KernelError("remove virtual servers", refusal.errno, str(refusal))
    return len(ours)
