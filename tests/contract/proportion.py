"""What changes of one service cost among many: the work of planning them, and what is asked of the kernel."""

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from proxy.desired import Frontend
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
from tests.model_builders import make_endpoint, make_key
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


def _further_changes(desired: Ports) -> dict[str, Ports]:
    """Changes of a service with every kind of frontend, policies, ranges and affinity."""
    address = str(desired[SERVICE].frontends[0].address)
    outer = (
        Frontend("NodePort", None, 30080),
        Frontend("ExternalIP", "198.51.100.1", 80),
        Frontend("LoadBalancer", "203.0.113.1", 80),
    )

    def with_pool(first: int, **options: Any) -> Ports:
        here = make_endpoint("10.1.9.9:80", is_local=True)
        pool = addresses(first, 3)
        port = make_desired("default/s7", *pool, here, cluster_ip=address, outer=outer, **options)
        return {SERVICE: port}

    local, ranges = {"external_local": True, "internal_local": True}, ("192.0.2.0/24",)
    return {
        "every frontend": with_pool(1),
        "every frontend, replace one": with_pool(2),
        "policies local": with_pool(2, **local),
        "policies local, replace one": with_pool(3, **local),
        "affinity": with_pool(3, **local, affinity_timeout_s=60),
        "affinity, replace one": with_pool(4, **local, affinity_timeout_s=60),
        "ranges": with_pool(4, source_ranges=ranges),
        "ranges, replace one": with_pool(5, source_ranges=ranges),
    }


def _with_ranges(number: int, *ranges: str) -> Ports:
    """A service for the world outside, for that of which some ranges are."""
    outer = (Frontend("LoadBalancer", f"203.0.{number >> 8}.{number & 255}", 80),)
    cluster_ip = f"10.120.{number >> 8}.{number & 255}"
    port = make_desired(
        f"default/ranges{number}",
        *addresses(1, 2),
        cluster_ip=cluster_ip,
        outer=outer,
        source_ranges=ranges,
    )
    return desired_state(port)


def _changes_of_ranges() -> dict[str, Ports]:
    return {
        "with ranges": _with_ranges(0, "192.0.2.0/24", "198.51.100.7/32"),
        "other ranges": _with_ranges(0, "192.0.2.0/23", "198.51.100.7/32"),
        "one range less": _with_ranges(0, "192.0.2.0/23"),
        "no ranges": _with_ranges(0),
        "gone with ranges": {},
    }


def _steps(changes: dict[str, Ports], desired: Ports) -> Iterable[tuple[str, Ports, PortKey]]:
    """Each change by name, with what is desired after it and the key it changes."""
    gone = make_key("default/new")
    for name, change in changes.items():
        after = {k: v for k, v in desired.items() if k != gone} | change
        yield name, after, gone if name in ("new", "gone") else SERVICE


def work_of_changes(services: int) -> Callable[[Host], Coroutine[Any, Any, dict[str, Work]]]:
    async def run(host: Host) -> dict[str, Work]:
        backend, desired = host.start(), many_services(services)
        observed = await adopt(backend, desired)
        visits, works = Visits(), dict[str, Work]()
        host.watch(observed, visits)
        changes = _changes(desired) | _further_changes(desired)
        for name, after, key in _steps(changes, desired):
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
        for number in range(1, services // 20):
            desired |= _with_ranges(number, "192.0.2.0/24", "198.51.100.0/24")
        observed = await adopt(backend, desired)
        costs: dict[str, Cost] = {}
        of_ranges, key_of_ranges = _changes_of_ranges(), make_key("default/ranges0")
        steps = [
            *_steps(_changes(desired), desired),
            *[(name, {**desired, **change}, key_of_ranges) for name, change in of_ranges.items()],
        ]
        for name, after, key in steps:
            host.spent(backend)
            await program(backend, observed, after, [key])
            costs[name] = host.spent(backend)
            most = host.calls_at_most * (2 if name in of_ranges else 1)
            assert 0 < costs[name].calls <= most, (name, costs[name])
        return costs

    return run


class Content:
    """A state as the attribute of an object, to be watched."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
