import errno
import os
from collections.abc import Callable, Iterator

import pytest

from proxy.errors import KernelError
from proxy.netlink import codec, socket
from proxy.netlink.codec import Message, Request
from proxy.netlink.socket import Ack, DumpInterrupted, NetlinkSocket
from tests.fakes.netlink import LOST, FakeKernel, Reply, done, offset, piece, reply, text


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


@pytest.fixture
def door(kernel: FakeKernel) -> NetlinkSocket:
    return NetlinkSocket(codec.NETLINK_GENERIC)


def requests(count: int) -> list[Request]:
    return [Request(20 + n, codec.NLM_F_ACK, bytes([n] * 4)) for n in range(count)]


# --- transact


def test_requests_are_sent_at_once_with_consecutive_numbers(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(m.seq) for m in sent]

    assert door.transact(requests(3)) == []
    assert door.transact(requests(1)) == []

    assert [[m.kind for m in datagram] for datagram in kernel.sent] == [[20, 21, 22], [20]]
    numbers = [m.seq for datagram in kernel.sent for m in datagram]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert all(m.flags == codec.NLM_F_ACK | codec.NLM_F_REQUEST for m in kernel.sent[0])
    assert bytes(kernel.sent[0][2].payload) == bytes([2] * 4)


def test_every_refusal_is_reported_with_its_place(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [
        reply(sent[0].seq, errno.ENOENT, text("no such thing"), offset(44)),
        reply(sent[1].seq),
        reply(sent[2].seq, errno.EEXIST),
    ]

    assert door.transact(requests(3)) == [
        Ack(0, errno.ENOENT, "no such thing", 44),
        Ack(2, errno.EEXIST, "", None),
    ]


def test_a_success_does_not_hide_a_refusal_that_comes_after_it(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(sent[1].seq), reply(sent[0].seq, errno.EBUSY)]

    (failure,) = door.transact([requests(1)[0]._replace(flags=0), *requests(1)])

    assert failure.errno == errno.EBUSY


def test_all_replies_are_taken_so_that_none_is_left_for_the_next_request(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(m.seq, errno.ENOENT) for m in sent]
    assert len(door.transact(requests(50))) == 50
    assert kernel.queue == []

    kernel.answer = lambda sent: [reply(m.seq) for m in sent]
    assert door.transact(requests(2)) == []


def test_replies_to_something_else_are_passed_over(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [
        reply(sent[0].seq + 99, errno.EPERM),
        reply(0, errno.EPERM),
        codec.message(28, 0, sent[0].seq, b"news"),
        reply(sent[0].seq),
    ]

    assert door.transact(requests(1)) == []


def test_silence_is_an_unknown_outcome(door: NetlinkSocket) -> None:
    with pytest.raises(KernelError) as caught:
        door.transact(requests(1))

    assert caught.value.errno == errno.ETIMEDOUT


def test_half_of_the_acknowledgements_are_an_unknown_outcome(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq)]

    with pytest.raises(KernelError, match="no reply"):
        door.transact(requests(2))


def test_lost_replies_are_an_unknown_outcome(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [LOST, reply(sent[0].seq)]

    with pytest.raises(KernelError) as caught:
        door.transact(requests(1))

    assert caught.value.errno == errno.ENOBUFS
    assert kernel.queue == []


def test_a_refusal_among_lost_replies_is_an_outcome(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [LOST, reply(sent[0].seq, errno.EEXIST)]

    (failure,) = door.transact(requests(2))

    assert failure.errno == errno.EEXIST
    assert kernel.queue == []


# --- submit

EACH_FOR_ITSELF = [Request(20, 0, b"")] * 3


def test_requests_that_stand_for_themselves_are_each_refused(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.ENOENT, text("no")), reply(sent[2].seq)]

    assert door.submit(EACH_FOR_ITSELF) == [Ack(0, errno.ENOENT, "no", None)]


def test_the_last_of_them_may_be_the_one_refused(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [reply(sent[2].seq, errno.EEXIST)]

    assert door.submit(EACH_FOR_ITSELF) == [Ack(2, errno.EEXIST, "", None)]


def test_of_very_many_requests_a_thousand_go_at_once_and_the_last_of_them_is_answered(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(m.seq, errno.EPERM) for m in (sent[0], sent[-1])]

    refused = door.submit([Request(20, 0, b"")] * 2500)

    assert [len(sent) for sent in kernel.sent] == [1000, 1000, 500]
    for sent in kernel.sent:
        assert [bool(m.flags & codec.NLM_F_ACK) for m in sent[-2:]] == [False, True]
    assert [each.index for each in refused] == [0, 999, 1000, 1999, 2000, 2499]


def test_nothing_to_submit_is_not_sent(kernel: FakeKernel, door: NetlinkSocket) -> None:
    assert door.submit([]) == []
    assert kernel.sent == []


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_one_lost_refusal_makes_the_outcome_of_requests_that_stand_for_themselves_unknown(
    kernel: FakeKernel, door: NetlinkSocket, lost: int
) -> None:
    def answer(sent: list[Message]) -> list[Reply]:
        replies: list[Reply] = [reply(sent[0].seq, errno.ENOENT), reply(sent[2].seq)]
        return [*replies[:lost], LOST, *replies[lost:]]

    kernel.answer = answer

    with pytest.raises(KernelError) as caught:
        door.submit(EACH_FOR_ITSELF)

    assert caught.value.errno == errno.ENOBUFS
    assert kernel.queue == []


def test_a_refusal_is_no_outcome_of_what_comes_after_it(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.ENOENT)]

    with pytest.raises(KernelError) as caught:
        door.submit(EACH_FOR_ITSELF)

    assert caught.value.errno == errno.ENOBUFS


def test_who_has_no_right_gets_one_answer_for_all(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.EPERM)]

    with pytest.raises(KernelError, match="it takes the capability NET_ADMIN") as caught:
        door.submit(EACH_FOR_ITSELF)

    assert caught.value.errno == errno.EPERM


def test_a_request_too_large_to_send_is_refused_as_a_whole(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.refusal = OSError(errno.EMSGSIZE, "Message too long")

    with pytest.raises(KernelError, match=r"2 netlink requests \(40 bytes\)") as caught:
        door.transact(requests(2))

    assert caught.value.errno == errno.EMSGSIZE


def test_other_errors_of_the_socket_are_kernel_errors(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda _: [OSError(errno.ENOMEM, "Out of memory")]

    with pytest.raises(KernelError, match="Out of memory"):
        door.transact(requests(1))


def test_a_reply_that_does_not_fit_is_not_taken_for_whole(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [codec.message(28, 0, sent[0].seq, bytes(70_000))]

    with pytest.raises(KernelError, match="cut off"):
        door.transact(requests(1))


def test_requests_that_ask_for_no_acknowledgement_are_our_mistake(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    with pytest.raises(ValueError, match="acknowledgement"):
        door.transact([Request(20, 0, b"")])

    assert kernel.sent == []


def test_sequence_numbers_start_again_before_they_overflow(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [reply(m.seq) for m in sent]
    door._seq = 0xFFFFFFFE

    assert door.transact(requests(3)) == []
    assert [m.seq for m in kernel.sent[0]] == [1, 2, 3]


# --- ask


def test_answers_come_in_the_order_of_the_questions(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [
        codec.message(40, 0, sent[2].seq, b"two!"),
        reply(sent[1].seq, errno.ENOENT),
        codec.message(40, 0, sent[0].seq, b"zero"),
    ]

    first, second, third = door.ask(requests(3))

    assert isinstance(first, Message)
    assert isinstance(third, Message)
    assert (bytes(first.payload), bytes(third.payload)) == (b"zero", b"two!")
    assert second == Ack(1, errno.ENOENT, "", None)


def test_a_question_without_an_answer_is_an_error(door: NetlinkSocket) -> None:
    with pytest.raises(KernelError, match="no reply"):
        door.ask(requests(1))


def test_lost_answers_are_an_error_and_leave_nothing_behind(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [LOST, codec.message(40, 0, sent[0].seq, b"late"), LOST]

    with pytest.raises(KernelError) as caught:
        door.ask(requests(2))

    assert caught.value.errno == errno.ENOBUFS
    assert kernel.queue == []


# --- dump


DUMP = Request(30, 0, b"what")


def test_a_dump_is_handed_out_piece_by_piece(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111", b"2222"),
        piece(sent[0].seq, b"3333") + done(sent[0].seq),
    ]

    pieces = door.dump(DUMP)
    first = next(pieces)
    assert len(kernel.queue) == 1, "the rest is not read before it is asked for"
    rest = list(pieces)

    assert [bytes(p) for p in first] == [b"1111", b"2222"], "a piece outlasts the next one"
    assert [[bytes(p) for p in each] for each in rest] == [[b"3333"]]
    assert kernel.sent[0][0].flags == codec.NLM_F_REQUEST | codec.NLM_F_DUMP


def test_an_empty_dump_has_no_pieces(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [done(sent[0].seq)]

    assert list(door.dump(DUMP)) == []


@pytest.mark.parametrize("where", ["piece", "end"])
def test_a_dump_of_different_states_is_interrupted(
    kernel: FakeKernel, door: NetlinkSocket, where: str
) -> None:
    flag = codec.NLM_F_DUMP_INTR
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111"),
        piece(sent[0].seq, b"2222", flags=flag if where == "piece" else 0),
        done(sent[0].seq, flags=flag if where == "end" else 0),
    ]

    with pytest.raises(DumpInterrupted):
        list(door.dump(DUMP))

    assert kernel.queue == []


def test_who_does_not_mind_gets_the_pieces_of_different_states(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111", flags=codec.NLM_F_DUMP_INTR),
        done(sent[0].seq, flags=codec.NLM_F_DUMP_INTR),
    ]

    assert len(list(door.dump(DUMP, is_strict=False))) == 1


@pytest.mark.parametrize(
    "last",
    [lambda seq: done(seq, errno.ENOENT), lambda seq: reply(seq, errno.ENOENT)],
    ids=["done", "error"],
)
def test_a_dump_that_is_refused_says_why(
    kernel: FakeKernel, door: NetlinkSocket, last: Callable[[int], bytes]
) -> None:
    kernel.answer = lambda sent: [last(sent[0].seq)]

    with pytest.raises(KernelError, match="No such file") as caught:
        list(door.dump(DUMP))

    assert caught.value.errno == errno.ENOENT


def test_a_dump_left_early_is_read_to_its_end(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111"),
        LOST,
        piece(sent[0].seq, b"2222"),
        done(sent[0].seq),
    ]

    for _ in door.dump(DUMP):
        break

    assert kernel.queue == []


def test_another_request_interrupts_a_dump_and_gets_its_own_replies(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111"),
        piece(sent[0].seq, b"2222"),
        done(sent[0].seq),
    ]
    pieces = door.dump(DUMP)
    next(pieces)
    kernel.answer = lambda sent: [reply(m.seq) for m in sent]

    assert door.transact(requests(1)) == []
    with pytest.raises(DumpInterrupted):
        next(pieces)


def test_lost_pieces_are_an_error_and_leave_nothing_behind(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [piece(sent[0].seq, b"1111"), LOST, done(sent[0].seq)]

    with pytest.raises(KernelError) as caught:
        list(door.dump(DUMP))

    assert caught.value.errno == errno.ENOBUFS
    assert kernel.queue == []


def test_a_socket_that_cannot_be_opened_is_a_kernel_error() -> None:
    with pytest.raises(KernelError, match="open a netlink socket"):
        NetlinkSocket(31)  # no subsystem has this number


def test_a_socket_closes_with_its_block() -> None:
    with NetlinkSocket(0) as door:  # routing: there is one in every kernel
        assert not os.get_inheritable(door.fileno())

    assert door.fileno() == -1


def test_a_dump_that_was_interrupted_is_read_again_whole(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    def answer(sent: list[Message]) -> list[Reply]:
        seq = sent[0].seq
        flags = 0 if len(kernel.sent) == 3 else codec.NLM_F_DUMP_INTR
        return [piece(seq, b"1111"), piece(seq, b"2222", flags=flags), done(seq)]

    kernel.answer = answer

    assert [bytes(payload) for payload in door.dump_whole(DUMP)] == [b"1111", b"2222"]
    assert len(kernel.sent) == 3


def test_a_dump_that_is_always_interrupted_is_taken_as_it_is(
    kernel: FakeKernel, door: NetlinkSocket
) -> None:
    kernel.answer = lambda sent: [
        piece(sent[0].seq, b"1111", flags=codec.NLM_F_DUMP_INTR),
        done(sent[0].seq),
    ]

    assert [bytes(payload) for payload in door.dump_whole(DUMP)] == [b"1111"]
    assert len(kernel.sent) == 5


def test_a_refused_dump_is_not_tried_again(kernel: FakeKernel, door: NetlinkSocket) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.EPERM)]

    with pytest.raises(KernelError):
        door.dump_whole(DUMP)

    assert len(kernel.sent) == 1
