"""One forwarded TCP connection: connecting to an endpoint, and what becomes of it. Shell.

Each direction moves its data by itself (`halves`) when there is an event. Events are edges: whoever stops before there is
nothing more to do must be called again.

The end of one direction is passed on by itself (half-close). A side that breaks off has the other one broken off (reset).
"""

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from backends.userspace.balancing import LACKING, Pool
from backends.userspace.halves import Half, SourceBrokenError
from backends.userspace.model import Target
from backends.userspace.services import Service

if TYPE_CHECKING:
    from backends.userspace.forwarder import Forwarder

IN: Final = 0x001
URGENT: Final = 0x002  # EPOLLPRI
OUT: Final = 0x004
BROKEN: Final = 0x008  # EPOLLERR
FAILED: Final = BROKEN | 0x010  # EPOLLHUP
ENDS: Final = FAILED | 0x2000  # EPOLLRDHUP
READABLE: Final = IN | URGENT | ENDS

_NEW: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_RESET: Final = struct.pack("ii", 1, 0)
"""struct linger: closing sends a reset instead of an end."""


class Connection:
    """A client, and the endpoint it is connected to or is to be connected to."""

    __slots__ = (
        "_forwarder", "_head", "active_s", "client", "client_name", "down", "is_broken", "is_connecting", "is_over",
        "is_reset", "pool", "server", "service", "target", "tried", "up",
    )  # fmt: skip

    def __init__(
        self,
        forwarder: "Forwarder",
        service: Service,
        pool: Pool,
        client: socket.SocketType,
        client_name: str,
        head: bytes = b"",
    ) -> None:
        """`head` is what each endpoint is told before anything else."""
        self._forwarder = forwarder
        self._head = head
        self.service = service
        self.pool = pool
        self.client = client
        self.client_name = client_name
        self.server: socket.SocketType | None = None
        self.target: Target | None = None
        self.tried: tuple[Target, ...] = ()
        self.up = Half(forwarder.pipes, client, None)
        self.down: Half | None = None
        self.active_s = forwarder.now_s
        self.is_broken = self.is_connecting = self.is_over = self.is_reset = False
        if head:
            self.up.waiting, self.up.moved = head, -len(head)
        service.accepted += 1
        service.connections.add(self)

    # --- getting to an endpoint

    def enter(self, _mask: int = 0) -> None:
        """Begin, for a client that has just been accepted."""
        self.begin()
        if not self.is_over:
            is_writing = self.down is not None and self.down.is_blocked
            self._forwarder.watch(self.client, self.on_client, is_writing=is_writing)

    def begin(self) -> None:
        """Connect to an endpoint, the next one if some were tried; without any the client is refused.

        An endpoint on this node has accepted when connecting returns: what the client has said already is sent at once.
        """
        forwarder = self._forwarder
        while not self.is_over:
            target = None
            if len(self.tried) < forwarder.settings.attempts:
                target = self.service.balancer.choose(
                    self.pool, self.client_name, forwarder.now_s, self.tried
                )
            if target is None:
                self.service.refused += 1
                self.abort()
            elif self._connect(target):
                server = self.server
                goes_on = self.run(self.up)
                if goes_on and server is not None and self.server is server:
                    is_writing = self.is_connecting or self.up.is_blocked
                    forwarder.watch(server, self.on_server, is_writing=is_writing)
                return

    def _connect(self, target: Target) -> bool:
        """Begin to connect; return whether that can still succeed."""
        forwarder = self._forwarder
        if forwarder.is_ours("TCP", target):
            self._failed(target)
            return False
        family = socket.AF_INET6 if ":" in target.ip else socket.AF_INET
        try:
            server = socket.SocketType(family, _NEW, 0)
        except OSError:  # too many open files
            forwarder.put_off(self)
            return True
        self.server, self.target = server, target
        open_now = self.service.balancer.open
        open_now[target] = open_now.get(target, 0) + 1
        self.is_connecting = True
        self.up.aim(server)
        self.down = Half(forwarder.pipes, server, self.client, is_open=True)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        number = server.connect_ex(target)
        if number not in (errno.EINPROGRESS, 0):
            self._give_up(is_to_blame=number not in LACKING)
            return False
        forwarder.connecting[self] = forwarder.now_s + forwarder.settings.connect_s
        return True

    def _give_up(self, *, is_to_blame: bool = True) -> None:
        """Give an endpoint up that did not accept."""
        forwarder, server, target = self._forwarder, self.server, self.target
        if server is None or target is None:
            return
        forwarder.connecting.pop(self, None)
        self._failed(target, is_to_blame=is_to_blame)
        self._uncount(target)
        self.server, self.target, self.down = None, None, None
        self.up.aim(None)
        self.is_connecting = False
        forwarder.close_later(server)

    def _failed(self, target: Target, *, is_to_blame: bool = True) -> None:
        self.service.failures += 1
        if is_to_blame:
            self.service.balancer.refused(target, self._forwarder.now_s)
        self.tried = (*self.tried, target)

    def _uncount(self, target: Target) -> None:
        open_now = self.service.balancer.open
        left = open_now[target] - 1
        if left:
            open_now[target] = left
        else:
            del open_now[target]

    def on_time_out(self) -> None:
        """The endpoint has not accepted in time: go on with another, or wait for as long again where there is none.

        The kernel asks again meanwhile. Waiting counts as an attempt.
        """
        forwarder, target, members = self._forwarder, self.target, self.pool.members
        is_last_attempt = len(self.tried) + 1 >= forwarder.settings.attempts
        if target in members and members <= {*self.tried, target} and not is_last_attempt:
            self._failed(target)
            del forwarder.connecting[self]
            forwarder.connecting[self] = forwarder.now_s + forwarder.settings.connect_s
        else:
            self.try_another()

    def try_another(self) -> None:
        """Go on with another endpoint. Nothing was sent to this one, so nobody is the wiser."""
        self._give_up()
        self.begin()

    def _connected(self) -> None:
        self.is_connecting, self.up.is_open = False, True
        self._forwarder.connecting.pop(self, None)
        if self.target is not None:
            self.service.balancer.accepted(self.target)

    # --- events

    def on_client(self, mask: int) -> None:
        """The client's socket has become readable or writable, or has ended."""
        if self.is_over:
            return
        self.active_s = self._forwarder.now_s
        down = self.down
        if mask & OUT and down is not None and down.is_blocked:
            down.is_blocked = False
            if not self.run(down):
                return
        if mask & READABLE:
            up = self.up
            is_unread = self.is_connecting or up.is_blocked or up.is_done
            if mask & BROKEN and is_unread:
                self.abort()  # nobody would find out by reading
            else:
                self._hear(up, mask)

    def on_server(self, mask: int) -> None:
        """The endpoint's socket has."""
        if self.is_over:
            return
        self.active_s = self._forwarder.now_s
        if self.is_connecting:
            if mask & FAILED:
                self.try_another()
                return
            if not mask & (IN | OUT):
                return
            self._connected()
        up, down = self.up, self.down
        if mask & OUT and up.is_blocked:
            up.is_blocked = False
            if not self.run(up):
                return
        if down is None:
            return
        self.is_reset |= bool(mask & BROKEN)
        if mask & READABLE:
            self._hear(down, mask)
        if self.is_reset and down.is_done:  # nobody would find out by reading
            self._endpoint_broke()

    def _hear(self, half: Half, mask: int) -> None:
        if mask & ENDS:
            half.is_ending = True
        if mask & URGENT:
            half.is_urgent = True
        self.run(half)

    # --- moving data

    def run(self, half: Half) -> bool:
        """Move what there is in one direction; return whether the connection goes on."""
        if half.is_blocked or half.is_done or self.is_over:
            return not self.is_over
        try:
            is_more = half.move()
            self._settle(half)
        except SourceBrokenError:
            self.abort()
        except OSError as error:
            self._sink_broke(half, error)
        else:
            if is_more:
                self._forwarder.later(self.run, half)
        return not self.is_over

    def _settle(self, half: Half) -> None:
        """See what has become of one direction. Raises OSError when its sink is broken."""
        if self.is_connecting and self.up.is_open:
            self._connected()
        sink = half.sink
        if sink is None:
            return
        if half.is_done:
            other = self.up if half is self.down else self.down
            if other is None or other.is_done:
                self._finish()
            else:
                sink.shutdown(socket.SHUT_WR)
                if half is self.down and self.is_reset:
                    self._endpoint_broke()
        elif half.is_blocked and half.is_open:
            self._forwarder.ask_for_room(sink)

    def _sink_broke(self, half: Half, error: OSError) -> None:
        """Whoever is sent to is gone. What an endpoint has said before may still be passed on.

        That it broke off is told once, here: what is read afterwards looks like an end.
        """
        if half is not self.up or self.down is None:
            self.abort()
        elif not half.is_open:
            self.try_another()
        else:
            self._connected()
            half.give_up()
            self.is_broken = error.errno != errno.EPIPE  # that is said of one that had ended
            if self.down.is_done:
                self._finish()
            else:
                self.down.is_ending = True
                self.run(self.down)

    def _endpoint_broke(self) -> None:
        """The endpoint, which had ended, takes nothing more."""
        if self.server is not None and not self.is_over:
            number = self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._sink_broke(self.up, OSError(number, os.strerror(number)))

    def _finish(self) -> None:
        """Both directions are over: end as the endpoint did."""
        if self.is_broken:
            self.abort()
        else:
            self.close()

    @property
    def is_half_closed(self) -> bool:
        return self.up.is_ended or (self.down is not None and self.down.is_ended)

    def abort(self) -> None:
        """Break both sides off."""
        if not self.is_over:
            for end in (self.client, self.server):
                if end is not None:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def close(self) -> None:
        """Give back everything. What was not passed on is lost."""
        if self.is_over:
            return
        self.is_over = True
        forwarder, service = self._forwarder, self.service
        forwarder.connecting.pop(self, None)
        forwarder.starved.pop(self, None)
        service.connections.discard(self)
        service.received += max(self.up.moved, 0)
        if self.target is not None:
            self._uncount(self.target)
        if self.down is not None:
            service.sent += self.down.moved
        for half in (self.up, self.down):
            if half is not None:
                half.close()
        forwarder.close_later(self.client)
        if self.server is not None:
            forwarder.close_later(self.server)
