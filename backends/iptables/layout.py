"""What stands in our tables whatever the services: fixed chains, the beginnings of trees, and jumps. Pure.

README.md follows a packet through all of it. Everything here asks sets; what depends on one service is in `render`.
"""

import ipaddress
from typing import Final, NamedTuple

from backends.iptables import sets
from backends.iptables.model import (
    CANARY,
    CHAINS,
    Chain,
    Jump,
    Table,
    TreeName,
    empty_chain,
    make_chain,
    make_jump,
)
from backends.iptables.tree import ROOTS
from backends.kernel.ipvs_marks import Marks
from backends.kernel.xtables_pods import pod_words
from proxy.config.settings import LocalMode, Settings
from proxy.desired_node import PRIMARY, DesiredNode, family_of
from proxy.model import PROTOCOLS, Family, Value

SERVICES: Final = CHAINS + "SERVICES"
POSTROUTING: Final = CHAINS + "POSTROUTING"
UNTRANSLATED: Final = CHAINS + "UNTRANSLATED"
UNTRANSLATED_PORTS: Final = CHAINS + "UNTRANSLATED-N"
REFUSE: Final = CHAINS + "REFUSE"
INPUT: Final = CHAINS + "INPUT"
FORWARD: Final = CHAINS + "FORWARD"

_LOCAL: Final = "-m addrtype --dst-type LOCAL"
_LOOPBACK: Final[dict[Family, str]] = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}
_NEW: Final = "-m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT"

JUMPS: Final[dict[Table, tuple[Jump, ...]]] = {
    "nat": (
        make_jump("PREROUTING", f"-j {SERVICES}"),
        make_jump("OUTPUT", f"-j {SERVICES}"),
        make_jump("POSTROUTING", f"-j {POSTROUTING}"),
    ),
    "filter": (
        make_jump("INPUT", f"-j {INPUT}"),
        make_jump("FORWARD", f"-j {FORWARD}"),
        make_jump("OUTPUT", f"{_NEW} -j {UNTRANSLATED}"),
    ),
}
"""Our rules in built-in chains, the same whatever the settings."""


class IptablesSettings(Value, frozen=True, kw_only=True):
    """What of the settings shapes our rules.

    `cluster_cidrs` holds at most one CIDR of each family: sources in it are local pods, in mode ClusterCIDR.
    `interface` is the bridge's name or the prefix, in the modes that have one. `masquerade_mark` is the single bit of the
    packet mark that is ours. `serves_localhost`: NodePorts are served at 127.0.0.0/8, for which the kernel must be told to
    route such addresses (`route_localnet`). `drops_invalid`: packets that connection tracking cannot make sense of are
    not forwarded; untranslated, they would have whoever gets them end the connection. `secret` is what only this node has:
    names of chains and sets cannot be foretold without it.
    """

    families: tuple[Family, ...]
    masquerade_mark: int = 0x4000
    masquerade_all: bool = False
    local_mode: LocalMode = "ClusterCIDR"
    cluster_cidrs: tuple[str, ...] = ()
    interface: str = ""
    serves_localhost: bool = True
    drops_invalid: bool = True
    secret: str = ""


def shaped_by(settings: Settings, families: tuple[Family, ...]) -> IptablesSettings:
    """Read what shapes our rules from the configuration.

    Loopback serves NodePorts only if the ranges they are limited to reach there. Who accepts packets outside the TCP window
    does not want them dropped either.
    """
    is_bridge = settings.detect_local_mode == "BridgeInterface"
    return IptablesSettings(
        families=families,
        masquerade_mark=settings.masquerade_mark,
        masquerade_all=settings.masquerade_all,
        local_mode=settings.detect_local_mode,
        cluster_cidrs=settings.cluster_cidrs,
        interface=settings.bridge_interface if is_bridge else settings.interface_name_prefix,
        serves_localhost=settings.localhost_node_ports
        and _reaches_loopback(settings.node_port_addresses),
        drops_invalid=not settings.conntrack.tcp_be_liberal,
    )


