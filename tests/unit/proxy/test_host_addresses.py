"""Reading a host's addresses from what the kernel dumps. That they are followed is tested in e2e/."""

import errno
import ipaddress
from collections.abc import Callable, Iterator

import pytest

from proxy import host_addresses
from proxy.errors import KernelError
from proxy.netlink import codec, socket
from proxy.netlink.codec import Message
from proxy.netlink.socket import NetlinkSocket
from tests.fakes.netlink import LOST, FakeKernel, Reply, done, piece, reply


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


def address(text: str, *, peer: str = "", flags: int = 0) -> bytes:
    """An address of an interface, as the kernel writes it."""
    packed = ipaddress.ip_address(text).packed
    head = bytes([2 if len(packed) == 4 else 10, 24, flags, 0, 1, 0, 0, 0])
    attributes = codec.attr(1, ipaddress.ip_address(peer or text).packed)
    if len(packed) == 4 or peer:
        attributes += codec.attr(2, packed)
    return head + attributes + codec.attr_u32(8, flags)


def read(kernel: FakeKernel) -> frozenset[str]:
    with NetlinkSocket(codec.NETLINK_GENERIC) as door:
        return host_addresses.read(door)


def test_addresses_of_both_families_are_told_in_their_one_spelling(kernel: FakeKernel) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, address("127.0.0.1"), address("192.0.2.1", peer="192.0.2.2")),
        piece(sent[0].seq, address("2001:db8:0:0::1"), address("fe80::1", peer="fe80::2")),
        done(sent[0].seq),
    ]

    assert read(kernel) == {"127.0.0.1", "192.0.2.1", "2001:db8::1", "fe80::1"}

    (request,) = kernel.sent[0]
    assert (request.kind, bytes(request.payload)) == (22, bytes(8))
    assert request.flags & codec.NLM_F_DUMP == codec.NLM_F_DUMP


def test_a_dump_during_which_addresses_changed_is_begun_again(kernel: FakeKernel) -> None:
    dumps = 0

    def answer(sent: list[Message]) -> list[Reply]:
        nonlocal dumps
        dumps += 1
        flags = codec.NLM_F_DUMP_INTR if dumps < 3 else 0
        return [piece(sent[0].seq, address(f"192.0.2.{dumps}"), flags=flags), done(sent[0].seq)]

    kernel.answer = answer

    assert read(kernel) == {"192.0.2.3"}


def test_where_they_never_hold_still_the_last_dump_has_to_do(kernel: FakeKernel) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, address("192.0.2.1"), flags=codec.NLM_F_DUMP_INTR),
        done(sent[0].seq),
    ]

    assert read(kernel) == {"192.0.2.1"}
    assert len(kernel.sent) == 5


def test_a_dump_that_lost_pieces_is_an_error(kernel: FakeKernel) -> None:
    kernel.answer = lambda sent: [LOST, done(sent[0].seq)]

    with pytest.raises(KernelError) as raised:
        read(kernel)
    assert raised.value.errno == errno.ENOBUFS


def test_an_address_that_may_turn_out_to_be_taken_is_none_yet(kernel: FakeKernel) -> None:
    tentative, optimistic = 0x40, 0x04
    kernel.answer = lambda sent: [
        piece(
            sent[0].seq,
            address("2001:db8::1", flags=tentative),
            address("2001:db8::2", flags=tentative | optimistic),
            address("2001:db8::3"),
        ),
        done(sent[0].seq),
    ]

    assert read(kernel) == {"2001:db8::2", "2001:db8::3"}


def test_addresses_of_other_protocols_are_passed_over(kernel: FakeKernel) -> None:
    # those of MCTP, as <linux/mctp.h> has them
    mctp = bytes([45, 0, 0, 0, 1, 0, 0, 0]) + codec.attr(2, b"\x08")
    kernel.answer = lambda sent: [
        piece(sent[0].seq, mctp, address("192.0.2.1")),
        done(sent[0].seq),
    ]

    assert read(kernel) == {"192.0.2.1"}


def interface(number: int, name: str) -> bytes:
    return bytes(4) + number.to_bytes(4, "little") + bytes(8) + codec.attr_string(3, name)


def read_without(kernel: FakeKernel, link: Callable[[int], bytes]) -> frozenset[str]:
    """Read an address of interface 1, leaving out an interface that the kernel tells of in this way."""

    def answer(sent: list[Message]) -> list[Reply]:
        seq = sent[0].seq
        if sent[0].kind == 18:  # RTM_GETLINK
            return [link(seq)]
        return [piece(seq, address("192.0.2.1")), done(seq)]

    kernel.answer = answer
    with NetlinkSocket(codec.NETLINK_ROUTE) as door:
        return host_addresses.read(door, "ours0")


@pytest.mark.parametrize(("number", "left"), [(1, set[str]()), (2, {"192.0.2.1"})])
def test_the_addresses_of_one_interface_can_be_left_out(
    kernel: FakeKernel, number: int, left: set[str]
) -> None:
    def told(seq: int) -> bytes:
        return codec.message(16, 0, seq, interface(number, "ours0"))

    assert read_without(kernel, told) == left


def test_an_interface_that_is_not_there_leaves_nothing_out(kernel: FakeKernel) -> None:
    assert read_without(kernel, lambda seq: reply(seq, errno.ENODEV)) == {"192.0.2.1"}


def test_an_interface_that_cannot_be_found_is_an_error(kernel: FakeKernel) -> None:
    with pytest.raises(KernelError, match="find interface ours0"):
        read_without(kernel, lambda seq: reply(seq, errno.EPERM))
