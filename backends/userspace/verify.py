"""Compares belief with what is there: routes and addresses in the kernel, listeners in this process; corrects belief. Shell.

The kernel is read in a thread. What differs is read a second time before it counts, and compared with the belief of then.
"""

import asyncio
from typing import Final

from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.kernel import Facts, Kernel, News, address_of
from proxy.backend import Drift
from proxy.model import FAMILIES
from proxy.threads import to_thread

AT_ONCE: Final = 500
"""Listeners that are asked before others have their turn."""


async def verify(
    kernel: Kernel, engine: Engine, observed: Observed, lock: asyncio.Lock
) -> list[Drift]:
    """Return what differed from belief, which is corrected."""
    facts = await to_thread(kernel.read)
    if is_as_believed(facts, observed):
        return await check_listeners(engine, observed)
    async with lock:
        facts = await to_thread(kernel.read)
        return [*correct(facts, observed), *await check_listeners(engine, observed)]


def is_as_believed(facts: Facts, observed: Observed) -> bool:
    """Whether the kernel has what we believe."""
    return (
        facts.host == observed.host
        and facts.routes == observed.routes.keys()
        and facts.black_holes == observed.black_holes.keys()
    )


def correct(facts: Facts, observed: Observed) -> list[Drift]:
    """Believe what was read; return what is different by it. Pure."""
    drifts: list[Drift] = []
    for address in sorted(observed.routes.keys() - facts.routes):
        del observed.routes[address]
        holders = observed.holders.get(address, {})
        drifts += [Drift(key=key, what=f"{address} is not local any more") for key in holders]
        if not holders:
            drifts.append(Drift(key=None, what=f"{address} is not local any more"))
    for address in sorted(facts.routes - observed.routes.keys()):
        observed.routes[address] = None
        drifts.append(Drift(key=None, what=f"{address} is local, and no service has it"))
    if facts.black_holes != observed.black_holes.keys():
        observed.black_holes = dict.fromkeys(facts.black_holes)
        observed.node = None
        drifts.append(Drift(key=None, what="ranges that lead nowhere are others"))
    if facts.host != observed.host:
        keys = observed.node_ports if _follows_host(observed) else ()
        observed.host = facts.host
        drifts += [Drift(key=key, what="this host's addresses are others") for key in keys]
    return drifts


async def check_listeners(engine: Engine, observed: Observed) -> list[Drift]:
    """Ask of each listener whether it listens; return those that do not. They are believed gone."""
    drifts: list[Drift] = []
    for number, (place, listening) in enumerate(list(observed.listening.items()), start=1):
        if not number % AT_ONCE:
            await asyncio.sleep(0)
        if place in observed.listening and not engine.is_listening(place):
            if engine.has(place):
                engine.stop(place)
            observed.listen(place, None)
            drifts.append(Drift(key=listening.owner, what=f"nobody listens at {place} any more"))
    return drifts


def concerns(news: News, observed: Observed) -> bool:
    """Whether what was announced is not what we believe. Pure."""
    for route, is_there in news.routes.items():
        address = address_of(route)
        believed = observed.routes if address is not None else observed.black_holes
        if ((address or route.cidr) in believed) != is_there:
            return True
    return _follows_host(observed) and any(
        (address in observed.host) != is_new for address, is_new in news.addresses.items()
    )


def _follows_host(observed: Observed) -> bool:
    """Whether NodePorts of some family listen on whatever addresses this host has, or may do so."""
    if observed.node is None:
        return True
    named = observed.node.described.node_port_addresses
    return any(named.get(family) is None for family in FAMILIES)
