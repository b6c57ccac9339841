"""The side rules in the words of iptables, for kernels without nftables: chains in mangle, nat and filter. Pure.

README.md follows a packet through them. They ask the sets of `layout`, which are sets of ipset here. What is decided about the first
packet of a connection is decided once, in mangle, and stands in its mark: nat does not let anybody else translate it, and filter
refuses, which nothing before it may do. A chain is named with its table; the rules that lead to ours are chains named after
those they stand in.
"""

import hashlib
from typing import Final

from backends.ipvs.layout import Layout
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    DROPPED,
    ELSEWHERE,
    EXTERNALS,
    GUARDED,
    HAIRPIN,
    HEALTH_PORTS,
    PLACES,
    REFUSED,
    SERVICES,
    Kind,
)
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_table import ChainSpec, RuleSpec
from backends.kernel.xtables_pods import pod_words
from proxy.model import Family

CHAINS: Final = "SLICE-IPVS-"
"""What the names of our chains begin with: not like those of mode iptables, which takes all that look like its own."""
SETS: Final[dict[Family, str]] = {"IPv4": "slice-ipvs4-", "IPv6": "slice-ipvs6-"}
TABLES: Final = ("nat", "filter", "mangle")
"""In the order in which they are written: marks are given once everybody knows what they mean."""

_FIRST: Final = "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED"
"""The packets that nat sees: others of a connection that nobody has answered yet are new, too."""
_LOCAL: Final = "-m addrtype --dst-type LOCAL"
_OWN: Final = "-m addrtype --src-type LOCAL"
_LOOPBACK: Final[dict[Family, str]] = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}
_EVERYWHERE: Final[dict[Family, str]] = {"IPv4": "0.0.0.0/0", "IPv6": "::/0"}
_NOBODYS_PORT: Final = 1
_MASQUERADE: Final = "-j MASQUERADE --random-fully"


