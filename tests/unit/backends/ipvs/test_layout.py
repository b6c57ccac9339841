"""What the side rules say, read as the kernel would. What packets meet with: the tests on a kernel."""

import pytest

from backends.ipvs.layout import IpvsSettings, Layout, closed
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
    REFUSED,
    SERVICES,
    SHORTCUTS,
)
from backends.kernel import nft_phrases as say
from backends.kernel.nft_expressions import (
    AnyExpression,
    Expression,
    Fib,
    Lookup,
    Masquerade,
    MetaSet,
    Nat,
    Verdict,
    parse_expressions,
)
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_numbers import Hook, NatKind, VerdictCode
from backends.kernel.nft_table import NUMBERS
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Family
from tests.unit.backends.held_up import Asking, outcomes
from tests.unit.backends.ipvs.driving import CIDRS

Rule = tuple[AnyExpression, ...]
both_families = pytest.mark.parametrize("family", FAMILIES)


def make_layout(
    *, masquerade_all: bool = False, cluster_cidrs: tuple[str, ...] = CIDRS, mark: int = 0x4000
) -> Layout:
    return Layout(
        IpvsSettings(
            families=FAMILIES,
            masquerade_all=masquerade_all,
            cluster_cidrs=cluster_cidrs,
            masquerade_mark=mark,
        )
    )


def rules(layout: Layout, name: str, family: Family = "IPv4") -> list[Rule]:
    (chain,) = [chain for chain in layout.chains(family) if chain.name == name]
    return [parse_expressions(rule.expressions) for rule in chain.rules]


def rule_of(*phrases: Expression) -> Rule:
    """A phrase as it is read back."""
    return parse_expressions(b"".join([each.pack() for each in phrases]))


def asks(rule: Rule) -> str:
    """The set that a rule looks things up in."""
    return next((each.set_name for each in rule if isinstance(each, Lookup)), "")


def ends(rule: Rule) -> tuple[VerdictCode, str]:
    last = rule[-1]
    assert isinstance(last, Verdict)
    return VerdictCode(last.code), last.chain


def to_ipvs(family: Family) -> Nat:
    """The end of a rule that leads to IPVS."""
    return Nat(kind=NatKind.DNAT, family=NUMBERS[family])


@both_families
def test_a_chain_is_made_before_those_that_refer_to_it(family: Family) -> None:
    made = set[str]()
    for chain in make_layout().chains(family):
        for rule in rules(make_layout(), chain.name, family):
            assert {each.chain for each in rule if isinstance(each, Verdict)} - {""} <= made
        made.add(chain.name)


@both_families
def test_rules_look_up_all_sets_that_are_made_and_no_others(family: Family) -> None:
    layout = make_layout()
    looked_up = {
        each.set_name
        for chain in layout.chains(family)
        for rule in rules(layout, chain.name, family)
        for each in rule
        if isinstance(each, Lookup)
    }

    # NodePorts listen on all addresses of this node unless they are enumerated
    assert looked_up | {NODEPORT_IPS} == {spec.name for spec in layout.sets(family)}


def test_only_first_packets_are_judged_before_ipvs_and_sources_are_changed_after_it() -> None:
    layout = make_layout()

    assert {chain.name: chain.base for chain in layout.chains("IPv4") if chain.base} == {
        "prerouting": BaseChain("nat", Hook.PREROUTING, -101),
        "output": BaseChain("nat", Hook.OUTPUT, -101),
        "prerouting-late": BaseChain("nat", Hook.PREROUTING, -99),
        "output-late": BaseChain("nat", Hook.OUTPUT, -99),
        "postrouting": BaseChain("nat", Hook.POSTROUTING, 100),
    }
    for name in ("prerouting", "output"):
        # the reset that refuses a connection to a VIP from this node would be refused in its turn
        assert rules(layout, name) == [rule_of(*say.is_new(), say.jump("dispatch"))]
        late = rules(layout, f"{name}-late")
        assert late == [rule_of(*say.is_new(), say.jump("unclaimed"))]


