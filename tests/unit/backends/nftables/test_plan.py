"""What a change writes. That all plans together keep the laws: tests/contract."""

import itertools
from collections.abc import Iterable

import pytest

from backends.kernel.nft_table import ChainFacts
from backends.nftables.model import CLUSTER_IPS, HAIRPIN, REFUSED, SERVICES
from backends.nftables.plan import plan
from backends.nftables.prune import prune
from proxy.desired import DesiredPort
from tests.desired_strategies import Ports, addresses, desired_state, make_desired, whole
from tests.model_builders import make_endpoint, make_key
from tests.unit.backends.nftables.planning import (
    DELETED,
    ENDPOINTS,
    FRONTEND,
    LAYOUT,
    WEB,
    A,
    B,
    C,
    D,
    E,
    believing,
    carry_out,
    data,
    left,
    plan_for,
    slot,
    steps,
    web,
    written,
)

# --- pools


def test_what_is_as_desired_is_not_planned() -> None:
    observed = believing(web(A, B))

    assert not plan_for(observed, web(A, B))
    assert not plan_for(observed, web(B, A))
    assert not prune(whole({}), observed, LAYOUT)


def test_one_replaced_endpoint_is_one_changed_slot() -> None:
    observed = believing(web(A, B, C))

    assert written(plan_for(observed, web(A, C, D))) == {ENDPOINTS: {slot(1): data(D)}}


def test_one_more_endpoint_is_one_more_slot() -> None:
    observed = believing(web(A, B, C))

    assert written(plan_for(observed, web(A, B, C, D))) == {ENDPOINTS: {slot(3): data(D)}}


def test_the_last_slots_move_into_the_holes_when_a_pool_shrinks() -> None:
    observed = believing(web(A, B, C, D))

    assert written(plan_for(observed, web(A, C, D))) == {
        ENDPOINTS: {slot(1): data(D), slot(3): DELETED}
    }


@pytest.mark.parametrize(
    ("before", "after", "chain"),
    [(1, 2, "pick-tcp-2"), (2, 3, "pick-tcp-4"), (3, 2, "pick-tcp-2"), (9, 8, "pick-tcp-8")],
)
def test_crossing_a_power_of_two_changes_the_verdict(before: int, after: int, chain: str) -> None:
    observed = believing(web(*addresses(1, before)))

    changes = written(plan_for(observed, web(*addresses(1, after))))

    assert changes[SERVICES] == {FRONTEND: f"goto {chain}"}


@pytest.mark.parametrize(("before", "after"), [(3, 4), (4, 3), (5, 8), (9, 16)])
def test_within_a_power_of_two_the_verdict_stays(before: int, after: int) -> None:
    observed = believing(web(*addresses(1, before)))

    assert SERVICES not in written(plan_for(observed, web(*addresses(1, after))))


def test_a_chain_is_made_with_the_first_pool_of_its_size() -> None:
    observed = believing(web(A))
    growing = plan_for(observed, web(A, B, C))

    before, then = growing.transactions  # a packet under way would find it empty
    assert [spec.name for _, spec in before.chains] == ["pick-tcp-4"]
    assert (before.size, then.chains) == (1, ())
    carry_out(growing, observed)
    other = make_desired("default/api", A, B, C, cluster_ip="10.96.0.11")
    assert plan_for(observed, other).transactions[0].chains == ()


def test_a_chain_with_other_rules_is_written_again() -> None:
    observed = believing(web(A, B))
    observed.tables["IPv4"].chains["pick-tcp-2"] = ChainFacts(None, ("something else",))

    (transaction,) = plan_for(observed, web(A, B)).transactions

    assert [spec.name for _, spec in transaction.chains] == ["pick-tcp-2"]


def test_an_empty_pool_keeps_its_verdict() -> None:
    observed = believing(web(A, B, C))

    changes = written(plan_for(observed, web()))

    assert changes == {
        ENDPOINTS: dict.fromkeys([slot(0), slot(1), slot(2)], DELETED),
        REFUSED: {FRONTEND: None},
    }


