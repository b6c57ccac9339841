"""One ruleset twice: in the words of `nft`, and as our own requests. The stock tool says what ours should be.

It has one of each thing that a service proxy on nftables needs: maps with typeof keys, verdict maps, interval and dynamic
sets, load balancing, masquerading, rejecting. It is not the ruleset of any backend.
"""

from typing import Final, NamedTuple

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_elements import Element
from backends.kernel.nft_expressions import (
    Bitwise,
    Compare,
    Counter,
    CtLoad,
    Dynset,
    Expression,
    Fib,
    Immediate,
    Lookup,
    Masquerade,
    MetaLoad,
    MetaSet,
    Nat,
    Numgen,
    Payload,
    Reject,
    Verdict,
    pack_expressions,
)
from backends.kernel.nft_messages import BaseChain
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
    Hook,
    MetaKey,
    NatFlag,
    NatKind,
    NumgenKind,
    Operator,
    PayloadBase,
    RejectKind,
    SetFlag,
    VerdictCode,
)
from backends.kernel.nft_phrases import next_register
from backends.kernel.nft_userdata import declare, set_userdata
from e2e.nft_fields import (
    destination,
    destination_port,
    flip_mark_bits,
    host_u32,
    match_bits,
    match_prefix,
    set_mark_bits,
    source,
)
from proxy.netlink.codec import Request

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
COMMENT: Final = "sp1 abcdef"
AFFINITY_MS: Final = 10_800_000


class Words(NamedTuple):
    """What differs between the families."""

    number: int
    family: str
    address: str
    length: int
    pods: bytes
    pods_length: int
    pods_text: str
    network: bytes
    network_length: int
    network_text: str


IPV4: Final = Words(
    NFPROTO_IPV4, "ip", "ipv4_addr", 4, bytes([10, 244, 0, 0]), 16, "10.244.0.0/16",
    bytes([10, 1, 16, 0]), 20, "10.1.16.0/20",
)  # fmt: skip
IPV6: Final = Words(
    NFPROTO_IPV6, "ip6", "ipv6_addr", 16, bytes.fromhex("fd000010024400000000000000000000"), 64,
    "fd00:10:244::/64", bytes.fromhex("fd000001200000000000000000000000"), 36, "fd00:1:2000::/36",
)  # fmt: skip


def nft_text(table: str, words: Words) -> str:
    """Return the ruleset for `nft -f`."""
    ip = words.family
    maps = "".join(
        [
            f"""
  map endpoints-{p} {{
    typeof {ip} daddr . {p} dport . numgen random mod 65536 : {ip} daddr . {p} dport; }}
  chain pick-{p}-3 {{
    dnat {ip} to {ip} daddr . {p} dport . numgen random mod 3 map @endpoints-{p} comment "{COMMENT}"
    dnat {ip} to {ip} daddr . {p} dport . numgen inc mod 1 map @endpoints-{p}
    dnat {ip} to {ip} daddr . {p} dport . numgen random mod 2 offset 65536 map @endpoints-{p}
    drop
  }}"""
            for p in PROTOCOLS
        ]
    )
    others = "".join([f"    {text}\n" for text, _ in _statements(words)])
    return f"""
table {ip} {table} {{
  map services {{ type {words.address} . inet_proto . inet_service : verdict; }}
  set cluster-ips {{ type {words.address}; comment "virtual"; }}
  set hairpin {{ type {words.address} . {words.address}; }}
  set ranges {{ type {words.address}; flags interval; }}
  set ranges-of-ports {{ type {words.address} . inet_service . {words.address}; flags interval; }}
  set clients {{ type {words.address}; flags dynamic,timeout; size 1000; timeout 3h; }}
  map marks {{ type {words.address} : mark; }}{maps}
  chain refuse {{ comment "nobody"; reject
  }}
  chain cluster-tcp-3 {{
    {ip} saddr != {words.pods_text} meta mark set meta mark or 0x4000
    goto pick-tcp-3
  }}
  chain known {{
    {ip} daddr . meta l4proto . th dport vmap @services
    goto refuse
  }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @services
    {ip} daddr @cluster-ips goto known
  }}
  chain others {{
{others}  }}
  chain input {{ type filter hook input priority filter; policy accept; }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services
  }}
  chain output {{ type nat hook output priority -100; policy accept; jump services
  }}
  chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;
    meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
    {ip} saddr . {ip} daddr @hairpin ct status dnat masquerade fully-random
  }}
}}
"""


