"""The door to IPVS: carries out messages and lists what there is, over generic netlink. Shell; holds no policy.

Messages are those of `ipvs_messages`. Many go in one send, some 20 times as fast as one by one, but the kernel knows
no transactions here: each stands for itself, and a refused one keeps no other from being carried out.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from typing import Final

from backends.kernel import ipvs_messages
from backends.kernel.ipvs_messages import Command
from backends.kernel.ipvs_objects import (
    Destination,
    Info,
    Load,
    ServerId,
    Timeouts,
    VirtualServer,
)
from proxy.closing import Closing
from proxy.errors import KernelError, Unsupported
from proxy.model import Value
from proxy.netlink import codec, generic
from proxy.netlink.codec import Request
from proxy.netlink.socket import Ack, NetlinkSocket

_REASONS: Final = {
    errno.ESRCH: "there is no such virtual server",
    errno.EEXIST: "it is there already",
    errno.ERANGE: "a negative weight, or thresholds the wrong way round",
}
_NO_MODULE: Final = "there is no such scheduler or persistence engine"
_NO_DESTINATION: Final = "there is no such destination"


class Refusal(Value, frozen=True):
    """One message that the kernel would not carry out: its place among those sent, why, and both in words."""

    index: int
    errno: int
    text: str

    def __str__(self) -> str:
        return self.text


class Ipvs(Closing):
    """IPVS in the network namespace of the thread that makes this object; one socket, open until `close`.

    Not for use by two threads at the same time. Making one loads the kernel's module ip_vs. Raises Unsupported if
    there is none; KernelError.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(codec.NETLINK_GENERIC)
        with contextlib.ExitStack() as unless_found:
            unless_found.callback(self._socket.close)
            self._family = self._find_family()
            unless_found.pop_all()

    def close(self) -> None:
        self._socket.close()

    def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
        """Carry out messages in order, each by itself; return those that were refused.

        Raises KernelError when messages could not be sent or answers were lost; then any of them may have been
        carried out or not, so read back what they are about.
        """
        acks = self._socket.submit([Request(self._family, 0, message) for message in messages])
        return [_refusal(messages[ack.index], ack) for ack in acks]

    def list_servers(self) -> list[VirtualServer]:
        """Return the virtual servers, foreign ones too, but of no protocol that is not TCP, UDP or SCTP.

        This and the other list are read in pieces of 32 KiB, and the kernel counts how many it has handed out: of what is
        removed meanwhile, by whomever, others are missing; nothing says so.
        """
        found = map(ipvs_messages.parse_server, self._dump(ipvs_messages.list_servers()))
        return [server for server in found if server is not None]

    def list_destinations(self, server: ServerId) -> list[tuple[Destination, Load]]:
        """Return the destinations of a virtual server; none, too, if it is not there."""
        payloads = self._dump(ipvs_messages.list_destinations(server))
        return [ipvs_messages.parse_destination(payload) for payload in payloads]

    def find_server(self, server: ServerId) -> VirtualServer | None:
        """Return one virtual server, None if it is not there."""
        payload = self._ask(ipvs_messages.get_server(server))
        return None if payload is None else ipvs_messages.parse_server(payload)

    def timeouts(self) -> Timeouts:
        """Return after how long connections of this network namespace are forgotten."""
        return ipvs_messages.parse_timeouts(self._must_ask(ipvs_messages.get_timeouts()))

    def info(self) -> Info:
        """Return what IPVS this kernel has."""
        return ipvs_messages.parse_info(self._must_ask(ipvs_messages.get_info()))

    def _find_family(self) -> int:
        (reply,) = self._socket.ask([generic.get_family(ipvs_messages.FAMILY_NAME)])
        if not isinstance(reply, Ack):
            return generic.parse_family(reply.payload)
        if reply.errno == errno.ENOENT:
            raise Unsupported("IPVS", "this kernel has no module ip_vs, or cannot load it")
        raise _kernel_error("find IPVS", reply)

    def _dump(self, message: bytes) -> list[memoryview]:
        pieces = self._socket.dump(Request(self._family, 0, message))
        return [payload for piece in pieces for payload in piece]

    def _must_ask(self, message: bytes) -> memoryview:
        payload = self._ask(message)
        if payload is None:
            raise KernelError(ipvs_messages.describe(message), errno.ESRCH, "no answer")
        return payload

    def _ask(self, message: bytes) -> memoryview | None:
        """Return the payload of the answer, None if there is no such virtual server."""
        (reply,) = self._socket.ask([Request(self._family, 0, message)])
        if not isinstance(reply, Ack):
            return reply.payload
        if reply.errno == errno.ESRCH:
            return None
        raise _kernel_error(ipvs_messages.describe(message), reply)


def _refusal(message: bytes, ack: Ack) -> Refusal:
    if ack.errno == errno.ENOENT:
        is_about_server = message[0] in {Command.NEW_SERVER, Command.SET_SERVER}
        why = _NO_MODULE if is_about_server else _NO_DESTINATION
    else:
        why = ack.text or _REASONS.get(ack.errno) or os.strerror(ack.errno)
    return Refusal(ack.index, ack.errno, f"{ipvs_messages.describe(message)}: {why}")


def _kernel_error(request: str, ack: Ack) -> KernelError:
    return KernelError(request, ack.errno, ack.text or os.strerror(ack.errno))
