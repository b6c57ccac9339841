import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel import ipvs_messages
from backends.kernel.ipvs_objects import (
    Destination,
    Forwarding,
    Info,
    Load,
    ServerFlag,
    ServerId,
    Timeouts,
    VirtualServer,
    marked,
)
from proxy.model import IPV4, IPV6
from proxy.netlink import codec, generic
from proxy.netlink.codec import Malformed
from tests.ipvs_strategies import destinations, server_ids, servers

WEB = ServerId(IPV4, "TCP", "10.96.0.1", 80)
WEB6 = ServerId(IPV6, "SCTP", "2001:db8::1", 443)

# Written down from <linux/ip_vs.h> and <linux/genetlink.h>, for a little-endian machine. Of an attribute first the
# length, then the kind; 0x8000 is "nested". New virtual servers are byte for byte what ipvsadm 1.31 sends.
WEB_ID = (
    "06000100 0200 0000"  # AF_INET
    "06000200 0600 0000"  # IPPROTO_TCP
    "14000300 0a600001 000000000000000000000000"
    "06000400 0050 0000"
)
WEB6_ID = (
    "06000100 0a00 0000"
    "06000200 8400 0000"
    "14000300 20010db8000000000000000000000001"
    "06000400 01bb 0000"
)
MARK_ID = "06000100 0200 0000 08000500 00400000"
RR = "07000600 727200 00"
NO_FLAGS = "0c000700 00000000 ffffffff"
NO_TIMEOUT = "08000800 00000000"
WHOLE_IPV4 = "08000900 ffffffff"
WHOLE_IPV6 = "08000900 80000000"
PLACE = "14000100 0a000001 000000000000000000000000 06000200 1f90 0000"
DESTINATION = (
    f"{PLACE} 06000b00 0200 0000 08000300 00000000 08000400 01000000 08000500 00000000"
    "08000600 00000000"
)
PLACE6 = "14000100 20010db8000000000000000000000002 06000200 01bb 0000"
DESTINATION6 = (
    f"{PLACE6} 06000b00 0a00 0000 08000300 03000000 08000400 00000000 08000500 64000000"
    "08000600 32000000"
)


def nested(kind: int, content: str) -> str:
    return codec.nested(kind, bytes.fromhex(content)).hex()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            ipvs_messages.new_server(VirtualServer(WEB, "rr")),
            "01010000" + nested(1, WEB_ID + RR + NO_FLAGS + NO_TIMEOUT + WHOLE_IPV4),
            id="new server",
        ),
        pytest.param(
            ipvs_messages.new_server(VirtualServer(WEB6, "rr")),
            "01010000" + nested(1, WEB6_ID + RR + NO_FLAGS + NO_TIMEOUT + WHOLE_IPV6),
            id="IPv6",
        ),
        pytest.param(
            ipvs_messages.set_server(
                VirtualServer(
                    marked(IPV4, 0x4000),
                    "wlc",
                    ServerFlag.PERSISTENT | ServerFlag.ONE_PACKET,
                    timeout_s=10800,
                    host_bits=8,
                    engine="sip",
                )
            ),
            "02010000"
            + nested(
                1,
                f"{MARK_ID} 08000600 776c6300 0c000700 05000000 ffffffff 08000800 302a0000"
                "08000900 ffffff00 08000b00 73697000",
            ),
            id="persistent server of a mark",
        ),
        pytest.param(
            ipvs_messages.del_server(WEB), "03010000" + nested(1, WEB_ID), id="delete server"
        ),
        pytest.param(
            ipvs_messages.get_server(WEB6), "04010000" + nested(1, WEB6_ID), id="get server"
        ),
        pytest.param(ipvs_messages.list_servers(), "04010000", id="list servers"),
        pytest.param(
            ipvs_messages.new_destination(WEB, Destination("10.0.0.1", 8080)),
            "05010000" + nested(1, WEB_ID) + nested(2, DESTINATION),
            id="new destination",
        ),
        pytest.param(
            ipvs_messages.set_destination(
                WEB6, Destination("2001:db8::2", 443, 0, Forwarding.DIRECT, 100, 50)
            ),
            "06010000" + nested(1, WEB6_ID) + nested(2, DESTINATION6),
            id="set destination",
        ),
        pytest.param(
            ipvs_messages.del_destination(WEB, "10.0.0.1", 8080),
            "07010000" + nested(1, WEB_ID) + nested(2, PLACE),
            id="delete destination",
        ),
        pytest.param(
            ipvs_messages.list_destinations(marked(IPV4, 0x4000)),
            "08010000" + nested(1, MARK_ID),
            id="list destinations",
        ),
        pytest.param(
            ipvs_messages.set_timeouts(Timeouts(900, 0, 300)),
            "0c010000 08000400 84030000 08000500 00000000 08000600 2c010000",
            id="set timeouts",
        ),
        pytest.param(ipvs_messages.get_timeouts(), "0d010000", id="get timeouts"),
        pytest.param(ipvs_messages.get_info(), "0f010000", id="get info"),
    ],
)
def test_messages_are_as_the_header_files_say(message: bytes, expected: str) -> None:
    assert message.hex(" ", 4) == bytes.fromhex(expected).hex(" ", 4)