def requests(table: str, words: Words) -> list[Request]:
    """Return the same ruleset as one transaction."""
    family = words.number
    chains: list[tuple[str, BaseChain | None, str]] = [
        *[(f"pick-{protocol}-3", None, "") for protocol in PROTOCOLS],
        ("refuse", None, "nobody"),
        *[(name, None, "") for name in ("cluster-tcp-3", "known", "services", "others")],
        ("input", BaseChain("filter", Hook.INPUT, 0), ""),
        ("prerouting", BaseChain("nat", Hook.PREROUTING, -100), ""),
        ("output", BaseChain("nat", Hook.OUTPUT, -100), ""),
        ("postrouting", BaseChain("nat", Hook.POSTROUTING, 100), ""),
    ]
    return [
        nft_messages.new_table(family, table),
        *[nft_messages.new_chain(family, table, *chain) for chain in chains],
        *_sets(table, words),
        *[
            nft_messages.new_rule(
                family,
                table,
                chain,
                pack_expressions(rule),
                COMMENT if chain.startswith("pick-") and number == 0 else "",
            )
            for chain, made in rules(words).items()
            for number, rule in enumerate(made)
        ],
    ]


def _sets(table: str, words: Words) -> list[Request]:
    address = words.address
    ip = words.family
    interval = SetFlag.INTERVAL
    dynamic = SetFlag.EVAL | SetFlag.TIMEOUT
    made = [
        _set(table, words, "services", f"{address} . inet_proto . inet_service", "verdict"),
        _set(table, words, "cluster-ips", address, comment="virtual"),
        _set(table, words, "hairpin", f"{address} . {address}"),
        _set(table, words, "ranges", address, flags=interval),
        _set(
            table,
            words,
            "ranges-of-ports",
            f"{address} . inet_service . {address}",
            flags=interval,
        ),
        _set(table, words, "clients", address, flags=dynamic, size=1000, timeout_ms=AFFINITY_MS),
        _set(table, words, "marks", address, "mark"),
    ]
    made += [
        _set(
            table,
            words,
            f"endpoints-{p}",
            f"{ip} daddr . {p} dport . numgen random mod 65536",
            f"{ip} daddr . {p} dport",
        )
        for p in PROTOCOLS
    ]
    return made


def _set(
    table: str,
    words: Words,
    name: str,
    key: str,
    data: str | None = None,
    *,
    flags: int = 0,
    size: int = 0,
    timeout_ms: int = 0,
    comment: str = "",
) -> Request:
    declared, value = declare(key), declare(data) if data else None
    return nft_messages.new_set(
        words.number,
        table,
        name,
        key_type=declared.type,
        key_length=declared.length,
        data_type=value.type if value else None,
        data_length=value.length if value else 0,
        flags=flags,
        size=size,
        timeout_ms=timeout_ms,
        field_lengths=declared.field_lengths,
        userdata=set_userdata(declared, value, comment),
    )


Statement = tuple[Expression, ...]


def rules(words: Words) -> dict[str, list[Statement]]:
    """Return the expressions of our ruleset, by chain."""
    family = words.number
    second = next_register(REG_1, words.length)
    third = next_register(second, 1)
    lookup = (
        destination(family),
        MetaLoad(MetaKey.L4PROTO, second),
        destination_port(third),
        Lookup("services", REG_1, REG_VERDICT),
    )
    masquerade = Masquerade(NatFlag.FULLY_RANDOM)
    from_elsewhere = match_prefix(source(family), words.pods, words.pods_length, Operator.NEQ)
    return {
        **{f"pick-{name}-3": _pick(words, name) for name in PROTOCOLS},
        "refuse": [(Reject(RejectKind.ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE[family]),)],
        "cluster-tcp-3": [
            (*from_elsewhere, *set_mark_bits(0x4000)),
            (Verdict(VerdictCode.GOTO, "pick-tcp-3"),),
        ],
        "known": [lookup, (Verdict(VerdictCode.GOTO, "refuse"),)],
        "services": [
            lookup,
            (destination(family), Lookup("cluster-ips"), Verdict(VerdictCode.GOTO, "known")),
        ],
        "others": [statement for _, statement in _statements(words)],
        "prerouting": [(Verdict(VerdictCode.JUMP, "services"),)],
        "output": [(Verdict(VerdictCode.JUMP, "services"),)],
        "postrouting": [
            (
                *match_bits(MetaLoad(MetaKey.MARK), 0x4000),
                *flip_mark_bits(0x4000),
                masquerade,
            ),
            (
                source(family),
                destination(family, second),
                Lookup("hairpin"),
                *match_bits(CtLoad(CtKey.STATUS), 0x20),
                masquerade,
            ),
        ],
    }


