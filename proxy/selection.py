"""Which endpoints serve a ServicePort on this node, and for every endpoint the reason. Pure.

Stands between the cache (endpoints merged per service) and `desired` (frontends and pools).
The rules are those of KEP-2433, KEP-4444, KEP-3015 (topology hints), KEP-1669 (terminating
endpoints) and KEP-2086 (traffic policies):

- A ready endpoint is usable. When a list would be empty, endpoints that are serving while they
  terminate stand in for it. This is decided for the cluster list and the local list apart.
- Hints narrow the cluster list only, and only if every *ready* endpoint carries them and at least one
  of them names this node (node hints, tried first) or this node's zone.
- A list that no traffic policy of the ServicePort uses is None, which is not the same as empty.

The verdict of an endpoint depends on a handful of flags, so everything is decided once for each
combination of flags that occurs, its kind: thousands of endpoints cost one look-up each.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from proxy.model import (
    LOCAL,
    NODE_HINTED,
    READY,
    SERVING,
    TERMINATING,
    ZONE_HINTED,
    Endpoint,
    NodeInfo,
    ServicePort,
    Value,
)

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

    `verdicts` has one entry for each of `endpoints`, in the same order (bytewise by address): the verdict of its kind.
    `reachable` is everything this node may send to for any of the service's frontends.
    `is_any_usable` says whether the service can be served anywhere in the cluster: false means
    refuse, true with an empty list means drop.
    """

    endpoints: tuple[Endpoint, ...]
    kinds: tuple[int, ...]
    verdict_of: Mapping[int, Verdict]
    cluster: tuple[Endpoint, ...] | None
    local: tuple[Endpoint, ...] | None
    reachable: tuple[Endpoint, ...]
    is_any_usable: bool
    topology: Topology
    topology_reason: TopologyReason

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return tuple([self.verdict_of[kind] for kind in self.kinds])


def select(endpoints: tuple[Endpoint, ...], port: ServicePort, node: NodeInfo) -> Selection:
    """Select among `endpoints`, which are merged and sorted bytewise by address."""
    uses_cluster, uses_local = port.uses_cluster, port.uses_local
    kinds = [e.flags for e in endpoints]
    topology: Topology = ""
    topology_reason: TopologyReason = "policy-unused"
    if uses_cluster:
        topology, topology_reason = _topology(endpoints, set(kinds), node)
    if topology:
        kinds = [
            kind if _is_hinted(e, topology, node) else kind | _ELSEWHERE
            for e, kind in zip(endpoints, kinds, strict=True)
        ]
    occurring = frozenset(kinds)
    decided = _decide(occurring, topology, uses_cluster=uses_cluster, uses_local=uses_local)
    cluster = _chosen(endpoints, kinds, occurring, decided.cluster)
    local = _chosen(endpoints, kinds, occurring, decided.local)
    reachable = cluster or local or ()
    if decided.cluster is not None and decided.local is not None:
        reachable = _chosen(endpoints, kinds, occurring, decided.cluster | decided.local) or ()
    return Selection(
        endpoints=endpoints,
        kinds=tuple(kinds),
        verdict_of=decided.verdict_of,
        cluster=cluster,
        local=local,
        reachable=reachable,
        is_any_usable=decided.is_any_usable,
        topology=topology,
        topology_reason=topology_reason,
    )


class _Decision(NamedTuple):
    """What is decided about kinds of endpoints: those that make up each list, None for one that is not used."""

    cluster: frozenset[int] | None
    local: frozenset[int] | None
    is_any_usable: bool
    verdict_of: Mapping[int, Verdict]


