"""What a DesiredPort looks like in our tables: chains, the rules in trees that lead to them, and members of sets. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from backends.iptables import names, pools, sets
from backends.iptables.layout import Layout
from backends.iptables.model import (
    Chain,
    Front,
    Lead,
    Rendered,
    SharedMember,
    TreeName,
    make_chain,
)
from backends.kernel.ipset_objects import PROTOCOL_NUMBERS, IpSet, Member
from proxy.desired import DesiredPort, Frontend, FrontendKind
from proxy.model import LOCAL, Endpoint

_TREES: Final[dict[FrontendKind, TreeName]] = {
    "ClusterIP": "C",
    "NodePort": "N",
    "ExternalIP": "X",
    "LoadBalancer": "X",
}


class RenderedPort(NamedTuple):
    """A DesiredPort ready to be planned. Each chain comes after those it leads to."""

    rendered: Rendered
    chains: tuple[Chain, ...]
    sets: tuple[IpSet, ...]


def render_port(port: DesiredPort, layout: Layout) -> RenderedPort:
    """Render a ServicePort with all its frontends.

    A list that no endpoint is in is a chain, too, so that where frontends lead does not depend on endpoints.
    """
    secret = layout.settings.secret
    kinds = {frontend.kind for frontend in port.frontends}
    inner, outer = "ClusterIP" in kinds, bool(kinds - {"ClusterIP"})
    uses_cluster = outer or (inner and not port.internal_local)
    uses_local = (outer and port.external_local) or (inner and port.internal_local)
    lists = [
        (names.list_chain(port.key, secret, is_local=is_local), pool or ())
        for is_used, is_local, pool in (
            (uses_cluster, False, port.cluster),
            (uses_local, True, port.local),
        )
        if is_used
    ]
    chains, known = _listed(port, lists, secret)
    if outer:
        chains.append(_outer(port, layout))
    rendered = Rendered(
        leads=tuple([_lead(port, frontend, secret) for frontend in port.frontends]),
        chains=frozenset([chain.name for chain in chains]),
        sets=frozenset([each.name for each in known]),
        members=frozenset(_members(port)),
        asks_for_pods=outer and port.external_local,
    )
    return RenderedPort(rendered, tuple(chains), tuple(known))


def _listed(
    port: DesiredPort, lists: list[tuple[str, tuple[Endpoint, ...]]], secret: str
) -> tuple[list[Chain], list[IpSet]]:
    """Return the chains of the lists, and the sets that remember clients."""
    key, timeout_s = port.key, port.affinity_timeout_s
    if timeout_s is None:
        return [each for name, pool in lists for each in pools.list_chains(name, key, pool)], []
    endpoints = {each.address: each for _, pool in lists for each in pool}
    chains = [pools.remembering_chain(key, each, timeout_s, secret) for each in endpoints.values()]
    known = [
        sets.affinity_set(key.family, names.affinity_names(key, address, secret)[1])
        for address in endpoints
    ]
    return [*chains, *[pools.sticky_chain(name, key, pool, secret) for name, pool in lists]], known


def _outer(port: DesiredPort, layout: Layout) -> Chain:
    """Return the chain that tells apart who asks from outside.

    With externalTrafficPolicy Local, endpoints on this node serve the world outside, which keeps its address. Whom
    that policy does not concern is served by all: pods here, and the node itself, whose address may not be one the
    endpoint can answer to.
    """
    secret = layout.settings.secret
    cluster = f"-g {names.list_chain(port.key, secret)}"
    if port.external_local:
        pod, node = layout.pod(port.key.family), "-m addrtype --src-type LOCAL"
        rules = [
            *([f"{pod} {cluster}"] if pod is not None else []),
            f"{node} {layout.masquerade}",
            f"{node} {cluster}",
            f"-g {names.list_chain(port.key, secret, is_local=True)}",
        ]
    else:
        rules = [layout.masquerade, cluster]
    return make_chain(names.outer_chain(port.key, secret), rules, str(port.key.name))


def _lead(port: DesiredPort, frontend: Frontend, secret: str) -> Lead:
    target = names.outer_chain(port.key, secret)
    if frontend.kind == "ClusterIP":
        target = names.list_chain(port.key, secret, is_local=port.internal_local)
    front = Front(frontend.address or "", port.key.name.protocol, frontend.port)
    return Lead(_TREES[frontend.kind], front, target)


def _members(port: DesiredPort) -> Iterator[SharedMember]:
    """Yield what a ServicePort needs in the fixed sets; another may need the same.

    A pod that reaches itself through a service must be masqueraded, or it would answer itself directly. Only endpoints
    on this node can do that; manifests may not say on which node an endpoint is.
    """
    family, protocol = port.key.family, port.key.name.protocol

    def named(short: str) -> str:
        return sets.set_name(family, short)

    for number, of in _ports(port):
        yield named(of), Member(port=number)
    for frontend in port.frontends:
        if frontend.address is None:
            continue
        kind = sets.CLUSTER_IPS if frontend.kind == "ClusterIP" else sets.EXTERNAL_IPS
        place = Member(frontend.address, PROTOCOL_NUMBERS[protocol], frontend.port)
        yield named(kind), Member(frontend.address)
        yield named(sets.FRONTENDS), place
        if not port.is_any_usable:
            yield named(sets.REFUSED), place
        if frontend.kind == "LoadBalancer" and port.source_ranges:
            yield named(sets.GUARDED), place
            width = 32 if family == "IPv4" else 128
            own = [f"{frontend.address}/{width}"] if port.allows_own_vips else []
            for allowed in (*port.source_ranges, *own):
                yield named(sets.ALLOWED), place._replace(other=allowed)
    for endpoint in port.reachable:
        if endpoint.flags & LOCAL or endpoint.node_name is None:
            itself = Member(endpoint.ip, PROTOCOL_NUMBERS[protocol], endpoint.port, endpoint.ip)
            yield named(sets.HAIRPIN), itself


def _ports(port: DesiredPort) -> Iterator[tuple[int, str]]:
    """Yield ports of this node, and the set each is in."""
    protocol = port.key.name.protocol
    if port.health_check_node_port:
        yield port.health_check_node_port, sets.HEALTH_PORTS
    for frontend in port.frontends:
        if frontend.address is None:
            yield frontend.port, sets.PORTS[protocol]
            if not port.is_any_usable:
                yield frontend.port, sets.PORTS_REFUSED[protocol]