def _pick(words: Words, protocol: str) -> list[Statement]:
    second = next_register(REG_1, words.length)
    third = next_register(second, 2)
    numbers = [
        Numgen(NumgenKind.RANDOM, 3, third),
        Numgen(NumgenKind.INCREMENTAL, 1, third),
        Numgen(NumgenKind.RANDOM, 2, third, offset=65536),
    ]
    picking: list[Statement] = [
        (
            MetaLoad(MetaKey.L4PROTO),
            Compare(Operator.EQ, bytes([PROTOCOLS[protocol]])),
            destination(words.number),
            destination_port(second),
            number,
            Lookup(f"endpoints-{protocol}", REG_1, REG_1),
            Nat(NatKind.DNAT, words.number, REG_1, second),
        )
        for number in numbers
    ]
    return [*picking, (Verdict(VerdictCode.DROP),)]


def _statements(words: Words) -> list[tuple[str, Statement]]:
    """Return rules that stand for one expression each, in both languages."""
    ip, family = words.family, words.number
    accept = Verdict(VerdictCode.ACCEPT)
    second = next_register(REG_1, words.length)
    original = CtKey.DST_IP if family == NFPROTO_IPV4 else CtKey.DST_IP6
    host = words.network[:-1] + b"\x01"
    host_text = words.network_text.split("/")[0].replace("16.0", "16.1").replace("::", "::1")
    protocol = (MetaLoad(MetaKey.L4PROTO), Compare(Operator.EQ, b"\x06"))
    return [
        (f"{ip} saddr @ranges return", (source(family), Lookup("ranges"), Verdict(-5))),
        (
            f"{ip} saddr != @ranges drop",
            (source(family), Lookup("ranges", is_inverted=True), Verdict(VerdictCode.DROP)),
        ),
        (
            f"{ip} saddr . th dport . {ip} daddr @ranges-of-ports accept",
            (
                source(family),
                destination_port(second),
                destination(family, next_register(second, 2)),
                Lookup("ranges-of-ports"),
                accept,
            ),
        ),
        (
            f"{ip} saddr {words.network_text} accept",
            (*match_prefix(source(family), words.network, words.network_length), accept),
        ),
        (
            "fib daddr type local accept",
            (Fib(FibFlag.DADDR), Compare(Operator.EQ, host_u32(FIB_TYPE_LOCAL)), accept),
        ),
        ("ct state new counter accept", (*match_bits(CtLoad(CtKey.STATE), 8), Counter(), accept)),
        (
            "ct direction original accept",
            (CtLoad(CtKey.DIRECTION), Compare(Operator.EQ, b"\0"), accept),
        ),
        (
            f"ct original {ip} daddr {host_text} accept",
            (CtLoad(original, direction=0), Compare(Operator.EQ, host), accept),
        ),
        (
            "meta l4proto tcp ct original proto-dst 80 accept",
            (
                *protocol,
                CtLoad(CtKey.PROTO_DST, direction=0),
                Compare(Operator.EQ, b"\0\x50"),
                accept,
            ),
        ),
        (
            f"update @clients {{ {ip} saddr timeout 10s }}",
            (source(family), Dynset(DynsetOperation.UPDATE, "clients", timeout_ms=10_000)),
        ),
        (
            f"add @clients {{ {ip} saddr }}",
            (source(family), Dynset(DynsetOperation.ADD, "clients")),
        ),
        (
            'iifname "eth0" accept',
            (
                MetaLoad(MetaKey.IIFNAME),
                Compare(Operator.EQ, b"eth0".ljust(16, b"\0")),
                accept,
            ),
        ),
        (
            "meta mark set 0x4000",
            (Immediate(host_u32(0x4000)), MetaSet(MetaKey.MARK)),
        ),
        (
            f"meta mark set {ip} daddr map @marks",
            (destination(family), Lookup("marks", REG_1, REG_1), MetaSet(MetaKey.MARK)),
        ),
        (
            "meta mark set meta mark and 0xffffbfff",
            (
                MetaLoad(MetaKey.MARK),
                Bitwise(host_u32(0xFFFFBFFF), host_u32(0)),
                MetaSet(MetaKey.MARK),
            ),
        ),
        (
            "tcp sport 80 reject with tcp reset",
            (
                *protocol,
                Payload(PayloadBase.TRANSPORT, 0, 2),
                Compare(Operator.EQ, b"\0\x50"),
                Reject(RejectKind.TCP_RESET),
            ),
        ),
        ("jump refuse", (Verdict(VerdictCode.JUMP, "refuse"),)),
    ]