@both_families
def test_what_goes_to_ipvs_keeps_its_destination_and_is_not_translated_by_those_behind_us(
    family: Family,
) -> None:
    layout = make_layout()
    keep = (*rule_of(say.destination(family)), to_ipvs(family))

    assert rules(layout, "cluster-ip", family)[-1] == keep
    for name in ("outer", "node-port"):
        chain = rules(layout, name, family)
        leading = [rule for rule in chain if any(isinstance(each, MetaSet) for each in rule)]
        assert [rule[-2:] for rule in leading] == [keep] * 3


@both_families
def test_addresses_of_services_are_told_from_others_before_node_ports(family: Family) -> None:
    dispatch = rules(make_layout(), "dispatch", family)

    assert [(asks(rule), ends(rule)) for rule in dispatch] == [
        (BOUND, (VerdictCode.GOTO, "bound-address")),
        (ELSEWHERE, (VerdictCode.JUMP, "outer")),
        ("", (VerdictCode.GOTO, "node-port")),
    ]


@both_families
def test_node_ports_listen_on_all_local_addresses_or_on_those_enumerated(family: Family) -> None:
    layout = make_layout()
    restricted = layout.for_node(DesiredNode(node_port_addresses={family: ()}))

    assert any(isinstance(each, Fib) for each in rules(layout, "dispatch", family)[-1])
    assert asks(rules(restricted, "dispatch", family)[-1]) == NODEPORT_IPS


@both_families
def test_a_port_of_our_device_that_no_service_defines_is_refused(family: Family) -> None:
    bound = rules(make_layout(), "bound-address", family)

    assert [(asks(rule), ends(rule)) for rule in bound] == [
        (SERVICES, (VerdictCode.GOTO, "cluster-ip")),
        ("", (VerdictCode.JUMP, "outer")),
    ]
    unclaimed = rules(make_layout(), "unclaimed", family)
    assert [(asks(rule), ends(rule)) for rule in unclaimed] == [
        (HEALTH_PORTS, (VerdictCode.RETURN, "")),
        (BOUND, (VerdictCode.GOTO, "refuse")),
        (SERVICE_CIDRS, (VerdictCode.DROP, "")),
    ]
    assert rules(make_layout(), "refuse", family) == [
        rule_of(*say.reset()), rule_of(say.refuse(family)),
    ]  # fmt: skip


@both_families
def test_a_closed_table_decides_on_nothing_before_others_and_refuses_behind_them(
    family: Family,
) -> None:
    [dispatch] = [chain for chain in make_layout().chains(family) if chain.name == "dispatch"]
    [rule] = closed().rules

    assert (closed().name, closed().base) == (dispatch.name, dispatch.base)
    assert parse_expressions(rule.expressions) == rule_of(say.leave())
    found = make_layout().chain_facts[family]
    assert not Layout.is_closed(found)
    assert not Layout.is_closed({})
    assert Layout.is_closed({**found, dispatch.name: closed().facts})


def test_sources_are_checked_first_and_short_cuts_taken_before_the_way_from_outside() -> None:
    outer = rules(make_layout(), "outer")

    assert [asks(rule) for rule in outer] == [
        GUARDED, SHORTCUTS, SHORTCUTS, EXTERNALS, DROPPED, REFUSED,
    ]  # fmt: skip
    assert [asks(rule) for rule in rules(make_layout(), "node-port")] == [
        NODEPORT_SHORTCUTS, NODEPORT_SHORTCUTS, NODEPORTS, NODEPORTS_DROPPED, NODEPORTS_REFUSED,
    ]  # fmt: skip
    leading = [to_ipvs("IPv4")] * 3
    assert [rule[-1] for rule in outer[1:4]] == leading
    assert [ends(rule)[0] for rule in (outer[0], *outer[4:])] == [
        VerdictCode.JUMP, VerdictCode.DROP, VerdictCode.GOTO,
    ]  # fmt: skip


@both_families
def test_a_packet_that_is_held_up_while_a_limit_goes_and_comes_back_is_let_in(
    family: Family,
) -> None:
    chain = rules(make_layout(), "sources", family)
    asking = [
        Asking(each.set_name, each.is_inverted, ends(rule)[0].name.lower())
        for rule in chain
        for each in rule
        if isinstance(each, Lookup)
    ]

    assert asking == [
        (ALLOWED, False, "return"),
        (GUARDED, True, "return"),
        (ALLOWED, False, "return"),
        (GUARDED, False, "drop"),
    ]
    assert len(chain) == len(asking)
    assert outcomes(asking, {ALLOWED, GUARDED}) == {"return"}


