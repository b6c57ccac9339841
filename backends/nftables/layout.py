"""The fixed part of our tables: hooks and the chains every service shares, for given settings. Pure.

README.md follows a packet through all of it. Whatever depends on a single service is an element (see `render`).
"""

import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

from backends.kernel import nft_phrases as say
from backends.kernel import nft_table
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_numbers import Hook
from backends.kernel.nft_pods import Detector
from backends.kernel.nft_table import ChainFacts, ChainSpec, RuleSpec, SetFacts, SetSpec
from backends.nftables import rules
from backends.nftables.model import (
    CLUSTER_IP,
    CLUSTER_IPS,
    EXTERNAL_IP,
    EXTERNAL_IPS,
    FIREWALL,
    GUARDED,
    NODE_PORT,
    PLACES,
    REFUSE,
    SERVICES,
    SOURCES,
    Kind,
)
from backends.nftables.names import is_former_chain, is_picking
from backends.nftables.picking import Sources, picking_spec
from backends.nftables.ranges import LENGTHS, sources_chain
from backends.nftables.sets import shared_sets
from proxy.config.settings import LocalMode
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, PROTOCOLS, Family, Value

_PRIORITY_DNAT, _PRIORITY_SNAT = -100, 100  # NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC
_PRIORITY_LATE = (
    -90
)  # after everybody's chains for DNAT: what one of them has translated comes to none behind it
_ASKED: Final = {family: frozenset({FIREWALL, *LENGTHS[family]}) for family in FAMILIES}
"""The sets that fixed rules look up where they are there."""


class NftSettings(Value, frozen=True, kw_only=True):
    """What of the settings shapes our rules.

    `cluster_cidrs` holds at most one CIDR of each family: sources in it are local pods, in mode ClusterCIDR.
    `interface` is the bridge's name or the prefix, in the modes that have one.
    `masquerade_mark` is the single bit of the packet mark that is ours.
    """

    families: tuple[Family, ...]
    masquerade_mark: int = 0x4000
    masquerade_all: bool = False
    local_mode: LocalMode = "ClusterCIDR"
    cluster_cidrs: tuple[str, ...] = ()
    interface: str = ""


class Fixed(NamedTuple):
    """The fixed part of a table as facts, by name."""

    sets: dict[str, SetFacts]
    chains: dict[str, ChainFacts]