class XtLayout(Layout):
    """Our chains for given settings and a given node."""

    def _chains_of(self, family: Family) -> tuple[ChainSpec, ...]:
        return (*self._nat(family), *self._filter(family), *self._mangle(family))

    @staticmethod
    def closed_chains() -> tuple[ChainSpec, ...]:
        off = "no new connections"
        return (
            _chain("nat", "TRANSLATE", ("-j RETURN", off)),
            _chain("mangle", "DISPATCH", ("-j RETURN", off)),
            _chain("filter", "SERVED", (f"-g {CHAINS}REFUSE", off)),
        )

    def _nat(self, family: Family) -> tuple[ChainSpec, ...]:
        bit, marks = self.settings.masquerade_mark, self.marks
        ours = f"-m mark --mark {marks.value:#x}/{marks.mask:#x}"
        both = f"-m mark --mark {marks.value | bit:#x}/{marks.mask | bit:#x}"
        # "translated" to the address it has: no rule of others is asked any more
        kept = f"-j NETMAP --to {_EVERYWHERE[family]}"
        # where the node itself connects, IPVS comes before filter, and would find a virtual server that drains
        aside = f"-p tcp {_refused(marks.refused)} -j DNAT --to-destination :{_NOBODYS_PORT}"
        return (
            _chain(
                "nat",
                "TRANSLATE",
                (f"{ours} {kept}", "marked by us"),
                (f"{_in(family, SERVICES)} {kept}", "cluster IPs"),
            ),
            _chain(
                "nat",
                "TRANSLATE-OWN",
                (aside, "TCP to be refused"),
                (f"-j {CHAINS}TRANSLATE", "all else"),
            ),
            _chain(
                "nat",
                "MASQUERADE",
                ("-j MARK --set-mark 0x0", "the mark has said it"),
                (_MASQUERADE, "masquerade"),
            ),
            _chain(
                "nat",
                "MARKED",
                (f"-j MARK --xor-mark {bit:#x}", "a packet may pass twice"),
                (_MASQUERADE, "masquerade"),
            ),
            _chain(
                "nat",
                "POSTROUTING",
                (f"{both} -g {CHAINS}MASQUERADE", "marked by us, masquerade"),
                (f"{ours} {_OWN} -g {CHAINS}MASQUERADE", "marked by us, from this node itself"),
                (f"{ours} -j MARK --set-mark 0x0", "marked by us"),
                (f"-m mark --mark {bit:#x}/{bit:#x} -g {CHAINS}MARKED", "masquerade"),
                (f"-m conntrack --ctstate NEW {_in(family, BOUND, 'src')} {_MASQUERADE}", "this node itself"),
                (f"{_in(family, HAIRPIN, 'src,dst')} {_MASQUERADE}", "a pod that reaches itself"),
            ),
            _jump("nat", "PREROUTING", f"-m conntrack --ctstate NEW -j {CHAINS}TRANSLATE"),
            _jump("nat", "OUTPUT", f"-m conntrack --ctstate NEW -j {CHAINS}TRANSLATE-OWN"),
            _jump("nat", "POSTROUTING", f"-j {CHAINS}POSTROUTING"),
        )  # fmt: skip

    def _filter(self, family: Family) -> tuple[ChainSpec, ...]:
        """Refuse what is marked so, and whatever else goes to our addresses, unless nat has translated it."""
        marks = self.marks
        unclaimed = f"{_FIRST} -j {CHAINS}UNCLAIMED"
        return (
            _chain(
                "filter",
                "REFUSE",
                ("-p tcp -j REJECT --reject-with tcp-reset", "TCP: at once"),
                ("-j REJECT", "port unreachable"),
            ),
            _chain(
                "filter",
                "SERVED",
                (f"{_in(family, SERVICES)} -j RETURN", "cluster IPs"),
                (f"-g {CHAINS}REFUSE", "a port no service defines"),
            ),
            _chain(
                "filter",
                "UNCLAIMED",
                (f"{_refused(marks.refused)} -g {CHAINS}REFUSE", "nothing usable"),
                (f"-m mark --mark {marks.value:#x}/{marks.mask:#x} -j RETURN", "to IPVS"),
                (f"{_in(family, HEALTH_PORTS)} -j RETURN", "health check node ports"),
                (f"{_in(family, BOUND, 'dst')} -g {CHAINS}SERVED", "our device"),
                (f"{_in(family, SERVICE_CIDRS, 'dst')} -j DROP", "an address no service has"),
            ),
            *[_jump("filter", each, unclaimed) for each in ("INPUT", "FORWARD", "OUTPUT")],
        )

    def _mangle(self, family: Family) -> tuple[ChainSpec, ...]:
        first = f"{_FIRST} -j {CHAINS}DISPATCH"
        here = f"{_LOCAL} ! -d {_LOOPBACK[family]}"
        if self._node.node_port_addresses.get(family) is not None:
            here = _in(family, NODEPORT_IPS, "dst")
        elsewhere = _in(family, ELSEWHERE, "dst")
        allowed = _in(family, ALLOWED, "dst,dst,src")
        return (
            _chain("mangle", "CLUSTER-IP", *self._masquerading(family)),
            _chain(
                "mangle",
                "SOURCES",
                # as in `layout`: a packet may be held up while ranges go and come back
                (f"{allowed} -j RETURN", "in the ranges"),
                (f"{_in(family, GUARDED, is_inverted=True)} -j RETURN", "no limit any more"),
                (f"{allowed} -j RETURN", "limited again"),
                (f"{_in(family, GUARDED)} -j DROP", "everybody else"),
            ),
            *self._outer_chains(family, "address", "", "OUTER"),
            *self._outer_chains(family, "node-port", "PORT-", "NODE-PORT"),
            _chain(
                "mangle",
                "BOUND",
                (f"{_in(family, SERVICES)} -g {CHAINS}CLUSTER-IP", "cluster IPs"),
                (f"-g {CHAINS}OUTER", "external IPs, load balancers"),
            ),
            _chain(
                "mangle",
                "DISPATCH",
                (f"{_in(family, BOUND, 'dst')} -g {CHAINS}BOUND", "our device"),
                # an address of this node may be an external IP of some port: others are still NodePorts
                *[
                    (f"{elsewhere} {_in(family, name)} -g {CHAINS}OUTER", "external IPs")
                    for name in (EXTERNALS, DROPPED, REFUSED)
                ],
                (f"{here} -g {CHAINS}NODE-PORT", "NodePorts"),
            ),
            _jump("mangle", "PREROUTING", first),
            _jump("mangle", "OUTPUT", first),
        )

    def _pods(self, family: Family) -> tuple[str, str] | None:
        settings = self.settings
        return pod_words(settings.local_mode, self._pod_cidrs, settings.interface, family)

    def _masquerading(self, family: Family) -> list[tuple[str, str]]:
        """Mark traffic to cluster IPs that does not come from a local pod (or, if configured, all of it)."""
        mark = f"-j MARK --or-mark {self.settings.masquerade_mark:#x}"
        if self.settings.masquerade_all:
            return [(mark, "masquerade everything")]
        pods = self._pods(family)
        if pods is None:
            return [("-j RETURN", "nothing tells pods of this node")]
        return [(f"{pods[1]} {mark}", "masquerade what is not from a local pod")]

    def _outer_chains(
        self, family: Family, kind: Kind, prefix: str, name: str
    ) -> tuple[ChainSpec, ...]:
        """Look a frontend up that is meant for the world outside, as `layout` does.

        A rule that marks goes on with the next one, so that there is a chain for each way to mark.
        """
        places, pods = PLACES[kind], self._pods(family)
        short = f"{_in(family, places.shortcuts)} -g {CHAINS}{prefix}SHORTCUT"
        guarded = (f"{_in(family, GUARDED)} -j {CHAINS}SOURCES", "source ranges")
        return (
            _chain("mangle", f"{prefix}SHORTCUT", (_marked(family, places.shortcuts), "by protocol and port")),
            _chain("mangle", f"{prefix}EXTERNAL", (_marked(family, places.externals), "by protocol and port")),
            _chain(
                "mangle",
                name,
                *([guarded] if kind == "address" else []),
                *([(f"{pods[0]} {short}", "pods of this node")] if pods is not None else []),
                (f"{_OWN} {short}", "this node itself"),
                (f"{_in(family, places.externals)} -g {CHAINS}{prefix}EXTERNAL", "to IPVS"),
                (f"{_in(family, places.dropped)} -j DROP", "none for the policy"),
                (f"{_in(family, places.refused)} -j MARK --set-mark {self.marks.refused:#x}", "nothing usable"),
            ),
        )  # fmt: skip


