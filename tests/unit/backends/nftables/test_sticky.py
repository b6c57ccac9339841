"""What a change costs a ServicePort with session affinity, what is left for a while, and what a restart finds again."""

import pytest

from backends.kernel.nft_table import ChainFacts, SetFacts
from backends.nftables.affinity import (
    FIRST_SERVICE,
    LAST_SERVICE,
    SERVICES_AT_MOST,
    pack_endpoint,
    pack_service,
)
from backends.nftables.belief import Observed
from backends.nftables.model import (
    AFFINITY_ENDPOINTS,
    AFFINITY_ENDPOINTS_LOCAL,
    AFFINITY_NODEPORTS,
    AFFINITY_SERVICES,
    AFFINITY_SLOTS,
    EXTERNALS,
    NODEPORTS,
    SERVICES,
)
from backends.nftables.names import timeout_of
from backends.nftables.plan import plan
from backends.nftables.planned import NftPlan
from backends.nftables.prune import judge, prune
from backends.nftables.slots import slot_key
from proxy.desired import DesiredPort, Frontend
from tests.desired_strategies import addresses, desired_state, make_desired, whole
from tests.model_builders import make_endpoint
from tests.unit.backends.nftables.planning import (
    ENDPOINTS,
    FRONTEND,
    LAYOUT,
    WEB,
    A,
    B,
    C,
    D,
    believing,
    carry_out,
    left,
    plan_for,
    steps,
)

NODE_PORT = Frontend("NodePort", None, 30080)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
ID = "0123456789abcdef"
NUMBER = pack_service(FIRST_SERVICE)
API = bytes([10, 96, 0, 11]) + FRONTEND[4:]


def sticky(*endpoints: str, timeout_s: int | None = 60) -> DesiredPort:
    return make_desired(
        "default/web", *endpoints, outer=(NODE_PORT, VIP), affinity_timeout_s=timeout_s
    )


def local(*, external: bool, internal: bool = False) -> DesiredPort:
    here = make_endpoint("10.1.9.9:80", is_local=True)
    return make_desired(
        "default/web",
        A,
        here,
        outer=(NODE_PORT,),
        external_local=external,
        internal_local=internal,
        affinity_timeout_s=60,
    )


def api(*endpoints: str) -> DesiredPort:
    return make_desired("default/api", *endpoints, cluster_ip="10.96.0.11", affinity_timeout_s=60)


def elements(observed: Observed, name: str) -> dict[bytes, object]:
    return dict(observed.tables["IPv4"].elements[name])


def sticky_chains(observed: Observed) -> set[str]:
    return {name for name in observed.tables["IPv4"].chains if timeout_of(name)}


def packed(address: str) -> bytes:
    return make_endpoint(address).packed


def sweep(observed: Observed, *ports: DesiredPort) -> None:
    for _ in range(2):
        carry_out(plan(whole(desired_state(*ports)), observed, [], LAYOUT), observed)


def restarted(observed: Observed) -> Observed:
    return Observed(observed.tables)


def test_all_frontends_lead_to_one_number_and_that_to_numbered_endpoints() -> None:
    observed = believing(sticky(A, B))

    assert elements(observed, AFFINITY_SERVICES) == {
        FRONTEND: NUMBER, bytes([203, 0, 113, 1]) + FRONTEND[4:]: NUMBER,
    }  # fmt: skip
    assert list(elements(observed, AFFINITY_NODEPORTS).values()) == [NUMBER]
    first, second = (pack_endpoint(FIRST_SERVICE, n) for n in (1, 2))
    assert elements(observed, AFFINITY_SLOTS) == {
        slot_key(NUMBER, 0): first, slot_key(NUMBER, 1): second,
    }  # fmt: skip
    assert elements(observed, AFFINITY_ENDPOINTS) == {first: packed(A), second: packed(B)}
    assert elements(observed, ENDPOINTS) == {}
    assert set(elements(observed, SERVICES).values()) == {"goto pick-tcp-2-affinity-60"}
    assert set(elements(observed, EXTERNALS).values()) == {"goto external-tcp-2-affinity-60"}
    assert set(elements(observed, NODEPORTS).values()) == {
        "goto external-nodeport-tcp-2-affinity-60"
    }


def test_a_replaced_endpoint_costs_two_elements_whatever_the_number_of_frontends() -> None:
    observed = believing(sticky(A, B, C))

    planned = plan_for(observed, sticky(A, B, D))

    assert steps(planned) == [{AFFINITY_ENDPOINTS: 2, AFFINITY_SLOTS: 1}]
    assert [t.chains for t in planned.transactions] == [()]


