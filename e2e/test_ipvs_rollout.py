"""Mode ipvs: what becomes of open connections while endpoints are replaced, and the daemon with them."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from backends.ipvs import deadlines
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load
from e2e import topology
from e2e.client import Answer, Conversation
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.flows import tally
from e2e.manifests import NODE_NAME, Directory, address, node, slices, synced
from e2e.topology import Addresses, World
from tests.builders import make_service
from tests.effort import patience_s

pytestmark = pytest.mark.requires("ipvs", "dummy", "nftables")

CONNECTIONS = 200
OLD, NEW = "abcd", "efgh"
CLUSTER_IP = address(10)
VIP = Addresses("203.0.113.10", "2001:db8::10")
NODE_PORT = 30080
LISTS = 4
"""Virtual servers that lead to a pod: of the cluster IP, and one behind VIP and node port, in each family."""
LOOK_S = 5.0
FORGETTING_S = 10.0
"""How long IPVS remembers a connection that was reset."""
SLACK_S = patience_s(15.0)
_LIMIT_S = patience_s(60.0)
_PAUSE_S = patience_s(0.05)
"""Between two looks, each of which takes long where the machine is emulated."""


class Talk(NamedTuple):
    """An open connection, and who is at its other end."""

    conversation: Conversation
    partner: str


class Site:
    """A node with pods that serve, a service in front of some of them, and its daemon in mode ipvs."""

    def __init__(self, world: World, tmp: Path, *, drain_timeout_s: float = 900.0) -> None:
        self.world = world
        self._directory = Directory(tmp / "manifests")
        own = tmp / "sliceproxy.yaml"
        own.write_text(
            "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\n"
            f"ipvs: {{drainTimeout: {drain_timeout_s:g}s}}\n"
        )
        arguments = [
            *Manifests(self._directory.path).arguments,
            *("--proxy-mode", "ipvs", "--sliceproxy-config", str(own)),
            *("--state-dir", str(tmp / "state")),
        ]
        self._state = tmp / "state" / deadlines.FILE
        self.daemon = Daemon(world.node.namespace, NODE_NAME, arguments, tmp / "log")
        service = make_service(
            "web",
            cluster_ips=list(CLUSTER_IP),
            type="LoadBalancer",
            ports=[{"name": "web", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT}],
            ingress=[{"ip": each, "ipMode": "VIP"} for each in VIP],
        )
        self._directory.put("node", node(world))
        self._directory.put("service", service)

    def start(self) -> None:
        """Start the daemon; everything is programmed when this returns."""
        self.daemon.start()
        synced(self.daemon)

    def list_pods(self, names: str) -> None:
        """Make these the endpoints of the service."""
        pods = [self.world.node.pods[name] for name in names]
        self._directory.put("slices", *slices("web", pods, [("web", "tcp", 8080)], self.world))

    def destinations(self) -> dict[str, list[tuple[Destination, Load]]]:
        """What the kernel has of each pod, by its name, over all virtual servers."""
        names = {each: pod.name for pod in self.world.pods for each in pod.addresses}
        found: dict[str, list[tuple[Destination, Load]]] = {
            pod.name: [] for pod in self.world.pods
        }
        with self.world.node.entered(), Ipvs() as ipvs:
            for server in ipvs.list_servers():
                for destination, load in ipvs.list_destinations(server.id):
                    found[names[destination.address]].append((destination, load))
        return found

    def weights(self) -> dict[str, list[int]]:
        """The weights of each pod's destinations; without those of pods that have none."""
        return {
            name: [destination.weight for destination, _ in held]
            for name, held in self.destinations().items()
            if held
        }

    def wait_until_listed(self, names: str, *, and_draining: str) -> None:
        """Wait until these pods, and no others, are given new connections, and these have no others but keep theirs."""
        expected = {name: [int(name in names)] * LISTS for name in names + and_draining}
        _until(lambda: self.weights() == expected, f"{names} are listed")

    def wait_until_saved(self, name: str) -> None:
        """Wait until the daemon has put down until when a pod's destinations may drain, which it does within a second."""
        own = self.world.node.pods[name].addresses
        _until(
            lambda: sum(place[0] in own for _, place in deadlines.load(self._state)) == LISTS,
            "deadlines are saved",
        )

    def talk(self, stack: contextlib.ExitStack, count: int) -> list[Talk]:
        """Open connections from outside, over all frontends and families in turn."""
        frontends = [
            *((each, 80) for each in (*CLUSTER_IP, *VIP)),
            *((each, NODE_PORT) for each in self.world.node.addresses),
        ]
        talks = []
        for place, port in itertools.islice(itertools.cycle(frontends), count):
            conversation = self.world.client.converse(place, port, timeout_s=patience_s(1.0))
            stack.callback(_end, conversation)
            talks.append(Talk(conversation, conversation.ask().name))
        return talks

    def new_partners(self) -> set[str]:
        """Who answers new connections."""
        answers = [
            self.world.client.ask(each, 80, timeout_s=patience_s(1.0))
            for each in (*CLUSTER_IP, *VIP) * len(OLD)
        ]
        assert all(isinstance(each, Answer) for each in answers), answers
        return {each.name for each in answers if isinstance(each, Answer)}


