"""The door to ipset. That the kernel understands what it sends is tested in e2e/test_kernel_ipset.py."""

import errno
from collections.abc import Iterator

import pytest

from backends.kernel import ipset_messages
from backends.kernel.ipset import NOTICED_S, Ipset, Refusal
from backends.kernel.ipset_objects import IpSet, Member, SetKind, SetState
from proxy.errors import KernelError
from proxy.model import IPV4
from proxy.netlink import socket
from proxy.netlink.codec import Message
from tests.fakes.ipset import BUSY, DIFFERENT, FULL, NO_KIND, NO_SECOND, PROTOCOL, IpsetKernel
from tests.fakes.netlink import LOST, FakeKernel, Reply, reply, text

CLIENTS = IpSet("clients", SetKind.ADDRESS, IPV4, timeout_s=600)
FRONTENDS = IpSet("frontends", SetKind.ADDRESS_PORT, IPV4)
WEB = Member("10.96.0.1", 6, 80)


@pytest.fixture
def kernel() -> IpsetKernel:
    return IpsetKernel()


@pytest.fixture
def ipset(kernel: IpsetKernel) -> Iterator[Ipset]:
    with kernel.entered():
        door = Ipset()
    with door:
        yield door


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> list[FakeKernel]:
    """The operating system's ends of the door's sockets, which answer as a test says."""
    opened: list[FakeKernel] = []

    def open_one(protocol: int) -> FakeKernel:
        opened.append(FakeKernel())
        return opened[-1]

    monkeypatch.setattr(socket, "_open", open_one)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    return opened


def members(ipset: Ipset, name: str) -> list[Member]:
    return [member for piece in ipset.members(name) for member in piece]


# --- what is there


def test_sets_and_members_are_listed_as_they_were_made(ipset: Ipset) -> None:
    refused = ipset.carry_out(
        [
            ipset_messages.create(CLIENTS),
            ipset_messages.create(FRONTENDS),
            ipset_messages.add("clients", Member("192.0.2.1"), timeout_s=5),
            ipset_messages.add("frontends", WEB),
        ]
    )

    assert refused == []
    states = [SetState(CLIENTS, 1, 0), SetState(FRONTENDS, 1, 0)]
    assert ipset.list_sets() == states
    assert [ipset.find_set(name) for name in ("clients", "frontends")] == states
    assert members(ipset, "clients") == [Member("192.0.2.1")]
    assert members(ipset, "frontends") == [WEB]


def test_a_long_list_comes_in_pieces(ipset: Ipset) -> None:
    wanted = [WEB._replace(port=port) for port in range(1, 251)]
    ipset.carry_out([ipset_messages.create(FRONTENDS)])
    ipset.carry_out([ipset_messages.add("frontends", member) for member in wanted])

    pieces = list(ipset.members("frontends"))

    assert len(pieces) > 1
    assert [member for piece in pieces for member in piece] == wanted


def test_an_empty_set_has_no_members(ipset: Ipset) -> None:
    ipset.carry_out([ipset_messages.create(CLIENTS)])
    assert members(ipset, "clients") == []


def test_a_set_that_is_not_there_is_not_found_and_listing_it_is_an_error(ipset: Ipset) -> None:
    assert ipset.list_sets() == []
    assert ipset.find_set("clients") is None
    with pytest.raises(KernelError) as raised:
        members(ipset, "clients")
    assert raised.value.errno == errno.ENOENT


def test_swapped_sets_have_each_others_members(ipset: Ipset) -> None:
    other = FRONTENDS._replace(name="new")
    ipset.carry_out([ipset_messages.create(each) for each in (FRONTENDS, other)])
    ipset.carry_out([ipset_messages.add("new", WEB)])

    assert ipset.carry_out([ipset_messages.swap("frontends", "new")]) == []

    assert members(ipset, "frontends") == [WEB]
    assert members(ipset, "new") == []


def test_a_flushed_set_is_empty_and_stays(ipset: Ipset) -> None:
    ipset.carry_out([ipset_messages.create(FRONTENDS), ipset_messages.add("frontends", WEB)])

    assert ipset.carry_out([ipset_messages.flush("frontends")]) == []

    assert ipset.find_set("frontends") == SetState(FRONTENDS, 0, 0)


