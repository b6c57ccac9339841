"""The daemon from outside: its page, its restarts under traffic, kills at any moment, and rules flushed by others."""

import contextlib
import http.client
import itertools
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import topology
from e2e.client import Answer, Failure
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, address, node, service, slices, synced, until
from e2e.topology import FAMILIES, Host, World

pytestmark = pytest.mark.requires("nftables")

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP = address(10)
DEBUG_PORT = 10249
KILLS = 5


class Site:
    """A node with three pods that serve, a service with all of them, and its daemon, not yet started."""

    def __init__(self, world: World, tmp: Path) -> None:
        self.world = world
        self.directory = Directory(tmp / "manifests")
        self.daemon = Daemon(
            world.node.namespace, NODE_NAME, Manifests(self.directory.path).arguments, tmp / "log"
        )
        self.directory.put("node", node(world))
        self.directory.put("service", service("web", VIP, PORTS))
        self.list_pods("abc")

    def list_pods(self, names: str) -> None:
        """Make these the endpoints of the service."""
        pods = [self.world.node.pods[name] for name in names]
        self.directory.put("slices", *slices("web", pods, POD_PORTS, self.world))

    def start(self) -> dict[str, Any]:
        """Start the daemon and return its state as soon as everything is programmed."""
        self.daemon.start()
        return synced(self.daemon)

    def state(self) -> dict[str, Any]:
        state = self.daemon.state()
        assert state is not None, "no page"
        return state

    def answering(self) -> set[str]:
        """Who answers new connections from the client: names of pods, or ways to fail."""
        outcomes = self.world.client.ask_often(24, VIP.v4, 80)
        return {each.name if isinstance(each, Answer) else each.value for each in outcomes}

    def log(self) -> str:
        return "\n".join(self.daemon.log())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield Site(world, tmp_path)


def test_open_connections_outlive_a_restart(site: Site) -> None:
    site.start()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(site.world.client.converse(vip, 80)) for vip in (*VIP, *VIP)]
        partners = [conversation.ask().name for conversation in opened]
        assert site.daemon.terminate() == 0
        assert [conversation.ask().name for conversation in opened] == partners

        assert site.start()["kernel"] == {"operations": 0, "transactions": 0}

        assert [conversation.ask().name for conversation in opened] == partners


def test_kills_while_slices_change_all_the_time_fail_no_connection(site: Site) -> None:
    rng = random.Random(2026)
    site.start()
    with site.world.client.load(VIP.v4, 80, rate=200, workers=2) as load:
        with _rewriting(site) as written:
            for _ in range(KILLS):
                # the load is the clock: up to 0.6 s, from the middle of starting to steady work
                load.wait_for_more(rng.randint(1, 120), within_s=30)
                before = len(written)
                site.daemon.kill()
                site.daemon.start()
                until(lambda before=before: len(written) > before, "something changes meanwhile")  # type: ignore[misc]
        site.list_pods("bc")
        until(lambda: site.answering() == {"b", "c"}, "what the manifests say")
    outcomes = load.stop()

    assert [each.outcome for each in outcomes if isinstance(each.outcome, Failure)] == []
    assert len(outcomes) > 200
    assert synced(site.daemon)["degraded"] == []
    assert "reconcile failed" not in site.log()


@contextlib.contextmanager
def _rewriting(site: Site) -> Iterator[list[str]]:
    """List other pods every few milliseconds; yield which, so far."""
    stopping = threading.Event()
    written: list[str] = []

    def write() -> None:
        for names in itertools.cycle(("a", "ab", "bc", "abc", "c", "ac", "b")):
            if stopping.wait(0.01):
                return
            site.list_pods(names)
            written.append(names)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield written
    finally:
        stopping.set()
        writer.join()


def test_a_flush_of_all_rules_is_repaired_and_named_for_each_family(site: Site) -> None:
    site.start()

    site.world.node.namespace.run(["nft", "flush", "ruleset"])

    until(lambda: site.answering() == set("abc"), "the rules are back")
    assert re.findall(r"changed from outside, repairing: (.*)", site.log()) == [
        f"{family}: our table, or a chain or set in it" for family in FAMILIES
    ]
    assert site.state()["degraded"] == []


def test_the_page_names_a_manifest_that_cannot_be_read_until_it_is_fixed(site: Site) -> None:
    assert site.start()["rejected"] == []

    site.directory.put_text("slices", "apiVersion: v1\nkind: [")
    until(lambda: bool(site.state()["rejected"]), "it is named")
    (rejected,) = site.state()["rejected"]
    assert "slices.yaml" in rejected["name"]
    assert rejected["reason"]
    assert site.answering() == set("abc")

    site.list_pods("c")
    until(lambda: site.answering() == {"c"}, "the fixed one is followed")
    assert site.state()["rejected"] == []


def test_the_page_answers_only_local_questions(site: Site) -> None:
    site.start()
    home = site.world.node

    assert _status(home, "GET", "localhost:10249") == 200
    assert _status(home, "GET", "127.0.0.1:10249") == 200
    assert _status(home, "GET", "rebound.example:10249") == 403
    assert _status(home, "POST", "localhost:10249") == 405
    # nobody but the node itself, and it only on loopback
    for host in (site.world.client, *site.world.pods, home):
        for ip in home.addresses:
            assert host.ask(ip, DEBUG_PORT) is Failure.REFUSED
    assert site.state()["synced"]


def test_no_debug_page_leaves_loopback_unless_that_is_configured(site: Site) -> None:
    site.daemon.arguments += ["--metrics-bind-address", f"0.0.0.0:{DEBUG_PORT}"]
    site.daemon.start()

    until(lambda: site.answering() == set("abc"), "the service answers")
    assert site.state()["synced"]  # at loopback
    address = site.world.node.addresses.v4
    for host in (site.world.client, site.world.node):
        assert _status(host, "GET", "node-1.example", "/metrics", address) == 200
        assert _status(host, "GET", address, "/debug/state", address) == 404


def _status(
    host: Host, method: str, name: str, path: str = "/debug/state", address: str = "127.0.0.1"
) -> int:
    """The status of a page, asked for under a name."""
    with host.entered():
        connection = http.client.HTTPConnection(address, DEBUG_PORT, timeout=20.0)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Host": name})
            return connection.getresponse().status
