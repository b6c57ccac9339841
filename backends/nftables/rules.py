"""The rules of our tables as lists of expressions, each named after what it says in the stock tool's words. Pure.

Where they stand and why is the business of `layout`.
"""

import struct
from typing import Final, NamedTuple

from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    CtLoad,
    Dynset,
    Expression,
    Fib,
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
from backends.kernel.nft_fields import next_register
from backends.kernel.nft_numbers import (
    FIB_TYPE_LOCAL,
    ICMP_PORT_UNREACHABLE,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REG_1,
    REG_VERDICT,
    CtKey,
    DynsetOperation,
    FibFlag,
    MetaKey,
    NatFlag,
    NatKind,
    NumgenKind,
    Operator,
    PayloadBase,
    RejectKind,
    VerdictCode,
)
from backends.nftables.model import (
    AFFINITY_CLIENTS,
    AFFINITY_SLOTS,
    HAIRPIN,
    LOCAL_FROM,
    PLACES,
    VIP_SOURCES,
    Kind,
)
from proxy.model import IPV4, Family, Protocol

PROTOCOL_NUMBERS: Final[dict[Protocol, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_IPS_DST_NAT: Final = 1 << 5  # `ct status dnat`, uapi/linux/netfilter/nf_conntrack_common.h
_ALL_BITS: Final = 0xFFFFFFFF
_ZERO: Final = bytes(4)
_UPPER_HALF: Final = struct.pack("=I", 0xFFFF0000)
_SECOND: Final = next_register(REG_1, 4)


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


def host_word(number: int) -> bytes:
    """Return a number as registers hold it."""
    return struct.pack("=I", number)


def read_host_word(word: bytes) -> int:
    number: int = struct.unpack("=I", word)[0]
    return number


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


def return_() -> Verdict:
    return Verdict(VerdictCode.RETURN)


def any_of(endpoints: int, *, is_local: bool = False) -> Numgen:
    """`numgen random mod N`, of a local list with `offset 65536`."""
    return Numgen(kind=NumgenKind.RANDOM, modulus=endpoints, offset=LOCAL_FROM if is_local else 0)


def first(*, is_local: bool = False) -> Numgen:
    """`numgen inc mod 1`: always the first, in the form a slot number must have."""
    return Numgen(kind=NumgenKind.INCREMENTAL, modulus=1, offset=LOCAL_FROM if is_local else 0)


def is_refused(family: Family, kind: Kind = "cluster-ip") -> list[Expression]:
    """`ip daddr . meta l4proto . th dport @refused`, or `meta l4proto . th dport @nodeports-refused`."""
    return [*_frontend(family, kind), Lookup(PLACES[kind].refused)]


def destination_in(family: Family, set_name: str) -> list[Expression]:
    """`ip daddr @SET`."""
    return [_destination(family), Lookup(set_name)]


def source_in(family: Family, set_name: str) -> list[Expression]:
    """`ip saddr @SET`."""
    return [_source(family), Lookup(set_name)]


def destination_is_local(family: Family) -> list[Expression]:
    """`ip daddr != 127.0.0.0/8 fib daddr type local`, `ip6 daddr != ::1 fib …`."""
    load = _destination(family)
    if family == IPV4:
        load = Payload(header=load.header, offset=load.offset, length=1)
    loopback = b"\x7f" if family == IPV4 else bytes(15) + b"\1"
    return [load, Compare(operator=Operator.NEQ, data=loopback), *_is_local(FibFlag.DADDR)]


def source_is_local() -> list[Expression]:
    """`fib saddr type local`: the node itself."""
    return _is_local(FibFlag.SADDR)


def destination_is_elsewhere() -> list[Expression]:
    """`fib daddr type != local`."""
    return _is_local(FibFlag.DADDR, Operator.NEQ)


def _is_local(flag: FibFlag, operator: Operator = Operator.EQ) -> list[Expression]:
    return [Fib(flags=flag), Compare(operator=operator, data=host_word(FIB_TYPE_LOCAL))]


def _destination(family: Family, register: int = REG_1) -> Payload:
    fields = _FIELDS[family]
    return Payload(
        header=PayloadBase.NETWORK,
        offset=fields.destination_offset,
        length=fields.address_length,
        register=register,
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


def _port(register: int) -> Payload:
    return Payload(header=PayloadBase.TRANSPORT, offset=2, length=2, register=register)


def _frontend(family: Family, kind: Kind) -> list[Expression]:
    if kind == "node-port":
        return [MetaLoad(key=MetaKey.L4PROTO), _port(9)]
    second, third = _after_address(family)
    return [_destination(family), MetaLoad(key=MetaKey.L4PROTO, register=second), _port(third)]


def look_up(family: Family, set_name: str, kind: Kind = "cluster-ip") -> list[Expression]:
    """`ip daddr . meta l4proto . th dport vmap @SET`, `meta l4proto . th dport vmap @SET`."""
    return [*_frontend(family, kind), Lookup(set_name, data_register=REG_VERDICT)]


def is_vip_source(family: Family) -> list[Expression]:
    """`ip saddr . ip daddr . meta l4proto . th dport @vip-sources`."""
    second = next_register(REG_1, _FIELDS[family].address_length)
    third = next_register(second, _FIELDS[family].address_length)
    return [
        _source(family),
        _destination(family, second),
        MetaLoad(key=MetaKey.L4PROTO, register=third),
        _port(next_register(third, 1)),
        Lookup(VIP_SOURCES),
    ]


def _protocol(protocol: Protocol) -> list[Expression]:
    number = bytes([PROTOCOL_NUMBERS[protocol]])
    return [MetaLoad(key=MetaKey.L4PROTO), Compare(operator=Operator.EQ, data=number)]


def translate(
    family: Family, protocol: Protocol, slot: Numgen, kind: Kind = "cluster-ip"
) -> list[Expression]:
    """`dnat ip to ip daddr . tcp dport . numgen … map @endpoints-tcp`; for a NodePort without the address."""
    second, third = _after_address(family)
    key = [_destination(family), _port(second)]
    if kind == "node-port":
        key, third = [_port(REG_1)], 9
    return [
        *_protocol(protocol),
        *key,
        Numgen(kind=slot.kind, modulus=slot.modulus, offset=slot.offset, register=third),
        Lookup(PLACES[kind].slots[protocol], data_register=REG_1),
        Nat(kind=NatKind.DNAT, family=_FIELDS[family].number, port_register=second),
    ]


# --- session affinity: numbers travel from rule to rule as the packet's priority, the ServicePort's in its upper half


def note_service(family: Family, kind: Kind) -> list[Expression]:
    """`meta priority set FRONTEND map @affinity-services`, for a NodePort `@affinity-nodeports`."""
    found = Lookup(PLACES[kind].affinity, data_register=REG_1)
    return [*_frontend(family, kind), found, MetaSet(key=MetaKey.PRIORITY)]


def recall(family: Family, chain: str) -> list[Expression]:
    """`meta priority set meta priority . ip saddr map @affinity-clients jump CHAIN`."""
    return [
        MetaLoad(key=MetaKey.PRIORITY),
        _source(family, _SECOND),
        *_take(AFFINITY_CLIENTS, chain),
    ]


def draw_number(slot: Numgen, chain: str) -> list[Expression]:
    """`meta priority set meta priority . numgen random mod N map @affinity-slots jump CHAIN`."""
    number = Numgen(kind=slot.kind, modulus=slot.modulus, offset=slot.offset, register=_SECOND)
    return [MetaLoad(key=MetaKey.PRIORITY), number, *_take(AFFINITY_SLOTS, chain)]


def _take(set_name: str, chain: str) -> list[Expression]:
    return [
        Lookup(set_name, data_register=REG_1),
        MetaSet(key=MetaKey.PRIORITY),
        jump(chain),
    ]


def note_client(family: Family, timeout_s: int) -> list[Expression]:
    """`update @affinity-clients { meta priority & 0xffff0000 . ip saddr timeout T : meta priority }`."""
    return _client(family, DynsetOperation.UPDATE, timeout_s * 1000)


def forget_client(family: Family) -> list[Expression]:
    """`delete @affinity-clients { meta priority & 0xffff0000 . ip saddr : meta priority }`."""
    return _client(family, DynsetOperation.DELETE, 0)


def forget_number() -> list[Expression]:
    """`meta priority set meta priority & 0xffff0000`: the ServicePort's number is left."""
    return [*_service_number(), MetaSet(key=MetaKey.PRIORITY)]


def _service_number() -> list[Expression]:
    return [MetaLoad(key=MetaKey.PRIORITY), Bitwise(mask=_UPPER_HALF, xor=_ZERO)]


def _client(family: Family, operation: DynsetOperation, timeout_ms: int) -> list[Expression]:
    # For IPv6 `nft` 1.0.6 itself would take register 2, which is the address's last word.
    number = REG_1 + 1 if family == IPV4 else next_register(_SECOND, 16)
    return [
        *_service_number(),
        _source(family, _SECOND),
        MetaLoad(key=MetaKey.PRIORITY, register=number),
        Dynset(
            operation=operation,
            set_name=AFFINITY_CLIENTS,
            data_register=number,
            timeout_ms=timeout_ms,
        ),
    ]


def translate_remembered(family: Family, protocol: Protocol, set_name: str) -> list[Expression]:
    """`meta l4proto tcp dnat ip to meta priority map @SET`."""
    return [
        *_protocol(protocol),
        MetaLoad(key=MetaKey.PRIORITY),
        Lookup(set_name, data_register=REG_1),
        Nat(
            kind=NatKind.DNAT,
            family=_FIELDS[family].number,
            port_register=_after_address(family)[0],
        ),
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
