"""The cluster of the demo: nodes, pods and two clients, each a network namespace, removed with the `with` block."""

import contextlib
from collections.abc import Mapping
from typing import Self

from e2e import topology
from e2e.demo.interruption import Interruption
from e2e.demo.slices import Pod
from e2e.namespace import TopologyError
from e2e.topology import Host, Node

POD_PORT = 8080


class Network:
    """Three nodes in three zones. The daemon runs on the first one, `home`; both clients go through it."""

    def __init__(self, zones: Mapping[str, str], interruption: Interruption) -> None:
        self._zones = zones
        self._interruption = interruption
        self._nodes: dict[str, Node] = {}
        self._lifetime = contextlib.ExitStack()

    def __enter__(self) -> Self:
        first, *others = self._zones
        try:
            self.home = self._lifetime.enter_context(Node(first, 1))
            self._nodes[first] = self.home
            for index, name in enumerate(others, start=2):
                self._interruption.check()
                self._nodes[name] = self.home.add_node(name, index)
        except BaseException:
            self._lifetime.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lifetime.close()

    def add_clients(self) -> dict[str, Host]:
        """A host outside the cluster and a pod on the node of the daemon, by name."""
        return {"outside": self.home.add_client("outside"), "local": self.home.add_pod("local")}

    def start_pod(self, name: str, node: str) -> Pod:
        """A new pod that answers when this returns. No slice lists it yet."""
        self._interruption.check()
        host = self._nodes[node].add_pod(name)
        host.serve(f"tcp:{POD_PORT}")
        return Pod(name, node, self._zones[node], host.addresses)

    def start_pods(self, pods: list[Pod]) -> None:
        """Start pods where the slices say. Raises TopologyError if the network gives them other addresses."""
        hosts = []
        for pod in pods:
            self._interruption.check()
            hosts.append(self._nodes[pod.node].add_pod(pod.name))
            if hosts[-1].addresses != pod.addresses:
                raise TopologyError(
                    f"{pod.name} is {pod.addresses.v4} and {pod.addresses.v6} in the manifests,"
                    f" but {hosts[-1].addresses.v4} and {hosts[-1].addresses.v6} in the network"
                )
        topology.serve_on(hosts, f"tcp:{POD_PORT}")

    def stop_pod(self, pod: Pod) -> None:
        """End the pod: from now on its address is unreachable."""
        self._nodes[pod.node].remove_pod(pod.name)
