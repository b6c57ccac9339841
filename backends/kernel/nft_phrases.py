"""What rules say, in phrases of several expressions, each shown as `nft list` prints it. Pure; knows no table.

A frontend is looked up by the concatenation of address, protocol and port, or without an address. Each part of a
concatenation fills whole registers of four bytes.
"""

import struct
from typing import Final, NamedTuple

from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    CtLoad,
    Expression,
    Fib,
    Immediate,
    Lookup,
    Masquerade,
    MetaLoad,
    MetaSet,
    Payload,
    Reject,
    Verdict,
)
from backends.kernel.nft_numbers import (
    FIB_TYPE_LOCAL,
    ICMP_PORT_UNREACHABLE,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    REG_VERDICT,
    CtKey,
    FibFlag,
    MetaKey,
    NatFlag,
    Operator,
    PayloadBase,
    RejectKind,
    VerdictCode,
)
from proxy.model import IPV4, Family, Protocol

PROTOCOL_NUMBERS: Final[dict[Protocol, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_STATE_NEW: Final = 1 << 3  # NF_CT_STATE_BIT(IP_CT_NEW)
_IPS_DST_NAT: Final = 1 << 5  # uapi/linux/netfilter/nf_conntrack_common.h
_ORIGINAL: Final = 0
_ZERO: Final = bytes(4)
_ALL: Final = 0xFFFFFFFF

Phrase = list[Expression]


class _Fields(NamedTuple):
    """Where things are in one family's packets."""

    number: int
    address_length: int
    source: int
    destination: int
    original_destination: int


_FIELDS: Final[dict[Family, _Fields]] = {
    "IPv4": _Fields(NFPROTO_IPV4, 4, 12, 16, CtKey.DST_IP),
    "IPv6": _Fields(NFPROTO_IPV6, 16, 8, 24, CtKey.DST_IP6),
}


def word(number: int) -> bytes:
    """Return a number as registers hold it."""
    return struct.pack("=I", number)


def read_word(data: bytes) -> int:
    """Return the number that registers hold."""
    return int(struct.unpack("=I", data)[0])


def accept() -> Verdict:
    return Verdict(VerdictCode.ACCEPT)


def drop() -> Verdict:
    return Verdict(VerdictCode.DROP)


def leave() -> Verdict:
    """`return`."""
    return Verdict(VerdictCode.RETURN)


def goto(chain: str) -> Verdict:
    return Verdict(VerdictCode.GOTO, chain)


def jump(chain: str) -> Verdict:
    return Verdict(VerdictCode.JUMP, chain)


def reset() -> Phrase:
    """`meta l4proto tcp reject with tcp reset`."""
    return [*protocol_is("TCP"), Reject(kind=RejectKind.TCP_RESET)]


def refuse(family: Family) -> Reject:
    """`reject`: an ICMP port unreachable of the family."""
    code = ICMP_PORT_UNREACHABLE[_FIELDS[family].number]
    return Reject(kind=RejectKind.ICMP_UNREACHABLE, code=code)


def protocol_is(protocol: Protocol) -> Phrase:
    """`meta l4proto tcp`."""
    number = bytes([PROTOCOL_NUMBERS[protocol]])
    return [MetaLoad(key=MetaKey.L4PROTO), Compare(operator=Operator.EQ, data=number)]


def is_new() -> Phrase:
    """`ct state new`."""
    return [CtLoad(key=CtKey.STATE), *_has_bits(_STATE_NEW)]


def is_translated() -> Phrase:
    """`ct status dnat`."""
    return [CtLoad(key=CtKey.STATUS), *_has_bits(_IPS_DST_NAT)]


def destination_in(family: Family, name: str) -> Phrase:
    """`ip daddr @SET`."""
    return [destination(family), Lookup(name)]


def source_in(family: Family, name: str) -> Phrase:
    """`ip saddr @SET`."""
    return [source(family), Lookup(name)]


def original_destination_in(family: Family, name: str) -> Phrase:
    """`ct original ip daddr @SET`."""
    key = _FIELDS[family].original_destination
    return [CtLoad(key=key, direction=_ORIGINAL), Lookup(name)]


def source_and_destination_in(family: Family, name: str) -> Phrase:
    """`ip saddr . ip daddr @SET`."""
    second = after_address(family)
    return [source(family), destination(family, second), Lookup(name)]


def destination_is_local(family: Family) -> Phrase:
    """`ip daddr != 127.0.0.0/8 fib daddr type local`, `ip6 daddr != ::1 fib …`."""
    load = destination(family)
    if family == IPV4:
        load = Payload(header=load.header, offset=load.offset, length=1)
    loopback = b"\x7f" if family == IPV4 else bytes(15) + b"\1"
    return [load, Compare(operator=Operator.NEQ, data=loopback), *_is_local(FibFlag.DADDR)]


def source_is_local() -> Phrase:
    """`fib saddr type local`: the node itself."""
    return _is_local(FibFlag.SADDR)


def destination_is_elsewhere() -> Phrase:
    """`fib daddr type != local`."""
    return _is_local(FibFlag.DADDR, Operator.NEQ)


def frontend_in(family: Family, name: str, *, has_address: bool = True) -> Phrase:
    """`ip daddr . meta l4proto . th dport @SET`, or without the address."""
    return [*frontend(family, has_address=has_address), Lookup(name)]


def frontend_not_in(family: Family, name: str) -> Phrase:
    """`ip daddr . meta l4proto . th dport != @SET`."""
    return [*frontend(family), Lookup(name, is_inverted=True)]


def verdict_by_frontend(family: Family, name: str, *, has_address: bool = True) -> Phrase:
    """`ip daddr . meta l4proto . th dport vmap @MAP`, or without the address."""
    found = Lookup(name, data_register=REG_VERDICT)
    return [*frontend(family, has_address=has_address), found]


def mark_by_frontend(family: Family, name: str, *, has_address: bool = True) -> Phrase:
    """`meta mark set ip daddr . meta l4proto . th dport map @MAP`, or without the address; ends the rule on a miss."""
    found = Lookup(name, data_register=REG_1)
    return [*frontend(family, has_address=has_address), found, MetaSet(key=MetaKey.MARK)]


def source_of_frontend_in(family: Family, name: str) -> Phrase:
    """`ip saddr . ip daddr . meta l4proto . th dport @SET`."""
    second = after_address(family)
    third = after_address(family, second)
    return [
        source(family),
        destination(family, second),
        MetaLoad(key=MetaKey.L4PROTO, register=third),
        port(next_register(third, 1)),
        Lookup(name),
    ]


def interface(name: str, *, is_inverted: bool = False) -> Phrase:
    """`iifname "cni0"`."""
    return _interface(name.encode().ljust(16, b"\0"), is_inverted=is_inverted)


def interface_prefix(prefix: str, *, is_inverted: bool = False) -> Phrase:
    """`iifname "cali*"`."""
    return _interface(prefix.encode(), is_inverted=is_inverted)


def source_in_network(
    family: Family, network: bytes, mask: bytes, *, is_inverted: bool = False
) -> Phrase:
    """`ip saddr NETWORK/LENGTH`, `ip saddr != NETWORK/LENGTH`."""
    return [
        source(family),
        Bitwise(mask=mask, xor=bytes(len(mask))),
        _compare(network, is_inverted=is_inverted),
    ]


def or_mark(bit: int) -> Phrase:
    """`meta mark set meta mark or BIT`: other bits stay as they are."""
    return [*_changed_mark(_ALL ^ bit, bit), MetaSet(key=MetaKey.MARK)]


def clear_mark() -> Phrase:
    """`meta mark set 0`."""
    return [Immediate(data=_ZERO), MetaSet(key=MetaKey.MARK)]


def mark_has(bit: int) -> Phrase:
    """`meta mark and BIT != 0`."""
    return [MetaLoad(key=MetaKey.MARK), *_has_bits(bit)]


def mark_is(value: int, mask: int) -> Phrase:
    """`meta mark and MASK == VALUE`."""
    return [*_changed_mark(mask, 0), Compare(operator=Operator.EQ, data=word(value))]


def masquerade() -> Masquerade:
    """`masquerade fully-random`."""
    return Masquerade(flags=NatFlag.FULLY_RANDOM)


def masquerade_marked(bit: int) -> Phrase:
    """`meta mark and BIT != 0 meta mark set meta mark xor BIT masquerade fully-random`.

    The bit is taken off again, since a packet may pass twice (a tunnel, IPsec).
    """
    return [*mark_has(bit), *_changed_mark(_ALL, bit), MetaSet(key=MetaKey.MARK), masquerade()]


def _changed_mark(mask: int, xor: int) -> Phrase:
    return [MetaLoad(key=MetaKey.MARK), Bitwise(mask=word(mask), xor=word(xor))]


def _has_bits(bits: int) -> Phrase:
    return [Bitwise(mask=word(bits), xor=_ZERO), Compare(operator=Operator.NEQ, data=_ZERO)]


def _is_local(flag: FibFlag, operator: Operator = Operator.EQ) -> Phrase:
    return [Fib(flags=flag), Compare(operator=operator, data=word(FIB_TYPE_LOCAL))]


def _interface(data: bytes, *, is_inverted: bool) -> Phrase:
    return [MetaLoad(key=MetaKey.IIFNAME), _compare(data, is_inverted=is_inverted)]


def _compare(data: bytes, *, is_inverted: bool) -> Compare:
    return Compare(operator=Operator.NEQ if is_inverted else Operator.EQ, data=data)


# --- parts


def frontend(family: Family, *, has_address: bool = True) -> Phrase:
    """`ip daddr . meta l4proto . th dport`, or without the address."""
    if not has_address:
        return [MetaLoad(key=MetaKey.L4PROTO), port(next_register(REG_1, 1))]
    second = after_address(family)
    return [
        destination(family),
        MetaLoad(key=MetaKey.L4PROTO, register=second),
        port(next_register(second, 1)),
    ]


def destination(family: Family, register: int = REG_1) -> Payload:
    """`ip daddr`."""
    fields = _FIELDS[family]
    return Payload(
        header=PayloadBase.NETWORK,
        offset=fields.destination,
        length=fields.address_length,
        register=register,
    )


def source(family: Family, register: int = REG_1) -> Payload:
    """`ip saddr`."""
    fields = _FIELDS[family]
    return Payload(
        header=PayloadBase.NETWORK,
        offset=fields.source,
        length=fields.address_length,
        register=register,
    )


def port(register: int = REG_1) -> Payload:
    """`th dport`."""
    return Payload(header=PayloadBase.TRANSPORT, offset=2, length=2, register=register)


def after_address(family: Family, register: int = REG_1) -> int:
    """Return the register that follows an address."""
    return next_register(register, _FIELDS[family].address_length)


def next_register(register: int, length: int) -> int:
    """Return the register that follows `length` bytes put into this one, numbered as `nft` and the kernel do.

    Parts of a concatenation lie one behind the other, each filled up to 4 bytes. The 16 4-byte registers are numbered
    from 8; where one of them starts a 16-byte register, that one's number (1 to 4) is used.
    """
    slot = 4 * (register - REG_1) if register < 8 else register - 8
    slot += (length + 3) // 4
    if slot >= 16:
        raise ValueError("a concatenation has at most 64 bytes")
    return slot // 4 + REG_1 if slot % 4 == 0 else slot + 8
