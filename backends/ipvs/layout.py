"""The side rules: hooks, chains and sets of our nftables tables, for given settings and a given node. Pure.

README.md follows a packet through them. Whatever depends on a single service is an element. They judge the first
packet of a connection, before IPVS sees it, and masquerade what IPVS has translated.

Frontends of ours are decided on before anybody else translates, and decided for good: to IPVS goes what is "translated" to the
address it has. Else rules for whatever is local, as those for `hostPort` are, would take ports of addresses on our device.
Everything else is refused after all others, so that another data plane of ours is in front of what we do not serve (yet).
"""

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    DROPPED,
    ELSEWHERE,
    EXTERNALS,
    GUARDED,
    HAIRPIN,
    HEALTH_PORTS,
    NODEPORT_SHORTCUTS,
    NODEPORTS,
    NODEPORTS_DROPPED,
    NODEPORTS_REFUSED,
    PLACES,
    REFUSED,
    SERVICES,
    SHORTCUTS,
    Kind,
)
from backends.kernel import nft_phrases as say
from backends.kernel.ipvs_marks import Marks
from backends.kernel.nft_expressions import Nat
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_numbers import Hook, NatKind, SetFlag
from backends.kernel.nft_pods import Detector
from backends.kernel.nft_table import (
    NUMBERS,
    ChainFacts,
    ChainSpec,
    RuleSpec,
    SetSpec,
    declared,
    rule,
)
from proxy.config.settings import LocalMode
from proxy.desired_node import DesiredNode
from proxy.model import IPV4, Family, Value

# One before and one behind NF_IP_PRI_NAT_DST, at which all others translate: what somebody has decided stands.
_PRIORITY_DNAT: Final = -101
_PRIORITY_LATE: Final = -99
_PRIORITY_SNAT: Final = 100  # NF_IP_PRI_NAT_SRC
_REFUSE: Final = "refuse"
_CLUSTER_IP: Final = "cluster-ip"
_SOURCES: Final = "sources"
_OUTER: Final = "outer"
_BOUND_ADDRESS: Final = "bound-address"
_NODE_PORT: Final = "node-port"
_DISPATCH: Final = "dispatch"
_UNCLAIMED: Final = "unclaimed"


class IpvsSettings(Value, frozen=True, kw_only=True):
    """What of the settings shapes virtual servers and rules.

    `cluster_cidrs` holds at most one CIDR of each family: sources in it are local pods, in mode ClusterCIDR.
    `interface` is the bridge's name or the prefix, in the modes that have one. `offset` rotates the destinations of
    new virtual servers, so that not every node begins with the same one. Virtual servers with an address in
    `exclude_cidrs` are not removed where we have no service.
    """

    families: tuple[Family, ...]
    scheduler: str = "rr"
    masquerade_mark: int = 0x4000
    masquerade_all: bool = False
    local_mode: LocalMode = "ClusterCIDR"
    cluster_cidrs: tuple[str, ...] = ()
    interface: str = ""
    exclude_cidrs: tuple[str, ...] = ()
    offset: int = 0


