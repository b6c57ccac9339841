"""What this node's data plane should be: for each ServicePort and family, frontends and pools. Pure.

Stands between the cache and the backends and is the only thing backends are told; nothing in it is
particular to one of them. `DesiredState` owns a mutable index but hands out frozen values.

Addresses are claimed: where two services ask for the same address, port and protocol, the older one
gets it (creationTimestamp, then namespace and name), and the next in line takes over in the step in
which the owner goes. Claims are an index, so a change looks only at the addresses it names.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Literal, NamedTuple

from msgspec import structs

from proxy import selection
from proxy.cache import Merged
from proxy.desired_node import (
    DesiredNode,
    NodeSettings,
    describe_node,
    is_in_any,
    node_address,
)
from proxy.health_checks import HealthChecks
from proxy.model import (
    FAMILIES,
    Endpoint,
    Family,
    NodeInfo,
    PortKey,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
    Value,
)

FrontendKind = Literal["ClusterIP", "NodePort", "ExternalIP", "LoadBalancer"]


class Frontend(NamedTuple):
    """Where clients connect. A node port has no address: the node's addresses are the backend's concern."""

    kind: FrontendKind
    address: str | None
    port: int


class DesiredPort(Value, frozen=True, kw_only=True):
    """How one ServicePort is to be served in one family.

    `cluster` and `local` are the pools of the two traffic policies, None where no frontend uses them.
    An empty pool means: refuse connections if nothing `is_any_usable` in the whole cluster, otherwise
    drop them. `reachable` is the union of both. `lost` are frontends that another service owns. No two
    frontends, of this or any other port, have the same address, port and protocol. `allows_own_vips`: the
    `source_ranges` hold this node, so that traffic from it to a VIP may come back with the VIP as its source.
    """

    key: PortKey
    frontends: tuple[Frontend, ...]
    cluster: tuple[Endpoint, ...] | None
    local: tuple[Endpoint, ...] | None
    reachable: tuple[Endpoint, ...]
    is_any_usable: bool
    internal_local: bool = False
    external_local: bool = False
    source_ranges: tuple[str, ...] = ()
    allows_own_vips: bool = False
    affinity_timeout_s: int | None = None
    health_check_node_port: int = 0
    lost: tuple[Frontend, ...] = ()

    @property
    def internal(self) -> tuple[Endpoint, ...]:
        """The pool behind the cluster IP."""
        return (self.local if self.internal_local else self.cluster) or ()

    def pool(self, frontend: Frontend) -> tuple[Endpoint, ...]:
        """Return the pool behind one of the frontends."""
        if frontend.kind == "ClusterIP":
            return self.internal
        return (self.local if self.external_local else self.cluster) or ()


class Desired(NamedTuple):
    """The whole data plane: what backends are told."""

    ports: Mapping[PortKey, DesiredPort]
    node: DesiredNode


class _Claim(NamedTuple):
    """A claim to an address. Of several, the smallest owns it."""

    created: str
    key: PortKey


_Address = tuple[Family, Protocol, str | None, int]


class _Asked(NamedTuple):
    """What a ServicePort asked for when it was last described, and what it claimed by that."""

    created: str
    port: ServicePort
    claimed: tuple[tuple[_Address, Frontend], ...]


def frontends_of(port: ServicePort) -> tuple[Frontend, ...]:
    """Return every frontend a ServicePort asks for, in the order ClusterIP, NodePort, external, VIP."""
    frontends = [Frontend("ClusterIP", port.cluster_ip, port.port)]
    if port.node_port:
        frontends.append(Frontend("NodePort", None, port.node_port))
    frontends += [Frontend("ExternalIP", ip, port.port) for ip in port.external_ips]
    frontends += [Frontend("LoadBalancer", ip, port.port) for ip in port.load_balancer_vips]
    return tuple(frontends)


def endpoints_of(
    port: ServicePort, merged: Mapping[tuple[Family, SlicePort], Merged]
) -> tuple[Endpoint, ...]:
    """Return the merged endpoints of a ServicePort: matched by family, port name and protocol."""
    name = port.key.name
    found = merged.get((port.key.family, SlicePort(name.port, name.protocol)))
    return found.endpoints if found else ()


class DesiredState:
    """The desired data plane of this node, kept up to date one service at a time."""

    def __init__(self, settings: NodeSettings | None = None) -> None:
        self.settings = settings or NodeSettings()
        self.ports: dict[PortKey, DesiredPort] = {}
        self.node = DesiredNode()
        self.health_checks = HealthChecks()
        self._ranged: dict[
            PortKey, None
        ] = {}  # those with source ranges depend on the node's own addresses
        self._own: tuple[str | None, ...] = ()
        self._keys_of: dict[ServiceName, tuple[PortKey, ...]] = {}
        self._asked: dict[PortKey, _Asked] = {}
        self._claims: dict[_Address, tuple[_Claim, ...]] = {}

    def update(
        self,
        name: ServiceName,
        service: Service | None,
        merged: Mapping[tuple[Family, SlicePort], Merged],
        node: NodeInfo,
    ) -> Set[PortKey]:
        """Describe one service anew and return the keys, also of other services, that changed by it.

        Who has got an address comes before who has lost one: planned in this order, it is never without an owner.
        """
        self.health_checks.update(name, service, merged)
        asked: dict[PortKey, _Asked] = {}
        if service is not None:
            asked = {p.key: self._asking(service.created, p) for p in service.ports}
        heirs, winners = self._reclaim(name, asked)
        changed: dict[PortKey, None] = {}
        for key in self._keys_of.pop(name, ()):
            if key not in asked:
                del self.ports[key]
                self._ranged.pop(key, None)
                changed[key] = None
        if asked:
            self._keys_of[name] = tuple(asked)
        for each in asked.values():
            self._put(self._describe(each, endpoints_of(each.port, merged), node), changed)
        for key in heirs:
            owned, lost = self._divide(self._asked[key])
            self._put(structs.replace(self.ports[key], frontends=owned, lost=lost), changed)
        return dict.fromkeys(sorted(changed, key=lambda key: key not in winners)).keys()

    @property
    def whole(self) -> Desired:
        """What backends are told. Its parts are those of this object, not copies."""
        return Desired(self.ports, self.node)

    def update_node(
        self,
        node: NodeInfo,
        host_addresses: frozenset[str] = frozenset(),
        service_cidrs: Iterable[str] = (),
    ) -> Set[PortKey]:
        """Describe the node anew and return the keys of ServicePorts that changed by it.

        `node` stays the same object while it is equal.
        """
        described = describe_node(self.settings, node, host_addresses, service_cidrs)
        if described != self.node:
            self.node = described
        own = tuple([node_address(self.settings, node, family) for family in FAMILIES])
        if own == self._own:  # as after nearly every change of this host's addresses
            return set()
        self._own = own
        changed: dict[PortKey, None] = {}
        for key in self._ranged:
            port = self.ports[key]
            allows = self._holds_node(port.source_ranges, key.family, node)
            self._put(structs.replace(port, allows_own_vips=allows), changed)
        return changed.keys()

    def owner(self, key: PortKey, frontend: Frontend) -> PortKey | None:
        """Return who owns a frontend that a ServicePort asks for, None if nobody claims it any more."""
        claims = self._claims.get((key.family, key.name.protocol, frontend.address, frontend.port))
        return claims[0].key if claims else None

    def _asking(self, created: str, port: ServicePort) -> _Asked:
        """Return what a port asks for, as the settings allow it to be served."""
        if port.external_ips and not self.settings.serves_external_ips:
            port = structs.replace(port, external_ips=())
        return _Asked(created, port, tuple(_by_address(port).items()))

    def _put(self, new: DesiredPort, changed: dict[PortKey, None]) -> None:
        old = self.ports.get(new.key)
        if old != new:
            self.ports[new.key] = new
            changed[new.key] = None
            if new.source_ranges:
                self._ranged[new.key] = None
            elif old is not None and old.source_ranges:
                self._ranged.pop(new.key, None)

    def _holds_node(self, ranges: tuple[str, ...], family: Family, node: NodeInfo) -> bool:
        own = node_address(self.settings, node, family)
        return own is not None and is_in_any(own, ranges)

    def _describe(
        self, asked: _Asked, endpoints: tuple[Endpoint, ...], node: NodeInfo
    ) -> DesiredPort:
        port = asked.port
        chosen = selection.select(endpoints, port, node)
        owned, lost = self._divide(asked)
        return DesiredPort(
            key=port.key,
            frontends=owned,
            cluster=chosen.cluster,
            local=chosen.local,
            reachable=chosen.reachable,
            is_any_usable=chosen.is_any_usable,
            internal_local=port.internal_local,
            external_local=port.external_local,
            source_ranges=port.source_ranges,
            allows_own_vips=bool(port.source_ranges)
            and self._holds_node(port.source_ranges, port.key.family, node),
            affinity_timeout_s=port.affinity_timeout_s,
            health_check_node_port=port.health_check_node_port,
            lost=lost,
        )

    def _divide(self, asked: _Asked) -> tuple[tuple[Frontend, ...], tuple[Frontend, ...]]:
        """Divide a port's frontends into those it owns and those an older service owns."""
        owned: list[Frontend] = []
        lost: list[Frontend] = []
        for address, frontend in asked.claimed:
            owner = self._claims[address][0].key
            (owned if owner == asked.port.key else lost).append(frontend)
        return tuple(owned), tuple(lost)

    def _reclaim(
        self, name: ServiceName, asked: Mapping[PortKey, _Asked]
    ) -> tuple[set[PortKey], set[PortKey]]:
        """Replace a service's claims. Return keys of other services that won or lost an address, and all that won one."""
        withdrawn = [
            (key, self._asked[key])
            for key in self._keys_of.get(name, ())
            if self._asked[key] != asked.get(key)
        ]
        staked = [(key, new) for key, new in asked.items() if self._asked.get(key) != new]
        if not withdrawn and not staked:  # as when only endpoints have changed
            return set(), set()
        before: dict[_Address, PortKey | None] = {}
        for key, old in withdrawn:
            del self._asked[key]
            for address, _ in old.claimed:
                claims = self._claims[address]
                before.setdefault(address, claims[0].key)
                left = tuple([claim for claim in claims if claim.key != key])
                if left:
                    self._claims[address] = left
                else:
                    del self._claims[address]
        for key, new in staked:
            self._asked[key] = new
            for address, _ in new.claimed:
                claims = self._claims.get(address, ())
                before.setdefault(address, claims[0].key if claims else None)
                self._claims[address] = tuple(sorted((*claims, _Claim(new.created, key))))
        losers: set[PortKey] = set()
        winners: set[PortKey] = set()
        for address, earlier in before.items():
            later = self._claims[address][0].key if address in self._claims else None
            if earlier != later:
                losers.update([earlier] if earlier is not None else [])
                winners.update([later] if later is not None else [])
        others = {key for key in losers | winners if key not in asked and key in self._asked}
        return others, winners


def _by_address(port: ServicePort) -> dict[_Address, Frontend]:
    """Return what a port claims: each address once, even where the Service names it twice.

    The cluster IP comes before all others. Where an external IP repeats a load balancer's address, the latter
    counts: traffic to it is subject to the source ranges.
    """
    family, protocol = port.key.family, port.key.name.protocol
    claimed: dict[_Address, Frontend] = {}
    for frontend in frontends_of(port):
        address = (family, protocol, frontend.address, frontend.port)
        earlier = claimed.get(address)
        if earlier is None or (earlier.kind, frontend.kind) == ("ExternalIP", "LoadBalancer"):
            claimed[address] = frontend
    return claimed