def test_an_empty_pool_with_endpoints_elsewhere_is_not_refused() -> None:
    observed = believing(web(A))

    assert written(plan_for(observed, web(is_any_usable=True))) == {ENDPOINTS: {slot(0): DELETED}}


def test_the_first_endpoint_ends_the_refusal_in_the_same_transaction() -> None:
    observed = believing(web())

    assert written(plan_for(observed, web(A))) == {
        ENDPOINTS: {slot(0): data(A)},
        REFUSED: {FRONTEND: DELETED},
    }


def test_an_empty_pool_does_not_keep_a_verdict_that_is_not_ours() -> None:
    observed = believing(web())
    observed.tables["IPv4"].elements[SERVICES][FRONTEND] = "drop"

    assert written(plan_for(observed, web())) == {SERVICES: {FRONTEND: "goto pick-tcp-1"}}


def test_a_slot_lost_from_outside_is_filled_again() -> None:
    observed = believing(web(A, B, C))
    del observed.tables["IPv4"].elements[ENDPOINTS][slot(1)]

    changes = written(plan_for(observed, web(A, B, C)))

    assert set(changes) == {ENDPOINTS}
    carry_out(plan_for(observed, web(A, B, C)), observed)
    pool = observed.tables["IPv4"].elements[ENDPOINTS]
    assert sorted(pool.items()) == [
        (slot(0), data(A)), (slot(1), pool[slot(1)]), (slot(2), pool[slot(2)]),
    ]  # fmt: skip
    assert {pool[slot(1)], pool[slot(2)]} == {data(B), data(C)}


def test_a_pool_with_a_lost_slot_can_shrink() -> None:
    observed = believing(web(A, B, C, D, E))
    del observed.tables["IPv4"].elements[ENDPOINTS][slot(1)]

    carry_out(plan_for(observed, web(A, B)), observed)

    assert observed.tables["IPv4"].elements[ENDPOINTS] == {slot(0): data(A), slot(1): data(B)}


# --- frontends


def test_a_new_service_is_its_verdict_its_slots_and_its_address() -> None:
    observed = believing()

    assert written(plan_for(observed, web(A))) == {
        SERVICES: {FRONTEND: "goto pick-tcp-1"},
        ENDPOINTS: {slot(0): data(A)},
        CLUSTER_IPS: {FRONTEND[:4]: None},
    }


def test_a_service_that_is_no_more_leaves_nothing_behind() -> None:
    observed = believing(web(A, B))

    carry_out(plan_for(observed, gone=["default/web"]), observed)

    assert not any(observed.tables["IPv4"].elements.values())
    assert (observed.rendered, observed.references, observed.holders) == ({}, {}, {})


def test_a_refused_service_that_is_no_more_leaves_nothing_behind() -> None:
    observed = believing(web())

    carry_out(plan_for(observed, gone=["default/web"]), observed)

    assert not any(observed.tables["IPv4"].elements.values())


def test_a_frontend_that_moves_to_another_service_changes_only_in_its_pool() -> None:
    observed = believing(web(A, B))
    heir = make_desired("default/heir", A, C)
    former = make_desired("default/web", A, B, cluster_ip=None)

    for order in itertools.permutations([former, heir]):
        assert written(plan_for(observed, *order)) == {ENDPOINTS: {slot(1): data(C)}}


def test_a_frontend_that_moved_in_an_earlier_plan_is_not_taken_down_by_a_later_one() -> None:
    observed = believing(web(A, B))

    carry_out(plan_for(observed, make_desired("default/heir", A, B)), observed)

    assert not plan_for(observed, make_desired("default/web", A, B, cluster_ip=None))
    assert not plan_for(observed, gone=["default/web"])


def test_another_cluster_ip_takes_all_elements_along() -> None:
    observed = believing(web(A))

    carry_out(
        plan_for(observed, make_desired("default/web", A, cluster_ip="10.96.0.99")), observed
    )

    keys = {key for values in observed.tables["IPv4"].elements.values() for key in values}
    assert {key[:4] for key in keys} == {bytes([10, 96, 0, 99])}