def test_one_more_endpoint_costs_two_elements_and_verdicts_only_across_a_power_of_two() -> None:
    observed = believing(sticky(*addresses(1, 3)))

    within = plan_for(observed, sticky(*addresses(1, 4)))
    assert steps(within) == [{AFFINITY_ENDPOINTS: 1, AFFINITY_SLOTS: 1}]
    carry_out(within, observed)
    across = plan_for(observed, sticky(*addresses(1, 5)))
    assert steps(across) == [
        {AFFINITY_ENDPOINTS: 1, AFFINITY_SLOTS: 1, SERVICES: 1, EXTERNALS: 1, NODEPORTS: 1}
    ]


def test_to_none_and_back_changes_no_verdict() -> None:
    observed = believing(sticky(A, B))

    planned = plan_for(observed, sticky())
    assert not {SERVICES, EXTERNALS, NODEPORTS} & {n for step in steps(planned) for n in step}
    carry_out(planned, observed)
    assert elements(observed, AFFINITY_SLOTS) == {}
    assert elements(observed, AFFINITY_ENDPOINTS) == {}
    carry_out(plan_for(observed, sticky(C, D)), observed)
    assert set(elements(observed, AFFINITY_ENDPOINTS).values()) == {packed(C), packed(D)}


def test_endpoints_keep_their_numbers_and_a_new_one_does_not_get_that_of_the_last() -> None:
    observed = believing(sticky(A, B))
    before = elements(observed, AFFINITY_ENDPOINTS)

    carry_out(plan_for(observed, sticky(A)), observed)
    carry_out(plan_for(observed, sticky(A, C)), observed)

    after = elements(observed, AFFINITY_ENDPOINTS)
    assert {k: v for k, v in after.items() if k in before} == {
        k: v for k, v in before.items() if v == packed(A)
    }


def test_services_have_numbers_of_their_own_and_a_free_one_is_given_again_last() -> None:
    observed = believing(sticky(A), api(B))
    words = {w for w in elements(observed, AFFINITY_SERVICES).values() if isinstance(w, bytes)}
    assert words == {NUMBER, pack_service(FIRST_SERVICE + 1)}

    carry_out(plan_for(observed, gone=["default/web", "default/api"]), observed)
    sweep(observed)
    carry_out(plan_for(observed, sticky(A)), observed)

    assert elements(observed, AFFINITY_SERVICES)[FRONTEND] == pack_service(FIRST_SERVICE + 2)


def test_chains_of_another_timeout_come_first_and_those_of_the_old_one_go() -> None:
    observed = believing(sticky(A, B))
    before = {n: elements(observed, n) for n in (AFFINITY_SERVICES, AFFINITY_SLOTS)}
    old = sticky_chains(observed)

    laid, led = plan_for(observed, sticky(A, B, timeout_s=5)).transactions

    assert {timeout_of(spec.name) for _, spec in laid.chains} == {5}
    assert laid.size == len(laid.chains)
    assert {batch.set for batch in led.adds} == {SERVICES, EXTERNALS, NODEPORTS}
    carry_out(plan_for(observed, sticky(A, B, timeout_s=5)), observed)
    assert {n: elements(observed, n) for n in before} == before
    assert old < sticky_chains(observed)
    sweep(observed, sticky(A, B, timeout_s=5))
    assert {timeout_of(name) for name in sticky_chains(observed)} == {5}
    assert not observed.is_sweep_due


def test_chains_stay_as_long_as_another_service_needs_them() -> None:
    observed = believing(sticky(A), api(B))

    carry_out(plan_for(observed, sticky(A, timeout_s=None)), observed)
    sweep(observed, sticky(A, timeout_s=None), api(B))

    assert sticky_chains(observed) >= {"pick-tcp-1-affinity-60", "remember-tcp-60"}


def test_what_affinity_needed_stays_until_the_second_plan_for_nobody() -> None:
    observed = believing(sticky(A, B))
    off = sticky(A, B, timeout_s=None)
    names = (AFFINITY_SERVICES, AFFINITY_NODEPORTS, AFFINITY_SLOTS, AFFINITY_ENDPOINTS)
    before = {name: elements(observed, name) for name in names}
    chains = sticky_chains(observed)

    planned = plan_for(observed, off)
    assert left(planned) == {
        AFFINITY_SERVICES: 2, AFFINITY_NODEPORTS: 1, AFFINITY_SLOTS: 2, AFFINITY_ENDPOINTS: 2,
    }  # fmt: skip
    carry_out(planned, observed)
    assert set(elements(observed, SERVICES).values()) == {"goto pick-tcp-2"}
    assert not plan_for(observed, off)
    assert not prune(whole({off.key: off}), observed, LAYOUT)

    carry_out(plan(whole({off.key: off}), observed, [], LAYOUT), observed)
    assert {name: elements(observed, name) for name in names} == before
    assert sticky_chains(observed) == chains
    carry_out(plan(whole({off.key: off}), observed, [], LAYOUT), observed)
    assert all(elements(observed, name) == {} for name in names)
    assert (sticky_chains(observed), observed.is_sweep_due) == (set(), False)
    assert not plan_for(observed, off)


