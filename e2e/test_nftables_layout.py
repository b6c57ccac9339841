"""Our tables in the words of the stock tool: what they should be, written out, and what it makes of them.

The text below is the layout of backends/nftables/README.md, rule by rule. `nft` compiles it in one namespace, we make
ours in another, and both are compared: as lists, and byte for byte as the kernel holds them.
"""

import asyncio
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
from msgspec import structs

from backends.kernel.nft import Nft
from backends.kernel.nft_expressions import (
    Dynset,
    MetaLoad,
    parse_expressions,
)
from backends.kernel.nft_table import NUMBERS
from backends.nftables.backend import NftablesBackend
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import TABLE
from e2e.namespace import Namespace
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, PROTOCOLS, Family, Protocol
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_endpoint

pytestmark = pytest.mark.requires("nftables")

# prefixes that do not end with a byte: else the tool compares those bytes alone, which means the same
CIDRS: Final[dict[Family, str]] = {"IPv4": "10.244.0.0/15", "IPv6": "fd00:10:244::/47"}
LAYOUT: Final = Layout(NftSettings(families=FAMILIES, cluster_cidrs=tuple(CIDRS.values())))
HEADERS: Final[dict[Family, str]] = {"IPv4": "ip", "IPv6": "ip6"}
_SETS = """
    map services { type ADDRESS . inet_proto . inet_service : verdict; }
    map externals { type ADDRESS . inet_proto . inet_service : verdict; }
    map nodeports { type inet_proto . inet_service : verdict; }
    map endpoints-tcp { typeof IP daddr . tcp dport . numgen random mod 65536 : IP daddr . tcp dport; }
    map endpoints-udp { typeof IP daddr . udp dport . numgen random mod 65536 : IP daddr . udp dport; }
    map endpoints-sctp { typeof IP daddr . sctp dport . numgen random mod 65536 : IP daddr . sctp dport; }
    map nodeport-endpoints-tcp { typeof tcp dport . numgen random mod 65536 : IP daddr . tcp dport; }
    map nodeport-endpoints-udp { typeof udp dport . numgen random mod 65536 : IP daddr . udp dport; }
    map nodeport-endpoints-sctp { typeof sctp dport . numgen random mod 65536 : IP daddr . sctp dport; }
    set refused { type ADDRESS . inet_proto . inet_service; }
    set nodeports-refused { type inet_proto . inet_service; }
    set cluster-ips { type ADDRESS; }
    set external-ips { type ADDRESS; }
    set nodeport-ips { type ADDRESS; }
    set service-cidrs { type ADDRESS; flags interval; }
    set hairpin { type ADDRESS . ADDRESS; }
    set guarded { type ADDRESS . inet_proto . inet_service; }
    set ranges-8 { type ADDRESS . inet_proto . inet_service . ADDRESS; }
    set ranges-23 { type ADDRESS . inet_proto . inet_service . ADDRESS; }
    set ranges-WHOLE { type ADDRESS . inet_proto . inet_service . ADDRESS; }
    map affinity-clients { typeof meta priority . IP saddr : meta priority; flags dynamic,timeout; size 1048576; }
    map affinity-services { typeof IP daddr . meta l4proto . th dport : meta priority; }
    map affinity-nodeports { typeof meta l4proto . th dport : meta priority; }
    map affinity-slots { typeof meta priority . numgen random mod 65536 : meta priority; }
    map affinity-endpoints { type classid : ADDRESS . inet_service; }
    map affinity-endpoints-local { type classid : ADDRESS . inet_service; }
"""
_CHAINS = """
    chain refuse {
        meta l4proto tcp reject with tcp reset
        reject
    }
    chain cluster-ip {
        IP saddr != PODS meta mark set meta mark or 0x4000
        IP daddr . meta l4proto . th dport vmap @services
        meta l4proto tcp dnat IP to IP daddr . tcp dport . numgen inc mod 1 map @endpoints-tcp
        meta l4proto udp dnat IP to IP daddr . udp dport . numgen inc mod 1 map @endpoints-udp
        meta l4proto sctp dnat IP to IP daddr . sctp dport . numgen inc mod 1 map @endpoints-sctp
        meta l4proto tcp dnat IP to IP daddr . tcp dport . numgen inc mod 1 offset 65536 map @endpoints-tcp
        meta l4proto udp dnat IP to IP daddr . udp dport . numgen inc mod 1 offset 65536 map @endpoints-udp
        meta l4proto sctp dnat IP to IP daddr . sctp dport . numgen inc mod 1 offset 65536 map @endpoints-sctp
        goto refuse
    }
PICKING
    chain sources {
        IP daddr . meta l4proto . th dport . IP saddr @ranges-WHOLE return
        IP daddr . meta l4proto . th dport . IP saddr & MASK23 @ranges-23 return
        IP daddr . meta l4proto . th dport . IP saddr & MASK8 @ranges-8 return
        IP daddr . meta l4proto . th dport != @guarded return
        IP daddr . meta l4proto . th dport . IP saddr @ranges-WHOLE return
        IP daddr . meta l4proto . th dport . IP saddr & MASK23 @ranges-23 return
        IP daddr . meta l4proto . th dport . IP saddr & MASK8 @ranges-8 return
        IP daddr . meta l4proto . th dport @guarded drop
    }
    chain external-ip {
        IP daddr . meta l4proto . th dport @guarded jump sources
        IP daddr . meta l4proto . th dport vmap @externals
        IP daddr . meta l4proto . th dport vmap @externals
    }
    chain node-port {
        meta l4proto . th dport vmap @nodeports
        meta l4proto . th dport vmap @nodeports
    }
    chain services {
        IP daddr @external-ips jump external-ip
        IP daddr @cluster-ips goto cluster-ip
        LISTENING goto node-port
    }
AFFINITY
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain prerouting-late {
        type nat hook prerouting priority -90; policy accept;
        IP daddr @service-cidrs fib daddr type != local drop
    }
    chain output-late {
        type nat hook output priority -90; policy accept;
        IP daddr @service-cidrs fib daddr type != local drop
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
        IP saddr . IP daddr @hairpin ct status & dnat != 0 masquerade fully-random
    }
"""
_LISTENING: Final[dict[Family, str]] = {
    "IPv4": "ip daddr != 127.0.0.0/8 fib daddr type local",
    "IPv6": "ip6 daddr @nodeport-ips",
}
_MASKS: Final[dict[Family, dict[int, str]]] = {
    "IPv4": {23: "255.255.254.0", 8: "255.0.0.0"},
    "IPv6": {23: "ffff:fe00::", 8: "ff00::"},
}
_REMEMBER = """
    chain remember-LOCALtcp-60 {
        update @affinity-clients { meta priority & 0xffff0000 . IP saddr timeout 60s : meta priority }
        meta l4proto tcp dnat IP to meta priority map @affinity-endpointsPART
        delete @affinity-clients { meta priority & 0xffff0000 . IP saddr : meta priority }
        meta priority set meta priority & 0xffff0000
    }
"""


