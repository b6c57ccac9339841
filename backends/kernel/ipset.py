"""The door to `ipset`: carries out messages and lists sets, over netlink. Shell; holds no policy.

Messages are those of `ipset_messages`. Many go in one send, but the kernel knows no transactions here: each stands for
itself, takes effect at once, and a refused one keeps no other from being carried out. A set that is to change as a whole
is filled under another name and swapped.
"""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from backends.kernel import ipset_messages
from backends.kernel.ipset_messages import Command
from backends.kernel.ipset_objects import Member, SetState
from backends.kernel.netfilter import Netfilter
from proxy.errors import KernelError
from proxy.model import Value
from proxy.netlink.codec import Request

NOTICED_S: Final = 2.0
"""How long the kernel may take to notice that no rule asks a set any more; with the nft flavour of iptables it takes some 20 ms."""
_LOOK_S: Final = 0.02
_LAST_ERRNO: Final = 4095
_ASKED: Final = 4100  # IPSET_ERR_BUSY
_NOT_THERE: Final = 4103  # IPSET_ERR_EXIST

# enum ipset_errno, which are no numbers of errno; those from 4352 on are those of hashes
_REASONS: Final = {
    errno.ENOENT: "there is no such set",
    errno.EEXIST: "another set has this name",
    4097: "the kernel does not understand the message",
    4098: "the kernel has no such kind of set",
    4099: "there are as many sets as there can be",
    4100: "a rule or another set names it",
    4101: "there is no such set to swap with",
    4102: "they are of different kinds",
    4103: "it is there, or it is not there",
    4104: "the length of a range is wrong",
    4106: "the set is of the other address family",
    4107: "members of this set have no timeout",
    4108: "a rule or another set names it",
    4109: "not an IPv4 address",
    4110: "not an IPv6 address",
    4352: "the set is full",
    4353: "the address 0 cannot be a member",
    4354: "a protocol that this kind of set does not know",
    4355: "without its protocol",
    4356: "a range of addresses",
}


class Refusal(Value, frozen=True):
    """One message that the kernel would not carry out: its place among those sent, why, and both in words.

    `errno` may be one of ipset's own numbers, above 4096.
    """

    index: int
    errno: int
    text: str

    def __str__(self) -> str:
        return self.text


class Ipset(Netfilter):
    """The sets of a network namespace."""

    def carry_out(self, requests: Sequence[Request]) -> list[Refusal]:
        """Carry out messages in order, each by itself; return those that were refused.

        Raises KernelError when messages could not be sent or answers were lost; then any of them may have been
        carried out or not, so read back what they are about.
        """
        return [
            _refusal(ack.index, requests[ack.index], ack.errno, ack.text)
            for ack in self._commands.submit(requests)
            if not _is_so_already(requests[ack.index], ack.errno)
        ]

    def destroy(self, names: Iterable[str]) -> list[Refusal]:
        """Destroy sets of which the rules that asked them have just gone; return what was refused. Blocks for up to NOTICED_S.

        Raises KernelError.
        """
        left, waited_s = [ipset_messages.destroy(name) for name in names], 0.0
        refusals = self.carry_out(left)
        while any(each.errno == _ASKED for each in refusals) and waited_s < NOTICED_S:
            time.sleep(_LOOK_S)
            waited_s += _LOOK_S
            left = [left[refusal.index] for refusal in refusals]
            refusals = self.carry_out(left)
        return refusals

    def list_sets(self) -> list[SetState]:
        """Return all sets without their members, foreign ones too."""
        payloads = self._commands.dump_whole(ipset_messages.list_sets())
        return [ipset_messages.parse_state(payload) for payload in payloads]

    def find_set(self, name: str) -> SetState | None:
        """Return one set without its members, None if it is not there."""
        try:
            (payload,) = self._commands.dump_whole(ipset_messages.list_sets(name))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return ipset_messages.parse_state(payload)

    def has(self, places: Sequence[tuple[str, Member]]) -> list[bool]:
        """Tell of some members, each with the name of its set, whether they are there. Raises KernelError."""
        requests = [ipset_messages.test(name, member) for name, member in places]
        missing: set[int] = set()
        for ack in self._commands.submit(requests):
            if ack.errno not in {_NOT_THERE, errno.ENOENT}:
                refusal = _refusal(ack.index, requests[ack.index], ack.errno, ack.text)
                raise KernelError("ipset", ack.errno, str(refusal))
            missing.add(ack.index)
        return [index not in missing for index in range(len(places))]

    def members(self, name: str) -> Iterator[list[Member]]:
        """Yield the members of a set, piece by piece (some hundred each); what changes meanwhile may be in it or not.

        A set cannot be destroyed or swapped while it is being listed. Raises KernelError, with ENOENT if it is not there.
        """
        for piece in self._dumps.dump(ipset_messages.list_members(name)):
            yield [member for payload in piece for member in ipset_messages.parse_members(payload)]


def _is_so_already(request: Request, number: int) -> bool:
    """Tell whether a set that should go was not there, which only newer kernels take for success."""
    return request.kind == ipset_messages.kind_of(Command.DESTROY) and number == errno.ENOENT


def _refusal(index: int, request: Request, number: int, text: str) -> Refusal:
    why = text or _reason(number)
    return Refusal(index, number, f"{ipset_messages.describe(request)}: {why}")


def _reason(number: int) -> str:
    return _REASONS.get(number) or (
        os.strerror(number) if number <= _LAST_ERRNO else f"ipset's error {number}"
    )
