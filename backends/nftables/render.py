"""What a DesiredPort looks like in our tables: keys, verdicts and pools as the kernel holds them. Pure.

Keys are the concatenations the kernel builds from a packet: each part in network byte order, padded to
four bytes; `slots` appends the number of a slot.
"""

import functools
from typing import Final, NamedTuple

from backends.kernel.nft_phrases import PROTOCOL_NUMBERS
from backends.nftables.affinity import Affinity, affinity_of
from backends.nftables.model import (
    CLUSTER_IPS,
    EXTERNAL_IPS,
    GUARDED,
    HAIRPIN,
    PLACES,
    Kind,
    SharedMember,
    Target,
)
from backends.nftables.names import capacity_for, picking_chain
from backends.nftables.ranges import admitted, admitted_itself
from proxy.addresses import pack_ip
from proxy.desired import DesiredPort, Frontend, FrontendKind
from proxy.model import LOCAL, Protocol

_PADDING: Final = b"\0\0"
_KINDS: Final[dict[FrontendKind, Kind]] = {
    "ClusterIP": "cluster-ip",
    "NodePort": "node-port",
    "ExternalIP": "external-ip",
    "LoadBalancer": "external-ip",
}

Pool = tuple[bytes, ...]


class Lead(NamedTuple):
    """Where the verdict of a frontend leads. `empty` are the capacities that may as well be others: of empty pools."""

    chain: str
    empty: tuple[str, ...]


class RenderedFrontend(NamedTuple):
    """A frontend ready to be planned: what it occupies, where it leads, and the endpoints of its lists.

    A list is None if no verdict of the frontend leads to its slots. `members` are the plain sets in which its key is.
    """

    target: Target
    lead: Lead
    cluster: Pool | None
    local: Pool | None
    members: tuple[str, ...]


class RenderedPort(NamedTuple):
    """A DesiredPort ready to be planned."""

    frontends: tuple[RenderedFrontend, ...]
    shared: frozenset[SharedMember]
    affinity: Affinity | None
    cluster: Pool
    local: Pool


def render_port(port: DesiredPort) -> RenderedPort:
    """Render a ServicePort with all its frontends."""
    cluster = tuple([endpoint.packed for endpoint in port.cluster or ()])
    local = tuple([endpoint.packed for endpoint in port.local or ()])
    affinity = affinity_of(port)
    frontends = [_render_frontend(port, each, cluster, local, affinity) for each in port.frontends]
    return RenderedPort(
        tuple(frontends),
        _render_shared(port),
        affinity,
        cluster,
        local,
    )


def _render_frontend(
    port: DesiredPort,
    frontend: Frontend,
    cluster: Pool,
    local: Pool,
    affinity: Affinity | None,
) -> RenderedFrontend:
    kind, protocol = _KINDS[frontend.kind], port.key.name.protocol
    number = frontend.port.to_bytes(2, "big") + _PADDING
    address = b"" if frontend.address is None else pack_ip(frontend.address)
    key = address + PROTOCOL_NUMBERS[protocol].to_bytes(1) + b"\0\0\0" + number
    is_outer = kind != "cluster-ip"
    is_local = port.external_local if is_outer else port.internal_local
    timeout_s = affinity.timeout_s if affinity is not None else 0
    lead = _lead(protocol, kind, len(cluster), len(local), timeout_s, is_local=is_local)
    uses_cluster, uses_local = is_outer or not is_local, is_local
    if affinity is not None:
        uses_cluster = uses_local = False  # its slots are the ServicePort's, see `sticky`
    members = [] if port.is_any_usable else [PLACES[kind].refused]
    ranges: dict[tuple[str, bytes], None] = {}
    if port.source_ranges and frontend.kind == "LoadBalancer":
        members.append(GUARDED)
        ranges = dict.fromkeys(admitted(key, port.source_ranges))
        if port.allows_own_vips:
            ranges[admitted_itself(key, address)] = None
    target = Target(
        kind,
        key,
        address + number,
        protocol,
        len(cluster) if uses_cluster else 0,
        len(local) if uses_local else 0,
        tuple(ranges),
    )
    return RenderedFrontend(
        target,
        lead,
        cluster if uses_cluster else None,
        local if uses_local else None,
        tuple(members),
    )


@functools.lru_cache(maxsize=4096)
def _lead(
    protocol: Protocol, kind: Kind, cluster: int, local: int, timeout_s: int, *, is_local: bool
) -> Lead:
    """Return where the verdict of a frontend with so many endpoints leads; a cluster has few such verdicts."""
    here, everywhere = capacity_for(local), capacity_for(cluster)
    chain = functools.partial(picking_chain, protocol, kind=kind, timeout_s=timeout_s)
    if kind == "cluster-ip":
        pool, capacity = (local, here) if is_local else (cluster, everywhere)
        return Lead(chain(capacity, is_local=is_local), () if pool else ("capacity",))
    if is_local:
        empty = [*([] if cluster else ["capacity"]), *([] if local else ["here"])]
        return Lead(chain(everywhere, act="split", here=here), tuple(empty))
    return Lead(chain(everywhere, act="external"), () if cluster else ("capacity",))


def _render_shared(port: DesiredPort) -> frozenset[SharedMember]:
    """Render what several ServicePorts may share.

    The cluster IP marks all other ports of that address as undefined. A pod that reaches itself through a
    service must be masqueraded, or it would answer itself directly. Only endpoints on this node can do that;
    manifests may not say on which node an endpoint is.
    """
    members: set[SharedMember] = set()
    for frontend in port.frontends:
        if frontend.address is not None:
            name = CLUSTER_IPS if frontend.kind == "ClusterIP" else EXTERNAL_IPS
            members.add((name, pack_ip(frontend.address)))
    for endpoint in port.reachable:
        if endpoint.flags & LOCAL or endpoint.node_name is None:
            address = endpoint.packed[:-4]
            members.add((HAIRPIN, address + address))
    return frozenset(members)
