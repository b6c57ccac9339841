"""One forwarded TCP connection: connecting to an endpoint, and moving data in both directions. Shell.

What a short connection says is received and sent; as soon as data comes in large portions, the kernel moves it through a pipe
(splice) and it is never copied here. At most one pipe full, or one portion, waits for a side that does not read: then the
other one is not read either. Events are edges: whoever stops before there is nothing more to do must be called again.

The end of one direction is passed on by itself (half-close). A side that breaks off has the other one broken off (reset).
"""

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from backends.userspace.balancing import Pool
from backends.userspace.model import Target
from backends.userspace.pipes import SIZE, Pipe
from backends.userspace.services import Service

if TYPE_CHECKING:
    from backends.userspace.forwarder import Forwarder

PORTION: Final = 1 << 16
"""What is received at once; as much is bulk data, and what follows is spliced."""
TURN: Final = 4 << 20
"""Bytes of one direction after which others have their turn."""
IN: Final = 0x001
OUT: Final = 0x004
BROKEN: Final = 0x008  # EPOLLERR
FAILED: Final = BROKEN | 0x010  # EPOLLHUP
ENDS: Final = FAILED | 0x2000  # EPOLLRDHUP

_NEW: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_WAIT_NOT: Final = socket.MSG_DONTWAIT
_RESET: Final = struct.pack("ii", 1, 0)
"""struct linger: closing sends a reset instead of an end."""


class _SourceBrokenError(Exception):
    """Whoever sends has broken the connection off."""


class Half:
    """One direction. `waiting` is data that the sink did not take yet, `piped` how much of it is in the pipe.

    `is_blocked`: until the sink takes more. `is_ending`: an end may stand behind what is to be read, of which nobody will be
    told again. `is_ended`: the source has said all; `is_done`: that was passed on, too.
    """

    __slots__ = (
        "is_blocked", "is_bulk", "is_done", "is_ended", "is_ending", "moved", "pipe", "piped", "sink", "source", "waiting",
    )  # fmt: skip

    def __init__(self, source: socket.SocketType, sink: socket.SocketType | None) -> None:
        self.source = source
        self.sink = sink
        self.waiting: bytes | memoryview = b""
        self.pipe: Pipe | None = None
        self.piped = 0
        self.moved = 0
        self.is_blocked = self.is_bulk = self.is_ending = self.is_ended = self.is_done = False


