"""Messages about tracked flows: what the kernel is asked, and what is read from its answers.

The entries are what Linux 6.18 dumps, byte for byte. That the kernel understands the requests is tested in e2e/.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import IPV4, IPV6
from proxy.netlink import codec, conntrack
from proxy.netlink.codec import Malformed
from proxy.netlink.conntrack import Entry, Filter

# 10.1.0.28:2027 → 10.96.0.10:53, answered by 10.244.0.1:5353
TRANSLATED = bytes.fromhex(
    "020000003400018014000180080001000a01001c080002000a60000a1c000280050001001100000006000200"
    "07eb000006000300003500003400028014000180080001000af40001080002000a01001c1c00028005000100"
    "110000000600020014e900000600030007eb000008000300000001aa080008000000000008000c006681de1e"
    "08000b000000000108000700000002561c001880080001000000000008000200000000000800030000000000"
)
IDENTITY = TRANSLATED[4:56] + bytes.fromhex("08000c006681de1e")
CLIENT_V6 = bytes.fromhex("fd000000000000000000000000000001")
VIP_V6 = bytes.fromhex("fd000010009600000000000000000010")
POD_V6 = bytes.fromhex("fd000010024400010000000000000002")


def ends(kind: int, source: bytes, target: bytes, ports: bytes, *, protocol: int = 17) -> bytes:
    """A tuple as the kernel writes it."""
    first = 1 if len(source) == 4 else 3
    return codec.nested(
        kind,
        codec.nested(1, codec.attr(first, source), codec.attr(first + 1, target)),
        codec.nested(
            2,
            codec.attr(1, bytes([protocol])),
            codec.attr(2, ports[:2]),
            codec.attr(3, ports[2:]),
        ),
    )


def entry_v6(*extra: bytes, protocol: int = 17) -> bytes:
    there = ends(1, CLIENT_V6, VIP_V6, b"\x03\xe8\x00\x35", protocol=protocol)
    back = ends(2, POD_V6, CLIENT_V6, b"\x14\xe9\x03\xe8", protocol=protocol)
    return b"".join([b"\x0a\0\0\0", there, back, *extra])


def test_an_entry_tells_where_it_was_sent_whence_it_is_answered_and_what_it_is() -> None:
    assert conntrack.parse(TRANSLATED) == Entry(
        IPV4,
        bytes([10, 96, 0, 10, 0, 53]),
        bytes([10, 244, 0, 1]) + (5353).to_bytes(2, "big"),
        IDENTITY,
    )


def test_an_entry_of_ipv6_does_too() -> None:
    found = conntrack.parse(entry_v6())

    assert found is not None
    assert (found.family, found.destination, found.source) == (
        IPV6,
        VIP_V6 + b"\x00\x35",
        POD_V6 + b"\x14\xe9",
    )


def test_the_zone_belongs_to_what_an_entry_is() -> None:
    zone, number = codec.attr(18, b"\0\7"), codec.attr(12, b"\1\2\3\4")

    found = conntrack.parse(entry_v6(codec.attr_be32(3, 7), zone, number, codec.attr_be32(7, 9)))

    assert found is not None
    assert found.identity == entry_v6()[4:80] + zone + number


def test_only_udp_is_read_unless_another_protocol_is_asked_for() -> None:
    tcp = TRANSLATED[:36] + b"\x06" + TRANSLATED[37:]
    tcp_v6 = memoryview(entry_v6(protocol=6))
    found = conntrack.parse(tcp_v6, conntrack.IPPROTO_TCP)
    assert found is not None
    assert found.destination == conntrack.destination(tcp_v6, conntrack.IPPROTO_TCP)
    assert conntrack.parse(TRANSLATED, conntrack.IPPROTO_TCP) is None
    assert conntrack.destination(memoryview(TRANSLATED), conntrack.IPPROTO_TCP) == b""

    assert conntrack.parse(entry_v6(protocol=6)) is None
    assert conntrack.destination(memoryview(entry_v6(protocol=6))) == b""
    assert conntrack.parse(tcp) is None
    assert conntrack.destination(memoryview(tcp)) == b""


@pytest.mark.parametrize(
    ("status", "is_translated"),
    [(None, False), (0x0E, False), (0x1E, False), (0x2E, True), (0x1AE, True)],
)
def test_an_entry_whose_destination_is_translated_says_so(
    status: int | None, *, is_translated: bool
) -> None:
    extra = b"" if status is None else codec.attr_be32(3, status)

    assert conntrack.is_translated(memoryview(entry_v6(extra))) is is_translated


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02\0\0\0",
        b"\x02\0\0\0" + codec.nested(1) + codec.nested(2),
        b"\x02\0\0\0" + TRANSLATED[4:56],
        b"\x07\0\0\0" + TRANSLATED[4:],
        # ICMP has no ports
        b"\x02\0\0\0" + codec.nested(1, codec.nested(1), codec.nested(2, codec.attr(1, b"\1"))),
    ],
)
def test_what_is_no_flow_over_ip_is_none(payload: bytes) -> None:
    assert conntrack.parse(payload) is None


def test_the_quick_look_tells_the_same_destination() -> None:
    zoned = ends(1, bytes(4), bytes([10, 96, 0, 1]), b"\0\1\0\x35")
    zoned = codec.nested(1, zoned[4:], codec.attr(3, b"\0\7"))
    unusual = b"\x02\0\0\0" + zoned + ends(2, bytes([10, 0, 0, 1]), bytes(4), b"\0\x35\0\1")

    for payload in (TRANSLATED, entry_v6(), unusual):
        found = conntrack.parse(payload)
        assert found is not None
        assert conntrack.destination(memoryview(payload)) == found.destination


@given(st.binary(max_size=160) | st.integers(0, len(TRANSLATED)).map(lambda n: TRANSLATED[:n]))
def test_bytes_from_anywhere_are_read_or_called_malformed(payload: bytes) -> None:
    for read in (conntrack.parse, conntrack.destination):
        with contextlib.suppress(Malformed):
            read(memoryview(payload))


def test_deleting_names_one_entry() -> None:
    entry = conntrack.parse(TRANSLATED)
    assert entry is not None

    assert conntrack.delete(entry) == (0x102, 0, b"\x02\0\0\0" + IDENTITY)


def asked(wanted: Filter) -> dict[int, bytes]:
    kind, flags, payload = conntrack.dump(wanted)
    assert (kind, flags) == (0x101, 0)
    assert payload[:4] == bytes([2 if wanted.family == IPV4 else 10, 0, 0, 0])
    return {kind: bytes(value) for kind, value in codec.iter_attrs(payload, 4)}


def flags(message: dict[int, bytes]) -> dict[int, int]:
    """Which parts of the tuples are compared."""
    found = codec.iter_attrs(message[25])
    return {kind: int.from_bytes(value, "little") for kind, value in found}


UDP = codec.attr(1, b"\x11")


def test_all_udp_flows_are_asked_for_by_their_protocol() -> None:
    message = asked(Filter(IPV4))

    assert message.keys() == {1, 25}
    assert message[1] == codec.nested(2, UDP)
    assert flags(message) == {1: 8}


def test_the_flows_of_another_protocol_are_asked_for_by_that() -> None:
    message = asked(Filter(IPV4, source=b"\0\x35", protocol=conntrack.IPPROTO_TCP))

    tcp = codec.attr(1, b"\x06")
    assert message[1] == codec.nested(2, tcp)
    assert message[2] == codec.nested(2, tcp, codec.attr(2, b"\0\x35"))


def test_the_flows_of_a_frontend_are_asked_for_by_address_and_port() -> None:
    message = asked(Filter(IPV4, bytes([10, 96, 0, 10]), b"\0\x35"))

    assert message[1] == codec.nested(1, codec.attr(2, bytes([10, 96, 0, 10]))) + codec.nested(
        2, UDP, codec.attr(3, b"\0\x35")
    )
    assert flags(message) == {1: 2 | 8 | 32}


def test_flows_to_an_endpoint_are_asked_for_by_whence_they_are_answered() -> None:
    message = asked(Filter(IPV4, port=b"\0\x35", source=bytes([10, 244, 0, 1]) + b"\x14\xe9"))

    assert message[1] == codec.nested(2, UDP, codec.attr(3, b"\0\x35"))
    assert message[2] == codec.nested(1, codec.attr(1, bytes([10, 244, 0, 1]))) + codec.nested(
        2, UDP, codec.attr(2, b"\x14\xe9")
    )
    assert flags(message) == {1: 8 | 32, 2: 1 | 8 | 16}


def test_ipv6_addresses_are_not_asked_for() -> None:
    message = asked(Filter(IPV6, VIP_V6, b"\0\x35", POD_V6 + b"\x14\xe9"))

    assert message[1] == codec.nested(2, UDP, codec.attr(3, b"\0\x35"))
    assert message[2] == codec.nested(2, UDP, codec.attr(2, b"\x14\xe9"))
    assert flags(message) == {1: 8 | 32, 2: 8 | 16}


def test_translated_flows_are_asked_for_by_their_status() -> None:
    message = asked(Filter(IPV6, is_translated=True))

    assert (message[3], message[26]) == (b"\0\0\0\x20", b"\0\0\0\x20")
    assert flags(message) == {1: 8}