def test_the_mark_of_the_kernels_table_is_never_sent() -> None:
    message = ipvs_messages.new_server(VirtualServer(WEB, "rr", flags=0x1 | 0x2))

    assert bytes.fromhex("0c000700 01000000 ffffffff") in message


@given(servers())
def test_a_virtual_server_comes_back_as_it_was_packed(server: VirtualServer) -> None:
    assert ipvs_messages.parse_server(ipvs_messages.new_server(server)) == server


def listed(message: bytes, load: Load) -> bytes:
    """A destination as the kernel lists it: without its server, with counts."""
    _, attrs = generic.parse(message)
    counts = [codec.attr_u32(kind, count) for kind, count in zip((7, 8, 9), load, strict=True)]
    return generic.header(5) + codec.nested(2, bytes(attrs[2]), *counts)


u32 = st.integers(0, 2**32 - 1)


@given(st.data(), server_ids(), st.builds(Load, u32, u32, u32))
def test_a_destination_comes_back_as_it_was_packed(
    data: st.DataObject, server: ServerId, load: Load
) -> None:
    destination = data.draw(destinations(server.family))

    message = ipvs_messages.new_destination(server, destination)

    assert ipvs_messages.parse_destination(listed(message, load)) == (destination, load)


# --- what only other programs make


def answer(message: bytes, kind: int, value: str) -> bytes:
    """What is listed of a virtual server, with one attribute being something else."""
    _, attrs = generic.parse(message)
    changed = {**codec.parse_attrs(attrs[1]), kind: memoryview(bytes.fromhex(value))}
    packed = [codec.attr(each, bytes(content)) for each, content in changed.items()]
    return generic.header(1) + codec.nested(1, *packed)


SERVER = ipvs_messages.new_server(VirtualServer(WEB, "rr"))
SERVER6 = ipvs_messages.new_server(VirtualServer(WEB6, "rr"))


@pytest.mark.parametrize(
    ("message", "kind", "value"),
    [
        pytest.param(SERVER, 2, "3300", id="another protocol"),
        pytest.param(SERVER6, 3, "00000000000000000000ffff0a000001", id="IPv4 in IPv6"),
    ],
)
def test_a_virtual_server_that_we_could_not_name_is_passed_over(
    message: bytes, kind: int, value: str
) -> None:
    assert ipvs_messages.parse_server(message) is not None
    assert ipvs_messages.parse_server(answer(message, kind, value)) is None


@pytest.mark.parametrize(
    ("message", "mask", "host_bits"),
    [
        (SERVER, "ffffff00", 8),
        (SERVER, "ffff00ff", -1),
        (SERVER, "00000000", 32),
        (SERVER6, "40000000", 64),
        (SERVER6, "81000000", -1),
    ],
)
def test_a_netmask_is_told_by_the_bits_it_leaves_out(
    message: bytes, mask: str, host_bits: int
) -> None:
    server = ipvs_messages.parse_server(answer(message, 9, mask))

    assert server is not None
    assert server.host_bits == host_bits


def test_the_mark_of_the_kernels_table_is_not_seen() -> None:
    server = ipvs_messages.parse_server(answer(SERVER, 7, "07000000 ffffffff"))

    assert server is not None
    assert server.flags == ServerFlag.PERSISTENT | ServerFlag.ONE_PACKET


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7, 8, 9])
def test_a_virtual_server_without_one_of_its_attributes_is_malformed(kind: int) -> None:
    _, attrs = generic.parse(SERVER)
    left = {k: v for k, v in codec.parse_attrs(attrs[1]).items() if k != kind}
    payload = b"".join([codec.attr(k, bytes(v)) for k, v in left.items()])

    with pytest.raises(Malformed):
        ipvs_messages.parse_server(generic.header(1) + codec.nested(1, payload))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11])
