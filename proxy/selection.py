"""Which endpoints serve a ServicePort on this node, and for every endpoint the reason. Pure.

Stands between the cache (endpoints merged per service) and `desired` (frontends and pools).
The rules are those of KEP-2433, KEP-4444, KEP-3015 (topology hints), KEP-1669 (terminating
endpoints) and KEP-2086 (traffic policies):

- A ready endpoint is usable. When a list would be empty, endpoints that are serving while they
  terminate stand in for it. This is decided for the cluster list and the local list apart.
- Hints narrow the cluster list only, and only if every *ready* endpoint carries them and at least one
  of them names this node (node hints, tried first) or this node's zone.
- A list that no traffic policy of the ServicePort uses is None, which is not the same as empty.

The verdict of an endpoint depends on a handful of flags, so verdicts are made once for each
combination of flags that occurs and shared: thousands of endpoints cost one look-up each.
"""

import itertools
from collections.abc import Sequence
from typing import Final, Literal

from proxy.model import Endpoint, NodeInfo, ServicePort, Value

Topology = Literal["SameNode", "SameZone", ""]
Reason = Literal[
    "ready",  # selected: ready
    "terminating-fallback",  # selected: no ready endpoint, so serving ones that terminate stand in
    "policy-unused",  # no traffic policy of this ServicePort uses this list
    "not-local",  # local list: the endpoint is on another node
    "other-node",  # every ready endpoint has node hints and this one's name other nodes
    "other-zone",  # every ready endpoint has zone hints and this one's name other zones
    "not-ready",  # neither ready nor terminating
    "terminating",  # still serving, but ready endpoints take the traffic
    "not-serving",  # terminating and no longer serving
]
TopologyReason = Literal[
    "applied",  # hints narrow the cluster list
    "policy-unused",  # the cluster list is not used
    "no-hints",  # no ready endpoint carries a hint
    "no-ready-endpoint",
    "endpoint-without-hint",  # at least one ready endpoint lacks the hint, so none is followed
    "node-without-zone",
    "no-endpoint-for-zone",  # hints are complete, but none names this node's zone
    "no-endpoint-for-node",  # node hints are complete, but none names this node, and there are no zone hints
]


class Choice(Value, frozen=True, kw_only=True):
    """Whether an endpoint is in a list, and why."""

    selected: bool
    reason: Reason


class Verdict(Value, frozen=True, kw_only=True):
    """What was decided about one endpoint."""

    cluster: Choice
    local: Choice


class Selection(Value, frozen=True, kw_only=True):
    """The outcome for one ServicePort.

    `verdicts` has one entry for each of `endpoints`, in the same order (bytewise by address).
    `reachable` is everything this node may send to for any of the service's frontends.
    `is_any_usable` says whether the service can be served anywhere in the cluster: false means
    refuse, true with an empty list means drop.
    """

    endpoints: tuple[Endpoint, ...]
    verdicts: tuple[Verdict, ...]
    cluster: tuple[Endpoint, ...] | None
    local: tuple[Endpoint, ...] | None
    reachable: tuple[Endpoint, ...]
    is_any_usable: bool
    topology: Topology
    topology_reason: TopologyReason


def select(endpoints: tuple[Endpoint, ...], port: ServicePort, node: NodeInfo) -> Selection:
    """Select among `endpoints`, which are merged and sorted bytewise by address."""
    uses_cluster, uses_local = port.uses_cluster, port.uses_local
    topology: Topology = ""
    topology_reason: TopologyReason = "policy-unused"
    if uses_cluster:
        topology, topology_reason = _topology([e for e in endpoints if e.ready], node)

    codes = [_CODES[e.ready, e.serving, e.terminating, e.is_local] for e in endpoints]
    if topology:
        codes = [
            code if _is_hinted(e, topology, node) else code & ~_HINTED
            for e, code in zip(endpoints, codes, strict=True)
        ]
    occurring = set(codes)
    is_any_usable = any(code & (_READY | _FALLBACK) for code in occurring)
    cluster_wants = _wanted(occurring, _READY | _HINTED, _FALLBACK) if uses_cluster else None
    local_wants = _wanted(occurring, _READY | _LOCAL, _FALLBACK | _LOCAL) if uses_local else None
    verdict_of = {
        code: Verdict(
            cluster=_cluster_choice(code, cluster_wants, topology),
            local=_local_choice(code, local_wants),
        )
        for code in occurring
    }
    verdicts = tuple([verdict_of[code] for code in codes])
    cluster = _chosen(endpoints, codes, occurring, cluster_wants)
    local = _chosen(endpoints, codes, occurring, local_wants)
    return Selection(
        endpoints=endpoints,
        verdicts=verdicts,
        cluster=cluster,
        local=local,
        reachable=_union(endpoints, verdicts, cluster, local),
        is_any_usable=is_any_usable,
        topology=topology,
        topology_reason=topology_reason,
    )


