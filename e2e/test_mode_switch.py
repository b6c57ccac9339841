"""A node changes its mode by a restart, under clients that open connections all the time: nothing is refused, lost or left."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.layout import Layout as IpvsLayout
from backends.ipvs.model import BOUND, DEVICE
from backends.ipvs.nft_side import OURS
from backends.kernel.ipvs import Ipvs
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_transaction import Batch, Element, Transaction
from e2e import topology
from e2e.client import Answer, Conversation, Failure, Timed
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, address, node, slices, until
from e2e.processes import Load
from e2e.programmed import Programmed, endpoint
from e2e.topology import CLUSTER_CIDRS, FAMILIES, Addresses, World
from proxy.addresses import pack_ip
from tests.builders import make_service
from tests.desired_strategies import make_desired
from tests.effort import patience_s

with_ipvs = pytest.mark.requires("ipvs", "dummy", "nftables")

VIP, BALANCED = address(10), Addresses("203.0.113.10", "2001:db8:113::a")
NODE_PORT: Final = 30080
POD_PORTS = [("web", "tcp", 8080), ("time", "udp", 8080)]
RATE: Final = 10.0 / patience_s(1.0)
"""Connections per second and frontend: the daemon has to come to its turn, too."""
MORE: Final = 3
"""So many are opened at each frontend after everything."""
_PROGRAMMED: Final = "programmed 4 service ports"
_IS_LEFT: Final = {
    "ipvs": (f"device {DEVICE}", "table ip sliceproxy-ipvs", "table ip6 sliceproxy-ipvs"),
    "nftables": ("table ip sliceproxy", "table ip6 sliceproxy"),
}


class Site:
    """A node with three pods behind a service with every kind of frontend, and its daemon in one mode after the other."""

    def __init__(self, world: World, tmp: Path, *, drain_timeout_s: float = 900.0) -> None:
        self.world = world
        directory, ours = Directory(tmp / "manifests"), tmp / "sliceproxy.conf"
        ours.write_text(
            "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\n"
            f"ipvs: {{drainTimeout: {drain_timeout_s:g}s}}\n"
        )
        source = [*Manifests(directory.path).arguments, "--sliceproxy-config", str(ours)]
        self.daemon = Daemon(world.node.namespace, NODE_NAME, source, tmp / "log")
        self._arguments = list(self.daemon.arguments)
        self._started_s = 0.0
        directory.put("node", node(world))
        directory.put(
            "service",
            make_service(
                "web",
                cluster_ips=list(VIP),
                type="LoadBalancer",
                ingress=[{"ip": each} for each in BALANCED],
                ports=[
                    {"name": "web", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT},
                    {"name": "time", "protocol": "UDP", "port": 80, "nodePort": NODE_PORT},
                ],
            ),
        )
        directory.put("slices", *slices("web", world.pods, POD_PORTS, world))

    def start(self, mode: str) -> float:
        """Start the daemon in a mode; return how long it took until everything was programmed."""
        self.daemon.arguments = [*self._arguments, "--proxy-mode", mode]
        before = self.log().count(_PROGRAMMED)
        self._started_s = self.daemon.start()

        def is_programmed() -> bool:
            self.daemon.check()
            return self.log().count(_PROGRAMMED) > before

        until(is_programmed, "the daemon has programmed everything")
        return time.monotonic() - self._started_s

    def switch(self, mode: str) -> float:
        """Do the same for the daemon that runs."""
        assert self.daemon.terminate() == 0
        return self.start(mode)

    def log(self) -> str:
        """What all daemons have said."""
        return "\n".join(self.daemon.log())

    def left_by(self, mode: str) -> set[str]:
        """What there is of a mode: virtual servers, the device, tables."""
        listed = self.world.node.namespace.run(["nft", "list", "tables"]).splitlines()
        with self.world.node.entered(), Links() as links, Ipvs() as ipvs:
            if links.find(DEVICE) is not None:
                listed.append(f"device {DEVICE}")
            servers = {f"virtual server {each.id}" for each in ipvs.list_servers()}
        own = {each for each in listed if each in _IS_LEFT[mode]}
        return own | servers if mode == "ipvs" else own

    def wait_until_gone(self, mode: str) -> float:
        """Return how long after the daemon's start nothing was left of another mode."""
        deadline_s = time.monotonic() + patience_s(60.0)
        while left := self.left_by(mode):
            assert time.monotonic() < deadline_s, f"still there: {left}"
            self.daemon.check()
            time.sleep(patience_s(0.05))
        return time.monotonic() - self._started_s

    def frontends(self) -> Iterator[tuple[str, int]]:
        """Where clients connect."""
        for own in self.world.node.addresses:
            yield own, NODE_PORT
        for vip in (*VIP, *BALANCED):
            yield vip, 80

    def converse(self, protocol: str) -> list[Conversation]:
        """Connections that are kept open, one through each frontend."""
        return [
            self.world.client.converse(ip, port, protocol=protocol, timeout_s=patience_s(1.0))
            for ip, port in self.frontends()
        ]

    def loads(self, rate: float) -> list[Load]:
        """New connections through each frontend, that many each second."""
        return [
            self.world.client.load(ip, port, rate=rate, workers=1, timeout_s=patience_s(2.0))
            for ip, port in self.frontends()
        ]


