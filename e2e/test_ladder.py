"""Which mode runs where the best cannot, or can program nothing any more: told everywhere, and no mode that was asked for is left silently."""

import contextlib
import http.client
import json
import ssl
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from e2e import kubeadm, topology, without_netfilter
from e2e.client import Answer
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, Wire, address, node, service, slices, synced, until
from e2e.namespace import Namespace, reap
from e2e.topology import CLUSTER_CIDRS, World
from tests.apiserver.process import StandIn

VIP = address(10)
NODE_PORT_VIP, NODE_PORT = address(11), 30080
POD_PORTS: Final = [("web", "tcp", 8080)]
HEALTH_PORT: Final = 10256
REFUSED: Final = "open a netlink socket: Protocol not supported"
KEPT_FROM_NETFILTER: Final = [sys.executable, "-I", str(Path(without_netfilter.__file__))]
"""In front of the daemon: the kernel itself refuses it everything of netfilter."""
TAKEN: Final = """\
delete table ip sliceproxy; delete table ip6 sliceproxy; \
add table ip sliceproxy { flags owner; }; add table ip6 sliceproxy { flags owner; }
"""


def objects(world: World) -> list[Wire]:
    """A service with all pods."""
    ports = slices("web", world.pods, [("web", "tcp", 8080)], world)
    return [node(world), service("web", VIP, [("web", "tcp", 80)]), *ports]


class Site:
    """A node with three pods behind a service, and its daemon, not yet started."""

    def __init__(self, world: World, tmp: Path, source: Sequence[str] = ()) -> None:
        """`source` are the arguments that say where objects come from, if not from files."""
        self.world = world
        self._own = tmp / "sliceproxy.conf"
        if not source:
            directory = Directory(tmp / "manifests")
            directory.put("objects", *objects(world))
            ranges = ("--cluster-cidr", ",".join(CLUSTER_CIDRS))
            source = (*Manifests(directory.path).arguments, *ranges)
        own = ("--sliceproxy-config", str(self._own), "--state-dir", str(tmp / "state"))
        self.daemon = Daemon(world.node.namespace, NODE_NAME, [*source, *own], tmp / "log")

    def configure(self, *lines: str) -> None:
        """Write our own configuration file."""
        head = ["apiVersion: sliceproxy/v1alpha1", "kind: SliceProxyConfiguration"]
        self._own.write_text("\n".join([*head, *lines, ""]))

    def start(self) -> dict[str, Any]:
        self.daemon.start()
        return synced(self.daemon)

    def wait_for_mode(self, mode: str) -> dict[str, Any]:
        """Return the state of the daemon as soon as it has programmed everything in a mode."""
        state: dict[str, Any] = {}

        def is_programmed() -> bool:
            self.daemon.check()
            state.update(self.daemon.state() or {})
            return bool(state.get("synced")) and state["mode"] == mode

        until(is_programmed, f"mode {mode} has programmed everything")
        return state

    def answering(self) -> set[str]:
        """Who answers new connections from outside: names of pods, or ways to fail."""
        outcomes = [outcome for vip in VIP for outcome in self.world.client.ask_often(20, vip, 80)]
        return {each.name if isinstance(each, Answer) else each.value for each in outcomes}

    def log(self) -> str:
        return "\n".join(self.daemon.log())

    def words(self) -> str:
        """The line of /readyz about the mode."""
        page = self.daemon.page("/readyz", HEALTH_PORT) or ""
        (line,) = [each for each in page.splitlines() if "]mode " in each]
        return line

    def metrics(self) -> list[str]:
        """The lines of the metrics about the mode."""
        page = self.daemon.page("/metrics") or ""
        return [e for e in page.splitlines() if e.startswith("sliceproxy_") and "mode" in e]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield Site(world, tmp_path)


@contextlib.contextmanager
def tables_taken(namespace: Namespace) -> Iterator[None]:
    """Somebody else owns tables of our names: the kernel then refuses all our transactions, for as long as he lives."""
    process = namespace.popen(["nft", "--interactive"])
    assert process.stdin is not None
    process.stdin.write(TAKEN)
    process.stdin.flush()
    try:
        yield
    finally:
        reap(process)


# --- where the mode that is named cannot run