def _affinity(kind: str, local: str, capacity: int) -> str:
    """A chain that picks for session affinity."""
    place, key = ("services", "IP daddr . ") if kind == "" else ("nodeports", "")
    offset = "offset 65536 " if local else ""

    def draw(slot: str) -> str:
        number = f"meta priority . {slot} {offset}map @affinity-slots"
        return f"meta priority set {number} jump remember-{local}tcp-60"

    rules = [
        f"meta priority set {key}meta l4proto . th dport map @affinity-{place}",
        f"meta priority set meta priority . IP saddr map @affinity-clients jump remember-{local}tcp-60",
        *[draw(f"numgen random mod {capacity}")] * (12 if capacity > 2 else 2),
        *([draw(f"numgen random mod {capacity // 2}")] if capacity > 2 else []),
        f"{key}meta l4proto . th dport @{kind.replace('-', 's-')}refused goto refuse",
        draw("numgen inc mod 1"),
        "drop",
    ]
    return f"chain pick-{kind}{local}tcp-{capacity}-affinity-60 {{ {'; '.join(rules)}; }}\n"


def _all_of_affinity() -> str:
    chains = _REMEMBER.replace("LOCAL", "").replace("PART", "")
    chains += _REMEMBER.replace("LOCAL", "local-").replace("PART", "-local")
    for kind in ("", "nodeport-"):
        chains += _affinity(kind, "local-", 1) + _affinity(kind, "", 4)
        chains += _marking("TCP", 4, kind, "-affinity-60")
        chains += _splitting("TCP", 1, 4, kind, "-affinity-60")
    return chains


