"""What the kernel has for us: routes that make addresses local, and the addresses that this host has anyway. Shell.

The only place that translates the kernel's errors. One that concerns a single route is that ServicePort's; where the outcome
is unknown nothing more can be tried.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from backends.kernel.links import SERVICE_DEVICES, AddressNews, Links
from backends.kernel.routes import RouteNews, Routes, Unroutable
from backends.userspace.model import ROUTE_PROTOCOL
from proxy.closing import Closing
from proxy.errors import KernelError
from proxy.model import PortKey
from proxy.netlink.fib import Route

_WHOLE: Final = ("/32", "/128")


class Facts(NamedTuple):
    """What was read: the addresses our routes make local, ranges that lead nowhere, and this host's own addresses.

    Those on the devices that have the addresses of Services are not this host's own.
    """

    routes: frozenset[str]
    black_holes: frozenset[str]
    host: frozenset[str]


class News(NamedTuple):
    """What has changed since somebody last asked: our routes, and this host's own addresses."""

    routes: dict[Route, bool]
    addresses: dict[str, bool]


class Kernel(Closing):
    """Routes of ours, and addresses, in the network namespace of the thread that makes this object."""

    def __init__(
        self,
        open_routes: Callable[[int], Routes] = Routes,
        open_links: Callable[[], Links] = Links,
    ) -> None:
        self._routes = open_routes(ROUTE_PROTOCOL)
        self._links = open_links()

    def close(self) -> None:
        self._routes.close()
        self._links.close()

    def read(self) -> Facts:
        """Read everything. Raises KernelError."""
        found, addresses = self._routes.read(), self._links.addresses()
        left_out = self._links.numbers(SERVICE_DEVICES)
        return Facts(
            frozenset([r.cidr.partition("/")[0] for r in found if _is_whole(r)]),
            frozenset([r.cidr for r in found if r.kind == "blackhole"]),
            frozenset(
                [
                    a.address
                    for a in addresses
                    if a.ifindex not in left_out and is_global(a.address)
                ]
            ),
        )

    def add(self, wanted: Iterable[tuple[str, PortKey | None]]) -> dict[PortKey, str]:
        """Make routes to addresses, or to ranges that lead nowhere; return whose the kernel would not have, and why."""
        owners = {_route(text): owner for text, owner in wanted}
        return _blamed(owners, self._routes.add(owners))

    def remove(self, unwanted: Iterable[tuple[str, PortKey | None]]) -> dict[PortKey, str]:
        """Remove them. As `add`."""
        owners = {_route(text): owner for text, owner in unwanted}
        return _blamed(owners, self._routes.remove(owners))

    def remove_all(self) -> int:
        """Remove every route of ours; return how many there were. Raises KernelError."""
        found = self._routes.read()
        for refused in self._routes.remove(found):
            raise KernelError("remove routes", refused.errno, str(refused))
        return len(found)


class Ears(Closing):
    """What the kernel announces of our routes and of addresses, from the moment this is made."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as unless_made:
            self._routes = RouteNews(ROUTE_PROTOCOL)
            unless_made.callback(self._routes.close)
            self._addresses = AddressNews()
            unless_made.callback(self._addresses.close)
            self._links = Links()
            unless_made.callback(self._links.close)
            self._left_out = self._links.numbers(SERVICE_DEVICES)
            unless_made.pop_all()

    def close(self) -> None:
        self._routes.close()
        self._addresses.close()
        self._links.close()

    def take(self) -> News | None:
        """Return what has changed, None if some of it was lost. Raises KernelError."""
        routes, addresses = self._routes.take(), self._addresses.take()
        if routes is None or addresses is None:
            return None
        if addresses:  # a device that has gone since is remembered
            self._left_out |= self._links.numbers(SERVICE_DEVICES)
        here = {
            each.address: is_new
            for each, is_new in addresses.items()
            if each.ifindex not in self._left_out
        }
        return News(routes, {a: is_new for a, is_new in here.items() if is_global(a)})


def is_global(address: str) -> bool:
    """Whether an address says by itself where it is, without a link: others come and go with every pod."""
    return not address.startswith("fe80:")


def address_of(route: Route) -> str | None:
    """Return the address that a route makes local, None for a route of another kind."""
    return route.cidr.partition("/")[0] if _is_whole(route) else None


def _is_whole(route: Route) -> bool:
    return route.kind == "local" and route.cidr.endswith(_WHOLE[":" in route.cidr])


def _route(text: str) -> Route:
    if "/" in text:
        return Route("blackhole", text, ROUTE_PROTOCOL)
    return Route("local", f"{text}{_WHOLE[':' in text]}", ROUTE_PROTOCOL)


def _blamed(
    owners: dict[Route, PortKey | None], refused: Iterable[Unroutable]
) -> dict[PortKey, str]:
    failed: dict[PortKey, str] = {}
    for each in refused:
        owner = owners[each.route]
        if owner is None:
            raise KernelError("routes", each.errno, str(each))
        failed[owner] = str(each)
    return failed