def test_a_destination_without_one_of_its_attributes_is_malformed(kind: int) -> None:
    whole = listed(ipvs_messages.new_destination(WEB, Destination("10.0.0.1", 80)), Load(0, 0, 0))
    _, attrs = generic.parse(whole)
    left = {k: v for k, v in codec.parse_attrs(attrs[2]).items() if k != kind}
    payload = b"".join([codec.attr(k, bytes(v)) for k, v in left.items()])

    with pytest.raises(Malformed):
        ipvs_messages.parse_destination(generic.header(5) + codec.nested(2, payload))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(1, "0300"), (1, "02"), (3, "0a000001"), (4, "50"), (7, "00000000"), (8, "00"), (9, "ff")],
)
def test_attributes_of_other_lengths_or_families_are_malformed(kind: int, value: str) -> None:
    with pytest.raises(Malformed):
        ipvs_messages.parse_server(answer(SERVER, kind, value))


@given(st.binary(max_size=80))
def test_any_bytes_are_either_read_or_malformed(payload: bytes) -> None:
    for parse in (
        ipvs_messages.parse_server,
        ipvs_messages.parse_destination,
        ipvs_messages.parse_timeouts,
        ipvs_messages.parse_info,
    ):
        with contextlib.suppress(Malformed):
            parse(payload)


# --- what cannot be sent


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(VirtualServer(WEB._replace(address="2001:db8::1"), "rr"), id="family"),
        pytest.param(VirtualServer(WEB._replace(address="web"), "rr"), id="address"),
        pytest.param(VirtualServer(WEB, "rr", host_bits=33), id="netmask"),
        pytest.param(VirtualServer(WEB6, "rr", host_bits=129), id="prefix"),
        pytest.param(VirtualServer(WEB, "rr", host_bits=-1), id="irregular netmask"),
        pytest.param(VirtualServer(marked(IPV4, 0), "rr"), id="mark"),
    ],
)
def test_what_is_no_virtual_server_cannot_be_packed(server: VirtualServer) -> None:
    with pytest.raises(ValueError, match=r"."):
        ipvs_messages.new_server(server)


# --- other answers, and words


def test_timeouts_are_told_in_seconds() -> None:
    payload = "0c010000 08000400 84030000 08000500 78000000 08000600 2c010000"

    assert ipvs_messages.parse_timeouts(bytes.fromhex(payload)) == Timeouts(900, 120, 300)


def test_a_kernel_without_udp_has_no_timeout_for_it() -> None:
    payload = "0c010000 08000400 84030000 08000500 78000000"

    assert ipvs_messages.parse_timeouts(bytes.fromhex(payload)) == Timeouts(900, 120, 0)


def test_the_version_is_told_in_three_numbers() -> None:
    payload = "0e010000 08000100 01020100 08000200 00100000"

    assert ipvs_messages.parse_info(bytes.fromhex(payload)) == Info((1, 2, 1), 4096)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (SERVER, "add virtual server TCP 10.96.0.1:80"),
        (
            ipvs_messages.set_server(VirtualServer(WEB6, "rr")),
            "change virtual server SCTP [2001:db8::1]:443",
        ),
        (ipvs_messages.del_server(marked(IPV6, 64)), "remove virtual server mark 0x40 (IPv6)"),
        (ipvs_messages.get_server(WEB), "read TCP 10.96.0.1:80"),
        (
            ipvs_messages.new_destination(WEB, Destination("10.0.0.1", 8080)),
            "add destination 10.0.0.1:8080 of TCP 10.96.0.1:80",
        ),
        (
            ipvs_messages.set_destination(WEB6, Destination("2001:db8::2", 1)),
            "change destination [2001:db8::2]:1 of SCTP [2001:db8::1]:443",
        ),
        (
            ipvs_messages.del_destination(WEB, "10.0.0.1", 8080),
            "remove destination 10.0.0.1:8080 of TCP 10.96.0.1:80",
        ),
        (ipvs_messages.set_timeouts(Timeouts(1, 1, 1)), "set timeouts"),
    ],
)
def test_messages_are_told_in_words(message: bytes, words: str) -> None:
    assert ipvs_messages.describe(message) == words