def test_affinity_that_is_switched_on_again_meanwhile_takes_up_what_is_there() -> None:
    observed = believing(sticky(A, B))
    carry_out(plan_for(observed, sticky(A, B, timeout_s=None)), observed)

    planned = plan_for(observed, sticky(A, B))
    assert steps(planned) == [{SERVICES: 1, EXTERNALS: 1, NODEPORTS: 1}]
    carry_out(planned, observed)
    sweep(observed, sticky(A, B))

    assert elements(observed, AFFINITY_SERVICES)[FRONTEND] == NUMBER
    assert set(elements(observed, AFFINITY_ENDPOINTS).values()) == {packed(A), packed(B)}
    assert len(elements(observed, AFFINITY_SLOTS)) == 2
    assert elements(observed, ENDPOINTS) == {}
    assert sticky_chains(observed)
    assert not plan_for(observed, sticky(A, B))


def test_a_list_that_is_not_used_any_more_stays_for_a_while_and_can_be_taken_up_again() -> None:
    observed = believing(local(external=True))
    here = elements(observed, AFFINITY_ENDPOINTS_LOCAL)
    assert list(here.values()) == [packed("10.1.9.9:80")]

    carry_out(plan_for(observed, local(external=False)), observed)
    assert not plan_for(observed, local(external=False))
    assert elements(observed, AFFINITY_ENDPOINTS_LOCAL) == here
    carry_out(plan_for(observed, local(external=True)), observed)
    sweep(observed, local(external=True))
    assert elements(observed, AFFINITY_ENDPOINTS_LOCAL) == here

    carry_out(plan_for(observed, local(external=False)), observed)
    sweep(observed, local(external=False))
    assert elements(observed, AFFINITY_ENDPOINTS_LOCAL) == {}
    assert len(elements(observed, AFFINITY_SLOTS)) == 2
    assert not plan_for(observed, local(external=False))


def test_an_endpoint_has_the_same_number_in_both_lists() -> None:
    observed = believing(local(external=True, internal=True))

    for number, endpoint in elements(observed, AFFINITY_ENDPOINTS_LOCAL).items():
        assert elements(observed, AFFINITY_ENDPOINTS)[number] == endpoint


def test_numbers_survive_a_restart_so_that_clients_come_back() -> None:
    before = believing(sticky(A, B), api(C))
    carry_out(plan_for(before, api(D, C)), before)
    observed = restarted(before)

    assert not plan_for(observed, api(D, C), sticky(A, B)).transactions


def test_after_a_restart_no_number_of_an_earlier_process_is_given_to_another() -> None:
    observed = restarted(believing(api()))
    assert elements(observed, AFFINITY_SERVICES) == {API: NUMBER}

    carry_out(plan_for(observed, sticky(A)), observed)
    carry_out(plan_for(observed, api(B)), observed)

    assert elements(observed, AFFINITY_SERVICES)[API] == NUMBER
    assert elements(observed, AFFINITY_SERVICES)[FRONTEND] == pack_service(FIRST_SERVICE + 1)


def test_numbers_of_an_earlier_process_are_given_again_once_it_is_known_that_they_are_free() -> (
    None
):
    observed = restarted(believing(sticky(A)))
    carry_out(prune(whole({}), observed, LAYOUT), observed)
    for service in range(FIRST_SERVICE + 1, LAST_SERVICE + 1):
        observed.services["IPv4", service] = WEB

    carry_out(plan_for(observed, api(B)), observed)

    assert elements(observed, AFFINITY_SERVICES) == {API: NUMBER}


def test_two_services_that_somebody_gave_one_number_get_two() -> None:
    observed = believing(sticky(A), api(B))
    observed.tables["IPv4"].elements[AFFINITY_SERVICES][API] = NUMBER
    observed = restarted(observed)

    carry_out(plan_for(observed, sticky(A), api(B)), observed)

    words = {elements(observed, AFFINITY_SERVICES)[key] for key in (API, FRONTEND)}
    assert len(words) == 2
    carry_out(prune(whole(desired_state(sticky(A), api(B))), observed, LAYOUT), observed)
    assert len(elements(observed, AFFINITY_SLOTS)) == 2
    assert sorted(map(str, elements(observed, AFFINITY_ENDPOINTS).values())) == sorted(
        map(str, (packed(A), packed(B)))
    )


