"""The door to this host's TCP connections: ends those whose own address is gone. Shell; holds no policy.

A connection keeps the address that it began with. When that is taken from the host nothing comes back any more, nothing can be
sent, and nobody is told; programs wait for a quarter of an hour. Ended from here they get an error at once (ECONNABORTED).
<linux/inet_diag.h>; the kernel must have been built with INET_DIAG_DESTROY, as those of distributions are.
"""

import errno
import struct
from collections.abc import Collection
from typing import Final

from proxy.addresses import unpack_ip
from proxy.closing import Closing
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, Family
from proxy.netlink.codec import Request
from proxy.netlink.socket import NetlinkSocket

NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY, SOCK_DESTROY
_NUMBERS: Final[dict[Family, int]] = {"IPv4": 2, "IPv6": 10}
_TCP: Final = 6
_NOT_OPEN: Final = 1 << 6 | 1 << 7 | 1 << 10  # TIME_WAIT, CLOSE, LISTEN
_STATES: Final = 0xFFF & ~_NOT_OPEN
_ASKED: Final = struct.Struct("=BBBxI")
_IDENTITY: Final = slice(4, 52)
"""Where struct inet_diag_sockid stands in an answer; our own address in it from the fifth byte on."""
_UNABLE: Final = (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL)


class Sockets(Closing):
    """The TCP connections of the network namespace of the thread that makes this object; one socket, open until `close`."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_SOCK_DIAG)

    def close(self) -> None:
        self._socket.close()

    def end(self, addresses: Collection[str]) -> int:
        """End the connections with one of these as their own address; return how many. Raises Unsupported, KernelError."""
        found = [each for family in _NUMBERS for each in self._find(family, addresses)]
        refused = self._socket.submit(found)
        for ack in refused:
            if ack.errno == errno.EOPNOTSUPP:
                raise Unsupported("ending connections", ack.text)
            if ack.errno != errno.ENOENT:  # it has not ended by itself
                raise KernelError("end connections", ack.errno, ack.text)
        return len(found) - len(refused)

    def _find(self, family: Family, addresses: Collection[str]) -> list[Request]:
        """Return what ends each of them. An IPv6 socket may have an IPv4 address."""
        head = _ASKED.pack(_NUMBERS[family], _TCP, 0, _STATES)
        found: list[Request] = []
        width = 4 if family == IPV4 else 16
        try:
            for piece in self._socket.dump(Request(_BY_FAMILY, 0, head + bytes(48))):
                for payload in piece:
                    identity = bytes(payload[_IDENTITY])
                    if unpack_ip(identity[4 : 4 + width]).text in addresses:
                        found.append(Request(_DESTROY, 0, head + identity))
        except KernelError as error:
            if error.errno in _UNABLE:
                raise Unsupported("listing connections", error.message) from error
            raise
        return found