class Layout:
    """Our tables for given settings and a given node. Specs are made once and then the same objects for ever."""

    def __init__(self, settings: IpvsSettings, node: DesiredNode | None = None) -> None:
        self.settings = settings
        self.families = settings.families
        self.marks = Marks(settings.masquerade_mark)
        self._node = node or DesiredNode()
        is_by_node = settings.local_mode == "NodeCIDR"
        self._pod_cidrs = self._node.pod_cidrs if is_by_node else settings.cluster_cidrs
        self._detector = Detector(
            mode=settings.local_mode, cidrs=self._pod_cidrs, interface=settings.interface
        )
        self._sets = {family: fixed_sets(family) for family in self.families}
        self._chains = {family: self._chains_of(family) for family in self.families}
        self.chain_facts: dict[Family, dict[str, ChainFacts]] = {
            family: {spec.name: spec.facts for spec in chains}
            for family, chains in self._chains.items()
        }
        self.set_facts = {
            family: {spec.name: spec.facts for spec in sets} for family, sets in self._sets.items()
        }
        self._of_nodes: dict[object, Layout] = {}

    def for_node(self, node: DesiredNode) -> "Layout":
        """Return the layout for a node: the ranges of its pods and where NodePorts listen are in the rules."""
        if node is self._node:
            return self
        is_by_node = self.settings.local_mode == "NodeCIDR"
        opened = tuple([node.node_port_addresses.get(f) is None for f in self.families])
        key = (node.pod_cidrs if is_by_node else (), opened)
        found = self._of_nodes.get(key)
        if found is None:
            found = self._of_nodes[key] = type(self)(self.settings, node)
        return found

    def without(self, family: Family) -> "Layout":
        """Return the layout for a node that does not have the family."""
        families = tuple([each for each in self.families if each != family])
        return type(self)(structs.replace(self.settings, families=families), self._node)

    @staticmethod
    def closed_chains() -> tuple[ChainSpec, ...]:
        """Return what takes the place of chains once IPVS is to get no new connections: then all are unclaimed."""
        return (closed(),)

    @classmethod
    def is_closed(cls, chains: Mapping[str, ChainFacts]) -> bool:
        """Whether chains that were found let nothing new through, whatever the sets say."""
        return any(chains.get(spec.name) == spec.facts for spec in cls.closed_chains())

    def sets(self, family: Family) -> tuple[SetSpec, ...]:
        return self._sets[family]

    def chains(self, family: Family) -> tuple[ChainSpec, ...]:
        """Return the chains, every chain before those that refer to it."""
        return self._chains[family]

    def _chains_of(self, family: Family) -> tuple[ChainSpec, ...]:
        dispatch = (rule([*say.is_new(), say.jump(_DISPATCH)], "services"),)
        unclaimed = (rule([*say.is_new(), say.jump(_UNCLAIMED)], "what nobody serves"),)
        return (
            ChainSpec(
                _REFUSE,
                None,
                (
                    # The kernel limits the rate of its ICMP errors, and a local connect() over IPv6 ignores them.
                    rule(say.reset(), "TCP: at once"),
                    rule([say.refuse(family)], "port unreachable"),
                ),
            ),
            ChainSpec(
                _CLUSTER_IP,
                None,
                (*self._masquerade_internal(family), rule(_to_ipvs(family), "to IPVS")),
            ),
            ChainSpec(_SOURCES, None, _sources(family)),
            ChainSpec(_OUTER, None, tuple(self._outer(family, "address"))),
            ChainSpec(
                _BOUND_ADDRESS,
                None,
                (
                    rule(
                        [*say.frontend_in(family, SERVICES), say.goto(_CLUSTER_IP)], "cluster IPs"
                    ),
                    rule([say.jump(_OUTER)], "external IPs, load balancers"),
                ),
            ),
            ChainSpec(_NODE_PORT, None, tuple(self._outer(family, "node-port"))),
            self._dispatch(family),
            ChainSpec(
                _UNCLAIMED,
                None,
                (
                    rule(
                        [*say.frontend_in(family, HEALTH_PORTS, has_address=False), say.leave()],
                        "health check node ports",
                    ),
                    rule(
                        [*say.destination_in(family, BOUND), say.goto(_REFUSE)],
                        "a port no service defines",
                    ),
                    rule(
                        [*say.destination_in(family, SERVICE_CIDRS), say.drop()],
                        "an address no service has",
                    ),
                ),
            ),
            ChainSpec("prerouting", BaseChain("nat", Hook.PREROUTING, _PRIORITY_DNAT), dispatch),
            ChainSpec("output", BaseChain("nat", Hook.OUTPUT, _PRIORITY_DNAT), dispatch),
            ChainSpec(
                "prerouting-late", BaseChain("nat", Hook.PREROUTING, _PRIORITY_LATE), unclaimed
            ),
            ChainSpec("output-late", BaseChain("nat", Hook.OUTPUT, _PRIORITY_LATE), unclaimed),
            ChainSpec(
                "postrouting",
                BaseChain("nat", Hook.POSTROUTING, _PRIORITY_SNAT),
                tuple(self._postrouting(family)),
            ),
        )

    def _dispatch(self, family: Family) -> ChainSpec:
        here = say.destination_is_local(family)
        if self._node.node_port_addresses.get(family) is not None:
            here = say.destination_in(family, NODEPORT_IPS)
        return ChainSpec(
            _DISPATCH,
            None,
            (
                rule([*say.destination_in(family, BOUND), say.goto(_BOUND_ADDRESS)], "our device"),
                # an address of this node may be an external IP of some port: others are still NodePorts
                rule([*say.destination_in(family, ELSEWHERE), say.jump(_OUTER)], "external IPs"),
                rule([*here, say.goto(_NODE_PORT)], "NodePorts"),
            ),
        )

    def _masquerade_internal(self, family: Family) -> list[RuleSpec]:
        """Mark traffic to cluster IPs that does not come from a local pod (or, if configured, all of it)."""
        mark = say.or_mark(self.settings.masquerade_mark)
        if self.settings.masquerade_all:
            return [rule(mark, "masquerade everything")]
        outside = self._detector.is_no_pod(family)
        if outside is None:
            return []
        return [rule([*outside, *mark], "masquerade what is not from a local pod")]

    def _outer(self, family: Family, kind: Kind) -> list[RuleSpec]:
        """Look a frontend up that is meant for the world outside.

        Whom the policy for that world does not concern takes a short cut: pods here and the node itself.
        """
        places, has_address = PLACES[kind], kind == "address"

        def mark(name: str) -> say.Phrase:
            found = say.mark_by_frontend(family, name, has_address=has_address)
            return [*found, *_to_ipvs(family)]

        def listed(name: str) -> say.Phrase:
            return say.frontend_in(family, name, has_address=has_address)

        pod = self._detector.is_pod(family)
        guarded = [rule([*listed(GUARDED), say.jump(_SOURCES)], "source ranges")]
        return [
            *(guarded if has_address else []),
            *([rule([*pod, *mark(places.shortcuts)], "pods of this node")] if pod else []),
            rule([*say.source_is_local(), *mark(places.shortcuts)], "this node itself"),
            rule(mark(places.externals), "by protocol and port"),
            rule([*listed(places.dropped), say.drop()], "none for the policy"),
            rule([*listed(places.refused), say.goto(_REFUSE)], "nothing usable"),
        ]

    def _postrouting(self, family: Family) -> list[RuleSpec]:
        bit, marks = self.settings.masquerade_mark, self.marks
        both = say.mark_is(marks.value | bit, marks.mask | bit)
        ours = say.mark_is(marks.value, marks.mask)
        # what the node sends to an address of our device has that address as its source
        own = [*say.source_in(family, BOUND), *say.original_destination_in(family, BOUND)]
        return [
            rule([*both, *say.clear_mark(), say.masquerade()], "marked by us, masquerade"),
            rule(
                [*ours, *say.source_is_local(), *say.clear_mark(), say.masquerade()],
                "marked by us, from this node itself",
            ),
            rule([*ours, *say.clear_mark()], "marked by us"),
            rule(say.masquerade_marked(bit), "masquerade"),
            rule([*own, say.masquerade()], "this node itself"),
            rule(
                [*say.source_and_destination_in(family, HAIRPIN), say.masquerade()],
                "a pod that reaches itself",
            ),
        ]


