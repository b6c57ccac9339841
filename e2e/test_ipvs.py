"""Mode ipvs from outside: connections outlive their endpoint's removal and a restart, and VIPs lead to services only."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.ipvs.model import DEVICE
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.links import Links
from e2e import topology
from e2e.client import Answer, Conversation, Failure
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, address, node, service, slices, synced, until
from e2e.topology import World

pytestmark = pytest.mark.requires("ipvs", "dummy", "nftables")

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP = address(10)
SERVERS = [
    ServerId("IPv4", "TCP", VIP.v4, 80),
    ServerId("IPv6", "TCP", VIP.v6, 80),
]
_FORGETTING_S = (
    40.0  # a connection that was reset is remembered for 10 s, and looked after every 5 s
)


class Site:
    """A node with three pods that serve, a service with all of them, and its daemon in mode ipvs."""

    def __init__(self, world: World, tmp: Path) -> None:
        self.world = world
        self.directory = Directory(tmp / "manifests")
        arguments = [*Manifests(self.directory.path).arguments, "--proxy-mode", "ipvs"]
        self.daemon = Daemon(world.node.namespace, NODE_NAME, arguments, tmp / "log")
        self.directory.put("node", node(world))
        self.directory.put("service", service("web", VIP, PORTS))
        self.list_pods("abc")

    def list_pods(self, names: str) -> None:
        """Make these the endpoints of the service."""
        pods = [self.world.node.pods[name] for name in names]
        self.directory.put("slices", *slices("web", pods, POD_PORTS, self.world))

    def start(self) -> None:
        """Start the daemon; everything is programmed when this returns."""
        self.daemon.start()
        synced(self.daemon)

    def weights(self) -> list[list[int]]:
        """The weights of each virtual server's destinations, in ascending order."""
        with self.world.node.entered(), Ipvs() as ipvs:
            return [
                sorted([each.weight for each, _ in ipvs.list_destinations(server)])
                for server in SERVERS
            ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield Site(world, tmp_path)


def test_connections_to_a_removed_endpoint_go_on_through_a_restart_until_they_end(
    site: Site,
) -> None:
    site.start()
    with contextlib.ExitStack() as stack:
        opened = [site.world.client.converse(vip, 80) for vip in (*VIP,) * 6]
        for conversation in opened:
            stack.callback(_end, conversation)
        partners = [conversation.ask().name for conversation in opened]
        assert set(partners) == set("abc")

        site.list_pods("ab")
        until(lambda: site.weights() == [[0, 1, 1]] * 2, "one endpoint drains")
        new = site.world.client.ask_often(12, VIP.v4, 80)
        assert {each.name for each in new if isinstance(each, Answer)} == {"a", "b"}
        assert [conversation.ask().name for conversation in opened] == partners

        assert site.daemon.terminate() == 0
        site.start()
        assert site.weights() == [[0, 1, 1]] * 2
        assert [conversation.ask().name for conversation in opened] == partners

        for conversation, partner in zip(opened, partners, strict=True):
            if partner == "c":
                conversation.close()  # by a reset, which nobody remembers for minutes
        _until(lambda: site.weights() == [[1, 1]] * 2)
        left = [c for c, partner in zip(opened, partners, strict=True) if partner != "c"]
        assert [c.ask().name for c in left] == [name for name in partners if name != "c"]


def test_ports_of_the_host_are_not_reachable_through_an_address_of_a_service(site: Site) -> None:
    site.start()
    site.world.node.serve("tcp:22")
    own = site.world.node.addresses

    for asking in (site.world.client, site.world.node.pods["a"], site.world.node):
        assert isinstance(asking.ask(own.v4, 22), Answer)
        assert isinstance(asking.ask(own.v6, 22), Answer)
        assert asking.ask(VIP.v4, 22) == Failure.REFUSED
        assert asking.ask(VIP.v6, 22) == Failure.REFUSED


def test_cleanup_leaves_neither_virtual_servers_nor_a_device(site: Site) -> None:
    site.start()
    assert site.daemon.terminate() == 0
    site.world.node.namespace.run([*_command(), "cleanup"])

    assert site.weights() == [[], []]
    with site.world.node.entered(), Links() as links:
        assert links.find(DEVICE) is None


def _command() -> list[str]:
    return [sys.executable, "-I", "-m", "proxy"]


def _end(conversation: Conversation) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        conversation.close()


def _until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _FORGETTING_S
    while not is_so():
        assert time.monotonic() < deadline_s, "still there"
        time.sleep(0.2)