class Journey(NamedTuple):
    """A node's way from mode nftables to ipvs and back, and what clients saw of it.

    `kept` has for each group of open connections who answered, at the beginning and after each change; `left` what there was of
    the mode of before at the end of each change; `was_waiting` that and of which there was more while connections went on.
    """

    outcomes: list[Timed]
    kept: dict[str, list[list[str]]]
    left: dict[str, set[str]]
    was_waiting: set[str]
    words: str
    log: str


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """One for all tests: where starting a Python takes half a minute, so do three daemons."""
    with topology.world(pods=3) as world, contextlib.ExitStack() as stack:
        topology.serve_on(world.pods, "tcp:8080", "udp:8080")
        yield _travel(Site(world, tmp_path_factory.mktemp("site")), stack)


def _travel(site: Site, stack: contextlib.ExitStack) -> Journey:
    kept: dict[str, list[list[str]]] = {}
    opened: dict[str, list[Conversation]] = {}
    words: list[str] = []

    def open_through(mode: str) -> None:
        for protocol in ("tcp", "udp"):
            opened[f"{protocol} by {mode}"] = made = site.converse(protocol)
            for each in made:
                stack.callback(_end, each)

    def ask() -> None:
        for name, conversations in opened.items():
            kept.setdefault(name, []).append([each.ask().name for each in conversations])

    def switch(mode: str) -> None:
        words.append(f"mode {mode} programmed after {site.switch(mode):.1f} s")

    site.start("nftables")
    loads = [stack.enter_context(each) for each in site.loads(RATE)]
    open_through("nftables")
    ask()
    switch("ipvs")
    words.append(f"nftables gone after {site.wait_until_gone('nftables'):.1f} s")
    open_through("ipvs")
    ask()
    switch("nftables")
    until(lambda: "mode ipvs, waits for" in site.log(), "it is told that connections go on")
    was_waiting = site.left_by("ipvs")
    ask()
    for load in loads:
        load.wait_for_more(MORE, within_s=patience_s(20.0))
    outcomes = [each for load in loads for each in load.stop()]
    for conversation in opened.pop("tcp by ipvs"):
        conversation.close()  # by a reset, which IPVS remembers for 10 s
    ended_s = time.monotonic()
    site.wait_until_gone("ipvs")
    words.append(f"ipvs gone {time.monotonic() - ended_s:.1f} s after its last connection")
    ask()
    left = {mode: site.left_by(mode) for mode in _IS_LEFT}
    return Journey(outcomes, kept, left, was_waiting, ", ".join(words), site.log())


