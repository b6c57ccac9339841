"""Who is on this node: the node itself, and pods here (detectLocalMode). Pure.

To whoever is here, external frontends with policy Local offer all endpoints. The node asks from one of its own addresses, or
from the very address it asks.
"""

from typing import Final

from proxy.addresses import bounds_of, pack_ip
from proxy.config.settings import LocalMode
from proxy.desired_node import DesiredNode, family_of
from proxy.model import FAMILIES, Family, Value

BY_INTERFACE: Final = frozenset(["BridgeInterface", "InterfaceNamePrefix"])


class Detector(Value, frozen=True, kw_only=True):
    """How pods here are told: by address (`cidrs`, or the Node's own ranges), or by the interface they come in by."""

    mode: LocalMode = "ClusterCIDR"
    cidrs: tuple[str, ...] = ()
    interface: str = ""

    @property
    def is_by_interface(self) -> bool:
        return self.mode in BY_INTERFACE

    def ranges(self, node: DesiredNode) -> tuple[str, ...]:
        """Return the ranges of pods here; none where interfaces tell."""
        if self.is_by_interface:
            return ()
        return node.pod_cidrs if self.mode == "NodeCIDR" else self.cidrs

    def is_pod_interface(self, name: str) -> bool:
        """Whether what comes in by that interface comes from a pod here."""
        if self.mode == "BridgeInterface":
            return name == self.interface
        return self.mode == "InterfaceNamePrefix" and name.startswith(self.interface)


class Here:
    """Whoever is here: the addresses of this host, ranges of pods, and the numbers of interfaces by which pods come in."""

    def __init__(
        self,
        host: frozenset[str] = frozenset(),
        ranges: tuple[str, ...] = (),
        interfaces: frozenset[int] = frozenset(),
    ) -> None:
        self.host = host
        self.ranges = ranges
        self.interfaces = interfaces
        self._bounds: dict[Family, list[tuple[int, int]]] = {
            family: [bounds_of(cidr) for cidr in ranges if family_of(cidr) == family]
            for family in FAMILIES
        }

    def is_node(self, client: str, asked: str) -> bool:
        """Whether a client with that canonical address, which asks another one, is the node itself."""
        return client == asked or client in self.host

    def holds(self, client: str, asked: str, interface: int = 0) -> bool:
        """Whether it is the node or a pod here; `interface` is the one it comes in by, 0 if that is not known."""
        if interface in self.interfaces or self.is_node(client, asked):
            return True
        bounds = self._bounds[family_of(client)]
        if not bounds:
            return False
        number = int.from_bytes(pack_ip(client))
        return any(first <= number < beyond for first, beyond in bounds)
