"""Whether this kernel can do what we need, tried for real: a virtual server and a device. The side rules try themselves. Shell."""

import errno
from typing import Final

from backends.ipvs.kernel import Doors
from backends.ipvs.layout import Layout
from backends.ipvs.model import DEVICE
from backends.ipvs.render import STICKY_SCHEDULER
from backends.kernel import ipvs_messages
from backends.kernel.ipvs_marks import NUMBERS as MARKED
from backends.kernel.ipvs_objects import VirtualServer, marked
from proxy.errors import KernelError, Unsupported
from proxy.model import Family

_PROBE_DEVICE: Final = "sliceproxy-try"


def probe(doors: Doors, layout: Layout) -> None:
    """Create one of everything, then remove it. Raises Unsupported naming the first thing the kernel refuses."""
    try:
        for family in layout.families:
            _try_servers(doors, layout, family)
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