def _reaches_loopback(node_port_addresses: tuple[str, ...]) -> bool:
    if PRIMARY in node_port_addresses:
        return False
    own = [
        ipaddress.IPv4Network(each) for each in node_port_addresses if family_of(each) == "IPv4"
    ]
    loopback = ipaddress.IPv4Network(_LOOPBACK["IPv4"])
    return not own or any(each.overlaps(loopback) for each in own)


class _Fixed(NamedTuple):
    chains: dict[Table, tuple[Chain, ...]]
    preludes: dict[TreeName, tuple[str, ...]]


class Layout:
    """Our tables for given settings and a given node. What it hands out is made once."""

    def __init__(self, settings: IptablesSettings, node: DesiredNode | None = None) -> None:
        self.settings = settings
        self.families = settings.families
        self.masquerade = f"-j MARK --or-mark {settings.masquerade_mark:#x}"
        self._node = node or DesiredNode()
        self._fixed = {family: self._fixed_of(family) for family in self.families}
        self._of_nodes: dict[object, Layout] = {}

    def for_node(self, node: DesiredNode) -> "Layout":
        """Return the layout for a node: the ranges of its pods and where NodePorts listen are in the rules."""
        if node is self._node:
            return self
        is_by_node = self.settings.local_mode == "NodeCIDR"
        are_open = tuple([node.node_port_addresses.get(f) is None for f in self.families])
        key = (node.pod_cidrs if is_by_node else (), are_open)
        found = self._of_nodes.get(key)
        if found is None:
            found = self._of_nodes[key] = Layout(self.settings, node)
        return found

    def chains(self, family: Family, table: Table) -> tuple[Chain, ...]:
        """Return the fixed chains of a table, each after those it leads to; the roots of trees are not among them."""
        return self._fixed[family].chains[table]

    def prelude(self, family: Family, tree: TreeName) -> tuple[str, ...]:
        """Return the rules that stand before those of a tree in its root."""
        return self._fixed[family].preludes[tree]

    def pod(self, family: Family) -> str | None:
        """Return what matches traffic of pods on this node; None where nothing tells it."""
        pods = self._pods(family)
        return pods[0] if pods is not None else None

    def _pods(self, family: Family) -> tuple[str, str] | None:
        settings = self.settings
        is_by_node = settings.local_mode == "NodeCIDR"
        cidrs = self._node.pod_cidrs if is_by_node else settings.cluster_cidrs
        return pod_words(settings.local_mode, cidrs, settings.interface, family)

    def _fixed_of(self, family: Family) -> _Fixed:
        canary = empty_chain(CANARY)
        chains: dict[Table, tuple[Chain, ...]] = {
            "filter": (canary, *self._filter(family)),
            "nat": (
                canary,
                make_chain(SERVICES, self._services(family)),
                self._postrouting(family),
            ),
        }
        guard = f"{_in(family, sets.GUARDED)} {_not_allowed(family)} -j ACCEPT"
        preludes: dict[TreeName, tuple[str, ...]] = {
            "C": self._masquerade_internal(family),
            "X": (guard,),
            "N": (),
        }
        return _Fixed(chains, preludes)

    def _services(self, family: Family) -> list[str]:
        """An address may be an external IP of some port and yet be this node's, or another service's cluster IP."""
        return [
            f"{_in(family, sets.EXTERNAL_IPS, 'dst')} -j {ROOTS['X']}",
            f"{_in(family, sets.CLUSTER_IPS, 'dst')} -g {ROOTS['C']}",
            *[f"{here} -g {ROOTS['N']}" for here in self._here(family)],
        ]

    def _here(self, family: Family) -> list[str]:
        """Return what matches the addresses at which NodePorts are served."""
        is_open = self._node.node_port_addresses.get(family) is None
        on_loopback = family == "IPv4" and self.settings.serves_localhost
        if is_open:
            return [_LOCAL if on_loopback else f"{_LOCAL} ! -d {_LOOPBACK[family]}"]
        loopback = [f"-d {_LOOPBACK[family]}"] if on_loopback else []
        return [_in(family, sets.NODEPORT_IPS, "dst"), *loopback]

    def _masquerade_internal(self, family: Family) -> tuple[str, ...]:
        """What goes to a cluster IP and is no pod's of this node is masqueraded; where nothing tells pods, nothing is."""
        if self.settings.masquerade_all:
            return (self.masquerade,)
        pods = self._pods(family)
        return (f"{pods[1]} {self.masquerade}",) if pods is not None else ()

    def _postrouting(self, family: Family) -> Chain:
        bit = f"{self.settings.masquerade_mark:#x}"
        return make_chain(
            POSTROUTING,
            [
                f"-m conntrack --ctstate DNAT {_in(family, sets.HAIRPIN, 'dst,dst,src')}"
                f" {self.masquerade}",
                f"-m mark ! --mark {bit}/{bit} -j RETURN",
                f"-j MARK --xor-mark {bit}",
                "-j MASQUERADE --random-fully",
            ],
        )

    def _filter(self, family: Family) -> tuple[Chain, ...]:
        """What no rule of nat has translated is refused or dropped here, since nat may do neither.

        In FORWARD this comes before marked packets are let through: to a cluster IP, they are marked before it is known
        whether there is an endpoint.
        """
        bit = f"{self.settings.masquerade_mark:#x}"
        localhost = family == "IPv4" and self.settings.serves_localhost
        loopback = _LOOPBACK[family]
        martians = (
            f"-d {loopback} ! -s {loopback} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
        )
        invalid = ["-m conntrack --ctstate INVALID -j DROP"] if self.settings.drops_invalid else []
        return (
            make_chain(REFUSE, ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT"]),
            make_chain(UNTRANSLATED_PORTS, _refuse_ports(family)),
            make_chain(
                UNTRANSLATED,
                [
                    f"{_in(family, sets.GUARDED)} {_not_allowed(family)} -j DROP",
                    f"{_in(family, sets.REFUSED)} -g {REFUSE}",
                    *self._by_ipvs(family),
                    f"{_in(family, sets.FRONTENDS)} -j DROP",
                    f"{_in(family, sets.CLUSTER_IPS, 'dst')} -g {REFUSE}",
                    f"{_in(family, sets.SERVICE_CIDRS, 'dst')} -m addrtype ! --dst-type LOCAL -j DROP",
                    *[f"{here} -g {UNTRANSLATED_PORTS}" for here in self._here(family)],
                ],
            ),
            make_chain(
                INPUT,
                [
                    f"{_NEW} -j {UNTRANSLATED}",
                    *([f"{martians} -j DROP"] if localhost else []),
                    # load balancers ask there, whatever else is let in
                    f"-p tcp {_in(family, sets.HEALTH_PORTS, 'dst')} -j ACCEPT",
                ],
            ),
            make_chain(
                FORWARD,
                [
                    f"{_NEW} -j {UNTRANSLATED}",
                    *invalid,
                    f"-m mark --mark {bit}/{bit} -j ACCEPT",
                    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                ],
            ),
        )

    def _by_ipvs(self, family: Family) -> list[str]:
        """Let through what mode ipvs translates behind filter: one of the modes may be taking over from the other.

        These rules always stand. A cluster IP may be this node's own for another reason, as with a DNS cache that listens
        there: ports that no service defines are refused all the same. An address is known as a cluster IP only after its
        ports are (`order`), so here everything is one that is no external IP.
        """
        marks = Marks(self.settings.masquerade_mark)
        external = f"-m set ! --match-set {sets.set_name(family, sets.EXTERNAL_IPS)} dst"
        return [
            f"-m mark --mark {marks.value:#x}/{marks.mask:#x} -j RETURN",
            f"{_in(family, sets.FRONTENDS)} {external} {_LOCAL} -j RETURN",
        ]


def _refuse_ports(family: Family) -> list[str]:
    rules: list[str] = []
    for protocol in PROTOCOLS:
        which = f"-p {protocol.lower()}"
        rules += [
            f"{which} {_in(family, sets.PORTS_REFUSED[protocol], 'dst')} -g {REFUSE}",
            f"{which} {_in(family, sets.PORTS[protocol], 'dst')} -j DROP",
        ]
    return rules


def _in(family: Family, short: str, parts: str = "dst,dst") -> str:
    return f"-m set --match-set {sets.set_name(family, short)} {parts}"


def _not_allowed(family: Family) -> str:
    return f"-m set ! --match-set {sets.set_name(family, sets.ALLOWED)} dst,dst,src"
