"""What stands whatever the services. What packets meet: test_plan_packets.py; that the kernel takes it: e2e/test_iptables_layout.py."""

import argparse
import re
from collections.abc import Mapping

import pytest

from backends.iptables.layout import (
    FORWARD,
    INPUT,
    JUMPS,
    POSTROUTING,
    SERVICES,
    UNTRANSLATED,
    IptablesSettings,
    Layout,
    shaped_by,
)
from backends.iptables.model import CANARY, CHAINS, TABLES
from backends.iptables.sets import fixed_sets
from backends.iptables.tree import ROOTS
from backends.kernel.ipset_objects import PROTOCOL_NUMBERS, Member
from backends.kernel.ipvs_marks import Marks
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import LocalMode
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Family, Protocol
from tests.fakes.packets import DROPPED, PASSED, REFUSED, Fates, Host, Packet
from tests.unit.backends.iptables.planning import OWN

SETTINGS = IptablesSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00::/48"))


def rules(layout: Layout, chain: str, family: Family = "IPv4") -> list[str]:
    """Return what a fixed chain does, without the comment."""
    (found,) = [
        each for table in TABLES for each in layout.chains(family, table) if each.name == chain
    ]
    return [re.sub(r'-m comment --comment "[^"]*" ?', "", rule) for rule in found.rules]


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_come_after_those_they_lead_to(family: Family) -> None:
    layout = Layout(SETTINGS)
    for table in TABLES:
        seen = set(ROOTS.values()) if table == "nat" else set()
        for chain in layout.chains(family, table):
            leads = {name for rule in chain.rules for name in re.findall(r"-[jg] (\S+)", rule)}
            assert {name for name in leads if name.startswith(CHAINS)} <= seen
            seen.add(chain.name)
        jumps = {name for jump in JUMPS[table] for name in jump.rule.split()}
        assert {name for name in jumps if name.startswith(CHAINS)} <= seen