@pytest.mark.parametrize("mode", ["nftables", "iptables", "ipvs"])
def test_a_named_mode_that_cannot_run_ends_with_what_is_missing_and_a_way_out(
    site: Site, mode: str
) -> None:
    site.configure(f"mode: {mode}")
    site.daemon.launcher = KEPT_FROM_NETFILTER

    site.daemon.start()

    assert site.daemon.wait() == 1
    (complaint,) = [line for line in site.daemon.log() if line.startswith("sliceproxy: ")]
    assert complaint.startswith(f"sliceproxy: mode {mode} cannot run here: {mode}: ")
    assert "leave `mode` empty" in complaint
    assert "set `fallback: userspace`" in complaint


# --- where the mode that runs can program nothing any more


@pytest.mark.requires("nftables", "iptables", "ipset")
def test_a_mode_that_can_program_nothing_any_more_gives_way_to_the_next(site: Site) -> None:
    site.configure("fallbackAfter: 1s")
    before = site.start()
    assert (before["mode"], before["passedOver"], before["degraded"]) == ("nftables", [], [])
    assert site.words() == "[+]mode ok"

    with tables_taken(site.world.node.namespace):
        state = site.wait_for_mode("iptables")
        until(lambda: site.answering() == set("abc"), "the next mode serves")
        until(lambda: "trying again" in site.log(), "what is left is tried to be removed")

    assert state["passedOver"][0]["mode"] == "nftables"
    assert state["passedOver"][0]["primitive"] == "nothing could be programmed for 1 s"
    assert "Operation not permitted" in state["passedOver"][0]["how"]
    assert state["modeChanges"] == 1
    assert site.words().startswith("[-]mode failed: mode iptables instead of nftables")
    assert "Operation not permitted" in site.words()
    assert 'sliceproxy_mode_info{mode="iptables"} 1.0' in site.metrics()
    assert 'sliceproxy_passed_over_mode{mode="nftables"} 1.0' in site.metrics()
    assert 'sliceproxy_passed_over_mode{mode="iptables"} 0.0' in site.metrics()
    assert "sliceproxy_mode_changes_total 1.0" in site.metrics()
    assert "going on in mode iptables" in site.log()
    # the tables went with their owner; ours are not made again
    assert "sliceproxy" not in site.world.node.namespace.run(["nft", "list", "tables"])
    assert site.answering() == set("abc")
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
def test_a_named_mode_stays_and_says_that_nobody_may_take_over(site: Site) -> None:
    site.configure("mode: nftables", "fallbackAfter: 1s")
    site.start()

    with tables_taken(site.world.node.namespace):
        until(lambda: "no other may be tried" in site.words(), "it is told at /readyz")
        assert "Operation not permitted" in site.words()
        assert "no other may be tried; trying on" in site.log()

    until(lambda: site.words() == "[+]mode ok", "it works again")
    until(lambda: site.answering() == set("abc"), "the same mode serves")
    state = synced(site.daemon)
    assert (state["mode"], state["modeChanges"]) == ("nftables", 0)
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
def test_who_takes_over_serves_localhost_in_place_of_the_listener_beside_the_mode_before(
    site: Site, tmp_path: Path
) -> None:
    made = service("open", NODE_PORT_VIP, [("web", "tcp", 80)])
    made["spec"]["type"] = "NodePort"
    made["spec"]["ports"][0]["nodePort"] = NODE_PORT
    directory = Directory(tmp_path / "manifests")
    directory.put("open", made, *slices("open", site.world.pods, POD_PORTS, site.world))
    site.configure("mode: nftables", "fallback: userspace", "fallbackAfter: 1s")
    site.daemon.arguments += ["--nodeport-addresses", "0.0.0.0/0,::/0"]
    site.start()

    def at_localhost() -> set[str]:
        found = [
            each
            for at in ("127.0.0.1", "::1")
            for each in site.world.node.ask_often(20, at, NODE_PORT)
        ]
        return {each.name if isinstance(each, Answer) else each.value for each in found}

    assert at_localhost() == set("abc")
    with tables_taken(site.world.node.namespace):
        directory.put("more", service("more", address(12), [("web", "tcp", 80)]))
        state = site.wait_for_mode("userspace")

        assert (state["quarantined"], state["modeChanges"]) == ([], 1)
        # what the old mode believed of endpoints is not kept up any more
        directory.put("open", made, *slices("open", site.world.pods[:1], POD_PORTS, site.world))
        first = site.world.pods[0].name
        until(lambda: at_localhost() == {first}, "the old mode's listener has gone")
    assert site.daemon.terminate() == 0


