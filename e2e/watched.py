"""A node whose real daemon watches a stand-in API server over HTTPS, with kube-proxy's own configuration file."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from e2e import kubeadm, topology
from e2e.client import Answer, Failure
from e2e.demo.daemon import Daemon
from e2e.manifests import NODE_NAME, address, node, service, slices, synced, until
from e2e.namespace import TopologyError
from e2e.processes import Load
from e2e.topology import Addresses, World
from tests.apiserver.process import StandIn

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP, OTHER, LATER = address(10), address(11), address(12)
SOON_S = 10.0
"""How soon everything is as the server says, counted from when the server is well again: on a busy machine; else some 1 s."""

# as the defaults, only faster; a bookmark comes often enough that a healthy connection is never silent
_PATIENCE = {
    "backoffFirst": "50ms",
    "backoffMax": "400ms",
    "connectTimeout": "500ms",
    "silenceTimeout": "1200ms",
    "resumeWithin": "300ms",
    "watchListTimeout": "1s",
}
_BOOKMARK_S = 0.3
_FRESHNESS_S = 0.2
_POLL_S = 0.02
_METRICS_PORT, _HEALTHZ_PORT = 10249, 10256


class Site:
    """Three pods that serve, two services of them, their API server, and the daemon, not yet started."""

    def __init__(self, world: World, server: StandIn, tmp: Path) -> None:
        self.world = world
        self.server = server
        self.remote = server.remote
        config = kubeadm.write(tmp / "config.conf", server.kubeconfig)
        own = tmp / "sliceproxy.conf"
        document = {"apiVersion": "sliceproxy/v1alpha1", "kind": "SliceProxyConfiguration"}
        own.write_text(json.dumps({**document, "apiServer": _PATIENCE}))
        arguments = ["--config", str(config), "--sliceproxy-config", str(own)]
        self.daemon = Daemon(world.node.namespace, NODE_NAME, arguments, tmp / "log")
        self.remote.break_(bookmark_s=_BOOKMARK_S, freshness_wait_s=_FRESHNESS_S)
        server.put(node(world))
        self.put("web", VIP, "ab")
        self.put("other", OTHER, "c")

    def put(self, name: str, vip: Addresses, pods: str) -> None:
        """Have a service with these pods."""
        self.server.put(service(name, vip, PORTS))
        self.list_pods(name, pods)

    def list_pods(self, name: str, pods: str) -> None:
        """Have the slices of a service list these pods, and no others."""
        self.server.put(*self._slices(name, pods))

    def remove(self, name: str, vip: Addresses) -> None:
        """Delete a service and its slices."""
        self.server.delete([service(name, vip, PORTS), *self._slices(name, "a")])

    def _slices(self, name: str, pods: str) -> list[dict[str, Any]]:
        hosts = [self.world.node.pods[pod] for pod in pods]
        return slices(name, hosts, POD_PORTS, self.world)

    def start(self) -> None:
        """Start the daemon; everything is programmed when this returns."""
        self.daemon.start()
        synced(self.daemon)

    def answering(self, vip: Addresses = VIP, count: int = 16) -> set[str]:
        """Who answers new connections from the client over both families: names of pods, or ways to fail."""
        outcomes = [
            outcome for each in vip for outcome in self.world.client.ask_often(count, each, 80)
        ]
        return {each.name if isinstance(each, Answer) else each.value for each in outcomes}

    def is_gone(self, vip: Addresses) -> bool:
        """Whether nothing is programmed for an address any more."""
        return self.answering(vip, 1) == {Failure.UNREACHABLE.value}

    def soon(self, is_so: Callable[[], object], what: str, *, within_s: float = SOON_S) -> None:
        """Wait until something is so. Raises TopologyError, with what the daemon says, if that takes too long."""
        deadline_s = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline_s:
                said = "\n".join(self.daemon.log()[-12:])
                raise TopologyError(f"{what}: not within {within_s:g} s; the daemon:\n{said}")
            time.sleep(_POLL_S)

    def follows(self, pods: str = "bc", *, within_s: float = SOON_S) -> None:
        """The daemon hears of a change that is made now."""
        self.list_pods("web", pods)
        self.soon(lambda: self.answering() == set(pods), "a change is followed", within_s=within_s)

    def trouble(self, reason: str) -> int:
        """How often, by the daemon's own account, something went wrong for that reason."""
        return sum(each["errors"].get(reason, 0) for each in self._state()["watches"])

    def is_well(self) -> bool:
        """Whether the daemon finds nothing amiss with itself and with the server."""
        state = self._state()
        return not state["degraded"] and not any(each["error"] for each in state["watches"])

    def rejected(self) -> list[str]:
        """What the daemon cannot use, in words."""
        return [json.dumps(each) for each in self._state()["rejected"]]

    def meets(self, reason: str) -> None:
        """Wait until the daemon has counted such a trouble, which /metrics and the log name too."""
        until(lambda: self.trouble(reason) > 0, f"{reason} is counted")
        self.soon(
            lambda: any(f": {reason}: " in line for line in self.daemon.log()), "it is logged"
        )
        assert f'reason="{reason}"' in self.metrics()

    def metrics(self) -> str:
        """The text of /metrics."""
        return self._page("/metrics")

    def readyz(self) -> str:
        """What /readyz says, line by line, whatever its verdict."""
        return self._page("/readyz", _HEALTHZ_PORT)

    def _state(self) -> dict[str, Any]:
        self.daemon.check()
        state: dict[str, Any] = json.loads(self._page("/debug/state"))
        return state

    def _page(self, path: str, port: int = _METRICS_PORT) -> str:
        with self.world.node.entered():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().read().decode()

    @contextlib.contextmanager
    def under_load(self) -> Iterator[Load]:
        """New connections all the while, none of which may fail."""
        with self.world.client.load(VIP.v4, 80, rate=100, workers=2) as load:
            yield load
        outcomes = [timed.outcome for timed in load.stop()]
        assert outcomes
        assert [each for each in outcomes if not isinstance(each, Answer)] == []


@contextlib.contextmanager
def site(tmp: Path) -> Iterator[Site]:
    """A fresh one."""
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080")
        popen = world.node.namespace.popen
        with StandIn(tmp / "api", popen=popen) as server:
            yield Site(world, server, tmp)
