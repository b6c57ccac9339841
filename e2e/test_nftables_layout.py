"""Our tables in the words of the stock tool: what they should be, written out, and what it makes of them.

The text below is the layout of backends/nftables/README.md, rule by rule. `nft` compiles it in one namespace, we make
ours in another, and both are compared: as lists, and byte for byte as the kernel holds them.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Final

import pytest

from backends.kernel.nft import Nft
from backends.nftables.backend import NftablesBackend
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.messages import NUMBERS
from backends.nftables.model import TABLE
from e2e.namespace import Namespace
from proxy.model import FAMILIES, PROTOCOLS, Family
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_endpoint

pytestmark = pytest.mark.requires("nftables")

# prefixes that do not end with a byte: else the tool compares those bytes alone, which means the same
CIDRS: Final[dict[Family, str]] = {"IPv4": "10.244.0.0/15", "IPv6": "fd00:10:244::/47"}
LAYOUT: Final = Layout(NftSettings(families=FAMILIES, cluster_cidrs=tuple(CIDRS.values())))
HEADERS: Final[dict[Family, str]] = {"IPv4": "ip", "IPv6": "ip6"}
_SETS = """
    map services { type ADDRESS . inet_proto . inet_service : verdict; }
    map endpoints-tcp { typeof IP daddr . tcp dport . numgen random mod 65536 : IP daddr . tcp dport; }
    map endpoints-udp { typeof IP daddr . udp dport . numgen random mod 65536 : IP daddr . udp dport; }
    map endpoints-sctp { typeof IP daddr . sctp dport . numgen random mod 65536 : IP daddr . sctp dport; }
    set refused { type ADDRESS . inet_proto . inet_service; }
    set cluster-ips { type ADDRESS; }
    set hairpin { type ADDRESS . ADDRESS; }
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
        goto refuse
    }
    chain services {
        IP daddr @cluster-ips goto cluster-ip
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
        IP saddr . IP daddr @hairpin ct status & dnat != 0 masquerade fully-random
    }
"""


def _picking(protocol: str, capacity: int, *, drawn: int) -> str:
    """A chain that picks, in which a random slot is drawn so often."""
    word = protocol.lower()

    def draw(slot: str) -> str:
        return f"meta l4proto {word} dnat IP to IP daddr . {word} dport . {slot} map @endpoints-{word}"

    rules = [draw(f"numgen random mod {capacity}")] * drawn
    if capacity > 2:
        rules.append(draw(f"numgen random mod {capacity // 2}"))
    rules += [
        "IP daddr . meta l4proto . th dport @refused goto refuse",
        draw("numgen inc mod 1"),
        "drop",
    ]
    return f"chain pick-{word}-{capacity} {{ {'; '.join(rules)}; }}\n"


def words(family: Family) -> str:
    """Our table of that family, with chains for one, two and up to four endpoints."""
    text = _SETS + _CHAINS
    for protocol in PROTOCOLS:
        text += _picking(protocol, 1, drawn=2)
        text += _picking(protocol, 2, drawn=2)
        text += _picking(protocol, 4, drawn=12)
    filled = (
        re.sub(r"\bIP\b", HEADERS[family], text)
        .replace("ADDRESS", f"{family.lower()}_addr")
        .replace("PODS", CIDRS[family])
    )
    return f"table {HEADERS[family]} {TABLE} {{\n{filled}\n}}\n"


@pytest.fixture(scope="module")
def ours() -> Iterator[Namespace]:
    """A namespace with everything we install: all protocols, pools of 0, 1, 2, and 3 endpoints, local ones too."""
    ports = [
        make_desired(
            f"default/{family.lower()}-{protocol.lower()}-{count}",
            *[
                make_endpoint(
                    f"[fd00::{n}]:80" if family == "IPv6" else f"10.1.0.{n}:80", is_local=n == 1
                )
                for n in range(1, count + 1)
            ],
            protocol=protocol,
            cluster_ip=f"fd00:10:96::{count + 1}" if family == "IPv6" else f"10.96.0.{count + 1}",
        )
        for family in FAMILIES
        for protocol in PROTOCOLS
        for count in (0, 1, 2, 3)
    ]
    desired = desired_state(*ports)

    async def program(backend: NftablesBackend) -> None:
        observed = await backend.observe()
        await backend.apply(backend.plan(whole(desired), observed, list(desired)), observed)

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
    assert held(ours) == held(theirs)


def test_the_stock_tool_reads_its_list_again_and_makes_the_same_of_it(ours: Namespace) -> None:
    text = ours.run(["nft", "list", "ruleset"])

    with Namespace("again") as again:
        again.run(["nft", "-f", "-"], stdin=text)

        assert sorted(again.run(["nft", "list", "ruleset"]).split()) == sorted(text.split())