@pytest.mark.parametrize("family", FAMILIES)
def test_rules_ask_sets_of_their_family_alone(family: Family) -> None:
    layout = Layout(SETTINGS)
    texts = [rule for table in TABLES for c in layout.chains(family, table) for rule in c.rules]
    texts += [rule for tree in ROOTS for rule in layout.prelude(family, tree)]

    asked = {name for text in texts for name in re.findall(r"--match-set (\S+)", text)}

    assert asked <= fixed_sets(family).keys()
    assert fixed_sets(family).keys() - asked == {f"sliceproxy{family[-1]}-nodeport-ips"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_table_has_a_canary_without_rules(family: Family) -> None:
    for table in TABLES:
        (canary,) = [c for c in Layout(SETTINGS).chains(family, table) if c.name == CANARY]
        assert (canary.rules, canary.state.mark, canary.state.rules) == ((), "", 0)


def test_node_ports_are_served_at_all_local_addresses_but_loopback_where_that_is_not_asked_for() -> (
    None
):
    layout = Layout(SETTINGS)
    closed = Layout(IptablesSettings(families=FAMILIES, serves_localhost=False))

    def last(each: Layout, family: Family) -> str:
        return rules(each, SERVICES, family)[-1]

    root = ROOTS["N"]
    assert last(layout, "IPv4") == f"-m addrtype --dst-type LOCAL -g {root}"
    assert last(closed, "IPv4") == f"-m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -g {root}"
    assert last(layout, "IPv6") == f"-m addrtype --dst-type LOCAL ! -d ::1/128 -g {root}"


def test_what_mode_ipvs_serves_is_not_dropped_while_one_mode_takes_over() -> None:
    marks = Marks(SETTINGS.masquerade_mark)

    untranslated = rules(Layout(SETTINGS), UNTRANSLATED)

    assert untranslated[2:5] == [
        f"-m mark --mark {marks.value:#x}/{marks.mask:#x} -j RETURN",
        "-m set --match-set sliceproxy4-frontends dst,dst"
        " -m set ! --match-set sliceproxy4-external-ips dst -m addrtype --dst-type LOCAL -j RETURN",
        "-m set --match-set sliceproxy4-frontends dst,dst -j DROP",
    ]


def test_node_ports_are_served_at_some_addresses_and_loopback() -> None:
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": ()})
    layout = Layout(SETTINGS).for_node(node)

    assert rules(layout, SERVICES)[2:] == [
        f"-m set --match-set sliceproxy4-nodeport-ips dst -g {ROOTS['N']}",
        f"-d 127.0.0.0/8 -g {ROOTS['N']}",
    ]
    assert rules(layout, UNTRANSLATED)[-2:] == [
        "-m set --match-set sliceproxy4-nodeport-ips dst -g SLICEPROXY-UNTRANSLATED-N",
        "-d 127.0.0.0/8 -g SLICEPROXY-UNTRANSLATED-N",
    ]
    assert len(rules(layout, SERVICES, "IPv6")) == 3


@pytest.mark.parametrize(
    ("mode", "pod", "prelude"),
    [
        ("ClusterCIDR", "-s 10.244.0.0/16", "! -s 10.244.0.0/16"),
        ("NodeCIDR", "-s 10.9.1.0/24", "! -s 10.9.1.0/24"),
        ("BridgeInterface", "-i cni0", "! -i cni0"),
        ("InterfaceNamePrefix", "-i cni0+", "! -i cni0+"),
    ],
)
def test_pods_are_told_by_each_mode(mode: LocalMode, pod: str, prelude: str) -> None:
    settings = IptablesSettings(
        families=("IPv4",), local_mode=mode, cluster_cidrs=("10.244.0.0/16",), interface="cni0"
    )
    layout = Layout(settings).for_node(DesiredNode(pod_cidrs=("fd00::/64", "10.9.1.0/24")))

    assert layout.pod("IPv4") == pod
    assert layout.prelude("IPv4", "C") == (f"{prelude} -j MARK --or-mark 0x4000",)


def test_where_nothing_tells_pods_only_masquerade_all_masquerades() -> None:
    for is_all, prelude in ((False, ()), (True, ("-j MARK --or-mark 0x8",))):
        layout = Layout(
            IptablesSettings(families=("IPv4",), masquerade_all=is_all, masquerade_mark=8)
        )
        assert layout.pod("IPv4") is None
        assert layout.prelude("IPv4", "C") == prelude


def test_the_mark_is_the_configured_bit_everywhere() -> None:
    layout = Layout(IptablesSettings(families=("IPv4",), masquerade_mark=0x20))
    texts = [rule for table in TABLES for c in layout.chains("IPv4", table) for rule in c.rules]

    assert not any("0x4000" in text for text in texts)
    assert sum("0x20" in text for text in texts) == 4
    assert rules(layout, POSTROUTING)[2] == "-j MARK --xor-mark 0x20"


def test_invalid_packets_and_neighbours_at_loopback_follow_the_settings() -> None:
    plain = Layout(SETTINGS)
    other = Layout(
        IptablesSettings(families=FAMILIES, serves_localhost=False, drops_invalid=False)
    )

    assert any("INVALID" in rule for rule in rules(plain, FORWARD))
    assert not any("INVALID" in rule for rule in rules(other, FORWARD))
    assert rules(plain, INPUT)[1:-1] == [
        "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    ]
    assert len(rules(other, INPUT)) == len(rules(plain, INPUT, "IPv6")) == 2


def test_one_object_stands_for_nodes_that_are_alike() -> None:
    layout = Layout(SETTINGS)
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",)})

    assert layout.for_node(node) is layout.for_node(
        DesiredNode(node_port_addresses={"IPv4": ("192.0.2.2",)}, service_cidrs=("10.96.0.0/16",))
    )
    assert layout.for_node(node) is not layout.for_node(DesiredNode(pod_cidrs=("10.0.0.0/24",)))


# --- the configuration


def configured(text: str = "", *arguments: str) -> IptablesSettings:
    """Return what a configuration file and flags make of our rules."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args(["--config=/c", *arguments])
    whole = f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n{text}\n"
    settings, _ = load.load(args, hostname="n1", read_file=lambda _: whole.encode())
    return shaped_by(settings, FAMILIES)


def test_the_configuration_shapes_the_rules() -> None:
    shaped = configured(
        "iptables: {masqueradeAll: true, masqueradeBit: 3}\nclusterCIDR: 10.244.0.0/16"
    )

    assert (shaped.masquerade_all, shaped.masquerade_mark) == (True, 8)
    assert (shaped.local_mode, shaped.cluster_cidrs) == ("ClusterCIDR", ("10.244.0.0/16",))
    assert shaped.families == FAMILIES


@pytest.mark.parametrize(
    ("text", "is_served"),
    [
        ("", True),
        ("iptables: {localhostNodePorts: false}", False),
        ("nodePortAddresses: ['2001:db8::/64']", True),
        ("nodePortAddresses: [192.0.2.0/24]", False),
        ("nodePortAddresses: [192.0.2.0/24, 127.0.0.0/8]", True),
        ("nodePortAddresses: [0.0.0.0/0]", True),
        ("nodePortAddresses: [primary]", False),
    ],
)
def test_loopback_serves_node_ports_where_these_are_not_limited_to_elsewhere(
    text: str, is_served: bool
) -> None:
    assert configured(text).serves_localhost == is_served


def test_who_accepts_packets_outside_the_window_forwards_invalid_ones() -> None:
    assert configured().drops_invalid
    assert not configured("conntrack: {tcpBeLiberal: true}").drops_invalid


@pytest.mark.parametrize(
    ("mode", "text", "interface"),
    [
        ("BridgeInterface", "bridgeInterface: cni0", "cni0"),
        ("InterfaceNamePrefix", "interfaceNamePrefix: cali", "cali"),
    ],
)
def test_the_interface_of_pods_is_that_of_the_mode(mode: str, text: str, interface: str) -> None:
    shaped = configured(f"detectLocalMode: {mode}\ndetectLocal: {{{text}}}")

    assert (shaped.local_mode, shaped.interface) == (mode, interface)


# --- packets that are for no service


def fates(
    packet: Packet,
    layout: Layout | None = None,
    *cidrs: str,
    members: Mapping[str, Member] | None = None,
) -> Fates:
    """What becomes of a packet where there are no services, or nothing of them but these members of sets."""
    family: Family = "IPv6" if ":" in packet.destination else "IPv4"
    layout = layout or Layout(SETTINGS)
    tables: dict[str, dict[str, list[str]]] = {}
    for table in TABLES:
        chains = {chain.name: list(chain.rules) for chain in layout.chains(family, table)}
        chains |= {
            name: [] for name in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
        }
        if table == "nat":
            chains |= {root: list(layout.prelude(family, tree)) for tree, root in ROOTS.items()}
        for jump in JUMPS[table]:
            chains[jump.chain] = [jump.rule]
        tables[table] = chains
    sets: dict[str, set[Member]] = {name: set() for name in fixed_sets(family)}
    sets[f"sliceproxy{family[-1]}-service-cidrs"] |= {Member(cidr) for cidr in cidrs}
    for short, member in (members or {}).items():
        sets[f"sliceproxy{family[-1]}-{short}"].add(member)
    return Host(tables["nat"], tables["filter"], sets, {OWN[family]}).fates(packet)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["", "eth0"])
def test_what_is_for_no_service_is_left_alone(family: Family, interface: str) -> None:
    outside = {"IPv4": "198.51.100.1", "IPv6": "2001:db8::1"}[family]
    for destination in (outside, OWN[family]):
        source = OWN[family] if not interface else outside
        assert fates(Packet(source, destination, "TCP", 22, interface)) == {PASSED: 1}


def test_an_address_of_a_service_range_that_no_service_has_is_dropped_unless_it_is_our_own() -> (
    None
):
    for destination, fate in (("192.0.2.50", DROPPED), (OWN["IPv4"], PASSED)):
        packet = Packet("198.51.100.1", destination, "TCP", 22, "eth0")
        assert fates(packet, None, "192.0.2.0/24") == {fate: 1}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interface", ["", "eth0"])
def test_at_a_cluster_ip_of_this_node_only_ports_of_services_are_left_to_mode_ipvs(
    family: Family, interface: str
) -> None:
    """A DNS cache of the node may have it on a device of its own: sshd is not to be reached there."""
    own = OWN[family]
    members = {"cluster-ips": Member(own), "frontends": Member(own, PROTOCOL_NUMBERS["TCP"], 53)}
    source = own if not interface else own[:-1] + "9"

    for port, fate in ((53, PASSED), (22, REFUSED)):
        packet = Packet(source, own, "TCP", port, interface)
        assert fates(packet, members=members) == {fate: 1}

    del members["cluster-ips"]  # as it is for a moment when mode iptables takes over
    assert fates(Packet(source, own, "TCP", 53, interface), members=members) == {PASSED: 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_who_asks_for_health_is_let_in_where_others_are_not(family: Family) -> None:
    layout = Layout(SETTINGS)
    chains = {chain.name: list(chain.rules) for chain in layout.chains(family, "filter")}
    chains["INPUT"] = [JUMPS["filter"][0].rule, "-j DROP"]
    sets: dict[str, set[Member]] = {name: set() for name in fixed_sets(family)}
    sets[f"sliceproxy{family[-1]}-ports-health"] |= {Member(port=31000)}
    nat: dict[str, list[str]] = {n: [] for n in ("PREROUTING", "OUTPUT", "POSTROUTING")}
    host, source = Host(nat, chains, sets, {OWN[family]}), OWN[family][:-1] + "9"

    for protocol, port, fate in (
        ("TCP", 31000, PASSED),
        ("TCP", 22, DROPPED),
        ("UDP", 31000, DROPPED),
    ):
        packet = Packet(source, OWN[family], protocol, port, "eth0")  # type: ignore[arg-type] # a protocol
        assert host.fates(packet) == {fate: 1}


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_a_neighbour_does_not_reach_loopback(protocol: Protocol) -> None:
    martian = Packet("192.0.2.9", "127.0.0.1", protocol, 22, "eth0")
    own = Packet("127.0.0.1", "127.0.0.1", protocol, 22)
    closed = Layout(IptablesSettings(families=FAMILIES, serves_localhost=False))

    assert fates(martian) == {DROPPED: 1}
    assert fates(own) == {PASSED: 1}
    assert fates(martian, closed) == {PASSED: 1}  # the kernel itself drops it
