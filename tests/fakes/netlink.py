"""The operating system's end of a netlink socket, and the datagrams it sends.

Doors to the kernel are tested on it for what no kernel does on demand: lost replies, silence, refusals of any kind.
That they say what a kernel understands is tested in e2e/.
"""

import errno
import os
import struct
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proxy.netlink import codec, socket
from proxy.netlink.codec import Message

Reply = bytes | OSError
LOST = OSError(errno.ENOBUFS, "No buffer space available")


class FakeKernel:
    """Stands in for the operating system's socket: what is sent gets the replies that `answer` gives.

    Like the kernel it has queued them when `send` returns.
    """

    def __init__(self) -> None:
        self.sent: list[list[Message]] = []
        self.queue: list[Reply] = []
        self.answer: Callable[[list[Message]], list[Reply]] = lambda _: []
        self.refusal: OSError | None = None
        self.is_closed = False
        self.groups: set[int] = set()
        self._ends: tuple[int, ...] = ()
        self._closing: Callable[[], object] = lambda: (
            None
        )  # at the latest when nobody has it any more

    def fileno(self) -> int:
        """Return one that never becomes readable: nothing is written to the other end of its pipe. -1 once closed."""
        if self.is_closed:
            return -1
        if not self._ends:
            self._ends = os.pipe()
            self._closing = weakref.finalize(self, _close, self._ends)
        return self._ends[0]

    def send(self, datagram: bytes) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.sent.append(list(codec.iter_messages(datagram)))
        self.queue += self.answer(self.sent[-1])
        return len(datagram)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Join a multicast group: the only option that a door sets."""
        assert (level, option) == (270, 1)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
        if self.refusal is not None:
            raise self.refusal
        self.groups.add(value)

    def recv_into(self, buffer: bytearray, size: int, flags: int) -> int:
        if not self.queue:
            raise BlockingIOError
        reply = self.queue.pop(0)
        if isinstance(reply, OSError):
            raise reply
        buffer[: len(reply)] = reply[: len(buffer)]
        return len(reply)

    def close(self) -> None:
        """Close it; once more does nothing, as with a socket."""
        self.is_closed = True
        self._closing()


class Subsystem(ABC):
    """What is behind the sockets of one netlink protocol. The number of `protocol` is that of netlink(7)."""

    protocol: int

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets of the protocol opened in the `with` block are sockets to this kernel, and stay so.

        Those of other protocols are opened as without it, so fakes of several can be entered one in another.
        """
        others = socket._open

        def opened(protocol: int) -> object:
            return self._open() if protocol == self.protocol else others(protocol)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "_open", opened)
            yield

    def _open(self) -> FakeKernel:
        endpoint = FakeKernel()
        endpoint.answer = self._answer
        return endpoint

    @abstractmethod
    def _answer(self, sent: list[Message]) -> list[Reply]:
        """Return the replies to one datagram."""


def _close(ends: tuple[int, ...]) -> None:
    for end in ends:
        os.close(end)


def reply(seq: int, number: int = 0, *extended: bytes) -> bytes:
    """An acknowledgement, or with an error number a refusal, perhaps with extended attributes."""
    body = struct.pack("=i", -number) + codec.header(1, 0, seq, 0) + b"".join(extended)
    return codec.message(
        codec.NLMSG_ERROR,
        codec.NLM_F_CAPPED | (codec.NLM_F_ACK_TLVS if extended else 0),
        seq,
        body,
    )


def text(words: str) -> bytes:
    """The attribute of a refusal that explains it."""
    return codec.attr_string(1, words)


def offset(number: int) -> bytes:
    """The attribute of a refusal that says where."""
    return codec.attr(2, struct.pack("=I", number))


def piece(seq: int, *contents: bytes, flags: int = 0) -> bytes:
    """A datagram of a dump."""
    return b"".join([codec.message(40, codec.NLM_F_MULTI | flags, seq, c) for c in contents])


def done(seq: int, number: int = 0, flags: int = 0) -> bytes:
    """The message that ends a dump."""
    return codec.message(codec.NLMSG_DONE, flags, seq, struct.pack("=i", -number))
