"""The door to TCP connections. That the kernel ends them: e2e/test_kernel_sockets.py."""

import errno
import ipaddress
from collections.abc import Iterator

import pytest

from backends.kernel.sockets import Sockets
from proxy.errors import KernelError, Unsupported
from proxy.netlink import codec, socket
from proxy.netlink.codec import Message
from tests.fakes.netlink import FakeKernel, Reply, done, piece, reply

LIST, END = 20, 21
OPEN = {1, 2, 3, 4, 5, 8, 9, 11}
"""The states in which a connection is somebody's: neither closed, nor waiting, nor listening."""


def connection(own: str, number: int = 1) -> bytes:
    """A connection as the kernel lists it, with a cookie that tells it from all others."""
    address = ipaddress.ip_address(own).packed.ljust(16, b"\0")
    family = 2 if len(ipaddress.ip_address(own).packed) == 4 else 10
    identity = b"\x10\0\x1f\x90" + address + bytes(16) + bytes(4) + number.to_bytes(8, "little")
    return bytes([family, 1, 0, 0]) + identity + bytes(20)


class Kernel(FakeKernel):
    """Lists connections by the number of their family, and ends those it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: dict[int, list[bytes]] = {2: [], 10: []}
        self.refused: dict[int, int] = {}
        """Error number by the cookie of the connection that is to be ended."""
        self.unlisted = 0
        self.ended: list[tuple[int, int]] = []
        self.answer = self._answer

    def _answer(self, sent: list[Message]) -> list[Reply]:
        if sent[0].kind == LIST:
            return self._list(sent[0])
        replies: list[Reply] = []
        for message in sent:
            assert message.kind == END
            number = int.from_bytes(message.payload[-8:], "little")
            if number in self.refused:
                replies.append(reply(message.seq, self.refused[number]))
                continue
            self.ended.append((message.payload[0], number))
            if message.flags & codec.NLM_F_ACK:
                replies.append(reply(message.seq))
        return replies

    def _list(self, message: Message) -> list[Reply]:
        family, protocol, states = *message.payload[:2], codec.read_u32(message.payload[4:8])
        assert (protocol, len(message.payload)) == (6, 56)
        assert {state for state in range(1, 13) if states >> state & 1} >= OPEN
        assert not states & (1 << 6 | 1 << 7 | 1 << 10)
        if self.unlisted:
            return [reply(message.seq, self.unlisted)]
        return [piece(message.seq, *self.connections[family]), done(message.seq)]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    fake = Kernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


def end(*addresses: str) -> int:
    with Sockets() as sockets:
        return sockets.end(set(addresses))


def test_connections_with_these_addresses_of_their_own_are_ended_and_no_others(
    kernel: Kernel,
) -> None:
    kernel.connections[2] = [connection("10.96.0.10", 1), connection("192.0.2.1", 2)]
    kernel.connections[10] = [
        connection("2001:db8::1", 3),
        connection("2001:db8::2", 4),
        connection("::ffff:10.96.0.10", 5),
    ]

    assert end("10.96.0.10", "2001:db8::1") == 3

    assert kernel.ended == [(2, 1), (10, 3), (10, 5)]


def test_where_there_are_none_nothing_is_sent_but_questions(kernel: Kernel) -> None:
    kernel.connections[2] = [connection("192.0.2.1")]

    assert end("10.96.0.10") == 0

    assert [message.kind for sent in kernel.sent for message in sent] == [LIST, LIST]


def test_one_that_has_ended_by_itself_is_no_failure(kernel: Kernel) -> None:
    kernel.connections[2] = [connection("10.96.0.10", 1), connection("10.96.0.10", 2)]
    kernel.refused = {1: errno.ENOENT}

    assert end("10.96.0.10") == 1


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EOPNOTSUPP, Unsupported), (errno.EPERM, KernelError)]
)
def test_what_the_kernel_will_not_do_is_told(
    kernel: Kernel, number: int, error: type[Exception]
) -> None:
    kernel.connections[2] = [connection("10.96.0.10")]
    kernel.refused = {1: number}

    with pytest.raises(error):
        end("10.96.0.10")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_kernel_that_lists_no_connections_is_not_able_to(kernel: Kernel, number: int) -> None:
    kernel.unlisted = number

    with pytest.raises(Unsupported, match="listing connections"):
        end("10.96.0.10")


def test_a_list_that_is_denied_is_an_error(kernel: Kernel) -> None:
    kernel.unlisted = errno.EPERM

    with pytest.raises(KernelError):
        end("10.96.0.10")