def closed() -> ChainSpec:
    """Return what takes the place of the dispatching rules."""
    return ChainSpec(_DISPATCH, None, (rule([say.leave()], "no new connections"),))


def _sources(family: Family) -> tuple[RuleSpec, ...]:
    """Return for those who may come in.

    A packet may be held up between two rules while a frontend loses its ranges, or gets them again. So it is asked whether
    anybody still limits the frontend, and before it is dropped, once more whether it is in a range.
    """
    asked = [*say.source_of_frontend_in(family, ALLOWED), say.leave()]
    return (
        rule(asked, "in the ranges"),
        rule([*say.frontend_not_in(family, GUARDED), say.leave()], "no limit any more"),
        rule(asked, "limited again"),
        rule([*say.frontend_in(family, GUARDED), say.drop()], "everybody else"),
    )


def _to_ipvs(family: Family) -> say.Phrase:
    """`dnat to ip daddr`: keep the destination, and ask no nat chain behind this one. `accept` would only leave this one."""
    return [say.destination(family), Nat(kind=NatKind.DNAT, family=NUMBERS[family])]


def fixed_sets(family: Family) -> tuple[SetSpec, ...]:
    """Return our sets, which are the same whatever the settings."""
    address = "ipv4_addr" if family == IPV4 else "ipv6_addr"
    frontend, node_port = f"{address} . inet_proto . inet_service", "inet_proto . inet_service"
    return (
        *[declared(name, address) for name in (BOUND, ELSEWHERE, NODEPORT_IPS)],
        *[declared(name, frontend) for name in (SERVICES, DROPPED, REFUSED, GUARDED)],
        *[declared(name, frontend, "mark") for name in (EXTERNALS, SHORTCUTS)],
        *[declared(name, node_port, "mark") for name in (NODEPORTS, NODEPORT_SHORTCUTS)],
        *[
            declared(name, node_port)
            for name in (NODEPORTS_DROPPED, NODEPORTS_REFUSED, HEALTH_PORTS)
        ],
        declared(ALLOWED, f"{address} . {frontend}", flags=SetFlag.INTERVAL),
        declared(SERVICE_CIDRS, address, flags=SetFlag.INTERVAL),
        declared(HAIRPIN, f"{address} . {address}"),
    )
