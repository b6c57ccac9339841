"""The routes of one namespace beside its interfaces and addresses: rtnetlink requests in, replies out.

e2e/test_kernel_routes.py has it and the kernel carry out the same random changes, and compares.
"""

import errno

from proxy.netlink import codec, fib
from proxy.netlink.codec import Message
from proxy.netlink.fib import Route
from tests.fakes.links import LinksKernel
from tests.fakes.netlink import Reply, done, reply


class RoutesKernel(LinksKernel):
    """Routes by what they are; those that others made are just of another protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[Route, None] = {}

    def put(self, route: Route) -> None:
        """Have somebody make a route."""
        if route not in self.routes:
            self.routes[route] = None
            self._tell(fib.RTM_NEWROUTE, route)

    def take(self, route: Route) -> None:
        """Have somebody remove one."""
        del self.routes[route]
        self._tell(fib.RTM_DELROUTE, route)

    def _reply(self, message: Message) -> list[Reply]:
        if message.kind == fib.RTM_GETROUTE:
            is_ipv6 = message.payload[0] == 10
            listed: list[Reply] = [
                codec.message(fib.RTM_NEWROUTE, codec.NLM_F_MULTI, message.seq, _payload(route))
                for route in self.routes
                if (":" in route.cidr) == is_ipv6
            ]
            return [*listed, done(message.seq)]
        if message.kind not in {fib.RTM_NEWROUTE, fib.RTM_DELROUTE}:
            return super()._reply(message)
        route = fib.parse_route(message.payload)
        assert route is not None
        number = self._change(message.kind, route)
        wants = number or message.flags & codec.NLM_F_ACK
        return [reply(message.seq, number)] if wants else []

    def _change(self, kind: int, route: Route) -> int:
        if kind == fib.RTM_NEWROUTE:
            if route in self.routes:
                return errno.EEXIST
            self.put(route)
            return 0
        if route not in self.routes:
            return errno.ESRCH
        self.take(route)
        return 0

    def _tell(self, kind: int, route: Route) -> None:
        group = fib.RTNLGRP_IPV6_ROUTE if ":" in route.cidr else fib.RTNLGRP_IPV4_ROUTE
        for endpoint in self._listening:
            if group in endpoint.groups:
                endpoint.queue.append(codec.message(kind, 0, 0, _payload(route)))


def _payload(route: Route) -> bytes:
    return fib.new_route(route).payload
