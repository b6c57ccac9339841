"""What the side rules say in the words of iptables. What packets meet with: the tests on a kernel."""

import re

import pytest

from backends.ipvs.layout import IpvsSettings, Layout, fixed_sets
from backends.ipvs.model import ALLOWED, GUARDED
from backends.ipvs.xt_layout import SETS, TABLES, XtLayout, is_own, split_name
from proxy.config.settings import LocalMode
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Family
from tests.unit.backends.held_up import Asking, outcomes
from tests.unit.backends.ipvs.driving import CIDRS

both_families = pytest.mark.parametrize("family", FAMILIES)
FIRST = "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED"


def make_layout(
    *,
    masquerade_all: bool = False,
    cluster_cidrs: tuple[str, ...] = CIDRS,
    mode: LocalMode = "ClusterCIDR",
) -> XtLayout:
    return XtLayout(
        IpvsSettings(
            families=FAMILIES,
            masquerade_all=masquerade_all,
            cluster_cidrs=cluster_cidrs,
            local_mode=mode,
            interface="cni0",
        )
    )


def rules(layout: Layout, name: str, family: Family = "IPv4") -> list[str]:
    """The rules of a chain; `@set parts` for a match of a set, `!@set parts` for its opposite."""
    names = (name, name.replace("/", "/SLICE-IPVS-"))
    (chain,) = [chain for chain in layout.chains(family) if chain.name in names]
    texts = [rule.expressions.decode() for rule in chain.rules]
    match = re.compile(r"-m set (!?) ?--match-set slice-ipvs[46]-(\S+) (\S+)")
    short = [match.sub(r"\1@\2 \3", each) for each in texts]
    return [each.replace("SLICE-IPVS-", "") for each in short]


@both_families
def test_rules_name_only_chains_and_sets_that_are_there(family: Family) -> None:
    layout = make_layout()
    names = [split_name(chain.name) for chain in layout.chains(family)]
    sets = {SETS[family] + spec.name for spec in fixed_sets(family)}

    named: set[str] = set()
    for chain in layout.chains(family):
        table, _ = split_name(chain.name)
        for rule in chain.rules:
            text = rule.expressions.decode()
            for target in re.findall(r"-[jg] (SLICE-IPVS-\S+)", text):
                assert (table, target) in names
            named.update(re.findall(r"--(?:match|map)-set (\S+)", text))
            assert '"' not in rule.comment
    assert named <= sets
    # where NodePorts are at all addresses of this node, nobody asks which
    assert sets - named == {f"{SETS[family]}nodeport-ips"}
    assert all(len(name) <= 28 for _, name in names)
    assert {table for table, _ in names} == set(TABLES)


@both_families
def test_a_chain_comes_after_those_it_leads_to(family: Family) -> None:
    written: set[str] = set()
    for chain in make_layout().chains(family):
        table, name = split_name(chain.name)
        for rule in chain.rules:
            for target in re.findall(r"-[jg] (SLICE-IPVS-\S+)", rule.expressions.decode()):
                assert f"{table}/{target}" in written
        written.add(f"{table}/{name}")


def test_first_packets_are_judged_in_mangle_and_refused_in_filter() -> None:
    layout = make_layout()

    assert rules(layout, "mangle/PREROUTING") == [f"{FIRST} -j DISPATCH"]
    assert rules(layout, "mangle/OUTPUT") == [f"{FIRST} -j DISPATCH"]
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        assert rules(layout, f"filter/{hook}") == [f"{FIRST} -j UNCLAIMED"]


def test_an_address_of_our_device_is_a_cluster_ip_or_looked_up_as_the_world_does() -> None:
    layout = make_layout()

    assert rules(layout, "mangle/DISPATCH") == [
        "@bound dst -g BOUND",
        "@elsewhere dst @externals dst,dst -g OUTER",
        "@elsewhere dst @dropped dst,dst -g OUTER",
        "@elsewhere dst @refused dst,dst -g OUTER",
        "-m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -g NODE-PORT",
    ]
    assert rules(layout, "mangle/BOUND") == ["@services dst,dst -g CLUSTER-IP", "-g OUTER"]


def test_sources_are_checked_first_and_short_cuts_taken_before_the_way_from_outside() -> None:
    layout = make_layout()
    refused = f"{layout.marks.refused:#x}"

    assert rules(layout, "mangle/OUTER") == [
        "@guarded dst,dst -j SOURCES",
        "-s 10.244.0.0/16 @shortcuts dst,dst -g SHORTCUT",
        "-m addrtype --src-type LOCAL @shortcuts dst,dst -g SHORTCUT",
        "@externals dst,dst -g EXTERNAL",
        "@dropped dst,dst -j DROP",
        f"@refused dst,dst -j MARK --set-mark {refused}",
    ]
    assert rules(layout, "mangle/NODE-PORT")[-1] == (
        f"@nodeports-refused dst,dst -j MARK --set-mark {refused}"
    )
    assert rules(layout, "mangle/EXTERNAL") == [
        "-j SET --map-set slice-ipvs4-externals dst,dst --map-mark"
    ]


