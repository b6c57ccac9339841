"""Packet fields and the short sentences made of them, in the registers and forms that `nft` chooses itself.

Written apart from the phrases of the backends, as a second witness. What `nft` prints for a rule depends on these forms: a prefix of whole bytes is compared, not masked.
"""

import struct

from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    CtLoad,
    Expression,
    MetaLoad,
    MetaSet,
    Payload,
)
from backends.kernel.nft_numbers import NFPROTO_IPV4, REG_1, MetaKey, Operator, PayloadBase


def source(family: int, register: int = REG_1) -> Payload:
    """Load the source address of a packet of this family."""
    offset, length = (12, 4) if family == NFPROTO_IPV4 else (8, 16)
    return Payload(PayloadBase.NETWORK, offset, length, register)


def destination(family: int, register: int = REG_1) -> Payload:
    """Load the destination address of a packet of this family."""
    offset, length = (16, 4) if family == NFPROTO_IPV4 else (24, 16)
    return Payload(PayloadBase.NETWORK, offset, length, register)


def destination_port(register: int = REG_1) -> Payload:
    """Load the destination port. `nft` prints it only after a match on the protocol: `th dport`, or `tcp dport`."""
    return Payload(PayloadBase.TRANSPORT, 2, 2, register)


def match_prefix(
    load: Payload, network: bytes, prefix_length: int, operator: int = Operator.EQ
) -> tuple[Expression, ...]:
    """Match an address against a prefix as `nft` does: whole bytes are compared, others masked first."""
    if not 0 < prefix_length <= 8 * len(network):
        raise ValueError(f"prefix length {prefix_length} for an address of {len(network)} bytes")
    if prefix_length % 8 == 0:
        length = prefix_length // 8
        shorter = Payload(load.header, load.offset, length, load.register)
        return (shorter, Compare(operator, network[:length], load.register))
    bits = 8 * len(network)
    mask = ((1 << bits) - (1 << (bits - prefix_length))).to_bytes(len(network), "big")
    return (
        load,
        Bitwise(mask, bytes(len(network)), load.register),
        Compare(operator, network, load.register),
    )


def host_u32(value: int) -> bytes:
    """Return a 32-bit number as registers hold marks, states and random numbers: in host byte order."""
    return struct.pack("=I", value)


def match_bits(load: MetaLoad | CtLoad, bits: int) -> tuple[Expression, ...]:
    """Match when any of these bits is set in a mark, a connection's state or its status."""
    none = host_u32(0)
    return (
        load,
        Bitwise(host_u32(bits), none, load.register),
        Compare(Operator.NEQ, none, load.register),
    )


def set_mark_bits(bits: int) -> tuple[Expression, ...]:
    """Set bits of the packet mark and keep the others: `meta mark set meta mark or`."""
    return _change_mark(~bits & 0xFFFFFFFF, bits)


def flip_mark_bits(bits: int) -> tuple[Expression, ...]:
    """Invert bits of the packet mark and keep the others: `meta mark set meta mark xor`."""
    return _change_mark(0xFFFFFFFF, bits)


def _change_mark(mask: int, xor: int) -> tuple[Expression, ...]:
    return (
        MetaLoad(MetaKey.MARK),
        Bitwise(host_u32(mask), host_u32(xor)),
        MetaSet(MetaKey.MARK),
    )
