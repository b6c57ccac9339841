"""Mode ipvs from outside: VIPs lead to services, whatever else this host has at their ports, and cleanup leaves nothing."""

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.ipvs.model import DEVICE
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.links import Links
from e2e import hostport, topology
from e2e.client import Answer, Failure, Outcome
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, address, node, service, slices, synced
from e2e.topology import Addresses, World
from tests.builders import make_service

pytestmark = pytest.mark.requires("ipvs", "dummy", "nftables")

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP = address(10)
SERVERS = [
    ServerId("IPv4", "TCP", VIP.v4, 80),
    ServerId("IPv6", "TCP", VIP.v6, 80),
]


class Site:
    """A node with three pods that serve, a service with all of them, and its daemon in mode ipvs."""

    def __init__(self, world: World, tmp: Path) -> None:
        self.world = world
        directory = Directory(tmp / "manifests")
        arguments = [*Manifests(directory.path).arguments, "--proxy-mode", "ipvs"]
        self.daemon = Daemon(world.node.namespace, NODE_NAME, arguments, tmp / "log")
        self.directory = directory
        directory.put("node", node(world))
        directory.put("service", service("web", VIP, PORTS))
        directory.put("slices", *slices("web", world.pods, POD_PORTS, world))

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


def test_ports_of_the_host_are_not_reachable_through_an_address_of_a_service(site: Site) -> None:
    site.start()
    site.world.node.serve("tcp:22")
    own = site.world.node.addresses

    for asking in (site.world.client, site.world.node.pods["a"], site.world.node):
        assert isinstance(asking.ask(own.v4, 22), Answer)
        assert isinstance(asking.ask(own.v6, 22), Answer)
        assert asking.ask(VIP.v4, 22) == Failure.REFUSED
        assert asking.ask(VIP.v6, 22) == Failure.REFUSED


def test_a_load_balancer_may_ask_at_its_own_address_how_many_endpoints_are_here(
    site: Site,
) -> None:
    vips, port = Addresses("203.0.113.7", "2001:db8::7"), 31_234
    site.directory.put(
        "service",
        make_service(
            cluster_ips=list(VIP),
            ports=[{"name": "web", "protocol": "TCP", "port": 80, "nodePort": 30080}],
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=port,
            ingress=[{"ip": vip} for vip in vips],
        ),
    )
    site.start()

    for vip in vips:
        with site.world.client.entered():
            asking = http.client.HTTPConnection(vip, port, timeout=30)
            with contextlib.closing(asking):
                asking.request("GET", "/")
                assert json.load(asking.getresponse())["localEndpoints"] == 3
        assert isinstance(site.world.client.ask(vip, 80), Answer)
        assert site.world.client.ask(vip, 81) == Failure.REFUSED


def test_a_service_is_served_by_all_its_pods_though_one_has_its_port_of_this_host(
    site: Site,
) -> None:
    *_, pod = site.world.pods
    pod.serve("tcp:80")
    hostport.load(site.world.node, pod, "nft", 80)
    site.start()

    for asking in (site.world.client, site.world.node.pods["a"], site.world.node):
        for own in site.world.node.addresses:
            assert _name(asking.ask(own, 80)) == pod.name
        for vip in VIP:
            assert {_name(each) for each in asking.ask_often(3, vip, 80)} == set("abc")


def test_where_ipv6_is_switched_off_the_rest_is_served_and_nothing_is_tried_again(
    site: Site,
) -> None:
    site.world.node.namespace.write_settings([("ipv6/conf/all/disable_ipv6", "1")])
    site.start()

    assert isinstance(site.world.client.ask(VIP.v4, 80), Answer)
    told = "\n".join(site.daemon.log())
    assert told.count("this host has no IPv6, or has it switched off") == 1
    assert VIP.v6 not in told  # not refused by the kernel, nor tried again
    assert [len(each) for each in site.weights()] == [3, 0]


def test_cleanup_leaves_neither_virtual_servers_nor_a_device(site: Site) -> None:
    site.start()
    assert site.daemon.terminate() == 0
    site.world.node.namespace.run([*_command(), "cleanup"])

    assert site.weights() == [[], []]
    with site.world.node.entered(), Links() as links:
        assert links.find(DEVICE) is None


def _name(outcome: Outcome) -> str:
    return outcome.name if isinstance(outcome, Answer) else outcome.value


def _command() -> list[str]:
    return [sys.executable, "-I", "-m", "proxy"]
