"""What planning does about what nobody needs."""

from msgspec import structs

from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_table import ChainFacts
from backends.nftables.belief import Observed
from backends.nftables.model import (
    EXTERNAL_IP,
    EXTERNALS,
    FIREWALL,
    GUARDED,
    HAIRPIN,
    REFUSED,
    SERVICES,
    SOURCES,
)
from backends.nftables.plan import plan
from backends.nftables.planned import NftPlan
from backends.nftables.prune import judge, prune
from backends.nftables.sets import former_firewall
from proxy.desired import Frontend
from tests.desired_strategies import desired_state, make_desired, whole
from tests.unit.backends.nftables.planning import (
    DELETED,
    ENDPOINTS,
    FRONTEND,
    LAYOUT,
    A,
    B,
    C,
    believing,
    carry_out,
    data,
    plan_for,
    slot,
    web,
    written,
)

VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
VIP_KEY = bytes([203, 0, 113, 1, 6, 0, 0, 0, 0, 80, 0, 0])
ID = "0123456789abcdef"


def test_prune_removes_what_nobody_occupies() -> None:
    observed = believing(web(A))
    elements = observed.tables["IPv4"].elements
    kept = {name: dict(values) for name, values in elements.items()}
    elements[SERVICES][b"foreign"] = "drop"
    elements[ENDPOINTS][slot(1)] = data(B)
    elements[HAIRPIN][b"\n\1\0\1\n\1\0\1"] = None
    elements[REFUSED][FRONTEND[:4]] = None

    assert written(prune(whole({}), observed, LAYOUT)) == {
        SERVICES: {b"foreign": DELETED},
        ENDPOINTS: {slot(1): DELETED},
        HAIRPIN: {b"\n\1\0\1\n\1\0\1": DELETED},
        REFUSED: {FRONTEND[:4]: DELETED},
    }
    carry_out(prune(whole({}), observed, LAYOUT), observed)
    assert elements == kept


def test_prune_leaves_what_an_earlier_process_made_for_who_is_desired_but_was_refused() -> None:
    observed = believing(web(A, B), make_desired("default/gone", A, cluster_ip="10.96.0.11"))
    observed.occupy(NftPlan((), dict.fromkeys(list(observed.rendered))))
    before = {name: dict(e) for name, e in observed.tables["IPv4"].elements.items()}

    carry_out(prune(whole(desired_state(web(C))), observed, LAYOUT), observed)

    left = {name: e for name, e in observed.tables["IPv4"].elements.items() if e}
    kept = {
        name: {key: data for key, data in elements.items() if key.startswith(FRONTEND[:4])}
        for name, elements in before.items()
    }
    assert left == {name: elements for name, elements in kept.items() if elements}


def test_prune_removes_foreign_chains_and_sets_once_nothing_in_them_refers_to_anything() -> None:
    observed = believing(web(A))
    facts = observed.tables["IPv4"]
    facts.sets["crowd"] = facts.sets[REFUSED]
    facts.elements["crowd"] = {b"key": None}
    facts.chains["stranger"] = ChainFacts(None, ("goto crowd",))
    facts.chains["pick-tcp-8"] = ChainFacts(None, ("another choice",))

    emptying, deleting = prune(whole({}), observed, LAYOUT).transactions

    names = {"stranger", "pick-tcp-8"}
    assert {spec.name for _, spec in emptying.chains} == names
    assert all(not spec.rules for _, spec in emptying.chains)
    assert emptying.gone_sets == (("IPv4", "crowd"),)
    assert {name for _, name in deleting.gone_chains} == names
    carry_out(prune(whole({}), observed, LAYOUT), observed)
    assert not prune(whole({}), observed, LAYOUT)


def test_prune_keeps_chains_that_pick_for_nobody_at_present() -> None:
    observed = believing(web(A, B))
    carry_out(plan_for(observed, web(A)), observed)

    assert "pick-tcp-2" in observed.tables["IPv4"].chains
    assert not prune(whole({}), observed, LAYOUT)


# --- source ranges as an earlier layout had them


def as_it_was(observed: Observed) -> Observed:
    """The same tables, had an earlier version made them: a VIP with ranges leads to a chain and a set of its own."""
    facts = observed.tables["IPv4"]
    for name in (GUARDED, "ranges-24"):
        del facts.sets[name]
        del facts.elements[name]
    facts.chains = {name: chain for name, chain in facts.chains.items() if name != SOURCES}
    facts.chains[EXTERNAL_IP] = ChainFacts(
        None, ("source ranges [00000000]", "by port [00000000]")
    )
    facts.chains[f"firewall-{ID}"] = ChainFacts(None, ("in the ranges [00000000]",))
    facts.sets[FIREWALL] = former_firewall("IPv4").facts
    facts.sets[f"ranges-{ID}-01234567"] = facts.sets[SERVICE_CIDRS]
    facts.sets["vip-sources"] = facts.sets[HAIRPIN]
    facts.elements[FIREWALL] = {VIP_KEY: f"jump firewall-{ID}"}
    facts.elements[f"ranges-{ID}-01234567"] = {b"\xc0\0\2\0\0": None, b"\xc0\0\3\0\1": None}
    facts.elements["vip-sources"] = {VIP_KEY[:4] + VIP_KEY: None}
    judge(facts, LAYOUT, "IPv4")
    return Observed(observed.tables)


