"""The fixed part of our tables: sets, hooks, and the rules every service shares. Pure.

Also the chains that pick an endpoint, one for each protocol and capacity, which exist on demand. README.md
follows a packet through all of it. Whatever depends on a single service is an element, not a rule: see `render`.
"""

import functools
import ipaddress
import re
from typing import Final, NamedTuple

from backends.kernel.nft_expressions import Numgen
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import Hook, SetFlag
from backends.kernel.nft_userdata import declare
from backends.nftables import rules
from backends.nftables.model import (
    CLUSTER_IP,
    CLUSTER_IPS,
    ENDPOINTS,
    HAIRPIN,
    REFUSE,
    REFUSED,
    SERVICES,
    ChainFacts,
    ChainSpec,
    RuleSpec,
    SetFacts,
    SetSpec,
)
from proxy.model import IPV4, PROTOCOLS, Family, Protocol, Value

_PICKING: Final = re.compile(r"pick-(tcp|udp|sctp)-([1-9][0-9]{0,6})")
_PRIORITY_DNAT, _PRIORITY_SNAT = -100, 100  # NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC
DRAWS: Final = 12
"""How often a random slot is drawn before the choice is narrowed to the half that is surely full. More than half of
the slots are full, so at most one connection in 2^12 is chosen that way: the spread is uniform but for that."""


class NftSettings(Value, frozen=True, kw_only=True):
    """What of the settings shapes our rules.

    `cluster_cidrs` holds at most one CIDR of each family: sources in it are local pods.
    `masquerade_mark` is the single bit of the packet mark that is ours.
    """

    families: tuple[Family, ...]
    masquerade_mark: int = 0x4000
    masquerade_all: bool = False
    cluster_cidrs: tuple[str, ...] = ()


def capacity_for(endpoints: int) -> int:
    """Return the smallest power of two that holds so many endpoints."""
    return 1 << max(endpoints - 1, 0).bit_length()


def picking_chain(protocol: Protocol, capacity: int) -> str:
    """Return the name of the chain that picks among up to `capacity` endpoints."""
    return f"pick-{protocol.lower()}-{capacity}"


def is_picking(name: str, protocol: Protocol | None = None) -> bool:
    """Whether this is the name of a chain that picks an endpoint, perhaps for one protocol only."""
    match = _PICKING.fullmatch(name)
    return (
        match is not None
        and (protocol is None or match[1] == protocol.lower())
        and capacity_for(int(match[2])) == int(match[2])
    )


class Fixed(NamedTuple):
    """The fixed part of a table as facts, by name."""

    sets: dict[str, SetFacts]
    chains: dict[str, ChainFacts]


