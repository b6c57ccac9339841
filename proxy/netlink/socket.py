"""One long-lived netlink socket: sends requests, collects acknowledgements and dumps. Shell; knows no subsystem.

It is synchronous on purpose. The kernel works a request off inside `send` and has queued every reply when that
returns, so there is nothing to wait for; the poll with a deadline is only a safety net. Large requests
release the GIL while the kernel works: send those from a thread. One thread at a time may use a socket.

The socket stays open for the life of the daemon: closing one after something was deleted waits for the kernel's
RCU grace period, 10-15 ms. It belongs to the network namespace in which its thread was when it was made.
"""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Self

from msgspec import structs

from proxy.closing import Closing
from proxy.errors import KernelError
from proxy.model import Value
from proxy.netlink import codec
from proxy.netlink.codec import Message, Request

_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
# The send buffer is a limit, not an allocation: with the default of 208 KiB a request of 5,000 map elements is
# refused with EMSGSIZE. The receive buffer is a limit as well; a reply to a query counts as some 5 kB in it.
_SEND_BUFFER: Final = 1 << 30
_RECEIVE_BUFFER: Final = 64 << 20
# Twice what the kernel puts into one piece of a dump (32 KiB since 4.x when the reader offers as much).
_DATAGRAM: Final = 64 << 10
SUBMITTED_AT_ONCE: Final = 1000
"""Should the kernel refuse all of them, the refusals still fit into the receive buffer."""
_DEADLINE_S: Final = 10.0
_ATTEMPTS: Final = 5


class Ack(Value, frozen=True):
    """The kernel's refusal of one request: its place in the sequence that was sent, and why.

    `offset` is where in the request, counted from its header, the attribute at fault stands; None if unsaid.
    """

    index: int
    errno: int
    text: str
    offset: int | None


class DumpInterrupted(KernelError):  # noqa: N818 (reads as a fact in `except`)
    """What was being dumped changed meanwhile, so the pieces do not fit together. The caller decides about another try."""

    def __init__(self, message: str) -> None:
        super().__init__("dump", errno.EINTR, message)


