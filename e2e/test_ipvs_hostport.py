"""The side rules of mode ipvs beside rules of others that take ports of whatever is local: those for a pod's `hostPort`.

Servers of the node stand in for IPVS: both take in from the same hook what is for an address of this host. So kernels without
IPVS have this, too. With IPVS: `test_ipvs.py`. Side rules of iptables are before those of others in the same engine only, where
their jump comes first; they need kinds of sets that kernels with IPVS have.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import pytest

from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import (
    BOUND,
    DROPPED,
    ELSEWHERE,
    EXTERNALS,
    NODEPORTS,
    REFUSED,
    SERVICES,
    SHORTCUTS,
)
from backends.ipvs.nft_side import NftSide
from backends.ipvs.side import Side
from backends.ipvs.xt_side import Tools, XtSide
from backends.kernel.nft import Nft
from backends.kernel.nft_phrases import word
from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.kernel.xtables import Xtables, find_programs
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from e2e import hostport, topology
from e2e.client import PROTOCOLS, Answer, Failure
from e2e.manifests import address
from e2e.topology import CLUSTER_CIDRS, FAMILIES, Addresses, Family, World
from proxy.addresses import pack_ip

PORT, NODE_PORT, OTHER_PORT = 8080, 30080, 9090
CLUSTER_IP, VIP = address(10), Addresses("203.0.113.10", "2001:db8:113::a")
REFUSING, DROPPING = address(11), address(12)
ELSEWHERE_IP = Addresses("203.0.113.99", "2001:db8:113::99")
LAYOUT = Layout(IpvsSettings(families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS))

both_families = pytest.mark.parametrize("family", FAMILIES)
both_protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])


NFT = "nftables"
_PROGRAMS = {Flavour.LEGACY: "iptables-legacy", Flavour.NFT: "iptables-nft"}
_WITH = [
    *[
        pytest.param((NFT, program), marks=pytest.mark.requires("nftables", capability))
        for program, capability in hostport.NEEDS.items()
    ],
    *[
        pytest.param((flavour, program), marks=pytest.mark.requires("ipvs", program, "ipset"))
        for flavour, program in _PROGRAMS.items()
    ],
]


class Ground(NamedTuple):
    """A node, and what opens its side rules."""

    world: World
    open_side: Callable[[], AbstractContextManager[Side]]


@pytest.fixture(scope="module", params=_WITH, ids=lambda each: f"{each[0]} beside {each[1]}")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A node whose pod `a` has hostPorts that are ports of Services, too."""
    side_of, program = request.param
    protocols, ports = ("tcp", "udp"), (PORT, NODE_PORT, OTHER_PORT)
    with topology.world(pods=2) as made:
        for vips in (CLUSTER_IP, VIP, ELSEWHERE_IP, REFUSING, DROPPING):
            made.node.namespace.ip(
                f"address add {vips.v4}/32 dev lo", f"address add {vips.v6}/128 dev lo"
            )
        listened = [f"{protocol}:{port}" for protocol in protocols for port in ports]
        topology.serve_on([made.node, made.pods[0]], *listened)

        @contextmanager
        def opened() -> Iterator[Side]:
            with made.node.entered(), contextlib.closing(_side(side_of)) as side:
                yield side

        with opened() as side:
            _load(side)
        hostport.load(made.node, made.pods[0], program, *ports)
        yield Ground(made, opened)


@pytest.fixture
def world(ground: Ground) -> World:
    return ground.world


def _side(name: str) -> Side:
    if name == NFT:
        return NftSide(Nft())
    flavour = Flavour(name)
    doors = {family: Xtables(find_programs(family)[flavour]) for family in FAMILIES}
    return XtSide(FAMILIES, Tools(find=lambda _: Choice(flavour, doors, {})))


def _load(side: Side) -> None:
    layout = side.layout_of(LAYOUT.settings)
    structure = Transaction(
        tables=FAMILIES,
        sets=tuple([(family, spec) for family in FAMILIES for spec in layout.sets(family)]),
        chains=tuple([(family, spec) for family in FAMILIES for spec in layout.chains(family)]),
        adds=tuple([each for family in FAMILIES for each in _elements(family)]),
    )
    side.commit(structure)


