"""Sweeping the kernel's table: what is deleted, and what happens when the kernel does not play along."""

import asyncio
import errno
from collections.abc import Iterator

import pytest

from proxy.conntrack import Table, Task
from proxy.conntrack_table import ATTEMPTS, ConntrackTable, Found, open_table
from proxy.desired import Frontend
from proxy.errors import KernelError
from proxy.model import IPV4, Family
from proxy.netlink import codec, conntrack, socket
from proxy.netlink.codec import Message
from proxy.netlink.conntrack import Filter
from tests.fakes.conntrack import packed_end
from tests.fakes.netlink import LOST, FakeKernel, Reply, done, piece, reply
from tests.model_builders import make_key

KEY = make_key("default/dns", protocol="UDP")
VIP, A, B, C = "10.96.0.10:53", "10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53"
GET, DELETE = 0x101, 0x102


def entry(source: str, client: int, destination: str = VIP) -> bytes:
    """A flow as the kernel dumps it."""
    peer = bytes([192, 0, 2, client]) + b"\4\0"
    there, back = packed_end(destination), packed_end(source)
    number = codec.attr_be32(12, client)
    return b"\2\0\0\0" + _ends(1, peer, there) + _ends(2, back, peer) + number


def _ends(kind: int, one: bytes, other: bytes) -> bytes:
    return codec.nested(
        kind,
        codec.nested(1, codec.attr(1, one[:4]), codec.attr(2, other[:4])),
        codec.nested(2, codec.attr(1, b"\x11"), codec.attr(2, one[4:]), codec.attr(3, other[4:])),
    )


