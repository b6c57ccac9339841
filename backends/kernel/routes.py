"""The door to routes: those of one owner, which its protocol number tells from all others. Shell; holds no policy."""

import errno
import os
from collections.abc import Iterable, Sequence

from proxy.closing import Closing
from proxy.model import FAMILIES, Value
from proxy.netlink import codec, fib
from proxy.netlink.codec import Request
from proxy.netlink.fib import Route
from proxy.netlink.socket import NetlinkSocket


class Unroutable(Value, frozen=True):
    """A route that the kernel would not take, or not give up, and why."""

    route: Route
    errno: int
    text: str

    def __str__(self) -> str:
        return f"{self.route.kind} {self.route.cidr}: {self.text}"


class Routes(Closing):
    """The routes of one protocol in the network namespace of the thread that makes this object; open until `close`.

    Not for use by two threads at the same time.
    """

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._socket = NetlinkSocket(codec.NETLINK_ROUTE)

    def close(self) -> None:
        self._socket.close()

    def add(self, routes: Iterable[Route]) -> list[Unroutable]:
        """Make routes; return those the kernel would not have. One that is there already is no error.

        Raises KernelError when the outcome is unknown.
        """
        wanted = list(routes)
        refused = self._carry_out(wanted, [fib.new_route(each) for each in wanted])
        return [each for each in refused if each.errno != errno.EEXIST]

    def remove(self, routes: Iterable[Route]) -> list[Unroutable]:
        """Remove routes; one that is not there is no error. Otherwise as `add`."""
        unwanted = list(routes)
        refused = self._carry_out(unwanted, [fib.del_route(each) for each in unwanted])
        return [each for each in refused if each.errno != errno.ESRCH]

    def read(self) -> set[Route]:
        """Return the routes of this protocol. Costs in proportion to the routes of everybody. Raises KernelError."""
        return {
            route
            for family in FAMILIES
            for payload in self._socket.dump_whole(fib.list_routes(family))
            if (route := fib.parse_route(payload)) and route.protocol == self._protocol
        }

    def _carry_out(self, routes: Sequence[Route], requests: Sequence[Request]) -> list[Unroutable]:
        if not requests:
            return []
        return [
            Unroutable(routes[ack.index], ack.errno, ack.text or os.strerror(ack.errno))
            for ack in self._socket.submit(requests)
        ]


class RouteNews(Closing):
    """What the kernel announces about the routes of one protocol, from the moment this is made; open until `close`."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        groups = fib.RTNLGRP_IPV4_ROUTE, fib.RTNLGRP_IPV6_ROUTE
        self._socket = NetlinkSocket.hearing(codec.NETLINK_ROUTE, *groups)

    def close(self) -> None:
        self._socket.close()

    def take(self) -> dict[Route, bool] | None:
        """Return the routes that came (True) or went since this was last asked, as each was at last; None if some was lost."""
        messages = self._socket.announced()
        if messages is None:
            return None
        found: dict[Route, bool] = {}
        for message in messages:
            route = fib.parse_route(message.payload)
            if route is not None and route.protocol == self._protocol:
                found[route] = message.kind == fib.RTM_NEWROUTE
        return found