def _picking(
    protocol: str, capacity: int, *, is_node_port: bool = False, is_local: bool = False
) -> str:
    """A chain that picks."""
    word, offset = protocol.lower(), "offset 65536 " if is_local else ""
    kind, address = ("nodeport-", "") if is_node_port else ("", "IP daddr . ")

    def draw(slot: str) -> str:
        key = f"{address}{word} dport . {slot} {offset}"
        return f"meta l4proto {word} dnat IP to {key}map @{kind}endpoints-{word}"

    rules = [draw(f"numgen random mod {capacity}")] * (12 if capacity > 2 else 2)
    if capacity > 2:
        rules.append(draw(f"numgen random mod {capacity // 2}"))
    refused = "nodeports-refused" if is_node_port else "refused"
    rules += [
        f"{address}meta l4proto . th dport @{refused} goto refuse",
        draw("numgen inc mod 1"),
        "drop",
    ]
    local = "local-" if is_local else ""
    return f"chain pick-{kind}{local}{word}-{capacity} {{ {'; '.join(rules)}; }}\n"


def _marking(protocol: str, capacity: int, kind: str, affinity: str = "") -> str:
    """A chain that marks and then goes to one that picks."""
    rest = f"{kind}{protocol.lower()}-{capacity}{affinity}"
    return f"chain external-{rest} {{ meta mark set meta mark or 0x4000; goto pick-{rest}; }}\n"


def _splitting(protocol: str, here: int, capacity: int, kind: str, affinity: str = "") -> str:
    """A chain that tells clients here from those outside."""
    word = protocol.lower()
    everywhere = f"{kind}{word}-{capacity}{affinity}"
    rules = [
        f"IP saddr PODS goto pick-{everywhere}",
        f"fib saddr type local goto external-{everywhere}",
        f"goto pick-{kind}local-{word}-{here}{affinity}",
    ]
    return f"chain split-{kind}{word}-{here}-of-{capacity}{affinity} {{ {'; '.join(rules)}; }}\n"


def words(family: Family) -> str:
    """Our table of that family, with chains for one, two and up to four endpoints."""
    picking = ""
    for protocol, capacity in itertools.product(PROTOCOLS, (1, 2, 4)):
        picking += _picking(protocol, capacity)
        picking += _picking(protocol, capacity, is_node_port=True)
        picking += _marking(protocol, capacity, "")
        picking += _marking(protocol, capacity, "nodeport-")
    for protocol in PROTOCOLS:
        picking += _picking(protocol, 1, is_local=True)
        picking += _picking(protocol, 1, is_node_port=True, is_local=True)
    for protocol, capacity in itertools.product(PROTOCOLS, (1, 2, 4)):
        picking += _splitting(protocol, 1, capacity, "")
        picking += _splitting(protocol, 1, capacity, "nodeport-")
    text = _SETS + _CHAINS.replace("PICKING", picking).replace("AFFINITY", _all_of_affinity())
    filled = (
        re.sub(r"\bIP\b", HEADERS[family], text)
        .replace("LISTENING", _LISTENING[family])
        .replace("ADDRESS", f"{family.lower()}_addr")
        .replace("PODS", CIDRS[family])
        .replace("WHOLE", "32" if family == "IPv4" else "128")
        .replace("MASK23", _MASKS[family][23])
        .replace("MASK8", _MASKS[family][8])
    )
    return f"table {HEADERS[family]} {TABLE} {{\n{filled}\n}}\n"


def _outer(family: Family, number: int) -> tuple[Frontend, ...]:
    vip = f"2001:db8::{number}" if family == "IPv6" else f"203.0.113.{number}"
    return (Frontend("NodePort", None, 30000 + number), Frontend("LoadBalancer", vip, 80))


def _port(
    family: Family, number: int, count: int, protocol: Protocol = "TCP", **options: Any
) -> DesiredPort:
    """A service with so many endpoints, the first of them on this node."""
    endpoints = [
        make_endpoint(f"[fd00::{n}]:80" if family == "IPv6" else f"10.1.0.{n}:80", is_local=n == 1)
        for n in range(1, count + 1)
    ]
    return make_desired(
        f"default/{protocol.lower()}-{number}",
        *endpoints,
        protocol=protocol,
        cluster_ip=f"fd00:10:96::{number}" if family == "IPv6" else f"10.96.0.{number}",
        outer=_outer(family, number),
        **options,
    )