def elements_text(table: str) -> str:
    """Return elements of the IPv4 table for `nft -f`."""
    return f"""
add element ip {table} services {{ 10.96.0.1 . tcp . 443 : goto pick-tcp-3, 10.96.0.2 . udp . 53 : drop, * : accept }}
add element ip {table} cluster-ips {{ 10.96.0.1, 10.96.0.2 }}
add element ip {table} hairpin {{ 10.0.0.1 . 10.0.0.1 }}
add element ip {table} ranges {{ 10.0.0.0/8, 192.168.1.4-192.168.1.9 }}
add element ip {table} ranges-of-ports {{ 10.0.0.1 . 80 . 10.0.0.0/8 }}
add element ip {table} marks {{ 10.0.0.1 : 0x4000 }}
add element ip {table} endpoints-tcp {{ 10.96.0.1 . 443 . 0 : 10.0.0.1 . 6443, 10.96.0.1 . 443 . 1 : 10.0.0.2 . 6443 }}
"""


def elements() -> dict[str, list[Element]]:
    """Return the same elements, by set."""

    def ip(text: str) -> bytes:
        return bytes([int(part) for part in text.split(".")])

    def port(number: int) -> bytes:
        return number.to_bytes(2, "big") + bytes(2)

    vip = ip("10.96.0.1")
    return {
        "services": [
            Element(vip + b"\x06\0\0\0" + port(443), (VerdictCode.GOTO, "pick-tcp-3")),
            Element(ip("10.96.0.2") + b"\x11\0\0\0" + port(53), (VerdictCode.DROP, "")),
            Element(b"", (VerdictCode.ACCEPT, "")),
        ],
        "cluster-ips": [Element(vip), Element(ip("10.96.0.2"))],
        "hairpin": [Element(ip("10.0.0.1") * 2)],
        "ranges": [
            Element(bytes(4), is_interval_end=True),
            Element(ip("10.0.0.0")),
            Element(ip("11.0.0.0"), is_interval_end=True),
            Element(ip("192.168.1.4")),
            Element(ip("192.168.1.10"), is_interval_end=True),
        ],
        "ranges-of-ports": [
            Element(
                ip("10.0.0.1") + port(80) + ip("10.0.0.0"),
                key_end=ip("10.0.0.1") + port(80) + ip("10.255.255.255"),
            )
        ],
        "marks": [Element(ip("10.0.0.1"), host_u32(0x4000))],
        "endpoints-tcp": [
            Element(vip + port(443) + host_u32(slot), ip(f"10.0.0.{slot + 1}") + port(6443))
            for slot in (0, 1)
        ],
    }


def element_requests(table: str) -> list[Request]:
    """Return the requests that add `elements()`."""
    return [
        request
        for name, listed in elements().items()
        for request in nft_elements.new_elements(
            NFPROTO_IPV4, table, name, [nft_elements.pack_element(e) for e in listed]
        )
    ]
