"""What single rules do. That they are byte for byte what the stock tool makes of the same words: e2e/test_nftables_rules.py."""

import struct

import pytest

from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    Dynset,
    Lookup,
    MetaLoad,
    MetaSet,
    Nat,
    Numgen,
    Payload,
    Verdict,
)
from backends.kernel.nft_numbers import (
    DynsetOperation,
    MetaKey,
    NumgenKind,
    Operator,
    PayloadBase,
    VerdictCode,
)
from backends.nftables import rules
from proxy.model import FAMILIES, PROTOCOLS, Family, Protocol

both_families = pytest.mark.parametrize("family", FAMILIES)


@both_families
def test_the_parts_of_a_key_follow_one_another_without_a_gap(family: Family) -> None:
    parts: list[tuple[int, int]] = []
    for expression in rules.look_up(family, "services"):
        match expression:
            case Payload(length=length, register=register):
                parts.append((_place(register), length))
            case MetaLoad(register=register):
                parts.append((_place(register), 4))
            case _:
                break  # the look-up itself
    start = _place(1)
    for place, length in parts:
        assert place == start
        start += (length + 3) & ~3


def _place(register: int) -> int:
    """Return the first byte of a register, of 16 (1 to 4) or of 4 bytes (from 8 on)."""
    return (register - 1) * 16 if register <= 4 else (register - 8) * 4


@both_families
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_translation_asks_for_the_protocol_then_for_the_slot_then_translates(
    family: Family, protocol: Protocol
) -> None:
    expressions = rules.translate(family, protocol, rules.any_of(8))

    assert expressions[:2] == [
        MetaLoad(key=MetaKey.L4PROTO),
        Compare(operator=Operator.EQ, data=bytes([{"TCP": 6, "UDP": 17, "SCTP": 132}[protocol]])),
    ]
    look_up, nat = expressions[-2:]
    assert isinstance(look_up, Lookup)
    assert look_up.set_name == f"endpoints-{protocol.lower()}"
    assert isinstance(nat, Nat)
    number = next(e for e in expressions if isinstance(e, Numgen))
    assert number.modulus == 8
    # address and port stand where the data of the map put them: the port after the address, filled up to 4 bytes
    assert _place(nat.port_register or 0) == (4 if family == "IPv4" else 16)
    assert _place(number.register) == _place(nat.port_register or 0) + 4


# --- session affinity

UPPER_HALF = struct.pack("=I", 0xFFFF0000)


@pytest.mark.parametrize(
    ("family", "offset", "length", "data_register"), [("IPv4", 12, 4, 2), ("IPv6", 8, 16, 13)]
)
def test_a_client_is_noted_under_the_number_of_its_service_port(
    family: Family, offset: int, length: int, data_register: int
) -> None:
    """As `nft --debug=netlink` shows the statement, but for the register that IPv6 needs."""
    assert rules.note_client(family, 60) == [
        MetaLoad(key=MetaKey.PRIORITY),
        Bitwise(mask=UPPER_HALF, xor=bytes(4)),
        Payload(header=PayloadBase.NETWORK, offset=offset, length=length, register=9),
        MetaLoad(key=MetaKey.PRIORITY, register=data_register),
        Dynset(
            operation=DynsetOperation.UPDATE,
            set_name="affinity-clients",
            data_register=data_register,
            timeout_ms=60_000,
        ),
    ]
    *load, _ = rules.note_client(family, 60)
    *same, forgotten = rules.forget_client(family)
    assert same == load
    assert forgotten == Dynset(
        operation=DynsetOperation.DELETE, set_name="affinity-clients", data_register=data_register
    )


def test_of_a_number_only_the_service_ports_half_is_left_when_the_endpoint_is_gone() -> None:
    assert rules.forget_number() == [
        MetaLoad(key=MetaKey.PRIORITY),
        Bitwise(mask=UPPER_HALF, xor=bytes(4)),
        MetaSet(key=MetaKey.PRIORITY),
    ]


def test_a_number_that_is_found_or_drawn_is_handed_on_as_the_priority() -> None:
    onward = [
        MetaSet(key=MetaKey.PRIORITY),
        Verdict(VerdictCode.JUMP, "there"),
    ]

    assert rules.draw_number(rules.any_of(8, is_local=True), "there") == [
        MetaLoad(key=MetaKey.PRIORITY),
        Numgen(kind=NumgenKind.RANDOM, modulus=8, offset=65536, register=9),
        Lookup("affinity-slots", data_register=1),
        *onward,
    ]
    assert rules.recall("IPv6", "there") == [
        MetaLoad(key=MetaKey.PRIORITY),
        Payload(header=PayloadBase.NETWORK, offset=8, length=16, register=9),
        Lookup("affinity-clients", data_register=1),
        *onward,
    ]
