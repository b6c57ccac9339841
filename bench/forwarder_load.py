"""Clients and servers that cost little, for forwarders to be the limit: `python -m bench.forwarder_load WHAT ADDRESS PORT …`.

Bulk data is sent from a file in memory and thrown away unread (MSG_TRUNC), so that no generator copies a byte. A short
connection is one small question, one small answer, and the server ends it. What was measured is printed as JSON.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Final

FILE: Final = 64 << 20
AT_ONCE: Final = 8 << 20
QUESTION: Final = b"GET / HTTP/1.0\r\n\r\n"
ANSWER: Final = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(100)
_IN: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_RESET: Final = struct.pack("ii", 1, 0)
_TRUNC: Final = socket.MSG_TRUNC | socket.MSG_DONTWAIT


def serve_bulk(address: str, port: int) -> None:
    """Throw away what clients send. One byte is sent when all of it has come."""
    listener = socket.create_server((address, port), backlog=1024)
    listener.setblocking(False)
    polled = select.epoll()
    polled.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in polled.poll():
            if descriptor == listener.fileno():
                client, _ = listener.accept()
                clients[client.fileno()] = client
                polled.register(client, select.EPOLLIN)
            elif not _discard(clients[descriptor]):
                client = clients.pop(descriptor)
                client.send(b".")
                client.close()


def _discard(client: socket.socket) -> bool:
    """Take what has come; return whether more may come."""
    try:
        return bool(client.recv_into(_BUFFER, AT_ONCE, _TRUNC))
    except BlockingIOError:
        return True
    except OSError:
        return False


_BUFFER: Final = bytearray(AT_ONCE)


def send_bulk(address: str, port: int, count: int, seconds: float) -> dict[str, float]:
    """Send by so many connections for so long, and wait until all of it has arrived."""
    with contextlib.ExitStack() as opened:
        memory = os.memfd_create("bulk")
        opened.callback(os.close, memory)
        os.pwrite(memory, bytes(FILE), 0)
        clients = [
            opened.enter_context(socket.create_connection((address, port))) for _ in range(count)
        ]
        polled = opened.enter_context(select.epoll())
        for client in clients:
            client.setblocking(False)
            polled.register(client, select.EPOLLOUT)
        begun_s = time.perf_counter()
        sent = 0
        while time.perf_counter() < begun_s + seconds:
            for descriptor, _ in polled.poll(1):
                with contextlib.suppress(BlockingIOError):
                    sent += os.sendfile(descriptor, memory, 0, AT_ONCE)
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            client.setblocking(True)
            client.recv(1)
        return {"bytes": sent, "seconds": time.perf_counter() - begun_s}


def serve_short(address: str, port: int) -> None:
    """Answer and end. A client is accepted when its question has come, so that nothing has to be waited for."""
    listener = socket.create_server((address, port), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    while True:
        client, _ = listener.accept()
        try:
            client.recv(1024)
            client.send(ANSWER)
        except OSError:
            pass
        client.close()


class _Asking:
    """So many clients that ask again as soon as they were answered."""

    def __init__(self, address: str, port: int) -> None:
        self._place = address, port
        self._polled = select.epoll()
        self._clients: dict[int, socket.SocketType] = {}
        self.done = self.failed = 0

    def begin(self) -> None:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        client = socket.SocketType(socket.AF_INET, kind, 0)
        client.connect_ex(self._place)
        self._clients[client.fileno()] = client
        self._polled.register(client.fileno(), _IN | select.EPOLLOUT)

    def turn(self) -> None:
        for descriptor, mask in self._polled.poll(1):
            client = self._clients[descriptor]
            try:
                if not mask & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                    client.send(QUESTION)
                    continue
                answer = client.recv(4096)
                if answer and not mask & select.EPOLLRDHUP and client.recv(4096):
                    continue
                self.done += 1
            except BlockingIOError:
                continue
            except OSError:
                self.failed += 1
            del self._clients[descriptor]
            # no TIME_WAIT, or ports run out within seconds
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            self.begin()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._polled.close()


def ask_short(address: str, port: int, count: int, seconds: float) -> dict[str, float]:
    """Ask by so many clients at the same time, for so long."""
    asking = _Asking(address, port)
    with contextlib.closing(asking):
        for _ in range(count):
            asking.begin()
        begun_s = time.perf_counter()
        while time.perf_counter() < begun_s + seconds:
            asking.turn()
    took_s = time.perf_counter() - begun_s
    return {"done": asking.done, "failed": asking.failed, "seconds": took_s}


def serve_echo(address: str, port: int) -> None:
    """Say what is heard, to one client after the other."""
    listener = socket.create_server((address, port))
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := client.recv(4096):
                client.send(data)
        except OSError:
            pass
        client.close()


def ask_echo(address: str, port: int, count: int, _seconds: float) -> dict[str, list[float]]:
    """Ask so often on one open connection; return how long each answer took (microseconds)."""
    took: list[float] = []
    with socket.create_connection((address, port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            begun_ns = time.perf_counter_ns()
            client.send(b"x" * 64)
            client.recv(4096)
            took.append((time.perf_counter_ns() - begun_ns) / 1e3)
    return {"took_us": took}


SERVERS: Final = {"serve-bulk": serve_bulk, "serve-short": serve_short, "serve-echo": serve_echo}
CLIENTS: Final = {"send-bulk": send_bulk, "ask-short": ask_short, "ask-echo": ask_echo}


def main(arguments: list[str]) -> int:
    what, address, port, *rest = arguments
    if what in SERVERS:
        SERVERS[what](address, int(port))
    count, seconds = rest
    print(json.dumps(CLIENTS[what](address, int(port), int(count), float(seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