_READY: Final = 1
_FALLBACK: Final = 2  # not ready, but serving while terminating
_LOCAL: Final = 4
_HINTED: Final = 8  # matches the topology in force; always set when there is none
_TERMINATING: Final = 16
_NEVER: Final = 1 << 30  # a bit no endpoint has: selects nothing


def _code(*, ready: bool, serving: bool, terminating: bool, is_local: bool) -> int:
    """Return the flags of an endpoint in these conditions, as if every endpoint were hinted."""
    code = _HINTED | (_TERMINATING if terminating else 0) | (_LOCAL if is_local else 0)
    if ready:
        return code | _READY
    return code | (_FALLBACK if terminating and serving else 0)


_CODES: Final = {
    flags: _code(ready=flags[0], serving=flags[1], terminating=flags[2], is_local=flags[3])
    for flags in itertools.product((False, True), repeat=4)
}


def _is_hinted(endpoint: Endpoint, topology: Topology, node: NodeInfo) -> bool:
    if topology == "SameNode":
        return endpoint.node_hints is not None and node.name in endpoint.node_hints
    return endpoint.zone_hints is not None and node.zone in endpoint.zone_hints


def _topology(ready: Sequence[Endpoint], node: NodeInfo) -> tuple[Topology, TopologyReason]:
    if not ready:
        return "", "no-ready-endpoint"
    node_hints = [e.node_hints for e in ready if e.node_hints is not None]
    zone_hints = [e.zone_hints for e in ready if e.zone_hints is not None]
    has_all_node_hints = len(node_hints) == len(ready)
    if has_all_node_hints and any(node.name in hints for hints in node_hints):
        return "SameNode", "applied"
    reason: TopologyReason
    if not zone_hints and not node_hints:
        reason = "no-hints"
    elif not zone_hints and has_all_node_hints:
        reason = "no-endpoint-for-node"
    elif len(zone_hints) < len(ready):
        reason = "endpoint-without-hint"
    elif not node.zone:
        reason = "node-without-zone"
    elif any(node.zone in hints for hints in zone_hints):
        return "SameZone", "applied"
    else:
        reason = "no-endpoint-for-zone"
    return "", reason


def _wanted(occurring: set[int], first: int, otherwise: int) -> int:
    """Return the bits an endpoint must have: `first` if any endpoint has them, else `otherwise`."""
    for bits in (first, otherwise):
        if any(code & bits == bits for code in occurring):
            return bits
    return _NEVER


def _chosen(
    endpoints: tuple[Endpoint, ...], codes: list[int], occurring: set[int], wanted: int | None
) -> tuple[Endpoint, ...] | None:
    if wanted is None:
        return None
    if all(code & wanted == wanted for code in occurring):
        return endpoints
    return tuple([e for e, code in zip(endpoints, codes, strict=True) if code & wanted == wanted])


def _union(
    endpoints: tuple[Endpoint, ...],
    verdicts: tuple[Verdict, ...],
    cluster: tuple[Endpoint, ...] | None,
    local: tuple[Endpoint, ...] | None,
) -> tuple[Endpoint, ...]:
    if cluster is None or local is None:
        return cluster or local or ()
    return tuple(
        [
            e
            for e, v in zip(endpoints, verdicts, strict=True)
            if v.cluster.selected or v.local.selected
        ]
    )


def _unusable(code: int) -> Reason:
    if code & _FALLBACK:
        return "terminating"
    return "not-serving" if code & _TERMINATING else "not-ready"


def _cluster_choice(code: int, wanted: int | None, topology: Topology) -> Choice:
    if wanted is None:
        return Choice(selected=False, reason="policy-unused")
    if code & wanted == wanted:
        reason: Reason = "ready" if code & _READY else "terminating-fallback"
        return Choice(selected=True, reason=reason)
    if code & _READY:
        return Choice(
            selected=False, reason="other-node" if topology == "SameNode" else "other-zone"
        )
    return Choice(selected=False, reason=_unusable(code))


def _local_choice(code: int, wanted: int | None) -> Choice:
    if wanted is None:
        return Choice(selected=False, reason="policy-unused")
    if code & wanted == wanted:
        reason: Reason = "ready" if code & _READY else "terminating-fallback"
        return Choice(selected=True, reason=reason)
    if not code & _LOCAL:
        return Choice(selected=False, reason="not-local")
    return Choice(selected=False, reason=_unusable(code))