def test_a_frontend_that_moves_to_another_service_leads_to_that_ones_number() -> None:
    observed = believing(sticky(A))
    moved = make_desired("default/api", B, affinity_timeout_s=60)

    carry_out(plan_for(observed, moved, gone=["default/web"]), observed)
    sweep(observed, moved)

    assert elements(observed, AFFINITY_SERVICES) == {FRONTEND: pack_service(FIRST_SERVICE + 1)}
    assert list(elements(observed, AFFINITY_ENDPOINTS).values()) == [packed(B)]


def test_what_somebody_changed_in_slots_and_endpoints_is_put_right() -> None:
    observed = believing(sticky(A, B))
    facts = observed.tables["IPv4"].elements
    facts[AFFINITY_ENDPOINTS].pop(next(iter(facts[AFFINITY_ENDPOINTS])))
    facts[AFFINITY_SLOTS][slot_key(NUMBER, 2)] = b"\x10\0\0\0"
    facts[AFFINITY_SERVICES][FRONTEND] = b"\0\0\0\0"

    carry_out(plan_for(observed, sticky(A, B)), observed)

    assert set(facts[AFFINITY_ENDPOINTS].values()) == {packed(A), packed(B)}
    assert len(facts[AFFINITY_SLOTS]) == 2
    assert set(facts[AFFINITY_SLOTS].values()) == set(facts[AFFINITY_ENDPOINTS])
    assert facts[AFFINITY_SERVICES][FRONTEND] == NUMBER


def test_prune_keeps_what_an_earlier_process_made_for_who_was_refused() -> None:
    observed = believing(sticky(A, B), api(C))
    before = elements(observed, AFFINITY_ENDPOINTS)
    observed = restarted(observed)
    carry_out(plan_for(observed, api(C)), observed)

    desired = whole(desired_state(sticky(A, D), api(C)))
    carry_out(prune(desired, observed, LAYOUT), observed)

    assert elements(observed, AFFINITY_ENDPOINTS) == before
    assert {timeout_of(name) for name in sticky_chains(observed)} == {60}


def test_prune_removes_chains_of_timeouts_nobody_needs() -> None:
    observed = restarted(believing(sticky(A), api(C)))
    port = make_desired("default/web", A, affinity_timeout_s=5)
    carry_out(plan_for(observed, port), observed)

    carry_out(prune(whole(desired_state(port)), observed, LAYOUT), observed)

    assert {timeout_of(name) for name in sticky_chains(observed)} == {5}
    assert API not in elements(observed, AFFINITY_SERVICES)
    assert list(elements(observed, AFFINITY_ENDPOINTS).values()) == [packed(A)]


def test_what_was_made_for_single_services_before_is_adopted_and_removed() -> None:
    observed = believing(sticky(A))
    facts = observed.tables["IPv4"]
    kept = set(facts.sets)
    facts.elements[SERVICES][FRONTEND] = f"goto affinity-{ID}"
    for part in ("", "-known", "-choose", "-chosen"):
        facts.chains[f"affinity{part}-{ID}"] = ChainFacts(None, ("some rule [0]",))
    for part in ("", "-slots", "-endpoints"):
        facts.sets[f"affinity{part}-{ID}"] = SetFacts(0, 1, 4, 1, 4)
        facts.elements[f"affinity{part}-{ID}"] = {b"1234": b"5678"}
    del facts.chains["cluster-ip"]
    judge(facts, LAYOUT, "IPv4")
    assert not facts.has_to_go
    observed = restarted(observed)

    carry_out(plan_for(observed, sticky(A)), observed)
    assert facts.elements[SERVICES] == {FRONTEND: "goto pick-tcp-1-affinity-60"}
    carry_out(prune(whole(desired_state(sticky(A))), observed, LAYOUT), observed)

    assert set(facts.sets) == kept
    assert not [name for name in facts.chains if ID in name]


def test_when_all_numbers_are_taken_a_service_is_served_without_and_that_is_said() -> None:
    observed = believing(sticky(A))
    for service in range(FIRST_SERVICE, LAST_SERVICE + 1):
        observed.services.setdefault(("IPv4", service), WEB)

    planned = plan_for(observed, api(B))

    assert planned.refused.keys() == {api().key}
    assert str(SERVICES_AT_MOST) in planned.refused[api().key]
    carry_out(planned, observed)
    assert elements(observed, SERVICES)[API] == "goto pick-tcp-1"
    assert API not in elements(observed, AFFINITY_SERVICES)
    assert not plan_for(observed, api(B))


@pytest.mark.parametrize("is_begun", [True, False])
def test_chains_of_the_old_timeout_stay_while_a_plan_is_half_done(is_begun: bool) -> None:
    observed = believing(sticky(A, B))
    planned: NftPlan = plan_for(observed, sticky(A, B, timeout_s=5))

    if is_begun:
        observed.begin(planned)
    else:
        observed.occupy(planned)

    assert bool(observed.leaving.chains) != is_begun
