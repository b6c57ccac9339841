"""Forwarded UDP: for each client of a listener a socket of its own to one endpoint, for as long as either side speaks. Shell.

Answers go out by the listener, so they come from the address that was asked. A flow whose endpoint is gone ends at once: the
client's next datagram begins another, as the kernel's modes have it. So does one whose endpoint says that nobody listens; not one of
which a router says that a datagram was too large for its way (EMSGSIZE).
"""

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from backends.userspace.model import Target
from backends.userspace.services import Service

if TYPE_CHECKING:
    from backends.userspace.forwarder import Forwarder
    from backends.userspace.listeners import UdpListener

LARGEST: Final = 65_535
AT_ONCE: Final = 64
"""Datagrams of one socket after which others have their turn."""
_NEW: Final = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class Flow:
    """What one client of a listener says, and what it is answered."""

    __slots__ = (
        "_forwarder",
        "_listener",
        "active_s",
        "client",
        "is_over",
        "server",
        "service",
        "target",
    )

    def __init__(
        self,
        forwarder: "Forwarder",
        listener: "UdpListener",
        service: Service,
        client: Any,
        target: Target,
    ) -> None:
        """Raises OSError."""
        self._forwarder = forwarder
        self._listener = listener
        self.service = service
        self.client = client
        self.target = target
        self.active_s = forwarder.now_s
        self.is_over = False
        family = socket.AF_INET6 if ":" in target.ip else socket.AF_INET
        self.server = socket.SocketType(family, _NEW, 0)
        try:
            self.server.connect(target)
        except OSError:
            self.server.close()
            raise
        service.accepted += 1
        service.flows.add(self)
        open_now = service.balancer.open
        open_now[target] = open_now.get(target, 0) + 1
        forwarder.watch(self.server, self.on_server)

    def send(self, datagram: bytes) -> None:
        """Pass on what the client says. What the kernel has no room for is lost, as datagrams are."""
        self.active_s = self._forwarder.now_s
        try:
            self.server.send(datagram)
        except BlockingIOError:
            return
        except OSError as error:  # of the datagram before: nobody listens there
            if error.errno != errno.EMSGSIZE:
                self._refused()
            return
        self.service.received += len(datagram)

    def on_server(self, _mask: int) -> None:
        """Pass on what the endpoint answers."""
        if self.is_over:
            return
        self.active_s = self._forwarder.now_s
        for _ in range(AT_ONCE):
            try:
                datagram = self.server.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    continue
                self._refused()
                return
            self._listener.answer(datagram, self.client)
            self.service.sent += len(datagram)
        self._forwarder.later(self.on_server, 0)

    def _refused(self) -> None:
        self.service.failures += 1
        self.service.balancer.refused(self.target, self._forwarder.now_s)
        self.close()

    def close(self) -> None:
        """Forget the client."""
        if self.is_over:
            return
        self.is_over = True
        open_now = self.service.balancer.open
        open_now[self.target] -= 1
        if not open_now[self.target]:
            del open_now[self.target]
        self.service.flows.discard(self)
        self._listener.flows.pop(self.client, None)
        self._forwarder.flows.pop(self, None)
        self._forwarder.close_later(self.server)