def _elements(family: Family) -> Iterator[Batch]:
    mark = word(LAYOUT.marks.mark(1, "cluster"))

    def batch(name: str, *keys: bytes, data: Data = None) -> Batch:
        return Batch(family, name, tuple([Element(key, data, None) for key in keys]))

    def at(vip: Addresses | None, port: int) -> list[bytes]:
        packed = pack_ip(vip.of(family)) if vip is not None else b""
        return [
            packed + PROTOCOLS[protocol][1].to_bytes(1) + bytes(3) + port.to_bytes(2) + bytes(2)
            for protocol in ("tcp", "udp")
        ]

    bound = [pack_ip(each.of(family)) for each in (CLUSTER_IP, VIP, REFUSING, DROPPING)]
    yield batch(BOUND, *bound)
    yield batch(ELSEWHERE, pack_ip(ELSEWHERE_IP.of(family)))
    yield batch(SERVICES, *at(CLUSTER_IP, PORT))
    for name in (EXTERNALS, SHORTCUTS):
        yield batch(name, *at(VIP, PORT), *at(ELSEWHERE_IP, PORT), data=mark)
    yield batch(NODEPORTS, *at(None, NODE_PORT), data=mark)
    yield batch(REFUSED, *at(REFUSING, PORT))
    yield batch(DROPPED, *at(DROPPING, PORT))


def _answers(world: World, ip: str, port: int, protocol: str) -> list[str | Failure]:
    """Who answers somebody outside, a pod, and this node itself: what comes from the latter passes another hook."""
    outcomes = [
        each.ask(ip, port, protocol=protocol) for each in (world.client, world.pods[1], world.node)
    ]
    return [each.name if isinstance(each, Answer) else each for each in outcomes]


@both_families
@both_protocols
@pytest.mark.parametrize(
    ("at", "port"),
    [(CLUSTER_IP, PORT), (VIP, PORT), (ELSEWHERE_IP, PORT), (None, NODE_PORT), (ELSEWHERE_IP, NODE_PORT)],
    ids=["cluster IP", "VIP", "external IP of another interface", "NodePort", "NodePort there"],
)  # fmt: skip
def test_a_frontend_is_ours_though_a_pod_has_its_port_of_this_host(
    world: World, family: Family, protocol: str, at: Addresses | None, port: int
) -> None:
    ip = (at or world.node.addresses).of(family)

    assert _answers(world, ip, port, protocol) == ["node"] * 3


@both_families
@both_protocols
def test_a_frontend_without_endpoints_is_not_served_by_a_pod_that_has_its_port_of_this_host(
    world: World, family: Family, protocol: str
) -> None:
    # who sends to it by UDP on this node itself is told so at once, by an error of another kind
    own = [world.node] if protocol == "tcp" else []
    for asking in (world.client, world.pods[1], *own):
        assert asking.ask(REFUSING.of(family), PORT, protocol=protocol) is Failure.REFUSED
    assert (
        world.client.ask(DROPPING.of(family), PORT, protocol=protocol, timeout_s=0.5)
        is Failure.TIMEOUT
    )


@both_families
@both_protocols
def test_what_is_no_frontend_is_still_the_pods(
    world: World, family: Family, protocol: str
) -> None:
    for ip in (world.node.addresses.of(family), ELSEWHERE_IP.of(family)):
        assert _answers(world, ip, OTHER_PORT, protocol) == ["a"] * 3


@both_families
def test_once_we_give_way_others_decide_on_frontends_too(ground: Ground, family: Family) -> None:
    world = ground.world
    with ground.open_side() as side:
        closed = side.layout_of.closed_chains()
        side.commit(Transaction(chains=tuple([(family, each) for each in closed])))
    try:
        assert _answers(world, VIP.of(family), PORT, "tcp") == ["a"] * 3
        assert _answers(world, CLUSTER_IP.of(family), PORT + 1, "tcp") == [Failure.REFUSED] * 3
    finally:
        with ground.open_side() as side:
            names = {each.name for each in closed}
            chains = side.layout_of(LAYOUT.settings).chains(family)
            again = tuple([(family, each) for each in chains if each.name in names])
            side.commit(Transaction(chains=again))