STICKY: Final[dict[Family, DesiredPort]] = {
    family: _port(
        family,
        99,
        3,
        affinity_timeout_s=60,
        external_local=True,
        source_ranges=("10.0.0.0/8", "192.0.2.0/23")
        if family == "IPv4"
        else ("fd00::/8", "2001:d00::/23"),
        allows_own_vips=True,
    )
    for family in FAMILIES
}


@pytest.fixture(scope="module")
def ours() -> Iterator[Namespace]:
    """A namespace with everything we install: all protocols and policies, pools of 0, 1, 2, and 3 endpoints."""
    ports = [
        _port(family, 10 + 2 * count + is_local, count, protocol, external_local=is_local)
        for family in FAMILIES
        for protocol in PROTOCOLS
        for count in (0, 1, 2, 3)
        for is_local in (False, True)
    ]
    node = DesiredNode(node_port_addresses={"IPv6": ("2001:db8::99",)})
    desired = whole(desired_state(*ports, *STICKY.values()), node)

    async def program(backend: NftablesBackend) -> None:
        observed = await backend.observe()
        await backend.apply(backend.plan(desired, observed, list(desired.ports)), observed)

    with Namespace("ours") as namespace:
        with namespace.entered():
            backend = NftablesBackend(LAYOUT)
        asyncio.run(program(backend))
        backend.close()
        yield namespace


@pytest.fixture(scope="module")
def theirs() -> Iterator[Namespace]:
    """A namespace in which the stock tool has made of the words what it makes of them."""
    with Namespace("theirs") as namespace:
        for family in FAMILIES:
            namespace.run(["nft", "-f", "-"], stdin=words(family))
        yield namespace


def listed(namespace: Namespace) -> dict[str, list[str]]:
    """What the stock tool lists, without comments, elements and the order of things: the lines of each block."""
    blocks: dict[str, list[str]] = {}
    table = name = ""
    text = namespace.run(["nft", "--stateless", "list", "ruleset"])
    text = re.sub(r"\n\t\telements = \{.*?\}", "", text, flags=re.DOTALL)
    for line in text.splitlines():
        stripped = re.sub(r' ?comment "[^"]*"', "", line).strip()
        if line.startswith("table"):
            table = stripped
        elif line.startswith("\t") and stripped.endswith("{"):
            name = f"{table} {stripped}"
            blocks[name] = []
        elif line.startswith("\t\t"):
            blocks[name].append(stripped)
    return blocks


def held(namespace: Namespace) -> dict[tuple[Family, str], list[bytes]]:
    """The rules of each chain as the kernel gives them back."""
    with namespace.entered():
        door = Nft()
    with door:
        return {
            (family, chain.name): [
                rule.expressions for rule in door.list_rules(number, TABLE, chain.name)
            ]
            for family, number in NUMBERS.items()
            for chain in door.list_chains(number, TABLE)
        }


def test_the_stock_tool_lists_what_is_written_here(ours: Namespace, theirs: Namespace) -> None:
    assert listed(ours) == listed(theirs)


def test_our_rules_are_byte_for_byte_those_of_the_stock_tool(
    ours: Namespace, theirs: Namespace
) -> None:
    assert _comparable(held(ours)) == _comparable(held(theirs))


def _comparable(
    chains: Mapping[tuple[Family, str], Sequence[object]],
) -> dict[tuple[Family, str], Sequence[object]]:
    """Leave out in which register clients' endpoints are: `nft` 1.0.6 puts them over the end of an IPv6 address."""
    found = dict(chains)
    for name in ("remember-tcp-60", "remember-local-tcp-60"):
        parsed = [
            parse_expressions(rule) for rule in chains["IPv6", name] if isinstance(rule, bytes)
        ]
        for index in (0, 2):
            *load, number, dynset = parsed[index]
            assert isinstance(number, MetaLoad)
            assert isinstance(dynset, Dynset)
            number = structs.replace(number, register=0)
            parsed[index] = (*load, number, structs.replace(dynset, data_register=0))
        found["IPv6", name] = parsed
    return found


def test_the_stock_tool_reads_its_list_again_and_makes_the_same_of_it(ours: Namespace) -> None:
    text = ours.run(["nft", "list", "ruleset"])

    with Namespace("again") as again:
        again.run(["nft", "-f", "-"], stdin=text)

        assert sorted(again.run(["nft", "list", "ruleset"]).split()) == sorted(text.split())