class NetlinkSocket(Closing):
    """A socket of one netlink protocol, with sequence numbers of its own."""

    def __init__(self, protocol: int) -> None:
        self._socket = _open(protocol)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._buffer = bytearray(_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._seq = 1
        self._open_dump: int | None = None

    @classmethod
    def hearing(cls, protocol: int, *groups: int) -> Self:
        """Open one that hears what the kernel announces to some groups, and asks nothing. Raises KernelError."""
        made = cls(protocol)
        try:
            for group in groups:
                made.join(group)
        except KernelError:
            made.close()
            raise
        return made

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def transact(self, requests: Sequence[Request]) -> list[Ack]:
        """Send the requests at once; return what was refused. At least one must ask for an acknowledgement.

        The list is empty exactly if all acknowledgements asked for came and nothing was refused. Raises
        KernelError when nothing could be sent, or when the outcome is unknown (replies were lost).
        """
        failures, is_complete = self._exchange(requests)
        if not is_complete and not failures:
            raise _outcome_unknown()
        return failures

    def submit(self, requests: Sequence[Request]) -> list[Ack]:
        """Send requests of which each stands for itself, many at once; return those that were refused, all of them.

        They need not ask for acknowledgements: when that of the last comes, those before it are worked off, and a
        refusal is told in any case. Raises KernelError as `transact` does, and also when only some refusals were
        lost; then any of them may have been carried out or not.
        """
        failures: list[Ack] = []
        for start in range(0, len(requests), SUBMITTED_AT_ONCE):
            part = list(requests[start : start + SUBMITTED_AT_ONCE])
            part[-1] = part[-1]._replace(flags=part[-1].flags | codec.NLM_F_ACK)
            refused, is_complete = self._exchange(part)
            if not is_complete:
                raise _not_allowed() if _is_without_right(refused) else _outcome_unknown()
            failures += [structs.replace(ack, index=start + ack.index) for ack in refused]
        return failures

    def _exchange(self, requests: Sequence[Request]) -> tuple[list[Ack], bool]:
        """Send; return the refusals, and whether all came that was asked for and nothing was lost."""
        asking = [i for i, request in enumerate(requests) if request.flags & codec.NLM_F_ACK]
        if not asking:
            raise ValueError("no request asks for an acknowledgement")
        first = self._send(requests)
        awaited = {first + i for i in asking}
        failures: list[Ack] = []
        is_complete = True
        while True:
            try:
                received = self._receive(_DEADLINE_S if awaited and not failures else 0)
            except _RepliesLostError:
                is_complete = False
                awaited.clear()
                continue
            if not received:
                return failures, is_complete and not awaited
            for message in codec.iter_messages(received):
                index = message.seq - first
                if message.kind == codec.NLMSG_ERROR and 0 <= index < len(requests):
                    awaited.discard(message.seq)
                    ack = codec.parse_error(message.payload, message.flags)
                    if ack.errno:
                        failures.append(Ack(index, *ack))

    def ask(self, requests: Sequence[Request]) -> list[Message | Ack]:
        """Send requests that each have one reply; return for each its reply or its refusal, in order.

        Raises KernelError when nothing could be sent or replies were lost.
        """
        first = self._send(requests)
        replies: dict[int, Message | Ack] = {}
        while len(replies) < len(requests):
            try:
                received = self._receive(_DEADLINE_S)
            except _RepliesLostError as error:
                self._discard_replies()
                raise KernelError("netlink query", errno.ENOBUFS, "replies were lost") from error
            # The buffer is used again for the next datagram, while these replies are to stay.
            for message in codec.iter_messages(bytes(received)):
                index = message.seq - first
                if 0 <= index < len(requests):
                    replies[index] = (
                        Ack(index, *codec.parse_error(message.payload, message.flags))
                        if message.kind == codec.NLMSG_ERROR
                        else message
                    )
        return [replies[index] for index in range(len(requests))]

    def dump(self, request: Request, *, is_strict: bool = True) -> Iterator[list[memoryview]]:
        """Yield the payloads of a dump, piece by piece as the kernel hands them out (at most 32 KiB each).

        Raises DumpInterrupted when the kernel says that the pieces belong to different states (only if strict), and
        when another call on this socket came in between; KernelError when the dump was refused. However it is left,
        the socket is usable afterwards: the rest of an unfinished dump is read and thrown away.
        """
        seq = self._send([request._replace(flags=request.flags | codec.NLM_F_DUMP)])
        self._open_dump = seq
        try:
            while True:
                piece, is_last = self._dump_piece(seq, is_strict=is_strict)
                if piece:
                    yield piece
                if is_last:
                    return
                if self._open_dump != seq:
                    raise DumpInterrupted(
                        "another request was sent before the dump was read to its end"
                    )
        finally:
            if self._open_dump == seq:
                self._finish_dump()

    def dump_whole(self, request: Request) -> list[memoryview]:
        """Return the payloads of a dump, read anew when what is dumped changes meanwhile, but not for ever.

        The last of some attempts takes what comes. Raises KernelError when the dump was refused.
        """
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(DumpInterrupted):
                return [payload for piece in self.dump(request) for payload in piece]
        return [payload for piece in self.dump(request, is_strict=False) for payload in piece]

    def join(self, group: int) -> None:
        """From now on, have what the kernel announces to a group of this protocol kept for `announced`.

        For a socket that asks nothing: what is announced would be taken for replies. Raises KernelError.
        """
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            raise _kernel_error("hear what the kernel announces", error) from error

    def announced(self) -> list[Message] | None:
        """Return what was announced since this was last asked, None if some of it was lost. Waits for nothing."""
        messages: list[Message] = []
        try:
            while received := self._receive(0):
                messages += codec.iter_messages(bytes(received))
        except _RepliesLostError:
            self._discard_replies()
            return None
        return messages

    def _dump_piece(self, seq: int, *, is_strict: bool) -> tuple[list[memoryview], bool]:
        try:
            received = self._receive(_DEADLINE_S)
        except _RepliesLostError as error:
            raise KernelError("netlink dump", errno.ENOBUFS, "pieces were lost") from error
        piece: list[memoryview] = []
        is_last, is_consistent, ack = False, True, codec.NetlinkAck(0, "", None)
        # The buffer is used again for the next piece, while the caller may still hold this one.
        for message in codec.iter_messages(bytes(received)):
            if message.seq != seq:
                continue
            if message.flags & codec.NLM_F_DUMP_INTR:
                is_consistent = False
            if message.kind == codec.NLMSG_DONE:
                is_last, ack = True, codec.parse_done(message.payload, message.flags)
            elif message.kind == codec.NLMSG_ERROR:
                is_last, ack = True, codec.parse_error(message.payload, message.flags)
            else:
                piece.append(message.payload)
        if is_last:
            self._open_dump = None
        if ack.errno:
            raise KernelError("netlink dump", ack.errno, ack.text or os.strerror(ack.errno))
        if is_strict and not is_consistent:
            raise DumpInterrupted("what is dumped has changed meanwhile")
        return piece, is_last

    def _finish_dump(self) -> None:
        """Read an unfinished dump to its end. Opening a new socket instead might land in another namespace."""
        seq, self._open_dump = self._open_dump, None
        while True:
            try:
                received = self._receive(_DEADLINE_S)
            except _RepliesLostError:
                continue
            for message in codec.iter_messages(received):
                if message.seq == seq and message.kind in {codec.NLMSG_DONE, codec.NLMSG_ERROR}:
                    return

    def _discard_replies(self) -> None:
        while True:
            try:
                if not self._receive(0):
                    return
            except _RepliesLostError:
                continue

    def _send(self, requests: Sequence[Request]) -> int:
        """Send the requests in one datagram; return the sequence number of the first."""
        if self._open_dump is not None:
            self._finish_dump()
        first = self._seq
        if first + len(requests) > 0xFFFFFFFF:
            first = 1
        self._seq = first + len(requests)
        parts: list[bytes] = []
        for seq, (kind, flags, payload) in enumerate(requests, first):
            parts += (codec.header(kind, flags | codec.NLM_F_REQUEST, seq, len(payload)), payload)
        datagram = b"".join(parts)
        try:
            self._socket.send(datagram)
        except OSError as error:
            raise _kernel_error(
                f"send {len(requests)} netlink requests ({len(datagram)} bytes)", error
            ) from error
        return first

    def _receive(self, wait_s: float) -> memoryview:
        """Return a view of the next datagram, which lasts until the next call.

        Without waiting the view is empty when there is none. Raises KernelError when none came within `wait_s`.
        """
        while True:
            try:
                length = self._socket.recv_into(
                    self._buffer, 0, socket.MSG_DONTWAIT | socket.MSG_TRUNC
                )
            except BlockingIOError:
                if not wait_s:
                    return self._view[:0]
                if not self._poll.poll(wait_s * 1000):
                    raise KernelError(
                        "netlink request", errno.ETIMEDOUT, f"no reply in {wait_s:.0f} s"
                    ) from None
                continue
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise _RepliesLostError from error
                raise _kernel_error("receive netlink replies", error) from error
            if length > len(self._buffer):
                raise KernelError(
                    "netlink request", errno.EMSGSIZE, f"a reply of {length} bytes was cut off"
                )
            return self._view[:length]


class _RepliesLostError(Exception):
    """The receive buffer was full (ENOBUFS). What was queued before is still there to be read."""


def _is_without_right(refused: Sequence[Ack]) -> bool:
    """Whether a netfilter subsystem has refused all there was with its only answer, which is about the first (nfnetlink_rcv)."""
    return [(ack.index, ack.errno) for ack in refused] == [(0, errno.EPERM)]


def _not_allowed() -> KernelError:
    return KernelError(
        "netlink request",
        errno.EPERM,
        f"{os.strerror(errno.EPERM)}; it takes the capability NET_ADMIN",
    )


def _outcome_unknown() -> KernelError:
    return KernelError(
        "netlink request", errno.ENOBUFS, "replies were lost, the outcome is unknown"
    )


def _kernel_error(request: str, error: OSError) -> KernelError:
    return KernelError(request, error.errno or 0, error.strerror or str(error))


def _open(protocol: int) -> socket.socket:
    """Return a socket connected to the kernel, so that it takes no datagram from other processes."""
    try:
        # not inherited by programs this one starts (PEP 446)
        transport = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    except OSError as error:
        raise _kernel_error("open a netlink socket", error) from error
    try:
        transport.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        # Without this a refusal repeats the request, up to 64 kB each; the offsets it names stay the same.
        transport.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        _enlarge(transport, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER)
        _enlarge(transport, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        transport.connect((0, 0))
    except OSError as error:
        transport.close()
        raise _kernel_error("prepare a netlink socket", error) from error
    return transport


def _enlarge(transport: socket.socket, force: int, plain: int, size: int) -> None:
    try:
        transport.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        # Before 5.16 a user namespace could not force sizes; then large requests end in EMSGSIZE.
        transport.setsockopt(socket.SOL_SOCKET, plain, size)
