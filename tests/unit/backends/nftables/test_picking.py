"""How the chains that pick choose an endpoint."""

import pytest

from backends.kernel import nft_phrases as say
from backends.kernel import nft_table
from backends.kernel.nft_expressions import (
    AnyExpression,
    Dynset,
    Lookup,
    MetaSet,
    Nat,
    Numgen,
    Verdict,
    parse_expressions,
)
from backends.kernel.nft_numbers import NumgenKind, VerdictCode
from backends.kernel.nft_table import ChainSpec
from backends.nftables.model import LOCAL_FROM, REFUSE
from backends.nftables.names import picking_chain
from backends.nftables.picking import DRAWS, Sources, leads_to, picking_spec
from proxy.model import FAMILIES, PROTOCOLS, Family, Protocol

both_families = pytest.mark.parametrize("family", FAMILIES)
MASQUERADE = nft_table.rule(say.or_mark(1), "masquerade")
IS_POD = say.source_in_network("IPv4", bytes([10, 244, 0, 0]), b"\xff\xff\0\0")
SOURCES = Sources(MASQUERADE, IS_POD)


def made(name: str, family: Family = "IPv4") -> ChainSpec:
    return picking_spec(family, name, SOURCES)


def content(chain: ChainSpec) -> list[tuple[AnyExpression, ...]]:
    return [parse_expressions(rule.expressions) for rule in chain.rules]


@pytest.mark.parametrize(
    ("capacity", "drawn"),
    [
        pytest.param(1, [1, 1], id="1"),
        pytest.param(2, [2, 2], id="2, both full"),
        pytest.param(4, [4] * DRAWS + [2], id="4"),
        pytest.param(64, [64] * DRAWS + [32], id="64"),
    ],
)
def test_slots_are_drawn_often_and_then_from_the_half_that_is_full(
    capacity: int, drawn: list[int]
) -> None:
    chain = content(made(picking_chain("TCP", capacity)))

    numbers = [e for rule in chain for e in rule if isinstance(e, Numgen)]
    random = [number.modulus for number in numbers if number.kind == NumgenKind.RANDOM]
    assert random == drawn
    # and at last the first slot, for a packet that saw the service without an endpoint a moment ago
    assert [n.modulus for n in numbers if n.kind == NumgenKind.INCREMENTAL] == [1]


@both_families
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_finds_no_endpoint_is_refused_or_dropped_but_never_let_through(
    family: Family, protocol: Protocol
) -> None:
    *draws, refused, first, last = content(made(picking_chain(protocol, 8), family))

    assert all(isinstance(rule[-1], Nat) for rule in [*draws, first])
    assert refused[-1] == Verdict(VerdictCode.GOTO, REFUSE)
    assert Lookup("refused") in refused
    assert last == (Verdict(VerdictCode.DROP),)


@both_families
def test_slots_of_local_lists_are_drawn_from_their_own_range(family: Family) -> None:
    drawn = [
        e
        for rule in content(made("pick-local-tcp-8", family))
        for e in rule
        if isinstance(e, Numgen)
    ]

    assert {number.offset for number in drawn} == {LOCAL_FROM}


def test_a_node_port_is_known_by_its_number_alone() -> None:
    chain = content(made("pick-nodeport-udp-4"))

    looked_up = {e.set_name for rule in chain for e in rule if isinstance(e, Lookup)}
    assert looked_up == {"nodeport-endpoints-udp", "nodeports-refused"}


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("external-tcp-8", "pick-tcp-8"),
        ("external-nodeport-udp-2", "pick-nodeport-udp-2"),
    ],
)
def test_what_is_to_be_masqueraded_is_marked_first(name: str, then: str) -> None:
    marking, onward = content(made(name))

    assert list(marking) == say.or_mark(1)
    assert isinstance(marking[-1], MetaSet)
    assert onward == (Verdict(VerdictCode.GOTO, then),)
    assert (leads_to(name), leads_to(then)) == ((then,), ())


@pytest.mark.parametrize("kind", ["", "-nodeport"])
def test_policy_local_concerns_neither_pods_here_nor_the_node_itself(kind: str) -> None:
    pods, itself, outside = content(made(f"split{kind}-tcp-2-of-8"))

    assert list(pods) == [*IS_POD, Verdict(VerdictCode.GOTO, f"pick{kind}-tcp-8")]
    to_all = Verdict(VerdictCode.GOTO, f"external{kind}-tcp-8")
    assert list(itself) == [*say.source_is_local(), to_all]
    assert outside == (Verdict(VerdictCode.GOTO, f"pick{kind}-local-tcp-2"),)