def test_a_family_the_host_does_not_have_is_left_out() -> None:
    observed = believing()
    six = make_desired("default/six", "[fd00::1]:80", cluster_ip="fd00:10:96::1")

    planned = plan_for(observed, web(A), six)

    assert {batch.family for each in planned.transactions for batch in each.adds} == {"IPv4"}
    assert list(planned.rendered) == [WEB]
    assert not plan_for(observed, six, gone=["default/other"])


# --- what is shared


def shared_address(*ports: int) -> list[DesiredPort]:
    """Ports of one service at one cluster IP."""
    local = make_endpoint(A, is_local=True)
    return [make_desired("default/web", local, port_name=str(p), port=p) for p in ports]


def test_members_that_several_need_are_written_once_and_stay_for_the_last() -> None:
    first, second = shared_address(80, 443)
    observed = believing(first)

    joining = written(plan_for(observed, second))
    assert CLUSTER_IPS not in joining
    assert HAIRPIN not in joining
    carry_out(plan_for(observed, second), observed)

    for leaving, is_last in ((first.key, False), (second.key, True)):
        planned = plan(whole({}), observed, [leaving], LAYOUT)
        assert (CLUSTER_IPS in steps(planned)[0], HAIRPIN in left(planned)) == (is_last, is_last)
        carry_out(planned, observed)


def test_who_comes_and_who_goes_in_one_plan_share_without_a_change() -> None:
    first, second = shared_address(80, 443)
    observed = believing(first)

    for order in itertools.permutations([first.key, second.key]):
        changes = written(plan(whole(desired_state(second)), observed, list(order), LAYOUT))
        assert not {CLUSTER_IPS, HAIRPIN} & changes.keys()


def test_a_shared_member_lost_from_outside_comes_back_with_any_of_its_users() -> None:
    first, second = shared_address(80, 443)
    observed = believing(first, second)
    del observed.tables["IPv4"].elements[CLUSTER_IPS][FRONTEND[:4]]

    assert written(plan_for(observed, second)) == {CLUSTER_IPS: {FRONTEND[:4]: None}}


def test_an_endpoint_that_leaves_this_node_no_longer_reaches_itself() -> None:
    observed = believing(make_desired("default/web", make_endpoint(A, is_local=True)))

    assert set(written(plan_for(observed, web(A)))) == {HAIRPIN}


# --- what a plan says of itself


def test_every_element_of_a_plan_names_the_service_port_it_is_for() -> None:
    observed = believing(web(A, B))
    other = make_desired("default/api", A, cluster_ip="10.96.0.11")

    planned = plan_for(observed, web(C), other)

    batches = [b for each in planned.transactions for b in (*each.deletes, *each.adds)]
    owners = {element.key[:4]: element.owner for batch in batches for element in batch.elements}
    assert owners == {FRONTEND[:4]: WEB, bytes([10, 96, 0, 11]): other.key}


def test_what_service_ports_will_occupy_is_in_the_plan() -> None:
    observed = believing(web(A))

    planned = plan_for(observed, web(A, B), gone=["default/never-there"])

    rendered = planned.rendered[WEB]
    assert rendered is not None
    assert [target.slots for target in rendered.targets] == [2]
    assert make_key("default/never-there") not in planned.rendered


def states(*sizes: int) -> Iterable[Ports]:
    return (desired_state(web(*addresses(1, size))) for size in sizes)


def test_planning_changes_no_belief() -> None:
    observed = believing(web(A, B, C))
    before = (
        {name: dict(values) for name, values in observed.tables["IPv4"].elements.items()},
        dict(observed.rendered),
        dict(observed.references),
        dict(observed.holders),
        observed.generation,
    )

    for desired in states(0, 1, 5):
        plan(whole(desired), observed, [WEB], LAYOUT)
    prune(whole({}), observed, LAYOUT)

    assert before == (
        observed.tables["IPv4"].elements,
        observed.rendered,
        observed.references,
        observed.holders,
        observed.generation,
    )
