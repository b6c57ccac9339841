"""Elements of sets that are there for the node itself, not for a service: where NodePorts are served, and the ranges of services. Pure.

Knows of DesiredNode, which is the same for all backends, and of two sets that each of their tables has.
"""

from collections.abc import Callable, Iterable
from typing import Final

from backends.kernel.nft_ranges import interval_keys
from backends.kernel.nft_values import ABSENT, Values
from proxy.addresses import pack_ip, parse_cidr
from proxy.desired_node import DesiredNode
from proxy.model import Family, Value

NODEPORT_IPS: Final = "nodeport-ips"
SERVICE_CIDRS: Final = "service-cidrs"


class NodePart(Value, frozen=True):
    """What of the whole node is programmed: the elements of each set that are there for the node, not for a service.

    `described` is the DesiredNode they stand for, `is_settled` whether all services were programmed before.
    """

    described: DesiredNode
    is_settled: bool
    members: frozenset[tuple[Family, str, bytes]] = frozenset()


def plan_node(
    values: Callable[[Family, str], Values],
    families: Iterable[Family],
    old: NodePart | None,
    node: DesiredNode,
    *,
    is_settled: bool,
) -> NodePart | None:
    """Ask for what is there for the node itself; None if that is as it was.

    `values` returns those of one set, to be filled in. Addresses that no service has are dropped only once all services
    are there.
    """
    if old is not None and old.described is node and old.is_settled == is_settled:
        return None
    members = node_members(node, families, is_settled=is_settled)
    if old is not None and members == old.members and old.is_settled == is_settled:
        return NodePart(node, is_settled, members)
    for family, name, key in old.members - members if old is not None else ():
        values(family, name)[key] = (ABSENT, None)
    for family, name, key in members:
        values(family, name)[key] = (None, None)
    return NodePart(node, is_settled, members)


def node_members(
    node: DesiredNode, families: Iterable[Family], *, is_settled: bool
) -> frozenset[tuple[Family, str, bytes]]:
    """Return the elements that are there for the node itself."""
    members: set[tuple[Family, str, bytes]] = set()
    cidrs = [cidr for cidr in map(parse_cidr, node.service_cidrs) if cidr is not None]
    for family in families:
        for text in node.node_port_addresses.get(family) or ():
            members.add((family, NODEPORT_IPS, pack_ip(text)))
        own = [cidr.text for cidr in cidrs if cidr.family == family] if is_settled else []
        members.update([(family, SERVICE_CIDRS, key) for key in interval_keys(family, own)])
    return frozenset(members)
