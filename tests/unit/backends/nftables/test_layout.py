import pytest

from backends.kernel import nft_phrases as say
from backends.kernel.nft_expressions import (
    AnyExpression,
    Compare,
    Dynset,
    Fib,
    Lookup,
    Masquerade,
    MetaSet,
    Nat,
    Numgen,
    Reject,
    Verdict,
    parse_expressions,
)
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_numbers import (
    FIB_TYPE_LOCAL,
    FibFlag,
    Hook,
    NumgenKind,
    Operator,
    VerdictCode,
)
from backends.kernel.nft_phrases import source_in_network
from backends.kernel.nft_table import ChainFacts, ChainSpec
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import (
    CLUSTER_IP,
    CLUSTER_IPS,
    EXTERNAL_IP,
    EXTERNAL_IPS,
    EXTERNALS,
    LOCAL_FROM,
    NODE_PORT,
    NODEPORTS,
    REFUSE,
    SERVICES,
    Kind,
)
from backends.nftables.names import Act, picking_chain
from backends.nftables.picking import leads_to
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, PROTOCOLS, Family

CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
both_families = pytest.mark.parametrize("family", FAMILIES)


def make_layout(*, masquerade_all: bool = False, cluster_cidrs: tuple[str, ...] = CIDRS) -> Layout:
    return Layout(
        NftSettings(families=FAMILIES, masquerade_all=masquerade_all, cluster_cidrs=cluster_cidrs)
    )


def chain_named(layout: Layout, name: str, family: Family = "IPv4") -> ChainSpec:
    return next(chain for chain in layout.skeleton(family) if chain.name == name)


def content(chain: ChainSpec) -> list[tuple[AnyExpression, ...]]:
    return [parse_expressions(rule.expressions) for rule in chain.rules]


def chains_of(layout: Layout, family: Family) -> list[ChainSpec]:
    """One of each kind, in the order in which they are made."""
    acts: list[tuple[Act, bool]] = [
        ("pick", False),
        ("pick", True),
        ("external", False),
    ]
    kinds: list[Kind] = ["external-ip", "node-port"]
    picking = [
        layout.chain(family, picking_chain(p, c, kind, act=act, is_local=is_local))
        for p in PROTOCOLS
        for c in (1, 2, 8)
        for kind in kinds
        for act, is_local in acts
    ]
    sticky = [
        picking_chain(p, 4, kind, act=act, is_local=is_local, timeout_s=5)
        for p in PROTOCOLS
        for kind in kinds
        for act, is_local in acts
    ]
    split = [
        picking_chain(p, 4, kind, act="split", here=2, timeout_s=timeout_s)
        for p in PROTOCOLS
        for kind in kinds
        for timeout_s in (0, 5)
    ]
    names = dict.fromkeys(n for name in (*sticky, *split) for n in (*leads_to(name), name))
    picking += [layout.chain(family, name) for name in names]
    return [*layout.skeleton(family), *picking]


def test_a_chain_of_another_name_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="services"):
        make_layout().chain("IPv4", "services")


def test_a_chain_is_made_once() -> None:
    layout = make_layout()

    assert layout.chain("IPv4", "pick-tcp-4") is layout.chain("IPv4", "pick-tcp-4")


# --- the fixed part


@both_families
def test_chains_come_before_those_that_refer_to_them(family: Family) -> None:
    layout, made = make_layout(), set[str]()
    for chain in chains_of(layout, family):
        for rule in content(chain):
            targets = {e.chain for e in rule if isinstance(e, Verdict) and e.chain}
            assert targets <= made, f"{chain.name} refers to {targets - made}"
        made.add(chain.name)


@both_families
def test_rules_look_up_sets_that_are_made(family: Family) -> None:
    layout = make_layout()
    looked_up = {
        e.set_name
        for chain in chains_of(layout, family)
        for rule in content(chain)
        for e in rule
        if isinstance(e, Lookup | Dynset)
    }

    # NodePorts may listen everywhere
    assert looked_up | {NODEPORT_IPS} == {spec.name for spec in layout.sets(family)}


