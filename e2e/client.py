"""One question over the network, and what came of it: who answered, or how it failed.

As a module: `ask` and `Conversation` work in the namespace that the calling thread is in.
As a program (`client.py '{"protocol": "tcp", …}'`): new connections at a steady rate from a process of its own, so that
what it measures does not wait for the interpreter of the test. One JSON line on stdout for each, until stdin closes.

Only the standard library, and little of it: the program runs isolated and should start at once.
"""

import enum
import errno
import json
import os
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple, Self

# the name of the protocol everywhere in e2e/ → socket type and protocol number
PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),  # one-to-one style, which behaves as TCP's sockets do
}
# <linux/in.h>, <linux/in6.h>; in the socket module from Python 3.14 on
_IP_RECVERR = (socket.IPPROTO_IP, 11)
_IPV6_RECVERR = (socket.IPPROTO_IPV6, 25)
_TOTAL_RETRANS = 100  # where that counter stands in struct tcp_info, <linux/tcp.h>
ANSWER_S = 5.0
"""How long somebody who answers may be held up, for want of a processor. The kernel's own answers come at once."""


class Answer(NamedTuple):
    """Who answered, and the source of the question as it saw it."""

    name: str
    source: str
    source_port: int


class Failure(enum.Enum):
    """How a question can fail."""

    REFUSED = "refused"  # the port is closed, or a rule rejects
    UNREACHABLE = "unreachable"  # no route, here or on the way
    RESET = "reset"  # connected, then ended before the answer
    RESENT = "resent"  # answered in the end, but a packet had to be sent again
    TIMEOUT = "timeout"  # nothing came back


Outcome = Answer | Failure


class Timed(NamedTuple):
    """An outcome, when its connection was begun (CLOCK_MONOTONIC) and how long it took."""

    started_s: float
    took_s: float
    outcome: Outcome


def ask(
    protocol: str,
    address: str,
    port: int,
    *,
    timeout_s: float = ANSWER_S,
    source: str = "",
    source_port: int = 0,
) -> Outcome:
    """One new connection (or one datagram from a new port), one answer.

    `source` is the local address to ask from, `source_port` the port; without them the route and the kernel decide.
    With a timeout of more than a second, a lost packet (RESENT) can be told from a machine that was busy (an answer).
    """
    try:
        with Conversation(
            protocol,
            address,
            port,
            timeout_s=timeout_s,
            source=source,
            source_port=source_port,
        ) as conversation:
            answer = conversation.ask()
            return Failure.RESENT if conversation.has_resent() else answer
    except OSError as error:
        return failure_of(error)


def failure_of(error: OSError) -> Failure:
    """What an error of connect, send or receive means. Raises it again if it is not about the network."""
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    if error.errno == errno.ECONNREFUSED:
        return Failure.REFUSED
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
        # EACCES is what a route of type "prohibit" or an ICMPv6 "administratively prohibited" gives
        return Failure.UNREACHABLE
    if isinstance(error, ConnectionError):
        return Failure.RESET
    raise error


class Conversation:
    """A connection that is kept open and can be asked again and again. Every call keeps to the one timeout."""

    def __init__(
        self,
        protocol: str,
        address: str,
        port: int,
        *,
        timeout_s: float = ANSWER_S,
        source: str = "",
        source_port: int = 0,
    ) -> None:
        kind, number = PROTOCOLS[protocol]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._timeout_s = timeout_s
        self._is_stream = kind == socket.SOCK_STREAM
        self._is_first = True
        self._socket = socket.socket(family, kind, number)
        try:
            self._socket.settimeout(timeout_s)
            if source or source_port:
                self._socket.bind((source, source_port))
            self._hear_icmp(True)
            self._socket.connect((address, port))
            # an established stream survives ICMP errors, as every program's does
            self._hear_icmp(not self._is_stream)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hear_icmp(self, is_wanted: bool) -> None:
        """Have ICMP errors end the wait at once.

        Over a veth an ICMP error can be back before connect() has let go of the socket. The kernel then only notes it as
        a soft error, which the caller learns a second later, from the next SYN's, unless IP_RECVERR is on.
        """
        option = _IPV6_RECVERR if self._socket.family == socket.AF_INET6 else _IP_RECVERR
        self._socket.setsockopt(*option, is_wanted)

    def ask(self) -> Answer:
        """Who is at the other end. Raises OSError as `connect` and `recv` do; ConnectionResetError if it ended."""
        # a stream's server speaks first, so one connection costs one round trip less
        if not (self._is_stream and self._is_first):
            self._socket.sendall(b"\n")
        self._is_first = False
        line = self._read_line(time.monotonic() + self._timeout_s)
        name, source, port = line.decode().split()
        return Answer(name, source, int(port))

    def has_resent(self) -> bool:
        """Whether TCP had to send a packet again, which it first does after a second (RFC 6298)."""
        if not self._is_stream or self._socket.proto != socket.IPPROTO_TCP:
            return False
        said = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
        return bool(struct.unpack_from("=I", said, _TOTAL_RETRANS)[0])

    def _read_line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            # an answer that comes byte by byte must not get the whole time for each
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv(4096)
            if not received:
                raise ConnectionResetError("the connection ended before an answer")
            line += received
        self._socket.settimeout(self._timeout_s)
        return line

    def close(self) -> None:
        """End the connection at once: a reset leaves no socket waiting on either side, however many we make."""
        if self._is_stream:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def encode(timed: Timed) -> bytes:
    """The line of a load's output that `decode` reads."""
    outcome = timed.outcome
    said: Any = outcome.value if isinstance(outcome, Failure) else outcome
    return json.dumps([timed.started_s, timed.took_s, said]).encode() + b"\n"


def decode(line: str) -> Timed:
    """One line of a load's output."""
    started_s, took_s, said = json.loads(line)
    return Timed(started_s, took_s, Failure(said) if isinstance(said, str) else Answer(*said))


def _generate_load(question: dict[str, Any], rate: float, workers: int) -> None:
    """New connections at `rate` per second (0: as fast as they are answered) until stdin closes.

    Who was held up does not make up for it: of too many refusals at once the kernel keeps some to itself (icmp_msgs_burst).
    """
    stopping = threading.Event()
    pacing = threading.Lock()
    next_s = time.monotonic()

    def due_s() -> float:
        nonlocal next_s
        with pacing:
            due_s = max(next_s, time.monotonic())
            next_s = due_s + 1 / rate
        return due_s

    def work() -> None:
        while not stopping.is_set():
            if rate and stopping.wait(max(0.0, due_s() - time.monotonic())):
                return
            started_s = time.monotonic()
            outcome = ask(**question)
            # one write below PIPE_BUF is atomic: the lines of several workers do not mix
            os.write(
                sys.stdout.fileno(),
                encode(Timed(started_s, time.monotonic() - started_s, outcome)),
            )

    # a worker that breaks must end the load, not thin it out
    threading.excepthook = _give_up
    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()


def _give_up(broken: threading.ExceptHookArgs) -> None:
    traceback.print_exception(broken.exc_value)
    os._exit(1)


if __name__ == "__main__":
    _generate_load(**json.loads(sys.argv[1]))
