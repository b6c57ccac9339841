"""What a DesiredPort looks like in our tables: keys, verdicts and pools as the kernel holds them. Pure.

Keys are the concatenations the kernel builds from a packet: each part in network byte order, padded to
four bytes; the slot number is a host-endian word, as `numgen` produces it.
"""

import functools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.nftables.model import (
    CLUSTER_IPS,
    HAIRPIN,
    SharedMember,
    Target,
)
from backends.nftables.rules import PROTOCOL_NUMBERS
from proxy.addresses import parse_ip
from proxy.desired import DesiredPort
from proxy.model import LOCAL

_WIDE: Final = 128
_PADDING: Final = b"\0\0"
_SLOT_NUMBERS: Final = tuple([struct.pack("=I", number) for number in range(1024)])


class RenderedFrontend(NamedTuple):
    """A frontend ready to be planned: what it occupies and the endpoints of its pool.

    `is_refused`: connections are refused because nothing serves them anywhere; an empty pool alone drops them.
    """

    target: Target
    pool: tuple[bytes, ...]
    is_refused: bool


def slot_key(prefix: bytes, number: int) -> bytes:
    """Return the key of one slot of a pool."""
    if number < len(_SLOT_NUMBERS):
        return prefix + _SLOT_NUMBERS[number]
    return prefix + struct.pack("=I", number)


def slot_range(prefix: bytes, start: int, count: int) -> Sequence[bytes]:
    """Return the keys of consecutive slots."""
    if count < _WIDE:
        return [slot_key(prefix, number) for number in range(start, start + count)]
    return _wide_slot_range(prefix, start, count)


@functools.lru_cache(maxsize=64)
def _wide_slot_range(prefix: bytes, start: int, count: int) -> tuple[bytes, ...]:
    """Return the keys of many slots. Kept, because a large pool rarely changes only once, and because
    bytes remember their hash: looking the same objects up again is several times faster."""
    return tuple([slot_key(prefix, number) for number in range(start, start + count)])


def render_frontends(port: DesiredPort) -> tuple[RenderedFrontend, ...]:
    """Render the cluster IP, the frontend this backend serves so far."""
    protocol = port.key.name.protocol
    pool = tuple([endpoint.packed for endpoint in port.internal])
    rendered: list[RenderedFrontend] = []
    for frontend in port.frontends:
        if frontend.kind == "ClusterIP" and frontend.address is not None:
            address = _packed(frontend.address)
            number = frontend.port.to_bytes(2, "big") + _PADDING
            target = Target(
                services_key=address + PROTOCOL_NUMBERS[protocol].to_bytes(1) + b"\0\0\0" + number,
                slots_prefix=address + number,
                protocol=protocol,
                slots=len(pool),
            )
            rendered.append(RenderedFrontend(target, pool, not port.is_any_usable))
    return tuple(rendered)


def render_shared(port: DesiredPort) -> frozenset[SharedMember]:
    """Render what several ServicePorts may share.

    The cluster IP marks all other ports of that address as undefined. A pod that reaches itself through a
    service must be masqueraded, or it would answer itself directly. Only endpoints on this node can do that;
    manifests may not say on which node an endpoint is.
    """
    members: set[SharedMember] = set()
    for frontend in port.frontends:
        if frontend.kind == "ClusterIP" and frontend.address is not None:
            members.add((CLUSTER_IPS, _packed(frontend.address)))
    for endpoint in port.reachable:
        if endpoint.flags & LOCAL or endpoint.node_name is None:
            address = endpoint.packed[:-4]
            members.add((HAIRPIN, address + address))
    return frozenset(members)


def _packed(canonical: str) -> bytes:
    address = parse_ip(canonical)
    if address is None:
        raise ValueError(f"not an address: {canonical}")
    return address.packed
