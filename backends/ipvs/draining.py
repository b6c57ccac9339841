"""Looks after what drains: a destination that nobody wants goes when it is idle, or when its time is up. Shell."""

import logging

from backends.ipvs import kernel
from backends.ipvs.belief import Observed
from backends.ipvs.model import Operation
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from proxy.errors import KernelError

log = logging.getLogger(__name__)


def reap(ipvs: Ipvs, observed: Observed, now_s: float) -> int:
    """Remove what is idle; return the number of objects removed. A virtual server goes with its last destination.

    Raises KernelError if the kernel will not remove something.
    """
    operations: list[Operation] = []
    for server in list(observed.draining):
        operations += _idle(ipvs, observed, server, now_s)
    refusals = kernel.carry_out(ipvs, operations)
    for number, operation in enumerate(operations):
        if number not in refusals:
            observed.fold_operation(operation, now_s)
    for refusal in refusals.values():
        raise KernelError("remove what has drained", refusal.errno, str(refusal))
    return len(operations)


def _idle(ipvs: Ipvs, observed: Observed, server: ServerId, now_s: float) -> list[Operation]:
    """Return what ends of one virtual server."""
    loads = {
        (destination.address, destination.port): load
        for destination, load in ipvs.list_destinations(server)
    }
    there = observed.destinations[server]
    operations: list[Operation] = []
    for place, until_s in observed.draining[server].items():
        load = loads.get(place)
        if load is not None and load.active + load.inactive and now_s < until_s:
            continue
        if load is not None and load.active:
            log.warning("%s: %s goes with %d connections", server, there[place], load.active)
        operations.append(Operation("del destination", server, there[place], None))
    if len(operations) == len(there):
        return [Operation("del server", server, None, None)]
    return operations
