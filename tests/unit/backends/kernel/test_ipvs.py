"""The door to IPVS. That the kernel understands what it sends is tested in e2e/test_kernel_ipvs.py."""

import errno
from collections.abc import Iterator

import pytest

from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import (
    Destination,
    Info,
    Load,
    ServerFlag,
    ServerId,
    Timeouts,
    VirtualServer,
    marked,
)
from proxy.errors import KernelError, Unsupported
from proxy.model import IPV4, IPV6
from proxy.netlink import codec, generic, socket
from proxy.netlink.codec import Message
from tests.fakes.ipvs import NUMBER, IpvsKernel
from tests.fakes.netlink import LOST, FakeKernel, Reply, reply, text

WEB = ServerId(IPV4, "TCP", "10.96.0.1", 80)
DNS6 = ServerId(IPV6, "UDP", "2001:db8::a", 53)
POD = Destination("10.0.0.1", 8080)


@pytest.fixture
def kernel() -> IpvsKernel:
    return IpvsKernel()


@pytest.fixture
def ipvs(kernel: IpvsKernel) -> Iterator[Ipvs]:
    with kernel.entered():
        door = Ipvs()
    with door:
        yield door


class Endpoint(FakeKernel):
    """A kernel that has IPVS and answers its messages as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answer_ipvs = self.answer
        self.answer = self._answer

    def _answer(self, sent: list[Message]) -> list[Reply]:
        if sent[0].kind == NUMBER:
            return self.answer_ipvs(sent)
        family = generic.header(1) + codec.attr_u16(1, NUMBER)
        return [codec.message(16, 0, sent[0].seq, family)]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    fake = Endpoint()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


# --- what is there


def test_virtual_servers_and_destinations_are_listed_as_they_were_made(ipvs: Ipvs) -> None:
    servers = [
        VirtualServer(WEB, "rr", ServerFlag.PERSISTENT, 10800, 8),
        VirtualServer(DNS6, "mh", ServerFlag.SCHEDULER_1 | ServerFlag.SCHEDULER_2),
        VirtualServer(marked(IPV6, 0x4000), "wlc"),
    ]
    pod6 = Destination("2001:db8::1", 53, 0, upper_threshold=100, lower_threshold=50)

    refused = ipvs.carry_out(
        [
            *[ipvs_messages.new_server(server) for server in servers],
            ipvs_messages.new_destination(WEB, POD),
            ipvs_messages.new_destination(DNS6, pod6),
        ]
    )

    assert refused == []
    assert ipvs.list_servers() == servers
    assert ipvs.list_destinations(WEB) == [(POD, Load(0, 0, 0))]
    assert ipvs.list_destinations(DNS6) == [(pod6, Load(0, 0, 0))]
    assert ipvs.find_server(WEB) == servers[0]


def test_what_is_not_there_is_not_found_and_has_no_destinations(ipvs: Ipvs) -> None:
    assert ipvs.find_server(WEB) is None
    assert ipvs.list_destinations(WEB) == []
    assert ipvs.list_servers() == []


def test_connections_are_told_with_the_destination(kernel: IpvsKernel, ipvs: Ipvs) -> None:
    ipvs.carry_out(
        [
            ipvs_messages.new_server(VirtualServer(WEB, "rr")),
            ipvs_messages.new_destination(WEB, POD),
        ]
    )
    kernel.count(WEB, POD.address, POD.port, Load(3, 2, 1))

    assert ipvs.list_destinations(WEB) == [(POD, Load(3, 2, 1))]


def test_a_list_of_many_pieces_is_whole(ipvs: Ipvs) -> None:
    servers = [VirtualServer(WEB._replace(port=port), "rr") for port in range(1, 2001)]

    ipvs.carry_out([ipvs_messages.new_server(server) for server in servers])

    assert ipvs.list_servers() == servers


def test_timeouts_and_version_are_told(ipvs: Ipvs) -> None:
    assert ipvs.timeouts() == Timeouts(900, 120, 300)
    assert ipvs.carry_out([ipvs_messages.set_timeouts(Timeouts(0, 60, 0))]) == []
    assert ipvs.timeouts() == Timeouts(900, 60, 300)
    assert ipvs.info() == Info((1, 2, 1), 4096)


# --- changes and refusals


def test_refused_messages_are_named_and_the_others_carried_out(ipvs: Ipvs) -> None:
    absent = WEB._replace(port=81)
    messages = [
        ipvs_messages.set_server(VirtualServer(absent, "rr")),
        ipvs_messages.new_server(VirtualServer(WEB, "rr")),
        ipvs_messages.new_server(VirtualServer(WEB, "rr")),
        ipvs_messages.new_server(VirtualServer(absent, "none")),
        ipvs_messages.set_destination(WEB, POD),
        ipvs_messages.new_destination(WEB, POD._replace(weight=2**31)),
        ipvs_messages.new_destination(WEB, POD),
        ipvs_messages.set_timeouts(Timeouts(2**31, 0, 0)),
    ]

    refused = ipvs.carry_out(messages)

    assert refused == [
        Refusal(
            0,
            errno.ESRCH,
            "change virtual server TCP 10.96.0.1:81: there is no such virtual server",
        ),
        Refusal(2, errno.EEXIST, "add virtual server TCP 10.96.0.1:80: it is there already"),
        Refusal(
            3,
            errno.ENOENT,
            "add virtual server TCP 10.96.0.1:81: there is no such scheduler or persistence engine",
        ),
        Refusal(
            4,
            errno.ENOENT,
            "change destination 10.0.0.1:8080 of TCP 10.96.0.1:80: there is no such destination",
        ),
        Refusal(
            5,
            errno.ERANGE,
            "add destination 10.0.0.1:8080 of TCP 10.96.0.1:80: "
            "a negative weight, or thresholds the wrong way round",
        ),
        Refusal(7, errno.EINVAL, "set timeouts: Invalid argument"),
    ]
    assert str(refused[5]) == "set timeouts: Invalid argument"
    assert ipvs.list_destinations(WEB) == [(POD, Load(0, 0, 0))]


def test_messages_go_in_one_send_and_only_the_last_asks(endpoint: Endpoint) -> None:
    endpoint.answer_ipvs = lambda sent: [reply(sent[-1].seq)]
    with Ipvs() as ipvs:
        endpoint.sent.clear()

        ipvs.carry_out([ipvs_messages.del_server(WEB)] * 3)

    (sent,) = endpoint.sent
    assert [message.kind for message in sent] == [NUMBER] * 3
    assert [bool(message.flags & codec.NLM_F_ACK) for message in sent] == [False, False, True]


def test_no_messages_are_no_send(endpoint: Endpoint) -> None:
    with Ipvs() as ipvs:
        endpoint.sent.clear()

        assert ipvs.carry_out([]) == []

    assert endpoint.sent == []


def test_a_lost_refusal_is_an_error(endpoint: Endpoint) -> None:
    endpoint.answer_ipvs = lambda sent: [reply(sent[0].seq, errno.ESRCH), LOST]
    with Ipvs() as ipvs, pytest.raises(KernelError) as caught:
        ipvs.carry_out([ipvs_messages.del_server(WEB)] * 2)

    assert caught.value.errno == errno.ENOBUFS


def test_what_the_kernel_says_itself_is_passed_on(endpoint: Endpoint) -> None:
    endpoint.answer_ipvs = lambda sent: [reply(sent[0].seq, errno.EINVAL, text("not so"))]
    with Ipvs() as ipvs:
        (refused,) = ipvs.carry_out([ipvs_messages.del_server(WEB)])

    assert refused.text == "remove virtual server TCP 10.96.0.1:80: not so"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_a_question_refused_is_an_error(endpoint: Endpoint, number: int) -> None:
    endpoint.answer_ipvs = lambda sent: [reply(sent[0].seq, number)]
    with Ipvs() as ipvs:
        with pytest.raises(KernelError, match=r"read TCP 10\.96") as caught:
            ipvs.find_server(WEB)
        with pytest.raises(KernelError):
            ipvs.timeouts()
        with pytest.raises(KernelError):
            ipvs.list_servers()

    assert caught.value.errno == number


# --- no IPVS


def test_a_kernel_without_ipvs_is_said_to_be_one(kernel: IpvsKernel) -> None:
    kernel.has_module = False

    with kernel.entered(), pytest.raises(Unsupported, match="no module ip_vs"):
        Ipvs()


def test_the_socket_is_closed_when_ipvs_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeKernel()
    fake.answer = lambda sent: [reply(sent[0].seq, errno.EPERM)]
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)

    with pytest.raises(KernelError, match="find IPVS"):
        Ipvs()

    assert fake.is_closed
