import errno
from collections.abc import Iterator

import pytest

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft, Refusal, Refused
from backends.kernel.nft_numbers import NFPROTO_IPV4, MessageKind
from proxy.errors import KernelError
from proxy.netlink import codec, socket
from proxy.netlink.codec import Message
from proxy.netlink.socket import DumpInterrupted
from tests.fakes.netlink import LOST, FakeKernel, Reply, done, offset, piece, reply, text

CHAINS = [nft_messages.new_chain(NFPROTO_IPV4, "t", name) for name in "abc"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


@pytest.fixture
def nft(kernel: FakeKernel) -> Nft:
    return Nft()


def acknowledge(sent: list[Message]) -> list[Reply]:
    return [reply(m.seq) for m in sent if m.flags & codec.NLM_F_ACK]


def test_a_transaction_is_one_batch_acknowledged_at_its_last_real_message(
    kernel: FakeKernel, nft: Nft
) -> None:
    kernel.answer = acknowledge

    nft.commit(CHAINS)

    (batch,) = kernel.sent
    assert [m.kind for m in batch] == [
        MessageKind.BATCH_BEGIN,
        *[MessageKind.NEWCHAIN] * 3,
        MessageKind.BATCH_END,
    ]
    asking = [bool(m.flags & codec.NLM_F_ACK) for m in batch]
    assert asking == [False, False, False, True, False]
    assert all(m.flags & codec.NLM_F_CREATE for m in batch[1:-1])


def test_an_empty_transaction_sends_nothing(kernel: FakeKernel, nft: Nft) -> None:
    nft.commit([])

    assert kernel.sent == []


def test_refusals_name_the_messages_of_the_transaction(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [
        reply(sent[1].seq, errno.ENOENT, text("no table"), offset(20)),
        reply(sent[3].seq, errno.EEXIST),
    ]

    with pytest.raises(Refused, match="of 3 messages: message 0: no table and 1 more") as caught:
        nft.commit(CHAINS)

    assert caught.value.refusals == (
        Refusal(0, errno.ENOENT, "no table", 20),
        Refusal(2, errno.EEXIST, "", None),
    )
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("position", [0, 4], ids=["begin", "end"])
def test_what_the_kernel_says_of_the_batch_is_about_the_whole(
    kernel: FakeKernel, nft: Nft, position: int
) -> None:
    kernel.answer = lambda sent: [reply(sent[position].seq, errno.EPERM)]

    with pytest.raises(Refused, match="transaction: Operation not permitted") as caught:
        nft.commit(CHAINS)

    assert caught.value.refusals == (Refusal(None, errno.EPERM, "", None),)


def test_an_unknown_outcome_is_not_called_a_refusal(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda _: [LOST]

    with pytest.raises(KernelError) as caught:
        nft.commit(CHAINS)

    assert not isinstance(caught.value, Refused)


def element_answer(message: Message, data: bytes, stamp: int = 0) -> bytes:
    """The kernel's answer to a question for one element, or a piece of a list of elements."""
    key = nft_elements.parse_elements(message.payload)[0][0]
    return block(message.seq, stamp, nft_elements.pack_data_element(key, data))


def block(seq: int, stamp: int, *elements: bytes) -> bytes:
    content = codec.attr_string(1, "t") + codec.attr_string(2, "s") + codec.nested(3, *elements)
    return piece(seq, bytes([2, 0]) + stamp.to_bytes(2, "big") + content)


def test_those_of_the_elements_that_exist_are_found(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [
        reply(sent[0].seq, errno.ENOENT),
        element_answer(sent[1], b"data"),
    ]

    assert nft.find_elements(NFPROTO_IPV4, "t", "s", [b"key0", b"key1"]) == {b"key1": b"data"}


def test_many_elements_are_asked_for_a_thousand_at_a_time(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [element_answer(message, b"data") for message in sent]
    keys = [number.to_bytes(4, "big") for number in range(2500)]

    found = nft.find_elements(NFPROTO_IPV4, "t", "s", keys)

    assert found == dict.fromkeys(keys, b"data")
    assert [len(datagram) for datagram in kernel.sent] == [1000, 1000, 500]


def test_a_question_refused_for_another_reason_is_an_error(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.EPERM)]

    with pytest.raises(KernelError, match="not permitted"):
        nft.find_elements(NFPROTO_IPV4, "t", "s", [b"key0"])


def two_generations(sent: list[Message]) -> list[Reply]:
    seq = sent[0].seq
    first = block(seq, 7, nft_elements.pack_key_element(b"key1"))
    second = block(seq, 8, nft_elements.pack_key_element(b"key2"))
    return [first, second, done(seq)]


def test_a_list_over_two_generations_is_interrupted(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = two_generations

    with pytest.raises(DumpInterrupted):
        list(nft.list_elements(NFPROTO_IPV4, "t", "s"))

    assert kernel.queue == []


def test_who_does_not_mind_gets_a_list_over_two_generations(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = two_generations

    found = list(nft.list_elements(NFPROTO_IPV4, "t", "s", is_strict=False))

    assert found == [[(b"key1", None)], [(b"key2", None)]]


def resized(sent: list[Message]) -> list[Reply]:
    """Two pieces of a list between which the order of the set has changed."""
    seq = sent[0].seq
    one, two, three = (nft_elements.pack_data_element(f"key{n}".encode(), b"data") for n in "123")
    return [block(seq, 7, one, two), block(seq, 7, three, one), done(seq)]


def test_a_list_that_repeats_an_element_is_interrupted_for_another_may_be_missing(
    kernel: FakeKernel, nft: Nft
) -> None:
    kernel.answer = resized

    with pytest.raises(DumpInterrupted, match="resizing"):
        list(nft.list_elements(NFPROTO_IPV4, "t", "s"))

    assert kernel.queue == []


def test_who_does_not_mind_gets_a_list_that_repeats_an_element(
    kernel: FakeKernel, nft: Nft
) -> None:
    kernel.answer = resized

    found = list(nft.list_elements(NFPROTO_IPV4, "t", "s", is_strict=False))

    assert [key for part in found for key, _ in part] == [b"key1", b"key2", b"key3", b"key1"]


def test_a_range_may_begin_where_another_one_ends(kernel: FakeKernel, nft: Nft) -> None:
    end = nft_elements.pack_element(nft_elements.Element(b"key1", is_interval_end=True))
    begin = nft_elements.pack_key_element(b"key1")
    kernel.answer = lambda sent: [block(sent[0].seq, 7, end, begin), done(sent[0].seq)]

    assert len(next(nft.list_elements(NFPROTO_IPV4, "t", "s"))) == 2


def test_chains_of_other_tables_are_left_out(kernel: FakeKernel, nft: Nft) -> None:
    def answer(sent: list[Message]) -> list[Reply]:
        ours, other = (
            nft_messages.new_chain(NFPROTO_IPV4, table, "c").payload + codec.attr_be64(2, 1)
            for table in ("ours", "other")
        )
        return [piece(sent[0].seq, ours, other), done(sent[0].seq)]

    kernel.answer = answer

    assert [c.table for c in nft.list_chains(NFPROTO_IPV4, "ours")] == ["ours"]


def test_what_does_not_exist_is_none(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.ENOENT)]

    assert nft.find_table(NFPROTO_IPV4, "t") is None
    assert nft.find_chain(NFPROTO_IPV4, "t", "c") is None
    assert nft.find_set(NFPROTO_IPV4, "t", "s") is None


def test_a_kernel_without_a_generation_is_an_error(kernel: FakeKernel, nft: Nft) -> None:
    kernel.answer = lambda sent: [reply(sent[0].seq, errno.ENOENT)]

    with pytest.raises(KernelError, match="generation"):
        nft.generation()