class Layout:
    """Our tables for given settings. Specs are made once and then the same objects for ever."""

    def __init__(self, settings: NftSettings) -> None:
        self.settings = settings
        self.families = settings.families
        self._sets = {family: _sets(family) for family in self.families}
        self._skeleton = {family: self._skeleton_of(family) for family in self.families}
        self._fixed = {
            f: Fixed(
                sets={spec.name: spec.facts for spec in self._sets[f]},
                chains={spec.name: spec.facts for spec in self._skeleton[f]},
            )
            for f in self.families
        }
        self._bases = {f: {c.name: c.base for c in self._skeleton[f]} for f in self.families}
        self.chain = functools.cache(self._chain)

    def sets(self, family: Family) -> tuple[SetSpec, ...]:
        return self._sets[family]

    def skeleton(self, family: Family) -> tuple[ChainSpec, ...]:
        """Return the fixed chains, every chain before those that refer to it."""
        return self._skeleton[family]

    def fixed(self, family: Family) -> "Fixed":
        """Return what the fixed part of a table looks like when read back."""
        return self._fixed[family]

    def is_our_name(self, family: Family, name: str) -> bool:
        """Whether we make chains of that name."""
        return name in self._bases[family] or is_picking(name)

    def is_ours(self, family: Family, name: str, found: ChainFacts) -> bool:
        """Whether a chain in our table is one we make; of those that pick an endpoint, exactly as we make it."""
        return name in self._bases[family] or (
            is_picking(name) and found == self.chain(family, name).facts
        )

    def is_misplaced(self, family: Family, name: str, found: ChainFacts) -> bool:
        """Whether a chain of that name would be ours but for its hook, which cannot be changed."""
        return found.base != self._bases[family].get(name) and self.is_our_name(family, name)

    def _chain(self, family: Family, name: str) -> ChainSpec:
        """Return the chain of that name that picks an endpoint.

        Endpoints fill the slots from 0 on, and more than half of the capacity. A slot that turns out empty is
        drawn again; so is one that a commit emptied or moved between two look-ups of a packet, which is
        why a pool may grow and shrink in one transaction without a packet noticing. What still has found
        nothing belongs to a service without endpoints, or is dropped: it must never leave untranslated,
        because conntrack would remember that for the whole connection.
        """
        match = _PICKING.fullmatch(name)
        if match is None:
            raise ValueError(f"no chain that picks an endpoint: {name}")
        protocol: Protocol = match[1].upper()  # type: ignore[assignment] # the pattern allows only these
        capacity = int(match[2])

        def draw(slot: Numgen, why: str) -> RuleSpec:
            return rules.rule(rules.translate(family, protocol, slot), why)

        attempts = DRAWS if capacity > 2 else 2
        written = [draw(rules.any_of(capacity), f"one of up to {capacity}")] * attempts
        if capacity > 2:
            written.append(draw(rules.any_of(capacity // 2), "one of the half that is full"))
        written += [
            rules.rule([*rules.is_refused(family), rules.goto(REFUSE)], "no endpoint"),
            draw(rules.first(), "the first endpoint has just come"),
            rules.rule([rules.drop()], "never untranslated"),
        ]
        return ChainSpec(name, None, tuple(written))

    def _masquerade_internal(self, family: Family) -> list[RuleSpec]:
        """Mark traffic to cluster IPs that does not come from a local pod (or, if configured, all of it)."""
        mark = rules.or_mark(self.settings.masquerade_mark)
        if self.settings.masquerade_all:
            return [rules.rule(mark, "masquerade everything")]
        for cidr in self.settings.cluster_cidrs:
            network = ipaddress.ip_network(cidr)
            if f"IPv{network.version}" == family:
                outside = rules.source_outside(
                    family, network.network_address.packed, network.netmask.packed
                )
                return [rules.rule([*outside, *mark], "masquerade what is not from a local pod")]
        return []

    def _skeleton_of(self, family: Family) -> tuple[ChainSpec, ...]:
        """Return the fixed chains.

        The rules after the look-up in CLUSTER_IP are reached in two cases. No service defines the port, so
        that there is no first endpoint either. Or a commit is just replacing the element (kernels before
        6.17 can miss it for an instant): then the first endpoint serves.
        """
        known = [*rules.known_address(family), rules.goto(CLUSTER_IP)]
        dispatch = (rules.rule([rules.jump(SERVICES)], "services"),)
        return (
            ChainSpec(
                REFUSE,
                None,
                (
                    # The kernel limits the rate of its ICMP errors, and a local connect() over IPv6 ignores them.
                    rules.rule(rules.reset(), "TCP: at once"),
                    rules.rule([rules.refuse(family)], "port unreachable"),
                ),
            ),
            ChainSpec(
                CLUSTER_IP,
                None,
                (
                    *self._masquerade_internal(family),
                    rules.rule(rules.service_look_up(family), "by address, protocol and port"),
                    *[
                        rules.rule(
                            rules.translate(family, protocol, rules.first()),
                            "replaced meanwhile: the first endpoint",
                        )
                        for protocol in PROTOCOLS
                    ],
                    rules.rule([rules.goto(REFUSE)], "a port no service defines"),
                ),
            ),
            ChainSpec(SERVICES, None, (rules.rule(known, "cluster IPs"),)),
            ChainSpec("prerouting", BaseChain("nat", Hook.PREROUTING, _PRIORITY_DNAT), dispatch),
            ChainSpec("output", BaseChain("nat", Hook.OUTPUT, _PRIORITY_DNAT), dispatch),
            ChainSpec(
                "postrouting",
                BaseChain("nat", Hook.POSTROUTING, _PRIORITY_SNAT),
                (
                    rules.rule(
                        rules.masquerade_marked(self.settings.masquerade_mark),
                        "masquerade what is marked",
                    ),
                    rules.rule(rules.masquerade_hairpin(family), "a pod that reaches itself"),
                ),
            ),
        )


def _sets(family: Family) -> tuple[SetSpec, ...]:
    address = "ipv4_addr" if family == IPV4 else "ipv6_addr"
    header = "ip" if family == IPV4 else "ip6"
    # Declared by `typeof`, because the stock tool takes no plain integer as a type. The number after
    # `mod` is for its eyes only.
    endpoints = [
        _set(
            name,
            f"{header} daddr . {protocol.lower()} dport . numgen random mod 65536",
            f"{header} daddr . {protocol.lower()} dport",
        )
        for protocol, name in ENDPOINTS.items()
    ]
    return (
        _set(SERVICES, f"{address} . inet_proto . inet_service", "verdict"),
        *endpoints,
        _set(REFUSED, f"{address} . inet_proto . inet_service"),
        _set(CLUSTER_IPS, address),
        _set(HAIRPIN, f"{address} . {address}"),
    )


def _set(name: str, key: str, data: str | None = None) -> SetSpec:
    declared_key = declare(key)
    declared_data = declare(data) if data is not None else None
    facts = SetFacts(
        flags=SetFlag.MAP if data is not None else 0,
        key_type=declared_key.type,
        key_length=declared_key.length,
        data_type=declared_data.type if declared_data else None,
        data_length=declared_data.length if declared_data else 0,
    )
    return SetSpec(name, declared_key, declared_data, facts)
