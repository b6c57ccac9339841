"""The kernel's table of tracked flows, filled and read without any code under test but the socket.

For tests and benchmarks that need more flows than packets can make.
"""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from e2e.namespace import Namespace
from proxy.netlink import codec
from proxy.netlink.codec import Request, attr, attr_be32, nested
from proxy.netlink.socket import NetlinkSocket

_NEW, _GET, _DELETE = 1 << 8, 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK and the message
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _NAT_DST, _ZONE = 1, 2, 3, 4, 7, 13, 18
_SEEN_REPLY, _ASSURED, _CONFIRMED = 1 << 1, 1 << 2, 1 << 3
_BATCH = 500
NUMBERS = {"udp": 17, "tcp": 6}


class Flow(NamedTuple):
    """A flow as both of its ends see it. Without `endpoint` nothing is translated."""

    client: str
    client_port: int
    address: str
    port: int
    endpoint: tuple[str, int] | None = None
    protocol: str = "udp"
    zone: int = 0


class Tracked:
    """The table of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = NetlinkSocket(codec.NETLINK_NETFILTER)

    def close(self) -> None:
        self._socket.close()

    def add(self, flows: Iterable[Flow]) -> None:
        """Have the kernel track these. Raises AssertionError for one it will not have."""
        requests = [_create(flow) for flow in flows]
        for first in range(0, len(requests), _BATCH):
            failures = self._socket.transact(requests[first : first + _BATCH])
            assert not failures, failures[0]

    def forget(self) -> None:
        """Empty it."""
        assert not self._socket.transact([Request(_DELETE, codec.NLM_F_ACK, bytes(4))])

    def forget_untranslated(self) -> None:
        """Remove TCP connections that nothing has translated."""
        requests = [
            Request(_DELETE, codec.NLM_F_ACK, _general(flow) + _original(flow))
            for flow in self.flows()
            if flow.endpoint is None and flow.protocol == "tcp"
        ]
        self._socket.transact(requests)  # one may have ended meanwhile

    def flows(self) -> set[Flow]:
        """All flows there are, of both families."""
        everything = Request(_GET, 0, bytes(4))
        pieces = self._socket.dump(everything, is_strict=False)
        return {_read(payload) for piece in pieces for payload in piece}


@contextmanager
def tracked(namespace: Namespace) -> Iterator[Tracked]:
    """The table of a namespace, for the length of a `with` block."""
    table = Tracked(namespace)
    try:
        yield table
    finally:
        table.close()


def _create(flow: Flow) -> Request:
    number = NUMBERS[flow.protocol]
    client, address = (ipaddress.ip_address(each).packed for each in flow[:3:2])
    client_port, port = (struct.pack(">H", each) for each in (flow.client_port, flow.port))
    parts = [
        _general(flow),
        _original(flow),
        _tuple(_TUPLE_REPLY, address, client, port, client_port, number),
        attr_be32(_TIMEOUT, 600),
        attr_be32(_STATUS, _CONFIRMED | _SEEN_REPLY | _ASSURED),
    ]
    if flow.protocol == "tcp":
        parts.append(nested(_PROTOINFO, nested(1, attr(1, b"\x03"))))  # ESTABLISHED
    if flow.zone:
        parts.append(attr(_ZONE, struct.pack(">H", flow.zone)))
    if flow.endpoint is not None:
        ip, number_ = ipaddress.ip_address(flow.endpoint[0]).packed, flow.endpoint[1]
        low, high = (1, 2) if len(ip) == 4 else (4, 5)
        to = struct.pack(">H", number_)
        parts.append(
            nested(_NAT_DST, attr(low, ip), attr(high, ip), nested(3, attr(1, to), attr(2, to)))
        )
    flags = codec.NLM_F_CREATE | codec.NLM_F_EXCL | codec.NLM_F_ACK
    return Request(_NEW, flags, b"".join(parts))


def _general(flow: Flow) -> bytes:
    return bytes([10 if ":" in flow.client else 2, 0, 0, 0])


def _original(flow: Flow) -> bytes:
    client, address = (ipaddress.ip_address(each).packed for each in flow[:3:2])
    client_port, port = (struct.pack(">H", each) for each in (flow.client_port, flow.port))
    return _tuple(_TUPLE_ORIG, client, address, client_port, port, NUMBERS[flow.protocol])


def _tuple(
    kind: int, source: bytes, target: bytes, source_port: bytes, target_port: bytes, number: int
) -> bytes:
    first, second = (1, 2) if len(source) == 4 else (3, 4)
    return nested(
        kind,
        nested(1, attr(first, source), attr(second, target)),
        nested(2, attr(1, bytes([number])), attr(2, source_port), attr(3, target_port)),
    )


def _read(payload: memoryview) -> Flow:
    attributes = codec.parse_attrs(payload, 4)
    client, client_port, address, port, number = _ends(attributes[_TUPLE_ORIG])
    source, source_port, *_ = _ends(attributes[_TUPLE_REPLY])
    zone = attributes.get(_ZONE, b"")
    return Flow(
        client,
        client_port,
        address,
        port,
        None if (source, source_port) == (address, port) else (source, source_port),
        {number: name for name, number in NUMBERS.items()}.get(number, str(number)),
        int.from_bytes(zone, "big"),
    )


def _ends(tuple_: memoryview) -> tuple[str, int, str, int, int]:
    parts = codec.parse_attrs(tuple_)
    addresses, protocol = codec.parse_attrs(parts[1]), codec.parse_attrs(parts[2])
    one, other = (str(ipaddress.ip_address(bytes(each))) for _, each in sorted(addresses.items()))
    ports = [int.from_bytes(protocol.get(kind, b""), "big") for kind in (2, 3)]
    return one, ports[0], other, ports[1], protocol[1][0]