def test_ranges_of_an_earlier_layout_hold_until_ours_do() -> None:
    port = make_desired("default/web", A, outer=(VIP,), source_ranges=("192.0.2.0/24",))
    observed = as_it_was(believing(port))
    facts = observed.tables["IPv4"]
    assert not observed.is_rebuild_due
    both, ours = [
        [rule.comment for rule in LAYOUT.skeleton("IPv4", sets)[3].rules]
        for sets in (frozenset({FIREWALL}), frozenset())
    ]
    assert both[1:] == ours

    planned = plan(whole(desired_state(port)), observed, [port.key], LAYOUT)
    for transaction in planned.transactions:
        observed.fold(transaction)
        is_limited = VIP_KEY in facts.elements[GUARDED]
        assert facts.elements[FIREWALL]
        assert not is_limited or facts.elements["ranges-24"]
    observed.occupy(planned)
    assert list(facts.chains[EXTERNAL_IP].comments) == both
    assert VIP_KEY in facts.elements[GUARDED]
    assert not plan(whole(desired_state(port)), observed, [port.key], LAYOUT)

    emptying, deleting = prune(whole(desired_state(port)), observed, LAYOUT).transactions
    assert {name for _, name in emptying.gone_sets} == {
        FIREWALL, "vip-sources", f"ranges-{ID}-01234567",
    }  # fmt: skip
    assert [name for _, name in deleting.gone_chains] == [f"firewall-{ID}"]
    carry_out(prune(whole(desired_state(port)), observed, LAYOUT), observed)
    assert list(facts.chains[EXTERNAL_IP].comments) == ours
    assert not prune(whole(desired_state(port)), observed, LAYOUT)
    assert not plan(whole(desired_state(port)), observed, [port.key], LAYOUT)


def test_who_was_guarded_in_the_earlier_way_and_cannot_be_in_ours_is_not_served() -> None:
    port = make_desired("default/web", A, outer=(VIP,), source_ranges=("192.0.2.0/24",))
    observed = as_it_was(believing(port))

    carry_out(prune(whole(desired_state(port)), observed, LAYOUT), observed)

    elements = observed.tables["IPv4"].elements
    assert (list(elements[EXTERNALS]), list(elements[SERVICES])) == ([], [FRONTEND])


def test_a_stranger_with_the_name_of_the_earlier_map_makes_the_table_anew() -> None:
    observed = believing(web(A))
    facts = observed.tables["IPv4"]
    facts.sets[FIREWALL] = facts.sets[REFUSED]
    judge(facts, LAYOUT, "IPv4")

    assert facts.has_to_go


def test_ranges_stay_for_who_is_desired_but_was_refused() -> None:
    """As they were and as they should be: whoever is in one or the other may be let in, nobody else."""
    port, other = (
        make_desired(
            f"default/{name}",
            A,
            cluster_ip=ip,
            outer=(Frontend("LoadBalancer", vip, 80),),
            source_ranges=("192.0.2.0/24",),
        )
        for name, ip, vip in (
            ("web", "10.96.0.10", "203.0.113.1"),
            ("other", "10.96.0.11", "203.0.113.2"),
        )
    )
    observed = believing(port, other)
    observed.occupy(NftPlan((), dict.fromkeys(list(observed.rendered))))
    port = structs.replace(port, source_ranges=("198.51.100.0/25",))

    carry_out(prune(whole(desired_state(port)), observed, LAYOUT), observed)

    elements = observed.tables["IPv4"].elements
    assert elements["ranges-24"] == {VIP_KEY + bytes([192, 0, 2, 0]): None}
    assert elements[GUARDED] == {VIP_KEY: None}
    assert "ranges-25" not in observed.tables["IPv4"].sets


def test_sets_of_ranges_that_nobody_has_at_present_stay() -> None:
    port = make_desired("default/web", A, outer=(VIP,), source_ranges=("192.0.2.0/24",))
    observed = believing(port)
    carry_out(plan_for(observed, gone=["default/web"]), observed)

    assert "ranges-24" in observed.tables["IPv4"].sets
    assert not prune(whole({}), observed, LAYOUT)
