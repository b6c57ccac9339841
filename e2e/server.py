"""A program that answers everyone with its own name and the client that it saw: `NAME CLIENT-IP CLIENT-PORT`.

    server.py NAME tcp:80 udp:53 sctp:9000 …

Listens on every address of both families. A stream gets one line when it connects and one more for each line it sends;
a datagram gets one line back, from the very address it was sent to. Prints `ready` when all ports listen, and ends when
stdin closes, so that no server outlives the process that wanted it.

Only the standard library, and little of it: the program runs isolated and should start at once.
"""

import contextlib
import functools
import os
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any

_PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
_IP_PKTINFO = 8  # <linux/in.h>; in the socket module from Python 3.14 on


class Server:
    """All listening sockets and open connections of one pod, on one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()

    def listen(self, protocol: str, port: int) -> None:
        """Answer on this port, over IPv4 and IPv6. Raises OSError if it is taken or the protocol is unknown here."""
        kind, number = _PROTOCOLS[protocol]
        for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = socket.socket(family, kind, number)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((everywhere, port))
            if kind == socket.SOCK_DGRAM:
                ask_for_destination(listener, family)
                self._when_readable(listener, self._answer_datagrams)
            else:
                listener.listen(4096)
                self._when_readable(listener, self._accept)

    def serve(self) -> None:
        """Answer until stdin closes."""
        self._selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fd != 0:
                    key.data(key.fileobj)
                elif not os.read(0, 4096):
                    return

    def _when_readable(self, source: socket.socket, act: Callable[[socket.socket], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    def _line(self, peer: tuple[Any, ...]) -> bytes:
        return f"{self._name} {peer[0]} {peer[1]}\n".encode()

    def _accept(self, listener: socket.socket) -> None:
        # the connection may be gone before it is accepted, or be reset while it is answered
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                connection, peer = listener.accept()
                connection.setblocking(False)
                line = self._line(peer)
                self._when_readable(connection, functools.partial(self._converse, line))
                self._send(connection, line)

    def _converse(self, line: bytes, connection: socket.socket) -> None:
        try:
            received = connection.recv(4096)
        except ConnectionError:
            received = b""
        if received:
            self._send(connection, line * received.count(b"\n"))
        else:
            self._forget(connection)

    def _send(self, connection: socket.socket, answer: bytes) -> None:
        try:
            connection.sendall(answer)
        except (ConnectionError, BlockingIOError):  # gone, or a client that asks without reading
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _answer_datagrams(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                _, ancillary, _, peer = listener.recvmsg(4096, 256)
                with contextlib.suppress(OSError):  # no way back to that client
                    listener.sendmsg(
                        [self._line(peer)], [reply_source(*entry) for entry in ancillary], 0, peer
                    )


def ask_for_destination(listener: socket.socket, family: int) -> None:
    """Have each datagram come with the address it was sent to: a host has many, and the answer must come from it."""
    if family == socket.AF_INET:
        listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def reply_source(level: int, kind: int, info: bytes) -> tuple[int, int, bytes]:
    """The packet information received, turned into the one to send: same address, any link.

    `struct in_pktinfo` is (link, local address, destination), `struct in6_pktinfo` is (address, link).
    """
    if level == socket.IPPROTO_IP:
        return level, kind, bytes(4) + info[4:8] + bytes(4)
    return level, kind, info[:16] + bytes(4)


def main(name: str, *ports: str) -> None:
    """Listen on `protocol:port` each, then answer."""
    server = Server(name)
    for port in ports:
        protocol, _, number = port.partition(":")
        server.listen(protocol, int(number))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
