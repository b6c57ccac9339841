"""NodePorts at 127.0.0.1 and ::1, where the kernel's rules cannot serve them: a listener does, of this mode or beside it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from e2e import topology
from e2e.client import Answer, Failure
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, Wire, address, node, service, slices, synced, until
from e2e.topology import CLUSTER_CIDRS, World
from tests.effort import patience_s

VIP = address(10)
NODE_PORT: Final = 30080
LOCALHOST: Final = ("127.0.0.1", "::1")
POD_PORTS: Final = [("web", "tcp", 8080), ("time", "udp", 8080)]

MODES = pytest.mark.parametrize(
    "mode",
    [
        pytest.param("nftables", marks=pytest.mark.requires("nftables")),
        pytest.param("ipvs", marks=pytest.mark.requires("ipvs", "dummy", "nftables")),
    ],
)


class Site:
    """A node with three pods behind a NodePort, and its daemon, not yet started."""

    def __init__(self, world: World, tmp: Path) -> None:
        self.world = world
        self.directory = Directory(tmp / "manifests")
        self._own = tmp / "sliceproxy.conf"
        source = [
            *Manifests(self.directory.path).arguments,
            *("--sliceproxy-config", str(self._own)),
            *("--cluster-cidr", ",".join(CLUSTER_CIDRS)),
            *("--state-dir", str(tmp / "state")),
        ]
        self.daemon = Daemon(world.node.namespace, NODE_NAME, source, tmp / "log")
        self.directory.put("node", node(world))
        self.directory.put("service", self.service())
        self.list_pods("abc")

    def service(self) -> Wire:
        made = service("web", VIP, [("web", "tcp", 80), ("time", "udp", 80)])
        made["spec"]["type"] = "NodePort"
        for port in made["spec"]["ports"]:
            port["nodePort"] = NODE_PORT
        return made

    def list_pods(self, names: str) -> None:
        pods = [self.world.node.pods[name] for name in names]
        self.directory.put("slices", *slices("web", pods, POD_PORTS, self.world))

    def start(self, mode: str, *flags: str, ranges: str = "0.0.0.0/0,::/0") -> dict[str, Any]:
        """Start the daemon in a mode. In mode nftables NodePorts are on the primary addresses alone where no ranges are given."""
        self._own.write_text(
            "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\n"
            f"mode: {mode}\nuserspace: {{drainTimeout: 1s}}\n"
        )
        self.daemon.arguments += ["--nodeport-addresses", ranges, *flags]
        self.daemon.start()
        return synced(self.daemon)

    def answering(self, at: str, protocol: str = "tcp") -> set[str]:
        """Who answers the node itself: names of pods, or ways to fail."""
        limit_s = patience_s(5.0)
        outcomes = self.world.node.ask_often(
            40, at, NODE_PORT, protocol=protocol, timeout_s=limit_s
        )
        return {each.name if isinstance(each, Answer) else each.value for each in outcomes}

    def listening(self) -> list[str]:
        """Where somebody listens at the node port."""
        listed = self.world.node.namespace.run(["ss", "-Htuln", f"sport = :{NODE_PORT}"])
        return sorted(f"{line.split()[0]} {line.split()[4]}" for line in listed.splitlines())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080", "udp:8080")
        yield Site(world, tmp_path)


@MODES
def test_the_node_reaches_every_endpoint_at_localhost(site: Site, mode: str) -> None:
    state = site.start(mode)

    assert state["mode"] == mode
    for at in LOCALHOST:
        for protocol in ("tcp", "udp"):
            assert site.answering(at, protocol) == set("abc")
    # there and nowhere else: what the rules serve is theirs alone
    expected = [f"{p} {a}:{NODE_PORT}" for p in ("tcp", "udp") for a in ("127.0.0.1", "[::1]")]
    assert site.listening() == sorted(expected)
    for own in site.world.node.addresses:
        assert site.answering(own) == set("abc")

    explained = site.daemon.page("/debug/explain?service=default/web&output=text") or ""
    assert f"127.0.0.1:{NODE_PORT}" in explained
    assert f"[::1]:{NODE_PORT}" in explained
    held = site.daemon.page("/debug/kernel?service=default/web") or ""
    assert "localhost: " in held
    assert site.daemon.terminate() == 0


@pytest.mark.requires("userspace")
def test_mode_userspace_serves_them_itself(site: Site) -> None:
    state = site.start("userspace")

    assert state["mode"] == "userspace"
    for at in (*LOCALHOST, *site.world.node.addresses):
        assert site.answering(at) == set("abc")
    assert site.answering(LOCALHOST[0], "udp") == set("abc")
    explained = site.daemon.page("/debug/explain?service=default/web&output=text") or ""
    assert f"[::1]:{NODE_PORT}" in explained
    held = site.daemon.page("/debug/kernel?service=default/web") or ""
    assert f"listens at TCP 127.0.0.1:{NODE_PORT}" in held
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
def test_what_changes_changes_at_localhost_too(site: Site) -> None:
    site.start("nftables")

    site.list_pods("b")
    until(lambda: site.answering("127.0.0.1") == {"b"}, "the only endpoint serves")
    site.list_pods("")
    until(
        lambda: site.answering("127.0.0.1") == {Failure.REFUSED.value},
        "without an endpoint it is refused, or reset",
    )
    site.directory.remove("service")
    until(lambda: site.listening() == [], "nobody listens any more")
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
def test_a_port_that_a_program_of_the_node_has_is_told_and_the_rest_is_served(
    site: Site,
) -> None:
    with site.world.node.serve(f"tcp:{NODE_PORT}"):
        state = site.start("nftables")

        assert state["degraded"] == []
        assert (
            "is not served at localhost, trying again: listen at TCP 127.0.0.1:30080: "
            in "\n".join(site.daemon.log())
        )
        outcome = site.world.client.ask(VIP.v4, 80)
        assert isinstance(outcome, Answer)
        assert site.answering(site.world.node.addresses.v4) == set("abc")
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
@pytest.mark.parametrize(
    ("flags", "ranges"),
    [
        pytest.param(
            ["--iptables-localhost-nodeports=false"], "0.0.0.0/0,::/0", id="switched off"
        ),
        pytest.param([], "primary", id="ranges leave it out"),
    ],
)
def test_where_localhost_is_not_wanted_nobody_listens(
    site: Site, flags: list[str], ranges: str
) -> None:
    site.start("nftables", *flags, ranges=ranges)

    assert site.listening() == []
    assert site.answering("127.0.0.1") == {Failure.REFUSED.value}
    assert site.daemon.terminate() == 0
