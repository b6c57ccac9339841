"""What changes of one service cost among many: the work of planning them, and what is asked of the kernel."""

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from proxy.model import PortKey
from tests.contract.driving import adopt, program
from tests.contract.host import Cost, Host, KernelHost
from tests.desired_strategies import (
    Ports,
    addresses,
    desired_state,
    make_desired,
    many_services,
    whole,
)
from tests.model_builders import make_key
from tests.work_counter import Visits, Work, count_work, watch

SERVICE: Final = make_key("default/s7")


def _changes(desired: Ports) -> dict[str, Ports]:
    """The changes a service can undergo, each on top of the one before, by name."""
    address = str(desired[SERVICE].frontends[0].address)

    def with_pool(first: int, count: int) -> Ports:
        pool = addresses(first, count)
        return {SERVICE: make_desired("default/s7", *pool, cluster_ip=address)}

    return {
        "replace one": with_pool(1, 2),
        "add across a power of two": with_pool(1, 3),
        "add": with_pool(1, 4),
        "remove": with_pool(1, 3),
        "replace all": with_pool(11, 3),
        "remove across a power of two": with_pool(11, 2),
        "to none": with_pool(0, 0),
        "from none": with_pool(1, 1),
        "new": desired_state(make_desired("default/new", "10.9.9.9:1", cluster_ip="10.111.0.1")),
        "gone": {},
    }


def _steps(desired: Ports) -> Iterable[tuple[str, Ports, PortKey]]:
    """Each change by name, with what is desired after it and the key it changes."""
    gone = make_key("default/new")
    for name, change in _changes(desired).items():
        after = {k: v for k, v in desired.items() if k != gone} | change
        yield name, after, gone if name in ("new", "gone") else SERVICE


def work_of_changes(services: int) -> Callable[[Host], Coroutine[Any, Any, dict[str, Work]]]:
    async def run(host: Host) -> dict[str, Work]:
        backend, desired = host.start(), many_services(services)
        observed = await adopt(backend, desired)
        visits, works = Visits(), dict[str, Work]()
        host.watch(observed, visits)
        for name, after, key in _steps(desired):
            content = Content(after)
            watch(content, visits)
            backend.plan(
                whole(after), observed, [key]
            )  # what is made once and then the same for ever
            make_plan = functools.partial(backend.plan, whole(content.ports), observed, [key])
            works[name] = count_work(make_plan, visits)
        return works

    return run


def costs_of_changes(
    services: int,
) -> Callable[[KernelHost], Coroutine[Any, Any, dict[str, Cost]]]:
    async def run(host: KernelHost) -> dict[str, Cost]:
        backend, desired = host.start(), many_services(services)
        observed = await adopt(backend, desired)
        costs: dict[str, Cost] = {}
        for name, after, key in _steps(desired):
            host.spent(backend)
            await program(backend, observed, after, [key])
            costs[name] = host.spent(backend)
        return costs

    return run


class Content:
    """A state as the attribute of an object, to be watched."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