class Kernel(FakeKernel):
    """Dumps what it is told, and deletes what is asked for but for what it refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[bytes] = []
        self.troubles: list[str] = []
        """What goes wrong with each of the next dumps."""
        self.refused: dict[int, int] = {}
        """Error number by the client whose flow is to be deleted."""
        self.deleted: list[int] = []
        self.answer = self._answer

    def _answer(self, sent: list[Message]) -> list[Reply]:
        if sent[0].kind == GET:
            return self._dump(sent[0].seq)
        replies: list[Reply] = []
        for message in sent:
            client = codec.read_be32(codec.parse_attrs(message.payload, 4)[12])
            if number := self.refused.get(client, 0):
                replies.append(reply(message.seq, number))
            else:
                self.deleted.append(client)
                if message.flags & codec.NLM_F_ACK:
                    replies.append(reply(message.seq))
        return replies

    def _dump(self, seq: int) -> list[Reply]:
        trouble = self.troubles.pop(0) if self.troubles else ""
        half = len(self.entries) // 2
        match trouble:
            case "lost":
                return [piece(seq, *self.entries[:half]), LOST, done(seq)]
            case "interrupted":
                interrupted = codec.NLM_F_DUMP_INTR
                return [piece(seq, *self.entries, flags=interrupted), done(seq)]
            case "broken off":
                return [piece(seq, *self.entries[:half]), done(seq, errno.EINTR)]
            case "denied":
                return [reply(seq, errno.EPERM)]
            case _:
                whole = [self.entries[:half], self.entries[half:]]
                return [*[piece(seq, *part) for part in whole], done(seq)]

    @property
    def dumped(self) -> int:
        return sum(datagram[0].kind == GET for datagram in self.sent)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    fake = Kernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


def sweep(
    kernel: Kernel,
    *wanted: Filter,
    is_listening: bool = False,
    is_listening_at_localhost: bool = False,
) -> Found:
    """Sweep for one ServicePort, at which only A and C serve."""
    frontends = frozenset(
        {Frontend("ClusterIP", "10.96.0.10", 53), Frontend("NodePort", None, 30053)}
    )
    serving = frozenset({packed_end(A), packed_end(C)})
    table = Table(
        (), is_listening=is_listening, is_listening_at_localhost=is_listening_at_localhost
    )
    table.add(Task(KEY, frontends, serving, serving, serving, frozenset()))
    with_socket = ConntrackTable()
    found = asyncio.run(with_socket.sweep(wanted or (Filter(IPV4),), table))
    with_socket.close()
    return found


def test_the_stale_go_the_others_stay_and_what_they_are_bound_to_is_told(kernel: Kernel) -> None:
    kernel.entries = [
        entry(A, 1),
        entry(B, 2),
        entry(C, 3),
        entry(VIP, 4),
        entry(B, 5, destination="10.96.0.11:53"),
        entry(B, 6, destination="10.96.0.10:54"),
    ]

    found = sweep(kernel)

    assert sorted(kernel.deleted) == [2, 4]
    assert found.deleted == {IPV4: 2}
    assert found.kept == {KEY: {packed_end(A), packed_end(C)}}
    assert found.trouble == ""
    assert found.took_s.keys() == {IPV4}
    assert found.cpu_s > 0


@pytest.mark.parametrize(("is_listening", "stale"), [(True, [2]), (False, [2, 3])])
def test_where_somebody_listens_at_localhost_only_translated_flows_are_stale_there(
    kernel: Kernel, *, is_listening: bool, stale: list[int]
) -> None:
    here = "127.0.0.1:30053"
    kernel.entries = [entry(A, 1, here), entry(B, 2, here), entry(here, 3, here)]

    found = sweep(kernel, is_listening_at_localhost=is_listening)

    assert kernel.deleted == stale
    assert found.kept == {KEY: {packed_end(A)}}


def test_where_listeners_serve_untranslated_flows_stay(kernel: Kernel) -> None:
    kernel.entries = [entry(VIP, 1), entry(B, 2)]

    found = sweep(kernel, is_listening=True)

    assert kernel.deleted == [2]
    assert found.kept == {}


def test_nothing_is_sent_for_nothing_stale(kernel: Kernel) -> None:
    kernel.entries = [entry(A, 1)]

    assert sweep(kernel).deleted == {IPV4: 0}
    assert len(kernel.sent) == 1


def test_dumps_are_counted_by_family(kernel: Kernel) -> None:
    kernel.entries = [entry(B, 1)]
    families: tuple[Family, ...] = ("IPv4", "IPv4", "IPv6")

    found = sweep(kernel, *[Filter(family) for family in families])

    # the fake kernel dumps its entry every time
    assert found.deleted == {"IPv4": 2, "IPv6": 1}


def test_many_are_deleted_in_batches_each_acknowledged_once(kernel: Kernel) -> None:
    kernel.entries = [
        entry(f"10.2.{number // 250}.{number % 250 + 1}:9", number % 250 + 1)
        for number in range(600)
    ]
    kernel.entries = [each[:-4] + n.to_bytes(4, "big") for n, each in enumerate(kernel.entries)]

    assert sweep(kernel).deleted == {IPV4: 600}

    batches = [datagram for datagram in kernel.sent if datagram[0].kind == DELETE]
    assert [len(batch) for batch in batches] == [512, 88]
    asking = [[m for m in batch if m.flags & codec.NLM_F_ACK] for batch in batches]
    assert asking == [[batch[-1]] for batch in batches]


def test_a_flow_that_ended_meanwhile_is_neither_counted_nor_trouble(kernel: Kernel) -> None:
    kernel.entries = [entry(B, client) for client in (1, 2, 3)]
    kernel.refused = {1: errno.ENOENT, 3: errno.ENOENT}

    found = sweep(kernel)

    assert (found.deleted, found.trouble) == ({IPV4: 1}, "")


def test_a_flow_that_cannot_be_deleted_does_not_hold_up_the_others(kernel: Kernel) -> None:
    kernel.entries = [entry(B, client) for client in (1, 2, 3)]
    kernel.refused = {2: errno.EPERM}

    found = sweep(kernel)

    assert kernel.deleted == [1, 3]
    assert (found.deleted, found.trouble) == ({IPV4: 2}, "Operation not permitted")


@pytest.mark.parametrize("trouble", ["lost", "interrupted", "broken off"])
def test_a_dump_in_pieces_that_do_not_fit_is_begun_again(kernel: Kernel, trouble: str) -> None:
    kernel.entries = [entry(B, client) for client in (1, 2, 3, 4)]
    kernel.troubles = [trouble] * (ATTEMPTS - 1)

    assert sweep(kernel).deleted == {IPV4: 4}

    assert kernel.dumped == ATTEMPTS
    assert sorted(kernel.deleted) == [1, 2, 3, 4]


def test_after_some_attempts_it_makes_do_with_a_dump_that_may_be_inconsistent(
    kernel: Kernel,
) -> None:
    kernel.entries = [entry(B, 1), entry(A, 2)]
    kernel.troubles = ["interrupted"] * ATTEMPTS

    assert sweep(kernel).deleted == {IPV4: 1}
    assert kernel.dumped == ATTEMPTS


@pytest.mark.parametrize("trouble", ["lost", "broken off"])
def test_of_a_dump_that_never_comes_to_its_end_what_came_is_made_use_of(
    kernel: Kernel, trouble: str
) -> None:
    kernel.entries = [entry(B, client) for client in (1, 2, 3, 4)]
    kernel.troubles = [trouble] * ATTEMPTS

    found = sweep(kernel)

    assert kernel.dumped == ATTEMPTS
    assert kernel.deleted == [1, 2]
    assert found.trouble.startswith("netlink dump: ")


def test_a_dump_that_is_denied_is_not_tried_again(kernel: Kernel) -> None:
    kernel.troubles = ["denied"]

    with pytest.raises(KernelError, match="not permitted"):
        sweep(kernel)
    assert kernel.dumped == 1


# --- forgetting all flows to some destinations


def forget(*ends: str, sources: tuple[str, ...] = ()) -> int:
    table = ConntrackTable()
    try:
        leading = [packed_end(each) for each in sources]
        return table.forget(IPV4, {packed_end(each): leading for each in ends})
    finally:
        table.close()


def test_flows_to_a_destination_are_forgotten_unless_connection_tracking_translates_them(
    kernel: Kernel,
) -> None:
    other, dnat, snat = "10.96.0.11:53", codec.attr_be32(3, 0x2A), codec.attr_be32(3, 0x1A)
    kernel.entries = [entry(A, 1), entry(VIP, 2), entry(A, 3, other), entry(A, 4, "10.96.0.10:54")]
    kernel.entries += [entry(A, 5) + dnat, entry(A, 6) + snat]

    assert forget(VIP, "192.0.2.9:1") == 3

    assert kernel.deleted == [1, 2, 6]


def test_only_flows_to_some_endpoints_are_forgotten_where_these_are_named(kernel: Kernel) -> None:
    kernel.entries = [entry(A, 1), entry(B, 2), entry(C, 3), entry(B, 4, "10.96.0.11:53")]

    assert forget(VIP, sources=(B, C)) == 2

    assert kernel.deleted == [2, 3]


def test_flows_of_another_protocol_stay(kernel: Kernel) -> None:
    kernel.entries = [entry(A, 1)]
    table = ConntrackTable()

    assert table.forget(IPV4, {packed_end(VIP): ()}, conntrack.IPPROTO_TCP) == 0
    table.close()


def test_a_dump_that_was_interrupted_is_begun_anew_before_anything_is_forgotten(
    kernel: Kernel,
) -> None:
    kernel.entries = [entry(A, 1)]
    kernel.troubles = ["interrupted"]

    assert forget(VIP) == 1
    assert (kernel.dumped, kernel.deleted) == (2, [1])


def test_a_flow_that_ended_by_itself_meanwhile_is_no_failure(kernel: Kernel) -> None:
    kernel.entries = [entry(A, 1), entry(B, 2)]
    kernel.refused = {1: errno.ENOENT}

    assert forget(VIP) == 1


def test_a_flow_that_will_not_go_is_a_failure(kernel: Kernel) -> None:
    kernel.entries = [entry(A, 1), entry(B, 2)]
    kernel.refused = {1: errno.EPERM}

    with pytest.raises(KernelError, match="delete tracked flows"):
        forget(VIP)
    assert kernel.deleted == [2]


# --- a kernel without netfilter


def open_table_where(monkeypatch: pytest.MonkeyPatch, number: int) -> Found:
    def refuse(protocol: int) -> None:
        raise KernelError("open a netlink socket", number, "refused")

    monkeypatch.setattr(socket, "_open", refuse)
    table = open_table()
    found = asyncio.run(table.sweep((Filter(IPV4),), Table(())))
    table.close()
    return found


def test_where_the_kernel_tracks_nothing_there_is_nothing_to_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = open_table_where(monkeypatch, errno.EPROTONOSUPPORT)

    assert (found.deleted, found.kept, found.trouble) == ({}, {}, "")


def test_whatever_else_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="open a netlink socket"):
        open_table_where(monkeypatch, errno.EMFILE)


def test_otherwise_it_is_the_kernels_table(kernel: Kernel) -> None:
    table = open_table()

    assert isinstance(table, ConntrackTable)
    table.close()
