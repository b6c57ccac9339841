"""The kernel's numbers for what nftables rules are made of (linux/netfilter/nf_tables.h), as far as they are used. Pure."""

from enum import IntEnum, IntFlag
from typing import Final

NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10

REG_VERDICT: Final = 0
REG_1: Final = 1
"""The first of the four 16-byte registers, which `nft` fills first."""


class VerdictCode(IntEnum):
    RETURN = -5
    GOTO = -4
    JUMP = -3
    DROP = 0
    ACCEPT = 1


class MetaKey(IntEnum):
    PRIORITY = 2
    MARK = 3
    IIFNAME = 6
    L4PROTO = 16


class PayloadBase(IntEnum):
    NETWORK = 1
    TRANSPORT = 2


class Operator(IntEnum):
    EQ = 0
    NEQ = 1


class CtKey(IntEnum):
    STATE = 0
    DIRECTION = 1
    STATUS = 2
    PROTOCOL = 10
    PROTO_SRC = 11
    PROTO_DST = 12
    SRC_IP = 19
    DST_IP = 20
    SRC_IP6 = 21
    DST_IP6 = 22


class NumgenKind(IntEnum):
    INCREMENTAL = 0
    RANDOM = 1


class NatKind(IntEnum):
    SNAT = 0
    DNAT = 1


class NatFlag(IntFlag):
    RANDOM = 0x4
    PERSISTENT = 0x8
    FULLY_RANDOM = 0x10


class RejectKind(IntEnum):
    ICMP_UNREACHABLE = 0
    TCP_RESET = 1


class FibFlag(IntFlag):
    SADDR = 0x1
    DADDR = 0x2
    IIF = 0x8


class FibResult(IntEnum):
    TYPE = 3


class DynsetOperation(IntEnum):
    ADD = 0
    UPDATE = 1
    DELETE = 2


ICMP_PORT_UNREACHABLE: Final = {NFPROTO_IPV4: 3, NFPROTO_IPV6: 4}
"""The code with which a bare `reject` answers in each family."""
FIB_TYPE_LOCAL: Final = 2


class Hook(IntEnum):
    """Where in the packet's path a base chain stands."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class SetFlag(IntFlag):
    ANONYMOUS = 0x1
    CONSTANT = 0x2
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    EVAL = 0x20  # elements come from rules; `nft` says "dynamic"
    CONCAT = 0x80  # with INTERVAL only: ranges in every part of a concatenation


class MessageKind(IntEnum):
    """Types of netlink messages, those of a batch included."""

    BATCH_BEGIN = 16
    BATCH_END = 17
    NEWTABLE = 0xA00
    GETTABLE = 0xA01
    DELTABLE = 0xA02
    NEWCHAIN = 0xA03
    GETCHAIN = 0xA04
    DELCHAIN = 0xA05
    NEWRULE = 0xA06
    GETRULE = 0xA07
    DELRULE = 0xA08
    NEWSET = 0xA09
    GETSET = 0xA0A
    DELSET = 0xA0B
    NEWSETELEM = 0xA0C
    GETSETELEM = 0xA0D
    DELSETELEM = 0xA0E
    NEWGEN = 0xA0F
    GETGEN = 0xA10
