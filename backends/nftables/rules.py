"""Rules of our tables that no other backend has, each named after what it says in the stock tool's words. Pure.

What others say too is in `nft_phrases`; where rules stand and why is the business of `layout`.
"""

import struct
from typing import Final

from backends.kernel import nft_phrases as say
from backends.kernel.nft_expressions import (
    Bitwise,
    Dynset,
    Lookup,
    MetaLoad,
    MetaSet,
    Nat,
    Numgen,
)
from backends.kernel.nft_numbers import (
    REG_1,
    DynsetOperation,
    MetaKey,
    NatKind,
    NumgenKind,
)
from backends.kernel.nft_phrases import Phrase, next_register
from backends.kernel.nft_table import NUMBERS
from backends.nftables.model import (
    AFFINITY_CLIENTS,
    AFFINITY_SLOTS,
    HAIRPIN,
    LOCAL_FROM,
    PLACES,
    Kind,
)
from proxy.model import IPV4, Family, Protocol

_ZERO: Final = bytes(4)
_UPPER_HALF: Final = struct.pack("=I", 0xFFFF0000)
_SECOND: Final = next_register(REG_1, 4)


def any_of(endpoints: int, *, is_local: bool = False) -> Numgen:
    """`numgen random mod N`, of a local list with `offset 65536`."""
    return Numgen(kind=NumgenKind.RANDOM, modulus=endpoints, offset=LOCAL_FROM if is_local else 0)


def first(*, is_local: bool = False) -> Numgen:
    """`numgen inc mod 1`: always the first, in the form a slot number must have."""
    return Numgen(kind=NumgenKind.INCREMENTAL, modulus=1, offset=LOCAL_FROM if is_local else 0)


def is_refused(family: Family, kind: Kind = "cluster-ip") -> Phrase:
    """`ip daddr . meta l4proto . th dport @refused`, or `meta l4proto . th dport @nodeports-refused`."""
    return say.frontend_in(family, PLACES[kind].refused, has_address=_has_address(kind))


def look_up(family: Family, set_name: str, kind: Kind = "cluster-ip") -> Phrase:
    """`ip daddr . meta l4proto . th dport vmap @SET`, `meta l4proto . th dport vmap @SET`."""
    return say.verdict_by_frontend(family, set_name, has_address=_has_address(kind))


def from_range(family: Family, set_name: str, length: int) -> Phrase:
    """`ip daddr . meta l4proto . th dport . ip saddr & 255.255.255.0 @SET`."""
    last = next_register(next_register(say.after_address(family), 4), 2)
    address = say.source(family, last)
    bits = 8 * address.length
    mask = ((1 << bits) - (1 << (bits - length))).to_bytes(address.length)
    cut = [Bitwise(mask=mask, xor=bytes(len(mask)), register=last)] if length < bits else []
    return [*say.frontend(family), address, *cut, Lookup(set_name)]


def _has_address(kind: Kind) -> bool:
    return kind != "node-port"


def translate(
    family: Family, protocol: Protocol, slot: Numgen, kind: Kind = "cluster-ip"
) -> Phrase:
    """`dnat ip to ip daddr . tcp dport . numgen … map @endpoints-tcp`; for a NodePort without the address."""
    second = say.after_address(family)
    key, last = [say.destination(family), say.port(second)], next_register(second, 2)
    if not _has_address(kind):
        key, last = [say.port()], _SECOND
    return [
        *say.protocol_is(protocol),
        *key,
        Numgen(kind=slot.kind, modulus=slot.modulus, offset=slot.offset, register=last),
        Lookup(PLACES[kind].slots[protocol], data_register=REG_1),
        Nat(kind=NatKind.DNAT, family=NUMBERS[family], port_register=second),
    ]


def masquerade_hairpin(family: Family) -> Phrase:
    """`ip saddr . ip daddr @hairpin ct status dnat masquerade fully-random`."""
    itself = say.source_and_destination_in(family, HAIRPIN)
    return [*itself, *say.is_translated(), say.masquerade()]


# --- session affinity: numbers travel from rule to rule as the packet's priority, the ServicePort's in its upper half


def note_service(family: Family, kind: Kind) -> Phrase:
    """`meta priority set FRONTEND map @affinity-services`, for a NodePort `@affinity-nodeports`."""
    found = Lookup(PLACES[kind].affinity, data_register=REG_1)
    return [
        *say.frontend(family, has_address=_has_address(kind)),
        found,
        MetaSet(key=MetaKey.PRIORITY),
    ]


def recall(family: Family, chain: str) -> Phrase:
    """`meta priority set meta priority . ip saddr map @affinity-clients jump CHAIN`."""
    return [
        MetaLoad(key=MetaKey.PRIORITY),
        say.source(family, _SECOND),
        *_take(AFFINITY_CLIENTS, chain),
    ]


def draw_number(slot: Numgen, chain: str) -> Phrase:
    """`meta priority set meta priority . numgen random mod N map @affinity-slots jump CHAIN`."""
    number = Numgen(kind=slot.kind, modulus=slot.modulus, offset=slot.offset, register=_SECOND)
    return [MetaLoad(key=MetaKey.PRIORITY), number, *_take(AFFINITY_SLOTS, chain)]


def _take(set_name: str, chain: str) -> Phrase:
    return [
        Lookup(set_name, data_register=REG_1),
        MetaSet(key=MetaKey.PRIORITY),
        say.jump(chain),
    ]


def note_client(family: Family, timeout_s: int) -> Phrase:
    """`update @affinity-clients { meta priority & 0xffff0000 . ip saddr timeout T : meta priority }`."""
    return _client(family, DynsetOperation.UPDATE, timeout_s * 1000)


def forget_client(family: Family) -> Phrase:
    """`delete @affinity-clients { meta priority & 0xffff0000 . ip saddr : meta priority }`."""
    return _client(family, DynsetOperation.DELETE, 0)


def forget_number() -> Phrase:
    """`meta priority set meta priority & 0xffff0000`: the ServicePort's number is left."""
    return [*_service_number(), MetaSet(key=MetaKey.PRIORITY)]


def _service_number() -> Phrase:
    return [MetaLoad(key=MetaKey.PRIORITY), Bitwise(mask=_UPPER_HALF, xor=_ZERO)]


def _client(family: Family, operation: DynsetOperation, timeout_ms: int) -> Phrase:
    # For IPv6 `nft` 1.0.6 itself would take register 2, which is the address's last word.
    number = REG_1 + 1 if family == IPV4 else next_register(_SECOND, 16)
    return [
        *_service_number(),
        say.source(family, _SECOND),
        MetaLoad(key=MetaKey.PRIORITY, register=number),
        Dynset(
            operation=operation,
            set_name=AFFINITY_CLIENTS,
            data_register=number,
            timeout_ms=timeout_ms,
        ),
    ]


def translate_remembered(family: Family, protocol: Protocol, set_name: str) -> Phrase:
    """`meta l4proto tcp dnat ip to meta priority map @SET`."""
    return [
        *say.protocol_is(protocol),
        MetaLoad(key=MetaKey.PRIORITY),
        Lookup(set_name, data_register=REG_1),
        Nat(
            kind=NatKind.DNAT,
            family=NUMBERS[family],
            port_register=say.after_address(family),
        ),
    ]