@lru_cache(maxsize=4096)
def _decide(
    occurring: frozenset[int], topology: Topology, *, uses_cluster: bool, uses_local: bool
) -> _Decision:
    """Decide about the kinds that occur; for most services of a cluster these are the same few."""
    cluster = _usable(occurring, avoided=_ELSEWHERE) if uses_cluster else None
    here = frozenset([kind for kind in occurring if kind & LOCAL])
    local = _usable(here) if uses_local else None
    verdict_of = {
        kind: Verdict(
            cluster=_cluster_choice(kind, cluster, topology), local=_local_choice(kind, local)
        )
        for kind in occurring
    }
    return _Decision(cluster, local, bool(_usable(occurring)), verdict_of)


_ELSEWHERE: Final = 1 << 10  # added to an endpoint's flags: the topology in force leads elsewhere
_STANDS_IN: Final = SERVING | TERMINATING  # for ready endpoints, where there are none


def _is_hinted(endpoint: Endpoint, topology: Topology, node: NodeInfo) -> bool:
    if topology == "SameNode":
        return endpoint.node_hints is not None and node.name in endpoint.node_hints
    return endpoint.zone_hints is not None and node.zone in endpoint.zone_hints


def _topology(
    endpoints: Sequence[Endpoint], occurring: Collection[int], node: NodeInfo
) -> tuple[Topology, TopologyReason]:
    kinds = [kind for kind in occurring if kind & READY]
    if not kinds:
        return "", "no-ready-endpoint"
    if not any(kind & (NODE_HINTED | ZONE_HINTED) for kind in kinds):
        return "", "no-hints"
    ready = [e for e in endpoints if e.flags & READY]
    has_all_node_hints = all(kind & NODE_HINTED for kind in kinds)
    if has_all_node_hints and any(_is_hinted(e, "SameNode", node) for e in ready):
        return "SameNode", "applied"
    reason: TopologyReason
    if has_all_node_hints and not any(kind & ZONE_HINTED for kind in kinds):
        reason = "no-endpoint-for-node"
    elif not all(kind & ZONE_HINTED for kind in kinds):
        reason = "endpoint-without-hint"
    elif not node.zone:
        reason = "node-without-zone"
    elif any(_is_hinted(e, "SameZone", node) for e in ready):
        return "SameZone", "applied"
    else:
        reason = "no-endpoint-for-zone"
    return "", reason


def _usable(kinds: frozenset[int], avoided: int = 0) -> frozenset[int]:
    """Return the kinds of endpoints that make up a list: ready ones, or what stands in for them."""
    ready = frozenset([kind for kind in kinds if kind & READY and not kind & avoided])
    return ready or frozenset(
        [kind for kind in kinds if not kind & READY and kind & _STANDS_IN == _STANDS_IN]
    )


def _chosen(
    endpoints: tuple[Endpoint, ...],
    kinds: list[int],
    occurring: frozenset[int],
    chosen: frozenset[int] | None,
) -> tuple[Endpoint, ...] | None:
    if chosen is None:
        return None
    if chosen == occurring:
        return endpoints
    return tuple([e for e, kind in zip(endpoints, kinds, strict=True) if kind in chosen])


def _unusable(kind: int) -> Reason:
    if not kind & TERMINATING:
        return "not-ready"
    return "terminating" if kind & SERVING else "not-serving"


def _selected(kind: int) -> Choice:
    return Choice(selected=True, reason="ready" if kind & READY else "terminating-fallback")


def _cluster_choice(kind: int, chosen: frozenset[int] | None, topology: Topology) -> Choice:
    if chosen is None:
        return Choice(selected=False, reason="policy-unused")
    if kind in chosen:
        return _selected(kind)
    if kind & READY:
        return Choice(
            selected=False, reason="other-node" if topology == "SameNode" else "other-zone"
        )
    return Choice(selected=False, reason=_unusable(kind))


def _local_choice(kind: int, chosen: frozenset[int] | None) -> Choice:
    if chosen is None:
        return Choice(selected=False, reason="policy-unused")
    if kind in chosen:
        return _selected(kind)
    if not kind & LOCAL:
        return Choice(selected=False, reason="not-local")
    return Choice(selected=False, reason=_unusable(kind))