# --- what is carried out


def test_what_is_so_already_is_no_error(ipset: Ipset) -> None:
    twice = [
        ipset_messages.create(FRONTENDS),
        ipset_messages.add("frontends", WEB),
        ipset_messages.delete("frontends", WEB._replace(port=81)),
        ipset_messages.destroy("missing"),
    ] * 2

    assert ipset.carry_out(twice) == []
    assert members(ipset, "frontends") == [WEB]


def test_destroying_what_is_not_there_is_no_error_on_old_kernels_either(
    kernel: IpsetKernel, ipset: Ipset
) -> None:
    kernel.tells_missing = True

    refused = ipset.carry_out([ipset_messages.destroy("a"), ipset_messages.flush("a")])

    assert [(refusal.index, refusal.errno) for refusal in refused] == [(1, errno.ENOENT)]


def test_a_refused_message_keeps_no_other_from_being_carried_out(ipset: Ipset) -> None:
    refused = ipset.carry_out(
        [
            ipset_messages.create(FRONTENDS),
            ipset_messages.add("missing", WEB),
            ipset_messages.add("frontends", WEB),
            ipset_messages.add("frontends", Member("10.96.0.1")),
        ]
    )

    assert refused == [
        Refusal(1, errno.ENOENT, "add 10.96.0.1,tcp:80 to set missing: there is no such set"),
        Refusal(
            3,
            PROTOCOL,
            "add 10.96.0.1 to set frontends: the kernel does not understand the message",
        ),
    ]
    assert str(refused[0]) == refused[0].text
    assert members(ipset, "frontends") == [WEB]


def test_many_messages_are_sent_in_parts_and_the_refused_one_is_found(ipset: Ipset) -> None:
    wanted = [WEB._replace(port=port) for port in range(1, 2501)]
    requests = [ipset_messages.add("frontends", member) for member in wanted]
    requests[1700] = ipset_messages.add("missing", WEB)

    refused = ipset.carry_out([ipset_messages.create(FRONTENDS), *requests])

    assert [refusal.index for refusal in refused] == [1701]
    assert len(members(ipset, "frontends")) == 2499


def test_nothing_is_sent_for_no_messages(ipset: Ipset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeKernel, "send", None)
    assert ipset.carry_out([]) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (BUSY, "destroy set a: a rule or another set names it"),
        (errno.EPERM, "destroy set a: Operation not permitted"),
        (4300, "destroy set a: ipset's error 4300"),
    ],
)
def test_the_reason_of_a_refusal_is_in_words(
    endpoints: list[FakeKernel], number: int, words: str
) -> None:
    with Ipset() as ipset:
        endpoints[0].answer = lambda sent: [reply(sent[0].seq, number)]
        assert [str(refusal) for refusal in ipset.carry_out([ipset_messages.destroy("a")])] == [
            words
        ]


def test_the_kernels_own_words_count_more(endpoints: list[FakeKernel]) -> None:
    with Ipset() as ipset:
        endpoints[0].answer = lambda sent: [reply(sent[0].seq, BUSY, text("not now"))]
        (refusal,) = ipset.carry_out([ipset_messages.destroy("a")])
    assert str(refusal) == "destroy set a: not now"


def test_every_reason_that_the_fake_has_is_told(kernel: IpsetKernel, ipset: Ipset) -> None:
    kernel.references["clients"] = 1
    kernel.kinds.remove("hash:net")
    small = IpSet("small", SetKind.ADDRESS, IPV4, max_members=1)
    ipset.carry_out([ipset_messages.create(each) for each in (CLIENTS, FRONTENDS, small)])
    ipset.carry_out([ipset_messages.add("small", Member("10.0.0.1"))])

    refused = ipset.carry_out(
        [
            ipset_messages.destroy("clients"),
            ipset_messages.create(IpSet("net", SetKind.NETWORK, IPV4)),
            ipset_messages.create(CLIENTS._replace(timeout_s=5)),
            ipset_messages.swap("clients", "missing"),
            ipset_messages.swap("clients", "frontends"),
            ipset_messages.add("small", Member("10.0.0.2")),
        ]
    )

    assert [(refusal.errno, str(refusal).partition(": ")[2]) for refusal in refused] == [
        (BUSY, "a rule or another set names it"),
        (NO_KIND, "the kernel has no such kind of set"),
        (errno.EEXIST, "another set has this name"),
        (NO_SECOND, "there is no such set to swap with"),
        (DIFFERENT, "they are of different kinds"),
        (FULL, "the set is full"),
    ]


