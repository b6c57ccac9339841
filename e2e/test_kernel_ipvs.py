"""The IPVS door on a real kernel, and the fake of IPVS beside it.

The kernel lists by hash, so lists are compared without their order.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import (
    Destination,
    Load,
    ServerFlag,
    ServerId,
    Timeouts,
    VirtualServer,
    marked,
)
from e2e.namespace import Namespace
from proxy.model import IPV4, IPV6
from proxy.netlink import codec, generic
from proxy.netlink.codec import Request
from tests.effort import examples
from tests.fakes.ipvs import LONGEST_S, SCHEDULERS, IpvsKernel
from tests.ipvs_strategies import IDS, MESSAGES

pytestmark = pytest.mark.requires("ipvs")

WEB = ServerId(IPV4, "TCP", "10.96.0.1", 80)
DNS6 = ServerId(IPV6, "UDP", "2001:db8::a", 53)
POD = Destination("10.0.0.1", 8080)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("ipvs") as made:
        yield made


@pytest.fixture
def ipvs(namespace: Namespace) -> Iterator[Ipvs]:
    """The kernel's IPVS, empty."""
    with namespace.entered():
        door = Ipvs()
    with door:
        clear(door)
        yield door


@pytest.fixture
def imitation() -> Iterator[Ipvs]:
    """The fake's IPVS, empty."""
    with IpvsKernel().entered():
        door = Ipvs()
    with door:
        yield door


def clear(ipvs: Ipvs) -> None:
    assert not ipvs.carry_out([ipvs_messages.del_server(s.id) for s in ipvs.list_servers()])


def shown(namespace: Namespace) -> list[str]:
    """What the kernel shows of itself in its own words, without the titles."""
    return namespace.run(["cat", "/proc/net/ip_vs"]).splitlines()[3:]


class Content(NamedTuple):
    servers: list[VirtualServer]
    destinations: dict[ServerId, list[tuple[Destination, Load]]]


def content(ipvs: Ipvs) -> Content:
    servers = ipvs.list_servers()
    assert [ipvs.find_server(server.id) for server in servers] == servers
    return Content(
        sorted(servers, key=str),
        {server.id: ipvs.list_destinations(server.id) for server in servers},
    )


def outcome(ipvs: Ipvs, messages: list[bytes]) -> list[tuple[int, int]]:
    return [(refusal.index, refusal.errno) for refusal in ipvs.carry_out(messages)]


# --- what the kernel makes of our messages


def test_the_kernel_has_what_was_sent(namespace: Namespace, ipvs: Ipvs) -> None:
    persistent = VirtualServer(WEB, "wlc", ServerFlag.PERSISTENT, 10800, host_bits=8)

    refused = ipvs.carry_out(
        [
            ipvs_messages.new_server(persistent),
            ipvs_messages.new_destination(WEB, POD._replace(weight=7)),
            ipvs_messages.new_server(VirtualServer(DNS6, "rr")),
            ipvs_messages.new_destination(DNS6, Destination("2001:db8::1", 5353)),
            ipvs_messages.new_server(VirtualServer(marked(IPV4, 0x4000), "sh")),
        ]
    )

    assert refused == []
    # persistence is shown in ticks, but for its netmask all else as it was sent
    lines = [" ".join(line.split()) for line in shown(namespace)]
    ticks = next(line.split()[4] for line in lines if line.startswith("TCP"))
    assert sorted(lines) == sorted(
        [
            f"TCP 0A600001:0050 wlc persistent {ticks} FFFFFF00",
            "-> 0A000001:1F90 Masq 7 0 0",
            "UDP [2001:0db8:0000:0000:0000:0000:0000:000a]:0035 rr",
            "-> [2001:0db8:0000:0000:0000:0000:0000:0001]:14E9 Masq 1 0 0",
            "FWM 00004000 sh",
        ]
    )
    assert int(ticks) % 10800 == 0


