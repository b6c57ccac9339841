"""The door to network interfaces: a dummy device of our own, and the addresses on it. Shell; holds no policy.

A dummy device keeps addresses without any wire: what is on it is local to this host. Ours is told from somebody else's
of the same name by its hardware address, which it has from its first moment.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.closing import Closing
from proxy.errors import KernelError
from proxy.model import Value
from proxy.netlink import codec, route
from proxy.netlink.codec import Request
from proxy.netlink.route import InterfaceAddress, Link
from proxy.netlink.socket import Ack, NetlinkSocket

ALIAS: Final = "addresses of Services (sliceproxy)"
OWN_DEVICE: Final = "sliceproxy-ipvs"
KUBE_PROXYS_DEVICE: Final = "kube-ipvs0"
SERVICE_DEVICES: Final = (OWN_DEVICE, KUBE_PROXYS_DEVICE)
"""Ours and kube-proxy's: the interfaces whose addresses are those of Services. They are not this host's."""

_KIND: Final = "dummy"
_HARDWARE_ADDRESS: Final = b"\x02slice"  # 02: locally administered, so no manufacturer's
# Nobody else is on the device, so there is nothing to find out about duplicates, and nothing to be routed to it.
FLAGS: Final = route.IFA_F_NODAD | route.IFA_F_NOPREFIXROUTE


class Unbound(Value, frozen=True):
    """An address that the kernel would not put on the device, or not take from it, and why."""

    address: str
    errno: int
    text: str

    def __str__(self) -> str:
        return f"{self.address}: {self.text}"


class Links(Closing):
    """The interfaces of the network namespace of the thread that makes this object; one socket, open until `close`.

    Not for use by two threads at the same time.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(codec.NETLINK_ROUTE)

    def close(self) -> None:
        self._socket.close()

    def find(self, name: str) -> Link | None:
        """Return the interface of that name, whoever made it, None if there is none. Raises KernelError."""
        (reply,) = self._socket.ask([route.get_link(name)])
        if not isinstance(reply, Ack):
            return route.parse_link(reply.payload)
        if reply.errno == errno.ENODEV:
            return None
        raise _kernel_error(f"find interface {name}", reply)

    def numbers(self, names: Iterable[str]) -> frozenset[int]:
        """Return the indexes of those of these interfaces that there are. Raises KernelError."""
        found = map(self.find, names)
        return frozenset([link.ifindex for link in found if link is not None])

    def ensure_dummy(self, name: str) -> int:
        """See to it that our dummy device is there and up; return its index.

        It makes up no IPv6 addresses itself. Raises KernelError: with EEXIST if somebody else's interface has the name, with
        EOPNOTSUPP if the kernel has no dummy devices.
        """
        link = self.find(name)
        if link is None:
            self._do(f"make dummy device {name}", route.new_link(name, _KIND, _HARDWARE_ADDRESS))
            link = self.find(name)
        if link is None or not is_ours(link):
            text = "an interface of that name is there, and is not ours"
            raise KernelError(f"make dummy device {name}", errno.EEXIST, text)
        # Even if it was there: whoever made it may have been ended before this.
        self._do(f"set up {name}", route.describe_link(link.ifindex, ALIAS))
        self._do(f"set {name} up", route.set_link_up(link.ifindex))
        return link.ifindex

    def remove_dummy(self, name: str) -> None:
        """Remove our dummy device with its addresses, if it is there; somebody else's interface of the name stays."""
        link = self.find(name)
        if link is not None and is_ours(link):
            self._do(f"remove dummy device {name}", route.del_link(link.ifindex))

    def bind(self, index: int, addresses: Iterable[str]) -> list[Unbound]:
        """Put addresses on an interface, each with all its bits as prefix; return those the kernel would not have.

        One that is there already is no error. Raises KernelError when the outcome is unknown.
        """
        wanted = [_whole(index, address) for address in addresses]
        return self._carry_out(wanted, [route.new_address(each) for each in wanted])

    def unbind(self, index: int, addresses: Iterable[str]) -> list[Unbound]:
        """Take addresses from an interface; one that is not there is no error. Otherwise as `bind`."""
        unwanted = [_whole(index, address) for address in addresses]
        refused = self._carry_out(unwanted, [route.del_address(each) for each in unwanted])
        return [each for each in refused if each.errno != errno.EADDRNOTAVAIL]

    def addresses(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces, ours and others'."""
        found = map(route.parse_address, self._socket.dump_whole(route.list_addresses()))
        return [address for address in found if address is not None]

    def _carry_out(
        self, addresses: Sequence[InterfaceAddress], requests: Sequence[Request]
    ) -> list[Unbound]:
        return [
            Unbound(addresses[ack.index].address, ack.errno, _text(ack))
            for ack in self._socket.submit(requests)
        ]

    def _do(self, what: str, request: Request) -> None:
        for ack in self._socket.submit([request]):
            raise _kernel_error(what, ack)


class AddressNews(Closing):
    """What the kernel announces about the addresses of all interfaces, from the moment this is made; open until `close`."""

    def __init__(self) -> None:
        groups = route.RTNLGRP_IPV4_IFADDR, route.RTNLGRP_IPV6_IFADDR
        self._socket = NetlinkSocket.hearing(codec.NETLINK_ROUTE, *groups)

    def close(self) -> None:
        self._socket.close()

    def take(self) -> dict[InterfaceAddress, bool] | None:
        """Return the addresses that came (True) or went since this was last asked, None if some of that was lost.

        Each by itself, without flags, and as it was at last. One system call where nothing has happened.
        """
        messages = self._socket.announced()
        if messages is None:
            return None
        found: dict[InterfaceAddress, bool] = {}
        for message in messages:
            address = route.parse_address(message.payload)
            if address is not None:
                found[address._replace(flags=0)] = message.kind == route.RTM_NEWADDR
        return found


class LinkNews(Closing):
    """What the kernel announces about interfaces, from the moment this is made; open until `close`."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket.hearing(codec.NETLINK_ROUTE, route.RTNLGRP_LINK)

    def close(self) -> None:
        self._socket.close()

    def take(self) -> dict[int, str] | None:
        """Return by number how interfaces are called that came or changed since this was last asked, nothing for those that went.

        None if some of that was lost. One system call where nothing has happened.
        """
        messages = self._socket.announced()
        if messages is None:
            return None
        found: dict[int, str] = {}
        for message in messages:
            # AF_BRIDGE stands there of a port of a bridge, which may leave that and stay
            is_of_bridge = message.payload[0]
            if not is_of_bridge:
                link = route.parse_link(message.payload)
                found[link.ifindex] = link.name if message.kind == route.RTM_NEWLINK else ""
        return found


def is_ours(link: Link) -> bool:
    """Return whether we made this interface."""
    return link.kind == _KIND and link.hardware_address == _HARDWARE_ADDRESS


def _whole(index: int, address: str) -> InterfaceAddress:
    return InterfaceAddress(index, address, 128 if ":" in address else 32, FLAGS)


def _kernel_error(request: str, ack: Ack) -> KernelError:
    return KernelError(request, ack.errno, _text(ack))


def _text(ack: Ack) -> str:
    return ack.text or os.strerror(ack.errno)