@with_ipvs
def test_new_connections_are_neither_refused_nor_lost(
    journey: Journey, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Counter(e.outcome.value for e in journey.outcomes if isinstance(e.outcome, Failure))
    with capsys.disabled():
        print(f"\n{journey.words}; {len(journey.outcomes)} connections, failed: {dict(failed)}")

    assert not failed
    assert {e.outcome.name for e in journey.outcomes if isinstance(e.outcome, Answer)} == set(
        "abc"
    )


@with_ipvs
@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_open_connections_go_on_with_the_same_pod(journey: Journey, mode: str) -> None:
    first, *later = journey.kept[f"tcp by {mode}"]

    assert len(later) == (3 if mode == "nftables" else 1)
    assert all(each == first for each in later)


@with_ipvs
@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_clients_that_keep_their_udp_port_are_answered_all_the_time(
    journey: Journey, mode: str
) -> None:
    assert len(journey.kept[f"udp by {mode}"]) == (4 if mode == "nftables" else 3)


@with_ipvs
def test_nothing_is_left_once_connections_have_ended(journey: Journey) -> None:
    assert journey.left["ipvs"] == set()
    assert journey.left["nftables"] == set(_IS_LEFT["nftables"])
    assert journey.was_waiting > set(_IS_LEFT["ipvs"])
    assert "cannot be removed" not in journey.log


@with_ipvs
def test_whoever_loses_a_connection_hears_of_it_at_once(tmp_path: Path) -> None:
    with topology.world(pods=3) as world, contextlib.ExitStack() as stack:
        topology.serve_on(world.pods, "tcp:8080", "udp:8080")
        site = Site(world, tmp_path, drain_timeout_s=1.0)
        site.start("ipvs")
        cut = site.converse("tcp")
        own = [world.node.converse(vip, 80, timeout_s=patience_s(1.0)) for vip in VIP]
        for each in (*cut, *own):
            stack.callback(_end, each)
            assert each.ask().name in set("abc")

        site.switch("nftables")
        site.wait_until_gone("ipvs")

        for each in cut:
            with pytest.raises(ConnectionResetError):
                each.ask()
        for each in own:
            with pytest.raises(
                ConnectionError
            ):  # aborted by the kernel, or reset while the address was there
                each.ask()


@with_ipvs
@pytest.mark.requires("iptables", "ipset")
def test_neither_are_those_that_come_while_iptables_takes_over_and_gives_back(
    tmp_path: Path,
) -> None:
    with topology.world(pods=3) as world, contextlib.ExitStack() as stack:
        topology.serve_on(world.pods, "tcp:8080", "udp:8080")
        site = Site(world, tmp_path, drain_timeout_s=1.0)
        site.start("ipvs")
        loads = [stack.enter_context(each) for each in site.loads(RATE)]

        for mode in ("iptables", "ipvs"):
            site.switch(mode)
            for load in loads:
                load.wait_for_more(MORE, within_s=patience_s(20.0))

        outcomes = [each.outcome for load in loads for each in load.stop()]
        assert not Counter(each.value for each in outcomes if isinstance(each, Failure))


# --- which of the two tables decides while both are there


def _side_rules(world: World) -> None:
    """Have the rules of mode ipvs refuse a bound address, as they do before anything is let through."""
    layout = IpvsLayout(IpvsSettings(families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS))
    refusing = Transaction(
        tables=FAMILIES,
        sets=tuple([(family, spec) for family in FAMILIES for spec in layout.sets(family)]),
        chains=tuple([(family, spec) for family in FAMILIES for spec in layout.chains(family)]),
        adds=tuple(
            [
                Batch(family, BOUND, (Element(pack_ip(VIP.of(family)), None, None),))
                for family in FAMILIES
            ]
        ),
    )
    with world.node.entered(), Nft() as nft:
        OURS.commit(nft, refusing)


@contextlib.contextmanager
def _mode_nftables(world: World) -> Iterator[None]:
    with Programmed(world.node) as programmed:
        programmed.put(
            *[
                make_desired("default/web", endpoint(pod, family), cluster_ip=VIP.of(family))
                for family in FAMILIES
                for pod in world.pods
            ]
        )
        yield
        world.node.namespace.run(["nft", "delete", "table", "ip", "sliceproxy"])
        world.node.namespace.run(["nft", "delete", "table", "ip6", "sliceproxy"])


@pytest.mark.requires("nftables")
@pytest.mark.parametrize("first", ["nftables", "ipvs"])
def test_mode_nftables_decides_over_a_half_built_mode_ipvs_whichever_was_there_first(
    first: str,
) -> None:
    with topology.world(pods=1) as world, contextlib.ExitStack() as stack:
        topology.serve_on(world.pods, "tcp:80")
        if first == "ipvs":
            _side_rules(world)
            assert [world.client.ask(vip, 80) for vip in VIP] == [Failure.REFUSED] * 2
        stack.enter_context(_mode_nftables(world))
        if first == "nftables":
            _side_rules(world)

        for asking in (world.client, world.pods[0]):
            assert all(isinstance(asking.ask(vip, 80), Answer) for vip in VIP)
            assert asking.ask(VIP.v4, 81) is Failure.REFUSED

        stack.close()
        assert [world.client.ask(vip, 80) for vip in VIP] == [Failure.REFUSED] * 2


def _end(conversation: Conversation) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        conversation.close()