@pytest.mark.parametrize("family", [IPV4, IPV6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_virtual_servers_and_destinations_live_and_change_and_go(
    ipvs: Ipvs, family: Literal["IPv4", "IPv6"], protocol: Literal["TCP", "UDP", "SCTP"]
) -> None:
    address, pod = ("10.96.0.1", "10.0.0.1") if family == IPV4 else ("2001:db8::1", "2001:db8::2")
    server = VirtualServer(ServerId(family, protocol, address, 80), "rr")
    destination = Destination(pod, 8080)
    assert outcome(ipvs, [ipvs_messages.new_server(server)]) == []
    assert outcome(ipvs, [ipvs_messages.new_destination(server.id, destination)]) == []

    drained = destination._replace(weight=0, upper_threshold=10, lower_threshold=5)
    other = server._replace(scheduler="mh", flags=ServerFlag.PERSISTENT, timeout_s=60)
    changes = [
        ipvs_messages.set_destination(server.id, drained),
        ipvs_messages.set_server(other),
    ]
    assert outcome(ipvs, changes) == []

    assert ipvs.list_servers() == [other]
    assert ipvs.list_destinations(server.id) == [(drained, Load(0, 0, 0))]

    removal = ipvs_messages.del_destination(server.id, pod, 8080)
    assert outcome(ipvs, [removal, ipvs_messages.del_server(server.id)]) == []
    assert ipvs.list_servers() == []


def test_flags_that_are_not_sent_again_are_taken_back(ipvs: Ipvs) -> None:
    everything = ServerFlag.PERSISTENT | ServerFlag.ONE_PACKET | ServerFlag.SCHEDULER_1
    ipvs.carry_out([ipvs_messages.new_server(VirtualServer(WEB, "rr", everything, 60))])

    ipvs.carry_out([ipvs_messages.set_server(VirtualServer(WEB, "rr"))])

    assert ipvs.list_servers() == [VirtualServer(WEB, "rr")]


def test_a_virtual_server_goes_with_its_destinations(ipvs: Ipvs) -> None:
    server = ipvs_messages.new_server(VirtualServer(WEB, "rr"))
    ipvs.carry_out([server, ipvs_messages.new_destination(WEB, POD)])

    ipvs.carry_out([ipvs_messages.del_server(WEB), server])

    assert ipvs.list_destinations(WEB) == []


def test_the_kernels_own_mark_is_in_its_list_and_not_seen(ipvs: Ipvs) -> None:
    ipvs.carry_out([ipvs_messages.new_server(VirtualServer(WEB, "rr"))])

    (payload,) = ipvs._dump(ipvs_messages.list_servers())

    assert bytes.fromhex("0c000700 02000000 ffffffff") in bytes(payload)
    assert ipvs.list_servers() == [VirtualServer(WEB, "rr")]


def test_many_messages_in_one_go_are_all_carried_out(ipvs: Ipvs) -> None:
    servers = [VirtualServer(WEB._replace(port=port), "rr") for port in range(1, 401)]
    pods = [Destination(f"10.0.0.{n}", 8080) for n in range(1, 6)]
    messages = [
        message
        for server in servers
        for message in (
            ipvs_messages.new_server(server),
            *[ipvs_messages.new_destination(server.id, pod) for pod in pods],
        )
    ]

    assert outcome(ipvs, messages) == []

    assert sorted(ipvs.list_servers()) == servers
    for server in servers:
        found = [destination for destination, _ in ipvs.list_destinations(server.id)]
        assert sorted(found) == pods


def test_more_destinations_than_fit_one_piece_are_listed(ipvs: Ipvs) -> None:
    pods = [Destination(f"10.0.{n // 250}.{n % 250}", 8080) for n in range(1000)]
    ipvs.carry_out([ipvs_messages.new_server(VirtualServer(WEB, "rr"))])

    assert outcome(ipvs, [ipvs_messages.new_destination(WEB, pod) for pod in pods]) == []

    assert sorted(pod for pod, _ in ipvs.list_destinations(WEB)) == sorted(pods)


# --- the fake beside the kernel


@pytest.mark.timeout(300)
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(MESSAGES), min_size=20, max_size=120))
def test_the_fake_refuses_and_keeps_what_the_kernel_does(
    ipvs: Ipvs, messages: list[bytes]
) -> None:
    clear(ipvs)
    messages = [ipvs_messages.new_server(VirtualServer(server, "rr")) for server in IDS] + messages
    with IpvsKernel().entered(), Ipvs() as imitation:
        assert outcome(imitation, messages) == outcome(ipvs, messages)
        assert content(imitation) == content(ipvs)


def raw(ipvs: Ipvs, message: bytes) -> int:
    """Send bytes as they are; return the error number."""
    refused = ipvs._socket.submit([Request(ipvs._family, codec.NLM_F_ACK, message)])
    return refused[0].errno if refused else 0


