"""What planning does about what nobody needs."""

from backends.kernel.nft_table import ChainFacts
from backends.nftables.model import HAIRPIN, REFUSED, SERVICES, NftPlan
from backends.nftables.prune import prune
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