# --- what no kernel does on demand


def test_lost_answers_are_an_error_since_nobody_knows_what_was_carried_out(
    endpoints: list[FakeKernel],
) -> None:
    with Ipset() as ipset:
        endpoints[0].answer = lambda sent: [LOST]
        with pytest.raises(KernelError, match="unknown"):
            ipset.carry_out([ipset_messages.destroy("a")])


def test_members_are_listed_on_a_socket_of_their_own(
    kernel: IpsetKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[FakeKernel, int]] = []
    send = FakeKernel.send

    def sent(self: FakeKernel, datagram: bytes) -> int:
        size = send(self, datagram)
        used.append((self, self.sent[-1][0].kind & 0xFF))
        return size

    monkeypatch.setattr(FakeKernel, "send", sent)
    with kernel.entered(), Ipset() as ipset:
        ipset.carry_out([ipset_messages.create(FRONTENDS), ipset_messages.add("frontends", WEB)])
        listing = ipset.members("frontends")
        first = next(listing)
        ipset.find_set("frontends")
        assert first + [member for piece in listing for member in piece] == [WEB]

    assert [command for _, command in used] == [2, 7, 7]
    assert used[0][0] is used[2][0] is not used[1][0]


def test_a_question_that_is_refused_otherwise_is_an_error(endpoints: list[FakeKernel]) -> None:
    def refuse(sent: list[Message]) -> list[Reply]:
        return [reply(sent[0].seq, errno.EPERM)]

    with Ipset() as ipset:
        endpoints[0].answer = refuse
        with pytest.raises(KernelError, match="not permitted"):
            ipset.find_set("a")


def test_single_members_are_asked_for(ipset: Ipset) -> None:
    ipset.carry_out([ipset_messages.create(FRONTENDS), ipset_messages.add("frontends", WEB)])
    other = WEB._replace(port=81)

    assert ipset.has([("frontends", WEB), ("none", WEB), ("frontends", other)]) == [
        True,
        False,
        False,
    ]
    assert ipset.has([]) == []


def test_a_question_for_a_member_that_is_refused_otherwise_is_an_error(
    endpoints: list[FakeKernel],
) -> None:
    def refuse(sent: list[Message]) -> list[Reply]:
        return [reply(sent[0].seq, errno.EPERM)]

    with Ipset() as ipset:
        endpoints[0].answer = refuse
        with pytest.raises(KernelError, match=r"look for 10\.96\.0\.1,tcp:80 in set a"):
            ipset.has([("a", WEB)])


# --- sets that have just been left


def test_a_set_goes_as_soon_as_no_rule_asks_it(
    ipset: Ipset, kernel: IpsetKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            kernel.references.clear()

    monkeypatch.setattr("time.sleep", wait)
    assert ipset.carry_out([ipset_messages.create(each) for each in (CLIENTS, FRONTENDS)]) == []
    kernel.references[CLIENTS.name] = 1

    assert ipset.destroy([CLIENTS.name, FRONTENDS.name]) == []

    assert len(waited) == 3
    assert ipset.list_sets() == []


def test_a_set_that_rules_go_on_asking_is_told(
    ipset: Ipset, kernel: IpsetKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert ipset.carry_out([ipset_messages.create(each) for each in (CLIENTS, FRONTENDS)]) == []
    kernel.references[CLIENTS.name] = 1

    (refusal,) = ipset.destroy([CLIENTS.name, FRONTENDS.name])

    assert refusal.errno == BUSY
    assert NOTICED_S <= sum(waited) < NOTICED_S + 0.1
    assert [each.set.name for each in ipset.list_sets()] == [CLIENTS.name]


def test_what_no_rule_is_the_reason_for_is_told_at_once(
    endpoints: list[FakeKernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", None)
    with Ipset() as ipset:
        endpoints[0].answer = lambda sent: [reply(sent[0].seq, errno.EPERM)]
        (refusal,) = ipset.destroy(["a"])
    assert refusal.errno == errno.EPERM
