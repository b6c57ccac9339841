"""What of the desired data plane concerns the whole node: where NodePorts listen, which sources are pods here. Pure.

Computed from settings, the own Node, the addresses on this host's interfaces, and the ServiceCIDRs of the cluster.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from proxy.addresses import bounds_of, pack_ip, parse_cidr, parse_ip
from proxy.model import FAMILIES, Family, NodeInfo, Value

PRIMARY: Final = "primary"


class NodeSettings(Value, frozen=True, kw_only=True):
    """What of the settings the node's part of the data plane depends on.

    `node_port_addresses` are ranges, or (`primary`,) for the Node's own address of each family. `bind_address`, where
    it is a specified one, stands for the Node's address of its family. `serves_external_ips` is the feature gate
    AllowServiceExternalIPs: without it nobody who may write a Service can claim an address of somebody else.
    """

    node_port_addresses: tuple[str, ...] = ()
    bind_address: str = ""
    uses_pod_cidrs: bool = False
    serves_external_ips: bool = True


class DesiredNode(Value, frozen=True, kw_only=True):
    """What concerns the whole node.

    `node_port_addresses` are the addresses NodePorts listen on, sorted; None (or no entry) for every local address of
    the family but loopback. `pod_cidrs` are the ranges of pods on this node, at most one of each family; empty unless they tell
    local traffic (detectLocalMode NodeCIDR). What goes to an address in `service_cidrs` that no service has is dropped.
    """

    node_port_addresses: Mapping[Family, tuple[str, ...] | None] = {}
    pod_cidrs: tuple[str, ...] = ()
    service_cidrs: tuple[str, ...] = ()


def describe_node(
    settings: NodeSettings,
    node: NodeInfo,
    host_addresses: frozenset[str],
    service_cidrs: Iterable[str],
) -> DesiredNode:
    """Describe the node. While `host_addresses` are not known (empty), the Node's addresses stand in for them."""
    return DesiredNode(
        node_port_addresses={
            family: _listened_on(settings, node, host_addresses, family) for family in FAMILIES
        },
        pod_cidrs=_first_of_each_family(node.pod_cidrs) if settings.uses_pod_cidrs else (),
        service_cidrs=tuple(sorted(set(service_cidrs))),
    )


def node_address(settings: NodeSettings, node: NodeInfo, family: Family) -> str | None:
    """Return the Node's own address of a family, internal ones first; None while it is not known."""
    bound = parse_ip(settings.bind_address)
    if bound is not None and bound.family == family and any(bound.packed):
        return bound.text
    for address in node.addresses:
        if family_of(address) == family:
            return address
    return None


def family_of(address: str) -> Family:
    """Return the family of a canonical address or range."""
    return "IPv6" if ":" in address else "IPv4"


def is_loopback(address: str) -> bool:
    """Whether a canonical address is one that NodePorts are never served on."""
    return address == "::1" or address.startswith("127.")


def is_in_any(address: str, cidrs: Iterable[str]) -> bool:
    """Whether a canonical address is in one of some canonical ranges of whichever family."""
    number, family = int.from_bytes(pack_ip(address)), family_of(address)
    bounds = (bounds_of(cidr) for cidr in cidrs if family_of(cidr) == family)
    return any(start <= number < beyond for start, beyond in bounds)


def _listened_on(
    settings: NodeSettings, node: NodeInfo, host_addresses: frozenset[str], family: Family
) -> tuple[str, ...] | None:
    """Return the addresses in the ranges of the family; None if it has no range, or one that holds everything.

    As in kube-proxy, ranges of one family leave the other open, and so does a primary address that is unknown or loopback.
    """
    ranges: list[str] = []
    for entry in settings.node_port_addresses:
        if entry == PRIMARY:
            own = node_address(settings, node, family)
            if own is not None and not is_loopback(own):
                ranges.append(f"{own}/{32 if family == 'IPv4' else 128}")
        elif (cidr := parse_cidr(entry)) is not None and cidr.family == family:
            if not cidr.prefix_length:
                return None
            ranges.append(cidr.text)
    if not ranges:
        return None
    found = {
        address
        for address in host_addresses or node.addresses
        if family_of(address) == family and is_in_any(address, ranges)
    }
    return tuple(sorted([address for address in found if not is_loopback(address)]))


def _first_of_each_family(cidrs: Iterable[str]) -> tuple[str, ...]:
    first: dict[Family, str] = {}
    for cidr in cidrs:
        first.setdefault(family_of(cidr), cidr)
    return tuple(first.values())