def test_where_nothing_tells_pods_from_others_only_the_node_itself_reaches_all_endpoints() -> None:
    spec = picking_spec("IPv4", "split-tcp-2-of-8", SOURCES._replace(is_pod=None))

    assert [rule[-1] for rule in content(spec)] == [
        Verdict(VerdictCode.GOTO, "external-tcp-8"), Verdict(VerdictCode.GOTO, "pick-local-tcp-2"),
    ]  # fmt: skip


# --- session affinity


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("pick-tcp-8-affinity-60", ("remember-tcp-60",)),
        ("pick-nodeport-local-udp-8-affinity-60", ("remember-local-udp-60",)),
        ("external-tcp-8-affinity-60", ("remember-tcp-60", "pick-tcp-8-affinity-60")),
        (
            "split-nodeport-tcp-2-of-4-affinity-5",
            (
                "remember-local-tcp-5",
                "pick-nodeport-local-tcp-2-affinity-5",
                "remember-tcp-5",
                "pick-nodeport-tcp-4-affinity-5",
                "external-nodeport-tcp-4-affinity-5",
            ),
        ),
        ("remember-local-tcp-60", ()),
    ],
)
def test_chains_for_session_affinity_need_others_and_refer_to_no_more(
    name: str, others: tuple[str, ...]
) -> None:
    assert leads_to(name) == others
    rules_of = content(made(name))
    referred = {e.chain for rule in rules_of for e in rule if isinstance(e, Verdict) and e.chain}
    assert referred <= {*others, REFUSE}


def test_who_is_remembered_comes_before_slots_and_these_are_drawn_as_without_affinity() -> None:
    service, recalled, *drawn, refused, first, last = content(made("pick-tcp-8-affinity-60"))

    assert Lookup("affinity-services", data_register=1) in service
    assert any(isinstance(e, Lookup) and e.set_name == "affinity-clients" for e in recalled)
    numbers = [e.modulus for rule in drawn for e in rule if isinstance(e, Numgen)]
    assert numbers == [8] * DRAWS + [4]
    looked_up = {e.set_name for rule in (*drawn, first) for e in rule if isinstance(e, Lookup)}
    assert looked_up == {"affinity-slots"}
    # returns if the endpoint is gone, so that another one is drawn
    to_others = Verdict(VerdictCode.JUMP, "remember-tcp-60")
    assert {rule[-1] for rule in (recalled, *drawn, first)} == {to_others}
    assert refused[-1] == Verdict(VerdictCode.GOTO, REFUSE)
    assert last == (Verdict(VerdictCode.DROP),)


def test_a_node_port_with_session_affinity_is_looked_up_among_node_ports_alone() -> None:
    chain = content(made("pick-nodeport-tcp-4-affinity-60"))

    looked_up = {e.set_name for rule in chain for e in rule if isinstance(e, Lookup)}
    assert looked_up == {
        "affinity-nodeports", "affinity-clients", "affinity-slots", "nodeports-refused",
    }  # fmt: skip


@both_families
def test_who_is_led_to_an_endpoint_is_remembered_first_and_forgotten_if_it_is_gone(
    family: Family,
) -> None:
    noted, translated, forgotten, stripped = content(made("remember-local-udp-60", family))

    assert isinstance(noted[-1], Dynset)
    assert noted[-1].timeout_ms == 60_000
    assert isinstance(translated[-1], Nat)
    assert Lookup("affinity-endpoints-local", data_register=1) in translated
    assert isinstance(forgotten[-1], Dynset)
    assert forgotten[-1].timeout_ms == 0
    assert isinstance(stripped[-1], MetaSet)


@both_families
def test_the_number_noted_for_a_client_is_not_written_over_its_address(family: Family) -> None:
    (noted, *_) = content(made("remember-tcp-60", family))
    key_registers = range(8, 8 + (2 if family == "IPv4" else 5))

    dynset = noted[-1]
    assert isinstance(dynset, Dynset)
    register = dynset.data_register or 0
    assert (4 * register + 4 if register < 8 else register) not in key_registers