class Connection:
    """A client, and the endpoint it is connected to or is to be connected to."""

    __slots__ = (
        "_forwarder", "_head", "active_s", "client", "client_name", "down", "is_broken", "is_connecting", "is_over",
        "pool", "server", "service", "target", "tried", "up",
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
        self.up = Half(client, None)
        self.down: Half | None = None
        self.active_s = forwarder.now_s
        self.is_broken = self.is_connecting = self.is_over = False
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
        self.up.sink, self.up.is_blocked = server, False
        self.down = Half(server, self.client)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = server.connect_ex(target)
        if number not in (errno.EINPROGRESS, 0):
            self._give_up()
            return False
        forwarder.connecting[self] = forwarder.now_s + forwarder.settings.connect_s
        return True

    def _give_up(self) -> None:
        """Give an endpoint up that did not accept."""
        forwarder, server, target = self._forwarder, self.server, self.target
        if server is None or target is None:
            return
        forwarder.connecting.pop(self, None)
        self.service.failures += 1
        self.service.balancer.refused(target, forwarder.now_s)
        self._uncount(target)
        self.tried = (*self.tried, target)
        self.server, self.target, self.up.sink, self.down = None, None, None, None
        self.is_connecting = False
        forwarder.close_later(server)

    def _uncount(self, target: Target) -> None:
        open_now = self.service.balancer.open
        left = open_now[target] - 1
        if left:
            open_now[target] = left
        else:
            del open_now[target]

    def try_another(self) -> None:
        """Go on with another endpoint. Nothing was sent to this one, so nobody is the wiser."""
        self._give_up()
        self.begin()

    def _connected(self) -> None:
        self.is_connecting = False
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
        if mask & (IN | ENDS):
            up = self.up
            is_unread = self.is_connecting or up.is_blocked or up.is_done
            if mask & BROKEN and is_unread:
                self.abort()  # nobody would find out by reading
            else:
                if mask & ENDS:
                    up.is_ending = True
                self.run(up)

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
        if mask & (IN | ENDS) and down is not None:
            if mask & ENDS:
                down.is_ending = True
            self.run(down)

    # --- moving data

    def run(self, half: Half) -> bool:
        """Move what there is in one direction; return whether the connection goes on."""
        if half.is_blocked or half.is_done or self.is_over:
            return not self.is_over
        try:
            is_more = self._move(half)
        except _SourceBrokenError:
            self.abort()
        except OSError as error:
            self._sink_broke(half, error)
        else:
            if is_more:
                self._forwarder.later(self.run, half)
        return not self.is_over

    def _sink_broke(self, half: Half, error: OSError) -> None:
        """Whoever is sent to is gone. What an endpoint has said before may still be passed on.

        That it broke off is told once, here: what is read afterwards looks like an end.
        """
        if half is not self.up or self.down is None:
            self.abort()
        elif self.is_connecting:
            self.try_another()
        else:
            half.waiting = b""
            half.is_ended = half.is_done = True
            self.is_broken = error.errno != errno.EPIPE  # that is said of one that had ended
            if self.down.is_done:
                self._finish()
            else:
                self.down.is_ending = True
                self.run(self.down)

    def _move(self, half: Half) -> bool:
        """Return whether there may be more. Raises OSError when the sink is broken, or that the source is."""
        if (half.waiting or half.piped) and not self._flush(half):
            return False
        if half.is_ended:
            self._end(half)
            return False
        if half.is_bulk:
            return self._splice(half)
        return self._copy(half)

    def _copy(self, half: Half, *, is_alone: bool = False) -> bool:
        """Receive and send. `is_alone`: go on with this whatever the portions, as there is no pipe."""
        budget = TURN
        while budget > 0:
            try:
                data = half.source.recv(PORTION, _WAIT_NOT)
            except BlockingIOError:
                return False
            except OSError as error:
                raise _SourceBrokenError from error
            if not data:
                self._end(half)
                return False
            size = len(data)
            half.waiting = data
            if not self._flush(half):
                return False
            budget -= size
            if size == PORTION and not is_alone:
                half.is_bulk = True
                return self._splice(half)
            if size < PORTION and not half.is_ending:
                return False
        return True

    def _flush(self, half: Half) -> bool:
        """Pass on what waits; return whether nothing is left. Until a connection is there everything waits."""
        sink = half.sink
        if sink is None:
            half.is_blocked = True
            return False
        if half.waiting:
            try:
                sent = sink.send(half.waiting, _WAIT_NOT)
            except BlockingIOError:
                sent = 0
            else:
                if self.is_connecting:
                    self._connected()
            half.moved += sent
            if sent < len(half.waiting):
                half.waiting = memoryview(half.waiting)[sent:]
                self._block(half)
                return False
            half.waiting = b""
        return not half.piped or self._empty(half)

    def _block(self, half: Half) -> None:
        """Have the sink say when it takes more."""
        half.is_blocked = True
        if half.sink is not None and not self.is_connecting:
            self._forwarder.ask_for_room(half.sink)

    def _splice(self, half: Half) -> bool:
        """Have the kernel move data. It heeds the sockets' own flag that says not to wait, which clients' lack until now."""
        pipes = self._forwarder.pipes
        pipe = half.pipe
        if pipe is None:
            pipe = half.pipe = pipes.take()
            if pipe is None:  # too many open files
                half.is_bulk = False
                return self._copy(half, is_alone=True)
            self.client.setblocking(False)
        budget, into, source = TURN, pipe.into, half.source.fileno()
        try:
            while budget > 0:
                try:
                    count = os.splice(source, into, SIZE, flags=_SPLICE)
                except BlockingIOError:
                    return False
                except OSError as error:
                    raise _SourceBrokenError from error
                if not count:
                    self._end(half)
                    return False
                half.piped = count
                budget -= count
                if not self._empty(half):
                    return False
            return True
        finally:
            if not (half.piped or self.is_over):
                pipes.give_back(pipe)
                half.pipe = None
                half.is_bulk = TURN - budget >= PORTION // 4

    def _empty(self, half: Half) -> bool:
        """Pass on what is in the pipe; return whether nothing is left in it."""
        if half.pipe is None or half.sink is None:
            return not half.piped
        out_of, sink = half.pipe.out_of, half.sink.fileno()
        while half.piped:
            try:
                count = os.splice(out_of, sink, half.piped, flags=_SPLICE)
            except BlockingIOError:
                self._block(half)
                return False
            half.moved += count
            half.piped -= count
        return True

    # --- ends

    def _end(self, half: Half) -> None:
        """Pass the end of a direction on, now that everything before it was; after both the connection is over."""
        half.is_ended = True
        if self.is_connecting or half.sink is None:
            half.is_blocked = True
            return
        half.is_done = True
        other = self.up if half is self.down else self.down
        if other is None or other.is_done:
            self._finish()
        else:
            half.sink.shutdown(socket.SHUT_WR)

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
            if half is not None and half.pipe is not None:
                forwarder.pipes.destroy(half.pipe)
                half.pipe = None
        forwarder.close_later(self.client)
        if self.server is not None:
            forwarder.close_later(self.server)