class Layout:
    """Our tables for given settings and a given node. Specs are made once and then the same objects for ever."""

    def __init__(self, settings: NftSettings, node: DesiredNode | None = None) -> None:
        self.settings = settings
        self.families = settings.families
        described = node or DesiredNode()
        is_by_node = settings.local_mode == "NodeCIDR"
        cidrs = described.pod_cidrs if is_by_node else settings.cluster_cidrs
        self._detector = Detector(
            mode=settings.local_mode, cidrs=cidrs, interface=settings.interface
        )
        self._open = {f: described.node_port_addresses.get(f) is None for f in self.families}
        self._sets = {family: shared_sets(family) for family in self.families}
        mark = nft_table.rule(say.or_mark(settings.masquerade_mark), "masquerade")
        self._sources = {f: Sources(mark, self._detector.is_pod(f)) for f in self.families}
        self._skeleton = functools.cache(self._skeleton_of)
        self._fixed = functools.cache(self._fixed_of)
        self._bases = {f: {c.name: c.base for c in self.skeleton(f)} for f in self.families}
        self.chain = functools.cache(self._chain)
        self._node = described
        self._of_nodes: dict[object, Layout] = {}

    def for_node(self, node: DesiredNode) -> "Layout":
        """Return the layout for a node: the ranges of its pods and where NodePorts listen are in the rules."""
        if node is self._node:
            return self
        is_by_node = self.settings.local_mode == "NodeCIDR"
        open_families = tuple([node.node_port_addresses.get(f) is None for f in self.families])
        key = (node.pod_cidrs if is_by_node else (), open_families)
        found = self._of_nodes.get(key)
        if found is None:
            found = self._of_nodes[key] = Layout(self.settings, node)
        return found

    def sets(self, family: Family) -> tuple[SetSpec, ...]:
        return self._sets[family]

    def skeleton(self, family: Family, sets: Iterable[str] = ()) -> tuple[ChainSpec, ...]:
        """Return the fixed chains of a table that has these sets, every chain before those that refer to it."""
        return self._skeleton(family, _ASKED[family].intersection(sets))

    def fixed(self, family: Family, sets: Iterable[str] = ()) -> "Fixed":
        """Return what the fixed part of a table that has these sets looks like when read back."""
        return self._fixed(family, _ASKED[family].intersection(sets))

    def _fixed_of(self, family: Family, asked: frozenset[str]) -> "Fixed":
        return Fixed(
            sets={spec.name: spec.facts for spec in self._sets[family]},
            chains={spec.name: spec.facts for spec in self._skeleton(family, asked)},
        )

    def is_fixed(
        self, family: Family, name: str, found: ChainFacts | None, fixed: "Fixed"
    ) -> bool:
        """Whether a fixed chain is as we make it, on whichever node."""
        if found is None or found == fixed.chains[name]:
            return found is not None
        if name == SERVICES:
            return found in [self._services(family, is_open=yes).facts for yes in (True, False)]
        is_by_node = self.settings.local_mode == "NodeCIDR"
        return is_by_node and name == CLUSTER_IP and found.base is None and bool(found.comments)

    def is_our_name(self, family: Family, name: str) -> bool:
        """Whether we make chains of that name."""
        return name in self._bases[family] or is_picking(name) or is_former_chain(name)

    def is_ours(self, family: Family, name: str, found: ChainFacts) -> bool:
        """Whether a chain in our table is one all share; of those that pick an endpoint, exactly as we make it."""
        return name in self._bases[family] or (
            is_picking(name) and found == self.chain(family, name).facts
        )

    def is_misplaced(self, family: Family, name: str, found: ChainFacts) -> bool:
        """Whether a chain of that name would be ours but for its hook, which cannot be changed."""
        return found.base != self._bases[family].get(name) and self.is_our_name(family, name)

    def _chain(self, family: Family, name: str) -> ChainSpec:
        """Return the chain of that name that picks an endpoint. Raises ValueError for any other."""
        return picking_spec(family, name, self._sources[family])

    def _masquerade_internal(self, family: Family) -> list[RuleSpec]:
        """Mark traffic to cluster IPs that does not come from a local pod (or, if configured, all of it)."""
        mark = say.or_mark(self.settings.masquerade_mark)
        if self.settings.masquerade_all:
            return [nft_table.rule(mark, "masquerade everything")]
        outside = self._detector.is_no_pod(family)
        if outside is None:
            return []
        return [nft_table.rule([*outside, *mark], "masquerade what is not from a local pod")]

    def _outer(self, family: Family, kind: Kind) -> list[RuleSpec]:
        """Look a frontend up that is meant for the world outside, twice: see `_skeleton_of`."""
        found = rules.look_up(family, PLACES[kind].verdicts, kind)
        return [
            nft_table.rule(found, "by protocol and port"),
            nft_table.rule(found, "replaced meanwhile"),
        ]

    def _services(self, family: Family, *, is_open: bool) -> ChainSpec:
        # An address of this node may be an external IP of some port, and so may another service's cluster IP: other
        # ports are still NodePorts, or that service's.
        external = [*say.destination_in(family, EXTERNAL_IPS), say.jump(EXTERNAL_IP)]
        cluster = [*say.destination_in(family, CLUSTER_IPS), say.goto(CLUSTER_IP)]
        here = say.destination_is_local(family)
        if not is_open:
            here = say.destination_in(family, NODEPORT_IPS)
        return ChainSpec(
            SERVICES,
            None,
            (
                nft_table.rule(external, "external IPs, load balancers"),
                nft_table.rule(cluster, "cluster IPs"),
                nft_table.rule([*here, say.goto(NODE_PORT)], "NodePorts"),
            ),
        )

    def _skeleton_of(self, family: Family, asked: frozenset[str]) -> tuple[ChainSpec, ...]:
        """Return the fixed chains. `asked` are sets that only some tables have.

        The rules after the look-up of a verdict are reached in two cases. No service defines the port, so that there
        is no first endpoint either. Or a commit is just replacing the element (kernels before 6.17 can miss it for an
        instant): then the first endpoint of a cluster IP serves; where policies decide, the element is looked up again.

        What is dropped because no service has the address is dropped late: a service may be another proxy's
        (label service-proxy-name), which translates here too, or takes its packets in as the host's own (IPVS).
        """
        dispatch = (nft_table.rule([say.jump(SERVICES)], "services"),)
        unused = [
            *say.destination_in(family, SERVICE_CIDRS),
            *say.destination_is_elsewhere(),
            say.drop(),
        ]
        untranslated = (nft_table.rule(unused, "an address no service has"),)
        return (
            ChainSpec(
                REFUSE,
                None,
                (
                    # The kernel limits the rate of its ICMP errors, and a local connect() over IPv6 ignores them.
                    nft_table.rule(say.reset(), "TCP: at once"),
                    nft_table.rule([say.refuse(family)], "port unreachable"),
                ),
            ),
            ChainSpec(CLUSTER_IP, None, tuple(self._cluster_ip(family))),
            sources_chain(family, asked - {FIREWALL}),
            self._external_ip(family, has_firewall=FIREWALL in asked),
            ChainSpec(NODE_PORT, None, tuple(self._outer(family, "node-port"))),
            self._services(family, is_open=self._open[family]),
            ChainSpec("prerouting", BaseChain("nat", Hook.PREROUTING, _PRIORITY_DNAT), dispatch),
            ChainSpec("output", BaseChain("nat", Hook.OUTPUT, _PRIORITY_DNAT), dispatch),
            ChainSpec(
                "prerouting-late", BaseChain("nat", Hook.PREROUTING, _PRIORITY_LATE), untranslated
            ),
            ChainSpec("output-late", BaseChain("nat", Hook.OUTPUT, _PRIORITY_LATE), untranslated),
            ChainSpec(
                "postrouting",
                BaseChain("nat", Hook.POSTROUTING, _PRIORITY_SNAT),
                (
                    nft_table.rule(
                        say.masquerade_marked(self.settings.masquerade_mark),
                        "masquerade what is marked",
                    ),
                    nft_table.rule(rules.masquerade_hairpin(family), "a pod that reaches itself"),
                ),
            ),
        )

    def _external_ip(self, family: Family, *, has_firewall: bool) -> ChainSpec:
        """Return the chain for external IPs and VIPs. An earlier layout's firewall stays until ours knows all VIPs."""
        former = nft_table.rule(rules.look_up(family, FIREWALL), "source ranges as they were")
        guarded = [*say.frontend_in(family, GUARDED), say.jump(SOURCES)]
        return ChainSpec(
            EXTERNAL_IP,
            None,
            (
                *([former] if has_firewall else []),
                nft_table.rule(guarded, "source ranges"),
                *self._outer(family, "external-ip"),
            ),
        )

    def _cluster_ip(self, family: Family) -> list[RuleSpec]:
        why = "replaced meanwhile: the first endpoint"
        both = (rules.first(), rules.first(is_local=True))
        return [
            *self._masquerade_internal(family),
            nft_table.rule(rules.look_up(family, SERVICES), "by address, protocol and port"),
            *[
                nft_table.rule(rules.translate(family, protocol, first), why)
                for first in both
                for protocol in PROTOCOLS
            ],
            nft_table.rule([say.goto(REFUSE)], "a port no service defines"),
        ]