def test_no_rule_has_the_comment_of_another() -> None:
    comments: dict[str, bytes] = {}
    for family in FAMILIES:
        for chain in chains_of(make_layout(), family):
            for rule in chain.rules:
                assert comments.setdefault(rule.comment, rule.expressions) == rule.expressions
                assert len(rule.comment) < 128  # the stock tool takes no longer ones


def test_the_hooks_are_where_nat_belongs() -> None:
    hooks = {c.name: c.base for c in make_layout().skeleton("IPv4") if c.base is not None}

    assert hooks == {
        "prerouting": BaseChain("nat", Hook.PREROUTING, -100),
        "output": BaseChain("nat", Hook.OUTPUT, -100),
        "prerouting-late": BaseChain("nat", Hook.PREROUTING, -90),
        "output-late": BaseChain("nat", Hook.OUTPUT, -90),
        "postrouting": BaseChain("nat", Hook.POSTROUTING, 100),
    }


def test_addresses_of_services_are_told_from_others_before_all_else() -> None:
    external, cluster, node_port = content(chain_named(make_layout(), SERVICES))

    assert Lookup(EXTERNAL_IPS) in external
    assert external[-1] == Verdict(VerdictCode.JUMP, EXTERNAL_IP)
    assert Lookup(CLUSTER_IPS) in cluster
    assert cluster[-1] == Verdict(VerdictCode.GOTO, CLUSTER_IP)
    assert node_port[-1] == Verdict(VerdictCode.GOTO, NODE_PORT)


@pytest.mark.parametrize("name", ["prerouting-late", "output-late"])
def test_what_nobody_translates_to_an_address_no_service_has_is_dropped(name: str) -> None:
    (unused,) = content(chain_named(make_layout(), name))

    assert Lookup(SERVICE_CIDRS) in unused
    assert Fib(flags=FibFlag.DADDR) in unused
    assert Compare(operator=Operator.NEQ, data=say.word(FIB_TYPE_LOCAL)) in unused
    assert unused[-1] == Verdict(VerdictCode.DROP)


@both_families
def test_node_ports_listen_on_all_local_addresses_or_on_those_of_a_set(family: Family) -> None:
    layout = make_layout()
    restricted = layout.for_node(DesiredNode(node_port_addresses={family: ()}))

    everywhere = content(chain_named(layout, SERVICES, family))[-1]
    some = content(chain_named(restricted, SERVICES, family))[-1]

    assert any(isinstance(e, Fib) for e in everywhere)
    assert Lookup(NODEPORT_IPS) in some
    assert not any(isinstance(e, Fib) for e in some)


def test_a_port_no_service_defines_is_refused_at_the_end() -> None:
    *_, last = content(chain_named(make_layout(), CLUSTER_IP))

    assert last == (Verdict(VerdictCode.GOTO, REFUSE),)


def test_a_frontend_that_is_being_replaced_is_served_by_its_first_endpoint() -> None:
    rules = content(chain_named(make_layout(cluster_cidrs=()), CLUSTER_IP))

    look_up, *translations, _last = rules
    assert Lookup(SERVICES, data_register=0) in look_up
    assert len(translations) == 2 * len(PROTOCOLS)
    for number, rule in enumerate(translations):
        offset = 0 if number < len(PROTOCOLS) else LOCAL_FROM
        assert Numgen(NumgenKind.INCREMENTAL, 1, register=10, offset=offset) in rule
        assert isinstance(rule[-1], Nat)


@pytest.mark.parametrize(("name", "place"), [(EXTERNAL_IP, EXTERNALS), (NODE_PORT, NODEPORTS)])
def test_where_policies_decide_a_frontend_that_is_being_replaced_is_looked_up_again(
    name: str, place: str
) -> None:
    *_, once, again = content(chain_named(make_layout(), name))

    assert once == again
    assert Lookup(place, data_register=0) in once