def set_name(family: Family, name: str) -> str:
    """Return the name that one of our sets has for ipset."""
    return SETS[family] + name


def split_name(name: str) -> tuple[str, str]:
    """Return the table and the chain of a chain's name."""
    table, _, chain = name.partition("/")
    return table, chain


def is_own(chain: str) -> bool:
    """Whether a chain is ours, and not one in which a rule leads to us."""
    return chain.startswith(CHAINS)


def _in(family: Family, name: str, parts: str = "dst,dst", *, is_inverted: bool = False) -> str:
    return f"-m set {'! ' * is_inverted}--match-set {set_name(family, name)} {parts}"


def _marked(family: Family, name: str) -> str:
    return f"-j SET --map-set {set_name(family, name)} dst,dst --map-mark"


def _refused(mark: int) -> str:
    return f"-m mark --mark {mark:#x}"


def _chain(table: str, name: str, *rules: tuple[str, str]) -> ChainSpec:
    return ChainSpec(f"{table}/{CHAINS}{name}", None, tuple([_rule(*each) for each in rules]))


def _jump(table: str, chain: str, rule: str) -> ChainSpec:
    return ChainSpec(f"{table}/{chain}", None, (_rule(rule, "services"),))


def _rule(text: str, why: str) -> RuleSpec:
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return RuleSpec(text.encode(), f"{why} [{digest}]")