@both_families
def test_a_packet_that_is_held_up_while_a_limit_goes_and_comes_back_is_let_in(
    family: Family,
) -> None:
    chain = rules(make_layout(), "mangle/SOURCES", family)

    assert chain == [
        "@allowed dst,dst,src -j RETURN",
        "!@guarded dst,dst -j RETURN",
        "@allowed dst,dst,src -j RETURN",
        "@guarded dst,dst -j DROP",
    ]
    read = [re.fullmatch(r"(!?)@(\S+) \S+ -j (\S+)", rule) for rule in chain]
    asking = [Asking(each[2], bool(each[1]), each[3].lower()) for each in read if each]
    assert len(asking) == len(chain)
    assert outcomes(asking, {ALLOWED, GUARDED}) == {"return"}


def test_the_mark_of_what_is_refused_is_ours_and_no_virtual_servers() -> None:
    marks = make_layout().marks

    assert marks.refused & marks.mask == marks.value
    assert all(marks.refused != s.mark for n in (0, 1) for s in marks.servers("IPv4", n))


@pytest.mark.parametrize(("family", "everywhere"), [("IPv4", "0.0.0.0/0"), ("IPv6", "::/0")])
def test_what_is_decided_is_translated_to_the_address_it_has(
    family: Family, everywhere: str
) -> None:
    layout = make_layout()
    kept = f"-j NETMAP --to {everywhere}"
    ours = f"-m mark --mark {layout.marks.value:#x}/{layout.marks.mask:#x}"

    assert rules(layout, "nat/TRANSLATE", family) == [
        f"{ours} {kept}",
        f"@services dst,dst {kept}",
    ]
    assert rules(layout, "nat/TRANSLATE-OWN", family) == [
        f"-p tcp -m mark --mark {layout.marks.refused:#x} -j DNAT --to-destination :1",
        "-j TRANSLATE",
    ]


def test_other_ports_of_our_device_are_refused_behind_all_who_translate() -> None:
    layout = make_layout()

    assert rules(layout, "filter/UNCLAIMED") == [
        f"-m mark --mark {layout.marks.refused:#x} -g REFUSE",
        f"-m mark --mark {layout.marks.value:#x}/{layout.marks.mask:#x} -j RETURN",
        "@health-ports dst,dst -j RETURN",
        "@bound dst -g SERVED",
        "@service-cidrs dst -j DROP",
    ]
    assert rules(layout, "filter/SERVED") == ["@services dst,dst -j RETURN", "-g REFUSE"]


def test_a_packet_that_ipvs_has_translated_loses_our_mark_and_perhaps_its_source() -> None:
    layout = make_layout()
    marks, bit = layout.marks, 0x4000

    assert rules(layout, "nat/SLICE-IPVS-POSTROUTING") == [
        f"-m mark --mark {marks.value | bit:#x}/{marks.mask | bit:#x} -g MASQUERADE",
        f"-m mark --mark {marks.value:#x}/{marks.mask:#x} -m addrtype --src-type LOCAL -g MASQUERADE",
        f"-m mark --mark {marks.value:#x}/{marks.mask:#x} -j MARK --set-mark 0x0",
        "-m mark --mark 0x4000/0x4000 -g MARKED",
        "-m conntrack --ctstate NEW @bound src -j MASQUERADE --random-fully",
        "@hairpin src,dst -j MASQUERADE --random-fully",
    ]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (make_layout(), "! -s 10.244.0.0/16 -j MARK --or-mark 0x4000"),
        (make_layout(mode="BridgeInterface"), "! -i cni0 -j MARK --or-mark 0x4000"),
        (make_layout(masquerade_all=True), "-j MARK --or-mark 0x4000"),
        (make_layout(cluster_cidrs=()), "-j RETURN"),
    ],
)
def test_what_goes_to_a_cluster_ip_is_marked_unless_it_is_a_pods(
    layout: XtLayout, expected: str
) -> None:
    assert rules(layout, "mangle/CLUSTER-IP") == [expected]


def test_where_node_ports_listen_is_a_set_if_it_is_limited() -> None:
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": None})
    layout = make_layout().for_node(node)

    assert rules(layout, "mangle/DISPATCH")[-1] == "@nodeport-ips dst -g NODE-PORT"
    assert "LOCAL" in rules(layout, "mangle/DISPATCH", "IPv6")[-1]


@both_families
def test_what_is_closed_decides_on_nothing_and_refuses_what_nobody_else_has_translated(
    family: Family,
) -> None:
    found = make_layout().chain_facts[family]
    closed = {spec.name: spec.facts for spec in XtLayout.closed_chains()}

    assert [name.replace("SLICE-IPVS-", "") for name in closed] == [
        *("nat/TRANSLATE", "mangle/DISPATCH", "filter/SERVED")
    ]
    assert closed.keys() <= found.keys()
    assert not XtLayout.is_closed(found)
    assert XtLayout.is_closed({**found, **closed})
    assert [
        rule.expressions.decode() for spec in XtLayout.closed_chains() for rule in spec.rules
    ] == ["-j RETURN", "-j RETURN", "-g SLICE-IPVS-REFUSE"]


def test_chains_have_the_same_names_whatever_the_settings() -> None:
    one, other = make_layout(), make_layout(cluster_cidrs=(), masquerade_all=True)

    assert one.chain_facts["IPv4"].keys() == other.chain_facts["IPv4"].keys()
    assert any(is_own(split_name(name)[1]) for name in one.chain_facts["IPv4"])