# --- where the kernel has nothing of netfilter


def test_without_netfilter_the_forwarder_takes_over_and_says_why_everywhere(
    tmp_path: Path,
) -> None:
    with (
        topology.world(pods=3) as world,
        StandIn(tmp_path / "api", popen=world.node.namespace.popen) as server,
    ):
        topology.serve_on(world.pods, "tcp:8080")
        server.put(*objects(world))
        config = kubeadm.write(tmp_path / "config.conf", server.kubeconfig)
        site = Site(world, tmp_path, ["--config", str(config)])
        site.configure()
        site.daemon.launcher = KEPT_FROM_NETFILTER

        state = site.start()

        assert state["mode"] == "userspace"
        assert [each["mode"] for each in state["passedOver"]] == ["nftables", "ipvs", "iptables"]
        assert f"{state['passedOver'][0]['primitive']}: {state['passedOver'][0]['how']}" == REFUSED
        assert [each["code"] for each in state["degraded"]] == ["mode"]
        words = "mode userspace instead of nftables, ipvs, iptables: nftables: "
        assert site.words().startswith(f"[-]mode failed: {words}{REFUSED}")
        assert "sliceproxy_fallback 1.0" in (site.daemon.page("/metrics") or "")
        assert 'sliceproxy_mode_info{mode="userspace"} 1.0' in site.metrics()
        for mode in ("nftables", "ipvs", "iptables"):
            assert f'sliceproxy_passed_over_mode{{mode="{mode}"}} 1.0' in site.metrics()
            assert f"passed over: mode {mode}: " in site.log()
        until(lambda: "ProxyModeFallback" in told(server, world.node.namespace), "an Event tells")
        event = told(server, world.node.namespace)["ProxyModeFallback"]
        assert (event["type"], event["regarding"]["kind"]) == ("Warning", "Node")
        assert event["note"].startswith(f"{words}{REFUSED}")
        assert " ERROR " not in site.log()
        assert site.answering() == set("abc")
        assert site.daemon.terminate() == 0
        cleanup = [*KEPT_FROM_NETFILTER, sys.executable, "-I", "-m", "proxy", "cleanup"]
        assert world.node.namespace.run(cleanup).startswith("userspace: removed ")


def told(server: StandIn, node: Namespace) -> dict[str, Any]:
    """The Events that the API server has, by reason."""
    address = urllib.parse.urlsplit(server.url)
    trusted = ssl.create_default_context(cafile=server.authority)
    headers = {"Authorization": f"Bearer {server.token_file.read_text()}"}
    with node.entered():
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=trusted, timeout=5.0
        )
        with contextlib.closing(connection):
            connection.request("GET", "/apis/events.k8s.io/v1/events", headers=headers)
            listed = json.load(connection.getresponse())
    return {each["reason"]: each for each in listed["items"]}


def test_a_named_mode_falls_back_if_that_is_configured(site: Site) -> None:
    site.configure("mode: nftables", "fallback: userspace")
    site.daemon.launcher = KEPT_FROM_NETFILTER

    state = site.start()

    assert (state["mode"], [each["mode"] for each in state["passedOver"]]) == (
        "userspace",
        ["nftables"],
    )
    assert site.answering() == set("abc")
    assert site.daemon.terminate() == 0


@pytest.mark.requires("nftables")
def test_a_named_mode_that_can_program_nothing_any_more_falls_back_too(site: Site) -> None:
    site.configure("mode: nftables", "fallback: userspace", "fallbackAfter: 1s")
    site.start()

    with tables_taken(site.world.node.namespace):
        state = site.wait_for_mode("userspace")
        until(lambda: site.answering() == set("abc"), "the forwarder serves")

    assert [each["mode"] for each in state["passedOver"]] == ["nftables"]
    assert site.daemon.terminate() == 0