@contextlib.contextmanager
def made(tmp: Path, pods: int, **settings: float) -> Iterator[Site]:
    with topology.world(pods=pods) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield Site(world, tmp, **settings)


def test_a_rolling_update_and_restarts_leave_200_connections_alone(tmp_path: Path) -> None:
    with made(tmp_path, len(OLD + NEW)) as site, contextlib.ExitStack() as stack:
        site.list_pods(OLD)
        site.start()
        talks = site.talk(stack, CONNECTIONS)
        assert {each.partner for each in talks} == set(OLD)

        listed = OLD
        for old, new in zip(OLD, NEW, strict=True):
            is_middle = old == OLD[2]
            if is_middle:
                site.daemon.kill()
            listed = listed.replace(old, new)
            site.list_pods(listed)
            _all_go_on(talks)
            if is_middle:
                site.start()
            site.wait_until_listed(listed, and_draining=OLD)
            _all_go_on(talks)
            assert site.new_partners() <= set(listed)

        assert site.daemon.terminate() == 0
        site.start()
        site.wait_until_listed(NEW, and_draining=OLD)
        _all_go_on(talks)

        left_s = [_leaves(site, talks, "a"), _leaves(site, talks, "bcd")]
        assert site.weights() == dict.fromkeys(NEW, [1] * LISTS)
        tally.FIGURES.append(
            f"roll-out in mode ipvs: {CONNECTIONS} connections, none reset; destinations left"
            f" {max(left_s):.0f} s after their last connection"
        )


def _all_go_on(talks: list[Talk]) -> None:
    """Every connection that is open is answered, by whom it was before."""
    assert [each.conversation.ask().name for each in talks] == [each.partner for each in talks]


def _leaves(site: Site, talks: list[Talk], names: str) -> float:
    """End the connections of these pods; return how long their destinations stay. The other connections go on."""
    begun_s = time.monotonic()
    for each in [each for each in talks if each.partner in names]:
        each.conversation.close()
        talks.remove(each)
    is_left = set(names).isdisjoint
    _until(lambda: is_left(site.weights()), f"{names} leave", FORGETTING_S + LOOK_S + SLACK_S)
    left_s = time.monotonic() - begun_s
    _all_go_on(talks)
    return left_s


def test_a_destination_leaves_at_its_deadline_whatever_it_has(tmp_path: Path) -> None:
    timeout_s = patience_s(6.0)
    with (
        made(tmp_path, 2, drain_timeout_s=timeout_s) as site,
        contextlib.ExitStack() as stack,
    ):
        site.list_pods("ab")
        site.start()
        talks = site.talk(stack, 12)
        first, second = ([each for each in talks if each.partner == name] for name in "ab")
        assert first
        assert second

        begun_s = time.monotonic()
        site.list_pods("b")
        site.wait_until_listed("b", and_draining="a")
        _all_go_on(first)
        _until(lambda: "a" not in site.weights(), "a leaves", timeout_s + SLACK_S)
        assert time.monotonic() >= begun_s + timeout_s
        assert [line for line in site.daemon.log() if "its time is up" in line]
        with pytest.raises(ConnectionError):
            first[0].conversation.ask()

        # the time goes on while no daemon runs, and one that starts knows of it
        site.list_pods("a")
        site.wait_until_listed("a", and_draining="b")
        over_s = time.monotonic() + timeout_s
        site.wait_until_saved("b")
        site.daemon.kill()
        _until(lambda: time.monotonic() > over_s, "its time is up", timeout_s + 1)
        _all_go_on(second)
        started_s = time.monotonic()
        site.start()
        _until(lambda: "b" not in site.weights(), "b leaves")
        assert time.monotonic() < started_s + timeout_s, "its time has begun anew"
        with pytest.raises(ConnectionError):
            second[0].conversation.ask()


def _until(is_so: Callable[[], bool], what: str, limit_s: float = _LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"{what}: not within {limit_s:.0f} s"
        time.sleep(_PAUSE_S)


def _end(conversation: Conversation) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        conversation.close()
