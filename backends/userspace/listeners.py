"""Where clients arrive: one listening socket for each frontend, and to whom what comes in is given. Shell.

A listener keeps its socket when it is given to another service or lets in others than before.
"""

import errno
import logging
import socket
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from backends.userspace.balancing import LACKING, Pool
from backends.userspace.datagrams import AT_ONCE, LARGEST, Flow
from backends.userspace.model import Listening, Place
from backends.userspace.proxy_header import proxy_header
from backends.userspace.services import Service
from backends.userspace.streams import Connection
from proxy.model import IPV4

if TYPE_CHECKING:
    from backends.userspace.forwarder import Forwarder

_EXHAUSTED: Final = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
_PKTOPTIONS: Final = {"IPv4": (socket.IPPROTO_IP, 9), "IPv6": (socket.IPPROTO_IPV6, 6)}
"""IP_PKTOPTIONS and IPV6_2292PKTOPTIONS: for TCP, by which interface the connection came (inet_sk(sk)->mc_index)."""
THE_NODE: Final = "node"
_CONTROL_HEAD: Final = struct.calcsize("Nii")
_CONTROL: Final = 64

log = logging.getLogger(__name__)


class Listener(ABC):
    """A listening socket, whose it is, and what it is for."""

    def __init__(
        self,
        forwarder: "Forwarder",
        place: Place,
        listening: Listening,
        listener: socket.socket,
        service: Service,
    ) -> None:
        self._forwarder = forwarder
        self.place = place
        self.listening = listening
        self.socket = listener
        self.service = service
        forwarder.watch(listener, self.on_event)

    def assign(self, listening: Listening, service: Service) -> None:
        """Have it serve otherwise, or for another ServicePort."""
        self.listening = listening
        self.service = service

    @abstractmethod
    def on_event(self, mask: int) -> None:
        """Take in who has come."""

    def close(self) -> None:
        """Stop listening. What was accepted goes on."""
        self._forwarder.ignore(self.socket)
        self._forwarder.close_later(self.socket)

    def _name(self, client: str) -> str:
        """Return who session affinity is for: the node is one client, whatever the address it asks from."""
        is_node = self._forwarder.here.is_node(client, self.place.address)
        return THE_NODE if is_node else client

    def _pool(self, client: str, interface: int) -> Pool:
        service = self.service
        if self.listening.role == "internal":
            return service.internal
        if service.here is service.outside:
            return service.outside
        is_here = self._forwarder.here.holds(client, self.place.address, interface)
        return service.here if is_here else service.outside


class TcpListener(Listener):
    """Accepts connections."""

    def on_event(self, _mask: int) -> None:
        forwarder = self._forwarder
        family, needs_interface = self.socket.family, forwarder.settings.detector.is_by_interface
        accept = self.socket._accept  # type: ignore[attr-defined] # noqa: SLF001 - accept() costs as much again
        for _ in range(AT_ONCE):
            if not forwarder.has_room:
                self._rest()
                return
            try:
                descriptor, peer = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest()
                    return
                if error.errno in (errno.EBADF, errno.EINVAL):  # somebody ended it (SOCK_DESTROY)
                    return
                continue  # the client has gone again (accept(2), "Error handling")
            client = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
            interface = self._interface(client) if needs_interface else 0
            pool = self._pool(peer[0], interface)
            head = b""
            if forwarder.settings.sends_proxy_header:
                head = proxy_header(peer[:2], (self.place.address, self.place.port))
            name = self._name(peer[0])
            connection = Connection(forwarder, self.service, pool, client, name, head)
            forwarder.call(connection.enter, 0)
        forwarder.later(self.on_event, 0)

    def _rest(self) -> None:
        self._forwarder.rest()
        self._forwarder.resting[self] = None

    def _interface(self, client: socket.SocketType) -> int:
        level, option = _PKTOPTIONS[self.place.family]
        try:
            control = client.getsockopt(level, option, _CONTROL)
        except OSError:
            return 0
        if len(control) < _CONTROL_HEAD + 4:
            return 0
        at = _CONTROL_HEAD if self.place.family == IPV4 else _CONTROL_HEAD + 16
        (index,) = struct.unpack_from("i", control, at)
        return int(index)


class UdpListener(Listener):
    """Receives datagrams."""

    def __init__(
        self,
        forwarder: "Forwarder",
        place: Place,
        listening: Listening,
        listener: socket.socket,
        service: Service,
    ) -> None:
        self.flows: dict[Any, Flow] = {}
        super().__init__(forwarder, place, listening, listener, service)

    def on_event(self, _mask: int) -> None:
        if self.socket.fileno() < 0:  # its turn was due when it was closed
            return
        for _ in range(AT_ONCE):
            try:
                datagram, control, _, client = self.socket.recvmsg(LARGEST, _CONTROL)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error about an earlier answer
                continue
            flow = self.flows.get(client) or self._begin(client, control)
            if flow is not None:
                flow.send(datagram)
        self._forwarder.later(self.on_event, 0)

    def answer(self, datagram: bytes, client: Any) -> None:
        """Send a client what an endpoint has answered."""
        try:
            self.socket.sendto(datagram, client)
        except OSError:
            log.debug("an answer from %s to %s was lost", self.place, client)

    def assign(self, listening: Listening, service: Service) -> None:
        is_other = service is not self.service or listening.role != self.listening.role
        super().assign(listening, service)
        if is_other:
            self._end_flows()

    def close(self) -> None:
        self._end_flows()
        super().close()

    def _end_flows(self) -> None:
        for flow in list(self.flows.values()):
            flow.close()

    def _begin(self, client: Any, control: list[tuple[int, int, bytes]]) -> Flow | None:
        forwarder, service = self._forwarder, self.service
        interface = 0
        for _, _, content in control:
            at = 0 if self.place.family == IPV4 else 16
            (interface,) = struct.unpack_from("i", content, at)
        pool = self._pool(client[0], interface)
        target = service.balancer.choose(pool, self._name(client[0]), forwarder.now_s)
        if target is None:
            service.refused += 1
            return None
        if forwarder.is_ours("UDP", target):
            service.failures += 1
            service.balancer.refused(target, forwarder.now_s)
            return None
        try:
            flow = Flow(forwarder, self, service, client, target)
        except OSError as error:
            service.failures += 1
            if error.errno not in LACKING:
                service.balancer.refused(target, forwarder.now_s)
            return None
        self.flows[client] = flow
        forwarder.add_flow(flow)
        return flow
