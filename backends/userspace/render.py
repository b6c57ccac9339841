"""What a DesiredPort looks like here: endpoints behind a ServicePort, and where and for whom it listens. Pure."""

from collections.abc import Collection, Iterable, Iterator

from backends.userspace.model import (
    EVERYBODY,
    NOBODY,
    SERVED,
    Admission,
    Listening,
    Place,
    Role,
    Serving,
    Target,
)
from proxy import localhost
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode, is_loopback
from proxy.model import FAMILIES, Endpoint, Family, PortKey


def render(port: DesiredPort) -> Serving:
    """Render a ServicePort."""
    everywhere = _targets(port.cluster)
    return Serving(
        frontends=port.frontends,
        internal=_targets(port.internal),
        outside=_targets(port.local) if port.external_local else everywhere,
        here=everywhere,
        is_split=port.external_local,
        is_any_usable=port.is_any_usable,
        ranges=port.source_ranges,
        allows_own_vips=port.allows_own_vips,
        affinity_s=port.affinity_timeout_s,
    )


def node_addresses(
    node: DesiredNode, host: frozenset[str], at_localhost: Collection[Family] = ()
) -> dict[Family, tuple[str, ...]]:
    """Return where NodePorts listen: where the node says, else on every address of this host but loopback.

    Of the families `at_localhost` they do so at localhost as well, of which the node's own part never speaks.
    """
    everywhere = sorted([a for a in host if not is_loopback(a)])
    found: dict[Family, tuple[str, ...]] = {}
    for family in FAMILIES:
        named = node.node_port_addresses.get(family)
        if named is None:
            named = tuple([a for a in everywhere if (":" in a) == (family == "IPv6")])
        here = (localhost.ADDRESSES[family],) if family in at_localhost else ()
        found[family] = tuple(dict.fromkeys([*named, *here]))
    return found


def listeners(
    key: PortKey, serving: Serving, addresses: Iterable[str]
) -> Iterator[tuple[Place, Listening]]:
    """Yield where a ServicePort listens, and for whom; `addresses` are those for NodePorts.

    Nobody listens where connections are refused: the kernel does that. Who listens and lets nobody in drops them.
    """
    protocol = key.name.protocol
    if protocol not in SERVED:
        return
    for frontend in serving.frontends:
        role: Role = "internal" if frontend.kind == "ClusterIP" else "external"
        admission = _admission(serving, frontend)
        if admission is None:
            continue
        listening = Listening(key, role, admission)
        where = addresses if frontend.address is None else (frontend.address,)
        for address in where:
            yield Place(key.family, protocol, address, frontend.port), listening


def _admission(serving: Serving, frontend: Frontend) -> Admission | None:
    """Return whom a frontend lets in, None if it refuses everybody."""
    if frontend.kind == "ClusterIP":
        if serving.internal:
            return EVERYBODY
        return NOBODY if serving.is_any_usable else None
    if not (serving.outside or serving.here):
        return NOBODY if serving.is_any_usable else None
    is_guarded = frontend.kind == "LoadBalancer" and bool(serving.ranges)
    return Admission(
        serving.ranges if is_guarded else None,
        only_here=not serving.outside,
        takes_node=is_guarded and serving.allows_own_vips,
    )


def _targets(pool: tuple[Endpoint, ...] | None) -> tuple[Target, ...]:
    return tuple([Target(endpoint.ip, endpoint.port) for endpoint in pool or ()])