def test_pods_take_a_short_cut_only_where_they_can_be_told() -> None:
    def short_cuts(layout: Layout) -> int:
        return [asks(rule) for rule in rules(layout, "outer")].count(SHORTCUTS)

    assert short_cuts(make_layout()) == 2
    assert short_cuts(make_layout(cluster_cidrs=())) == 1  # this node's own
    assert short_cuts(make_layout(cluster_cidrs=CIDRS[1:])) == 1  # the range is of IPv6


def test_what_does_not_come_from_a_pod_is_marked_on_its_way_to_a_cluster_ip() -> None:
    pods = say.source_in_network("IPv4", bytes([10, 244, 0, 0]), b"\xff\xff\0\0", is_inverted=True)
    mark = say.or_mark(0x80)
    to = rule_of(say.destination("IPv4"), to_ipvs("IPv4"))

    def internal(layout: Layout) -> list[Rule]:
        return rules(layout, "cluster-ip")

    assert internal(make_layout(mark=0x80)) == [rule_of(*pods, *mark), to]
    assert internal(make_layout(mark=0x80, masquerade_all=True)) == [rule_of(*mark), to]
    assert internal(make_layout(cluster_cidrs=())) == [to]


def test_our_marks_are_gone_when_a_packet_leaves_and_a_foreign_bit_stays() -> None:
    layout = make_layout()
    marked, from_here, unmasked, bit, own, hairpin = rules(layout, "postrouting")
    value, mask = layout.marks.value, layout.marks.mask
    is_ours = say.mark_is(value, mask)
    own_address = [*say.source_in("IPv4", BOUND), *say.original_destination_in("IPv4", BOUND)]

    assert marked == rule_of(
        *say.mark_is(value | 0x4000, mask | 0x4000), *say.clear_mark(), say.masquerade()
    )
    assert from_here == rule_of(
        *is_ours, *say.source_is_local(), *say.clear_mark(), say.masquerade()
    )
    assert unmasked == rule_of(*is_ours, *say.clear_mark())
    assert bit == rule_of(*say.masquerade_marked(0x4000))
    # what the node sends to an address of our device has that very address as its source
    assert own == rule_of(*own_address, say.masquerade())
    assert asks(hairpin) == HAIRPIN
    assert isinstance(hairpin[-1], Masquerade)


def test_a_layout_is_made_anew_only_where_a_node_changes_the_rules() -> None:
    layout = make_layout()
    addressed = [
        layout.for_node(DesiredNode(node_port_addresses={"IPv4": (address,)}))
        for address in ("192.0.2.1", "192.0.2.2")
    ]

    assert addressed[0] is addressed[1] is not layout
    by_node = Layout(IpvsSettings(families=FAMILIES, local_mode="NodeCIDR"))
    ranged = by_node.for_node(DesiredNode(pod_cidrs=("10.244.1.0/24",)))
    assert ranged.chain_facts["IPv4"] != by_node.chain_facts["IPv4"]
    assert ranged.chain_facts["IPv6"] == by_node.chain_facts["IPv6"]
    # not read in this mode
    assert layout.for_node(DesiredNode(pod_cidrs=("10.1.0.0/16",))) is layout.for_node(
        DesiredNode(pod_cidrs=("10.2.0.0/16",))
    )


def test_a_node_without_a_family_has_the_other_as_it_was() -> None:
    layout = make_layout().for_node(DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",)}))
    left = layout.without("IPv6")

    assert (left.families, left.settings.families) == (("IPv4",), ("IPv4",))
    assert left.chain_facts == {"IPv4": layout.chain_facts["IPv4"]}


def test_no_rule_has_the_comment_of_another() -> None:
    comments: dict[str, bytes] = {}
    for family in FAMILIES:
        for chain in make_layout().chains(family):
            for rule in chain.rules:
                assert comments.setdefault(rule.comment, rule.expressions) == rule.expressions
                assert len(rule.comment) < 128  # the stock tool takes no longer ones
