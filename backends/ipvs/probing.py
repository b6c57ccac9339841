"""Whether this kernel can do what we need, tried for real: a virtual server, a device, and the rules in a throw-away table. Shell.

The table is dormant: its chains are created like ours but not hooked in, so no packet sees them.
"""

import errno
from collections.abc import Iterator
from typing import Final

from backends.ipvs.kernel import Doors
from backends.ipvs.layout import Layout
from backends.ipvs.marks import NUMBERS as MARKED
from backends.ipvs.model import DEVICE, PROBE_TABLE
from backends.ipvs.render import STICKY_SCHEDULER
from backends.kernel import ipvs_messages, nft_messages
from backends.kernel.ipvs_objects import VirtualServer, marked
from backends.kernel.nft_table import NUMBERS, pack_chain, pack_set
from proxy.errors import KernelError, Unsupported
from proxy.model import Family
from proxy.netlink.codec import Request

_PROBE_DEVICE: Final = "sliceproxy-try"


def probe(doors: Doors, layout: Layout) -> None:
    """Create one of everything, then remove it. Raises Unsupported naming the first thing the kernel refuses."""
    try:
        for family in layout.families:
            _try_servers(doors, layout, family)
            _try_rules(doors, layout, family)
        _try_device(doors)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        raise Unsupported("ipvs", f"needs the capability NET_ADMIN ({error})") from error


def _try_servers(doors: Doors, layout: Layout, family: Family) -> None:
    """Make a virtual server of each scheduler that is needed, and see that it is there."""
    identity = marked(family, layout.marks.mark(MARKED - 1, "here"))
    for scheduler in dict.fromkeys((layout.settings.scheduler, STICKY_SCHEDULER)):
        doors.ipvs.carry_out([ipvs_messages.del_server(identity)])  # of an interrupted probe
        server = VirtualServer(identity, scheduler)
        refusals = doors.ipvs.carry_out([ipvs_messages.new_server(server)])
        found = doors.ipvs.find_server(identity)
        doors.ipvs.carry_out([ipvs_messages.del_server(identity)])
        for refusal in refusals:
            if refusal.errno == errno.EPERM:
                raise KernelError("add a virtual server", refusal.errno, refusal.text)
            raise Unsupported(f"IPVS scheduler {scheduler} ({family})", refusal.text)
        if found != server:
            raise Unsupported(f"IPVS scheduler {scheduler} ({family})", "nothing was made")


def _try_device(doors: Doors) -> None:
    if doors.links.find(DEVICE) is not None:
        return
    try:
        doors.links.ensure_dummy(_PROBE_DEVICE)
    except KernelError as error:
        if error.errno == errno.EPERM:
            raise
        raise Unsupported("dummy devices", error.message) from error
    finally:
        doors.links.remove_dummy(_PROBE_DEVICE)


def _try_rules(doors: Doors, layout: Layout, family: Family) -> None:
    number, nft = NUMBERS[family], doors.nft
    _remove(doors, number)  # an earlier probe may have been interrupted
    steps = list(_steps(layout, family))
    try:
        nft.commit([request for _, requests in steps for request in requests])
    except KernelError:
        for what, requests in steps:  # one at a time, to name what is refused
            try:
                nft.commit(requests)
            except KernelError as error:
                raise Unsupported(f"{family} {what}", error.message) from error
        raise
    finally:
        _remove(doors, number)


def _remove(doors: Doors, number: int) -> None:
    if doors.nft.find_table(number, PROBE_TABLE) is not None:
        doors.nft.commit([nft_messages.del_table(number, PROBE_TABLE)])


def _steps(layout: Layout, family: Family) -> Iterator[tuple[str, list[Request]]]:
    yield (
        "nftables tables",
        [nft_messages.new_table(NUMBERS[family], PROBE_TABLE, is_dormant=True)],
    )
    for spec in layout.sets(family):
        yield f"set {spec.name}", [pack_set(family, spec, PROBE_TABLE)]
    for chain in layout.chains(family):
        make, flush, *rules = pack_chain(family, chain, PROBE_TABLE)
        yield f"chain {chain.name}", [make, flush]
        for rule, request in zip(chain.rules, rules, strict=True):
            yield f"rule of chain {chain.name}: {rule.comment}", [request]
