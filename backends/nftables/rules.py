"""The rules of our tables as lists of expressions, each named after what it says in the stock tool's words. Pure.

Where they stand and why is the business of `layout`.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    CtLoad,
    Expression,
    Lookup,
    Masquerade,
    MetaLoad,
    MetaSet,
    Nat,
    Numgen,
    Payload,
    Reject,
    Verdict,
)
from backends.kernel.nft_numbers import (
    ICMP_PORT_UNREACHABLE,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    REG_VERDICT,
    CtKey,
    MetaKey,
    NatFlag,
    NatKind,
    NumgenKind,
    Operator,
    PayloadBase,
    RejectKind,
    VerdictCode,
)
from backends.nftables.model import CLUSTER_IPS, ENDPOINTS, HAIRPIN, REFUSED, SERVICES, RuleSpec
from proxy.model import IPV4, Family, Protocol

PROTOCOL_NUMBERS: Final[dict[Protocol, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_IPS_DST_NAT: Final = 1 << 5  # `ct status dnat`, uapi/linux/netfilter/nf_conntrack_common.h
_ALL_BITS: Final = 0xFFFFFFFF
_ZERO: Final = bytes(4)


class _FamilyFields(NamedTuple):
    """Where things are in one family's packets, and what `nft` calls them."""

    number: int
    address_length: int
    source_offset: int
    destination_offset: int
    address_type: int


_FIELDS: Final[dict[Family, _FamilyFields]] = {
    "IPv4": _FamilyFields(NFPROTO_IPV4, 4, 12, 16, 7),
    "IPv6": _FamilyFields(NFPROTO_IPV6, 16, 8, 24, 8),
}


def rule(expressions: Sequence[Expression], why: str) -> RuleSpec:
    packed = b"".join([expression.pack() for expression in expressions])
    digest = hashlib.blake2b(packed, digest_size=4).hexdigest()
    return RuleSpec(packed, f"{why} [{digest}]")


def goto(chain: str) -> Verdict:
    return Verdict(VerdictCode.GOTO, chain)


def jump(chain: str) -> Verdict:
    return Verdict(VerdictCode.JUMP, chain)


def drop() -> Verdict:
    return Verdict(VerdictCode.DROP)


def reset() -> list[Expression]:
    """`meta l4proto tcp reject with tcp reset`."""
    return [*_protocol("TCP"), Reject(kind=RejectKind.TCP_RESET)]


def refuse(family: Family) -> Reject:
    """`reject`: an ICMP port unreachable of the family."""
    code = ICMP_PORT_UNREACHABLE[_FIELDS[family].number]
    return Reject(kind=RejectKind.ICMP_UNREACHABLE, code=code)


def any_of(endpoints: int) -> Numgen:
    """`numgen random mod N`."""
    return Numgen(kind=NumgenKind.RANDOM, modulus=endpoints)


def first() -> Numgen:
    """`numgen inc mod 1`: always 0, in the form a slot number must have."""
    return Numgen(kind=NumgenKind.INCREMENTAL, modulus=1)


def is_refused(family: Family) -> list[Expression]:
    """`ip daddr . meta l4proto . th dport @refused`."""
    return [*_frontend(family), Lookup(REFUSED)]


def known_address(family: Family) -> list[Expression]:
    """`ip daddr @cluster-ips`."""
    return [_destination(family), Lookup(CLUSTER_IPS)]


def _destination(family: Family) -> Payload:
    fields = _FIELDS[family]
    return Payload(
        header=PayloadBase.NETWORK,
        offset=fields.destination_offset,
        length=fields.address_length,
    )


def _source(family: Family, register: int = REG_1) -> Payload:
    fields = _FIELDS[family]
    return Payload(
        header=PayloadBase.NETWORK,
        offset=fields.source_offset,
        length=fields.address_length,
        register=register,
    )


def _after_address(family: Family) -> tuple[int, int]:
    """Return the registers of the two words that follow an address in a concatenation."""
    return (9, 10) if family == IPV4 else (2, 13)


def _frontend(family: Family) -> list[Expression]:
    second, third = _after_address(family)
    port = Payload(header=PayloadBase.TRANSPORT, offset=2, length=2, register=third)
    return [_destination(family), MetaLoad(key=MetaKey.L4PROTO, register=second), port]


def service_look_up(family: Family) -> list[Expression]:
    """`ip daddr . meta l4proto . th dport vmap @services`."""
    return [*_frontend(family), Lookup(SERVICES, data_register=REG_VERDICT)]


def _protocol(protocol: Protocol) -> list[Expression]:
    number = bytes([PROTOCOL_NUMBERS[protocol]])
    return [MetaLoad(key=MetaKey.L4PROTO), Compare(operator=Operator.EQ, data=number)]


def translate(family: Family, protocol: Protocol, slot: Numgen) -> list[Expression]:
    """`dnat ip to ip daddr . tcp dport . numgen … map @endpoints-tcp`."""
    second, third = _after_address(family)
    return [
        *_protocol(protocol),
        _destination(family),
        Payload(header=PayloadBase.TRANSPORT, offset=2, length=2, register=second),
        Numgen(kind=slot.kind, modulus=slot.modulus, register=third),
        Lookup(ENDPOINTS[protocol], data_register=REG_1),
        Nat(kind=NatKind.DNAT, family=_FIELDS[family].number, port_register=second),
    ]


def or_mark(bit: int) -> list[Expression]:
    """`meta mark set meta mark or BIT`: other bits stay as they are."""
    word = struct.pack("=I", bit)
    return [
        MetaLoad(key=MetaKey.MARK),
        Bitwise(mask=struct.pack("=I", 0xFFFFFFFF ^ bit), xor=word),
        MetaSet(key=MetaKey.MARK),
    ]


def masquerade_marked(bit: int) -> list[Expression]:
    """Take our bit off again before masquerading: the packet may pass here twice (a tunnel, IPsec)."""
    word, zero = struct.pack("=I", bit), bytes(4)
    return [
        MetaLoad(key=MetaKey.MARK),
        Bitwise(mask=word, xor=zero),
        Compare(operator=Operator.NEQ, data=zero),
        MetaLoad(key=MetaKey.MARK),
        Bitwise(mask=struct.pack("=I", 0xFFFFFFFF), xor=word),
        MetaSet(key=MetaKey.MARK),
        Masquerade(flags=NatFlag.FULLY_RANDOM),
    ]


def masquerade_hairpin(family: Family) -> list[Expression]:
    second = 9 if family == IPV4 else 2
    fields = _FIELDS[family]
    destination = Payload(
        header=PayloadBase.NETWORK,
        offset=fields.destination_offset,
        length=fields.address_length,
        register=second,
    )
    translated = struct.pack("=I", _IPS_DST_NAT)
    return [
        _source(family),
        destination,
        Lookup(HAIRPIN),
        CtLoad(key=CtKey.STATUS),
        Bitwise(mask=translated, xor=bytes(4)),
        Compare(operator=Operator.NEQ, data=bytes(4)),
        Masquerade(flags=NatFlag.FULLY_RANDOM),
    ]


def source_outside(family: Family, network: bytes, mask: bytes) -> list[Expression]:
    """`ip saddr != NETWORK/LENGTH`."""
    return [
        _source(family),
        Bitwise(mask=mask, xor=bytes(len(mask))),
        Compare(operator=Operator.NEQ, data=network),
    ]
