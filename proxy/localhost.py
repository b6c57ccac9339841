"""NodePorts at 127.0.0.1 and ::1: who serves them where the kernel's rules cannot. Pure.

Packets to loopback cannot be translated to another host without telling the kernel to route such addresses (route_localhost), which
mode iptables does for IPv4, as kube-proxy does. Elsewhere a second backend listens there, and is told these frontends only.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from msgspec import structs

from proxy.desired import Desired, DesiredPort
from proxy.desired_node import PRIMARY, DesiredNode, family_of, is_in_any
from proxy.model import FAMILIES, Family, PortKey

ADDRESSES: Final[Mapping[Family, str]] = {"IPv4": "127.0.0.1", "IPv6": "::1"}


def families(node_port_addresses: tuple[str, ...]) -> tuple[Family, ...]:
    """Return the families whose NodePorts are open at localhost: those without a range, and those with one that holds it.

    As for kube-proxy, the primary address of the Node (`primary`) is another one.
    """
    if PRIMARY in node_port_addresses:
        return ()
    return tuple([each for each in FAMILIES if _is_open(each, node_port_addresses)])


def _is_open(family: Family, node_port_addresses: tuple[str, ...]) -> bool:
    ranges = [each for each in node_port_addresses if family_of(each) == family]
    return not ranges or is_in_any(ADDRESSES[family], ranges)


def is_served(key: PortKey, families: Collection[Family]) -> bool:
    """Whether a NodePort of this ServicePort is served at localhost: a listener of ours forwards TCP and UDP."""
    return key.family in families and key.name.protocol != "SCTP"


class Localhost:
    """What of the desired data plane is at localhost, in some families. A view: nothing is walked through."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.families = families
        self._whole: Desired | None = None
        self._part: Desired | None = None

    def of(self, desired: Desired) -> Desired:
        """Return the part; the same one as long as it is about the same."""
        whole, part = self._whole, self._part
        if whole is None or part is None or desired.ports is not whole.ports:
            part = Desired(_NodePorts(desired.ports, self.families), self._node(desired.node))
        elif desired.node is not whole.node:
            part = Desired(part.ports, self._node(desired.node))
        self._whole, self._part = desired, part
        return part

    def _node(self, node: DesiredNode) -> DesiredNode:
        listened_on = {
            each: (ADDRESSES[each],) if each in self.families else () for each in FAMILIES
        }
        return DesiredNode(node_port_addresses=listened_on, pod_cidrs=node.pod_cidrs)


class _NodePorts(Mapping[PortKey, DesiredPort]):
    """The ServicePorts with a NodePort, and of them only that frontend."""

    def __init__(self, ports: Mapping[PortKey, DesiredPort], families: tuple[Family, ...]) -> None:
        self._ports = ports
        self._families = families

    def __getitem__(self, key: PortKey) -> DesiredPort:
        port = self._ports[key]
        frontends = tuple([each for each in port.frontends if each.kind == "NodePort"])
        if not (frontends and is_served(key, self._families)):
            raise KeyError(key)
        return structs.replace(port, frontends=frontends)

    def __iter__(self) -> Iterator[PortKey]:
        return (key for key in self._ports if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
