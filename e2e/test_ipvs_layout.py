"""The side rules of mode ipvs as the stock `nft` shows them, and that it takes its own listing back.

IPVS itself is not needed for that: a kernel without it has these rules too.
"""

import re
from collections.abc import Iterator

import pytest

from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import TABLE
from backends.ipvs.nft_side import OURS
from backends.kernel.nft import Nft
from backends.kernel.nft_transaction import Batch, Element, Transaction
from e2e.namespace import Namespace
from proxy.model import FAMILIES

pytestmark = pytest.mark.requires("nftables")

FRONTEND = bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
LAYOUT = Layout(
    IpvsSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"))
)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("ipvs-rules") as made:
        _load(made)
        yield made


def _load(namespace: Namespace) -> None:
    elements = (
        Batch("IPv4", "bound", (Element(FRONTEND[:4], None, None),)),
        Batch("IPv4", "services", (Element(FRONTEND, None, None),)),
        Batch("IPv4", "externals", (Element(FRONTEND, b"\5\0\0\xa6", None),)),
        Batch("IPv4", "nodeports", (Element(FRONTEND[4:], b"\5\0\0\xa6", None),)),
        Batch("IPv4", "allowed", (Element(_allowed(0, 255), None, None),)),
        Batch("IPv4", "service-cidrs", (Element(FRONTEND[:4] + b"\0", None, None),)),
    )
    structure = Transaction(
        tables=FAMILIES,
        sets=tuple([(family, spec) for family in FAMILIES for spec in LAYOUT.sets(family)]),
        chains=tuple([(family, spec) for family in FAMILIES for spec in LAYOUT.chains(family)]),
        adds=elements,
    )
    with namespace.entered(), Nft() as nft:
        OURS.commit(nft, structure)


def _allowed(first: int, last: int) -> bytes:
    return bytes([192, 0, 2, first]) + FRONTEND + bytes([192, 0, 2, last]) + FRONTEND


def _rules(namespace: Namespace, family: str, chain: str) -> list[str]:
    listed = namespace.run(["nft", "list", "chain", family, TABLE, chain]).splitlines()[2:-2]
    return [re.sub(r' comment ".*"$', "", line.strip()) for line in listed]


def test_rules_say_what_the_decision_says(namespace: Namespace) -> None:
    frontend = "ip daddr . meta l4proto . th dport"

    assert _rules(namespace, "ip", "dispatch") == [
        "ip daddr @bound goto bound-address",
        "ip daddr @elsewhere jump outer",
        "ip daddr != 127.0.0.0/8 fib daddr type local goto node-port",
    ]
    assert _rules(namespace, "ip", "bound-address") == [
        f"{frontend} @services goto cluster-ip",
        "jump outer",
    ]
    assert _rules(namespace, "ip", "unclaimed") == [
        "meta l4proto . th dport @health-ports return",
        "ip daddr @bound goto refuse",
        "ip daddr @service-cidrs drop",
    ]
    assert _rules(namespace, "ip", "cluster-ip") == [
        "ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000",
        "dnat to ip daddr",
    ]
    assert _rules(namespace, "ip", "outer") == [
        f"{frontend} @guarded jump sources",
        f"ip saddr 10.244.0.0/16 meta mark set {frontend} map @shortcuts dnat to ip daddr",
        f"fib saddr type local meta mark set {frontend} map @shortcuts dnat to ip daddr",
        f"meta mark set {frontend} map @externals dnat to ip daddr",
        f"{frontend} @dropped drop",
        f"{frontend} @refused goto refuse",
    ]
    assert _rules(namespace, "ip", "sources") == [
        f"ip saddr . {frontend} @allowed return",
        f"{frontend} != @guarded return",
        f"ip saddr . {frontend} @allowed return",
        f"{frontend} @guarded drop",
    ]


def test_a_packet_that_ipvs_has_translated_loses_our_mark_and_perhaps_its_source(
    namespace: Namespace,
) -> None:
    assert _rules(namespace, "ip", "postrouting")[1:] == [
        "meta mark & 0xfe004000 == 0xa6004000 meta mark set 0x00000000 masquerade fully-random",
        "meta mark 0xa6000000/7 fib saddr type local meta mark set 0x00000000 masquerade fully-random",
        "meta mark 0xa6000000/7 meta mark set 0x00000000",
        "meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000"
        " masquerade fully-random",
        "ip saddr @bound ct original ip daddr @bound masquerade fully-random",
        "ip saddr . ip daddr @hairpin masquerade fully-random",
    ]


def test_only_first_packets_are_judged(namespace: Namespace) -> None:
    for chain in ("prerouting", "output"):
        assert _rules(namespace, "ip6", chain)[1:] == ["ct state new jump dispatch"]
        assert _rules(namespace, "ip6", f"{chain}-late")[1:] == ["ct state new jump unclaimed"]


def test_a_listing_can_be_loaded_again(namespace: Namespace) -> None:
    listed = namespace.run(["nft", "list", "ruleset"])

    with Namespace("ipvs-again") as other:
        other.run(["nft", "-f", "-"], stdin=listed)
        assert other.run(["nft", "list", "ruleset"]) == listed


def test_what_is_read_back_is_what_was_written(namespace: Namespace) -> None:
    with namespace.entered(), Nft() as nft:
        facts = OURS.read_table(nft, "IPv4")

    assert facts.sets == LAYOUT.set_facts["IPv4"]
    assert facts.chains == LAYOUT.chain_facts["IPv4"]
    assert facts.elements["allowed"] == {_allowed(0, 255): None}
    assert facts.elements["externals"] == {FRONTEND: b"\5\0\0\xa6"}
    assert facts.elements["service-cidrs"] == {FRONTEND[:4] + b"\0": None}


def test_overlapping_ranges_are_replaced_in_one_transaction(namespace: Namespace) -> None:
    old, new = _allowed(0, 255), _allowed(16, 31)
    with namespace.entered(), Nft() as nft:
        step = Transaction(
            deletes=(Batch("IPv4", "allowed", (Element(old, None, None),)),),
            adds=(Batch("IPv4", "allowed", (Element(new, None, None),)),),
        )
        OURS.commit(nft, step)
        assert OURS.read_elements(nft, "IPv4", "allowed", [old, new]) == {new: None}
        back = Transaction(deletes=step.adds, adds=step.deletes)
        OURS.commit(nft, back)