NEW_SERVER = ipvs_messages.new_server(VirtualServer(WEB, "rr"))
NEW_MARK = ipvs_messages.new_server(VirtualServer(marked(IPV4, 5), "rr"))
NEW_DESTINATION = ipvs_messages.new_destination(WEB, POD)


def variants() -> Iterator[tuple[str, bytes]]:
    """Messages in which something is missing or otherwise."""
    for name, message, place in (
        ("server", NEW_SERVER, 1),
        ("server of a mark", NEW_MARK, 1),
        ("destination", NEW_DESTINATION, 2),
    ):
        command, attrs = generic.parse(message)
        content = codec.parse_attrs(attrs[place])
        for kind in content:
            yield f"{name} without {kind}", changed(command, attrs, place, kind, None)
        yield f"no {name}", changed(command, attrs, place, None, None)
    command, attrs = generic.parse(NEW_SERVER)
    for kind, value in (
        (1, "0000"),
        (1, "0100"),
        (2, "0100"),
        (6, "00"),
        (6, "7200" * 8),
        (6, "72" * 15 + "00"),
        (6, "72" * 16 + "00"),
        (9, "00000000"),
        (11, "6e6f6e6500"),
        (11, "00"),
    ):
        yield f"server with {kind}={value}", changed(command, attrs, 1, kind, value)
    command, attrs = generic.parse(NEW_DESTINATION)
    for kind, value in (
        (11, "0000"),
        (11, "0100"),
        (11, "0a00"),
        (3, "07000000"),
        (3, "0f000000"),
    ):
        yield f"destination with {kind}={value}", changed(command, attrs, 2, kind, value)


def changed(
    command: int, attrs: dict[int, memoryview], place: int, kind: int | None, value: str | None
) -> bytes:
    """A message with one attribute changed, left out, or without the attribute they all are in."""
    parts = {each: bytes(payload) for each, payload in attrs.items()}
    if kind is None:
        del parts[place]
    else:
        inner = {each: bytes(payload) for each, payload in codec.parse_attrs(parts[place]).items()}
        inner.pop(kind, None)
        if value is not None:
            inner[kind] = bytes.fromhex(value)
        parts[place] = b"".join([codec.attr(each, payload) for each, payload in inner.items()])
    packed = [codec.nested(each, payload) for each, payload in parts.items()]
    return generic.header(command) + b"".join(packed)


@pytest.mark.parametrize(
    "message", [pytest.param(message, id=name) for name, message in variants()]
)
def test_a_message_that_is_not_whole_is_refused_by_the_fake_as_by_the_kernel(
    ipvs: Ipvs, imitation: Ipvs, message: bytes
) -> None:
    is_about_destination = message[0] == 5
    for door in (ipvs, imitation):
        if is_about_destination:
            door.carry_out([NEW_SERVER])

    assert raw(imitation, message) == raw(ipvs, message)

    assert content(imitation) == content(ipvs)


def test_both_have_the_schedulers(ipvs: Ipvs, imitation: Ipvs) -> None:
    for door in (ipvs, imitation):
        for scheduler in sorted(SCHEDULERS):
            message = ipvs_messages.new_server(VirtualServer(WEB, scheduler))
            assert outcome(door, [message, ipvs_messages.del_server(WEB)]) == [], scheduler


@pytest.mark.parametrize(
    "timeouts",
    [
        Timeouts(0, 0, 0),
        Timeouts(901, 0, 0),
        Timeouts(0, 121, 301),
        Timeouts(LONGEST_S, LONGEST_S, LONGEST_S),
        Timeouts(1, 1, 2**31),
        Timeouts(2**32 - 1, 1, 1),
    ],
)
def test_timeouts_are_set_alike(ipvs: Ipvs, imitation: Ipvs, timeouts: Timeouts) -> None:
    start = [ipvs_messages.set_timeouts(Timeouts(900, 120, 300))]
    message = [ipvs_messages.set_timeouts(timeouts)]
    assert outcome(ipvs, start) == outcome(imitation, start) == []

    assert outcome(imitation, message) == outcome(ipvs, message)

    assert imitation.timeouts() == ipvs.timeouts()


def test_both_have_the_version(ipvs: Ipvs, imitation: Ipvs) -> None:
    assert imitation.info().version == ipvs.info().version == (1, 2, 1)
    assert ipvs.info().table_size > 0