@both_families
def test_refusing_ends_in_a_rejection_for_every_protocol(family: Family) -> None:
    reset, unreachable = content(chain_named(make_layout(), REFUSE, family))

    assert isinstance(reset[-1], Reject)
    assert unreachable == (say.refuse(family),)


# --- masquerading


def marking(layout: Layout, family: Family = "IPv4") -> list[tuple[AnyExpression, ...]]:
    rules = content(chain_named(layout, CLUSTER_IP, family))
    return [rule for rule in rules if any(isinstance(e, MetaSet) for e in rule)]


def test_what_comes_from_a_pod_is_not_marked() -> None:
    (rule,) = marking(make_layout())

    assert len(rule) > len(say.or_mark(1))
    network, mask = bytes([10, 244, 0, 0]), b"\xff\xff\0\0"
    assert list(rule[:3]) == source_in_network("IPv4", network, mask, is_inverted=True)


def test_everything_is_marked_if_so_configured() -> None:
    (rule,) = marking(make_layout(masquerade_all=True))

    assert list(rule) == say.or_mark(0x4000)


def test_without_a_range_of_pods_nothing_is_marked() -> None:
    assert marking(make_layout(cluster_cidrs=())) == []


@both_families
def test_a_range_counts_only_in_its_family(family: Family) -> None:
    for cidr, its_family in zip(CIDRS, FAMILIES, strict=True):
        assert bool(marking(make_layout(cluster_cidrs=(cidr,)), family)) == (its_family == family)


@both_families
def test_the_marked_and_those_that_reach_themselves_are_masqueraded(family: Family) -> None:
    marked, hairpin = content(chain_named(make_layout(), "postrouting", family))

    assert isinstance(marked[-1], Masquerade)
    assert isinstance(hairpin[-1], Masquerade)
    assert Lookup("hairpin") in hairpin


# --- what is ours


def test_chains_and_sets_of_other_names_are_not_ours() -> None:
    layout = make_layout()

    assert not layout.is_ours("IPv4", "stranger", ChainFacts(None, ()))
    assert not layout.is_our_name("IPv4", "pick-tcp-3")


def test_a_chain_that_picks_is_ours_only_with_our_rules() -> None:
    layout = make_layout()
    spec = layout.chain("IPv4", "pick-tcp-4")

    assert layout.is_ours("IPv4", spec.name, spec.facts)
    assert not layout.is_ours("IPv4", spec.name, ChainFacts(None, ("something else",)))
    assert not layout.is_ours("IPv4", "pick-tcp-2", spec.facts)


def test_a_fixed_chain_is_ours_whatever_is_in_it() -> None:
    assert make_layout().is_ours("IPv4", SERVICES, ChainFacts(None, ("something else",)))


@pytest.mark.parametrize(
    ("name", "base", "is_misplaced"),
    [
        ("prerouting", BaseChain("nat", Hook.PREROUTING, -100), False),
        ("prerouting", BaseChain("nat", Hook.PREROUTING, -99), True),
        ("prerouting", BaseChain("nat", Hook.PREROUTING, -100, policy=0), True),
        ("prerouting", None, True),
        (SERVICES, BaseChain("nat", Hook.PREROUTING, -100), True),
        ("pick-tcp-4", BaseChain("nat", Hook.PREROUTING, -100), True),
        ("pick-tcp-4", None, False),
        ("stranger", BaseChain("nat", Hook.PREROUTING, -100), False),
    ],
)
def test_a_chain_of_ours_at_another_hook_is_misplaced(
    name: str, base: BaseChain | None, is_misplaced: bool
) -> None:
    assert make_layout().is_misplaced("IPv4", name, ChainFacts(base, ())) == is_misplaced
