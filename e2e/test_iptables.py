"""What the iptables backend needs of real kernels and programs, but for its laws (test_contract.py)."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from msgspec import structs

from backends.iptables.backend import IptablesBackend
from backends.iptables.layout import IptablesSettings, Layout
from backends.iptables.model import CHAINS
from backends.iptables.probe import probe, try_out
from backends.kernel import xtables_library
from backends.kernel.xtables import Xtables, find_programs
from backends.kernel.xtables_flavour import find, look
from backends.kernel.xtables_text import Flavour
from e2e.namespace import Namespace
from proxy.model import FAMILIES, Family
from tests.contract.driving import adopt, program
from tests.desired_strategies import desired_state, many_services

pytestmark = pytest.mark.requires("iptables-legacy", "iptables-nft", "ipset")

FLAVOURS = pytest.mark.parametrize("flavour", Flavour)
LAYOUT = Layout(IptablesSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16",)))


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A fresh one, entered; threads that are started from here are in it, too."""
    with Namespace("iptables") as made, made.entered():
        yield made


def doors(flavour: Flavour) -> dict[Family, Xtables]:
    return {family: Xtables(find_programs(family)[flavour]) for family in FAMILIES}


def holding() -> list[Flavour]:
    """The flavours that have something of ours."""
    return [flavour for flavour in Flavour if look(doors(flavour).values(), CHAINS).has_ours]


# --- probing


@FLAVOURS
@pytest.mark.parametrize(
    "has_library",
    [
        pytest.param(False, id="programs"),
        pytest.param(True, id="library", marks=pytest.mark.requires("python-iptables")),
    ],
)
def test_stock_kernels_have_all_that_is_needed_and_nothing_is_left(
    namespace: Namespace, flavour: Flavour, has_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xtables_library, "is_installed", lambda: has_library)

    probe(doors(flavour))

    assert [door.save("nat") for door in doors(Flavour.LEGACY).values()] == [{}, {}]
    assert namespace.run(["nft", "list", "ruleset"]) == ""
    assert namespace.run(["ipset", "list"]) == ""


@FLAVOURS
def test_where_no_namespace_can_be_made_rules_are_tried_out_of_the_way(
    namespace: Namespace, flavour: Flavour
) -> None:
    there = doors(flavour)
    there["IPv4"].restore("nat", [":THEIRS - [0:0]", "-A OUTPUT -j THEIRS"])
    before = there["IPv4"].save("nat")

    try_out(there)

    assert there["IPv4"].save("nat") == before
    assert namespace.run(["ipset", "list"]) == ""


# --- flavour


@FLAVOURS
def test_kubelets_flavour_is_found(namespace: Namespace, flavour: Flavour) -> None:
    doors(flavour)["IPv6"].restore("mangle", [":KUBE-IPTABLES-HINT - [0:0]"])

    assert find(FAMILIES, CHAINS).flavour is flavour


def test_rules_move_to_the_flavour_that_kubelet_uses_now(namespace: Namespace) -> None:
    def program() -> None:
        backend = IptablesBackend(LAYOUT)
        asyncio.run(adopt(backend, many_services(5)))
        backend.close()

    program()
    (first,) = holding()
    (second,) = set(Flavour) - {first}
    doors(second)["IPv4"].restore("mangle", [":KUBE-IPTABLES-HINT - [0:0]"])
    assert holding() == [first]

    program()
    assert holding() == [second]

    assert asyncio.run(IptablesBackend(LAYOUT).cleanup()) > 0
    assert holding() == []
    assert namespace.run(["ipset", "list"]) == ""


# --- what others do


def test_tables_that_only_nft_can_list_are_written_all_the_same(namespace: Namespace) -> None:
    """Others see their rule stay, we see ours as soon as it is gone."""
    strange = "udp dport 9 numgen random mod 2 0 counter"
    doors(Flavour.NFT)["IPv4"].restore("mangle", [":KUBE-IPTABLES-HINT - [0:0]"])
    before, after = many_services(40), dict(list(many_services(60).items())[20:])

    async def life(backend: IptablesBackend) -> None:
        observed = await adopt(backend, before)
        for family in ("ip", "ip6"):
            namespace.run(
                ["nft", f"add chain {family} nat theirs; add chain {family} filter theirs"]
            )
            for table in ("nat", "filter"):
                namespace.run(["nft", f"add rule {family} {table} theirs {strange}"])
        assert await backend.verify(observed) == []
        last = min(before)
        await program(backend, observed, {k: p for k, p in before.items() if k != last}, [last])

    async def another_life(backend: IptablesBackend) -> None:
        observed = await adopt(backend, after)
        assert "numgen" in namespace.run(["nft", "list chain ip6 filter theirs"])
        for family in ("ip", "ip6"):
            for table in ("nat", "filter"):
                namespace.run(["nft", f"delete chain {family} {table} theirs"])
        assert await backend.verify(observed) == []
        jumps = [r for c in doors(Flavour.NFT)["IPv4"].save("nat").values() for r in c.rules]
        assert sum(["-j SLICEPROXY-SERVICES" in rule for rule in jumps]) == 2
        namespace.run(["nft", f"add rule ip nat OUTPUT {strange}"])

    for each in (life, another_life):
        with contextlib.closing(IptablesBackend(LAYOUT)) as backend:
            asyncio.run(each(backend))
    assert asyncio.run(IptablesBackend(LAYOUT).cleanup()) > 40
    assert "SLICEPROXY" not in namespace.run(["nft", "list ruleset"])
    assert "numgen" in namespace.run(["nft", "list chain ip nat OUTPUT"])
    assert namespace.run(["ipset", "list"]) == ""


@FLAVOURS
def test_who_asks_for_health_is_let_in_where_nobody_else_is(
    namespace: Namespace, flavour: Flavour
) -> None:
    namespace.ip("link set lo up")
    doors(flavour)["IPv4"].restore("mangle", [":KUBE-IPTABLES-HINT - [0:0]"])
    rules = ["-P INPUT DROP", "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"]
    for rule in rules:
        namespace.run([f"iptables-{flavour}", *rule.split()])
    (web,) = many_services(1).values()
    desired = desired_state(structs.replace(web, health_check_node_port=31000))

    def is_answered(port: int) -> bool:
        with socket.create_server(("127.0.0.1", port)):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
            except TimeoutError:
                return False
            return True

    with contextlib.closing(IptablesBackend(LAYOUT)) as backend:
        asyncio.run(adopt(backend, desired))

        assert [is_answered(port) for port in (31000, 31001)] == [True, False]
