"""What a change costs a ServicePort with session affinity or source ranges, and what is left for a while."""

import pytest

from backends.nftables.belief import Observed
from backends.nftables.model import FIREWALL, SERVICES, VIP_SOURCES
from backends.nftables.names import identity
from backends.nftables.plan import plan
from backends.nftables.prune import prune
from proxy.desired import DesiredPort, Frontend
from tests.desired_strategies import addresses, make_desired, whole
from tests.unit.backends.nftables.planning import (
    LAYOUT,
    WEB,
    A,
    B,
    C,
    D,
    believing,
    carry_out,
    plan_for,
    steps,
)

NODE_PORT = Frontend("NodePort", None, 30080)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
ID = identity(WEB)
CLIENTS, SLOTS, ENDPOINTS = f"affinity-{ID}", f"affinity-slots-{ID}", f"affinity-endpoints-{ID}"


def sticky(*endpoints: str, timeout_s: int | None = 60) -> DesiredPort:
    return make_desired(
        "default/web", *endpoints, outer=(NODE_PORT, VIP), affinity_timeout_s=timeout_s
    )


def ranged(*ranges: str, allows_own_vips: bool = False) -> DesiredPort:
    return make_desired(
        "default/web",
        A,
        outer=(NODE_PORT, VIP),
        source_ranges=ranges,
        allows_own_vips=allows_own_vips,
    )


def names(observed: Observed) -> tuple[set[str], set[str]]:
    """The chains and the sets that belong to the one service."""
    facts = observed.tables["IPv4"]
    return {n for n in facts.chains if ID in n}, {n for n in facts.sets if ID in n}


# --- affinity


def test_a_replaced_endpoint_costs_two_elements_whatever_the_number_of_frontends() -> None:
    observed = believing(sticky(A, B, C))

    assert steps(plan_for(observed, sticky(A, B, D))) == [{ENDPOINTS: 2, SLOTS: 1}]
    planned = plan_for(observed, sticky(A, B, D))
    assert planned.transactions[0].chains == ()


def test_one_more_endpoint_costs_two_elements_and_chains_only_across_a_power_of_two() -> None:
    observed = believing(sticky(*addresses(1, 3)))

    within = plan_for(observed, sticky(*addresses(1, 4)))
    assert steps(within) == [{ENDPOINTS: 1, SLOTS: 1}]
    assert within.transactions[0].chains == ()
    carry_out(within, observed)
    across = plan_for(observed, sticky(*addresses(1, 5)))
    assert [spec.name for _, spec in across.transactions[0].chains] == [f"affinity-choose-{ID}"]


def test_endpoints_keep_their_numbers_and_a_new_one_does_not_get_that_of_the_last() -> None:
    observed = believing(sticky(A, B))
    believed = observed.tables["IPv4"].elements[ENDPOINTS]
    before = dict(believed)

    carry_out(plan_for(observed, sticky(A)), observed)
    carry_out(plan_for(observed, sticky(A, C)), observed)

    assert {k: v for k, v in believed.items() if k in before} == {
        k: v for k, v in before.items() if v == _packed(A)
    }
    assert not set(believed) & {k for k, v in before.items() if v == _packed(B)}


def _packed(address: str) -> bytes:
    return sticky(address).internal[0].packed


def test_another_timeout_changes_rules_and_keeps_the_clients() -> None:
    observed = believing(sticky(A, B))

    planned = plan_for(observed, sticky(A, B, timeout_s=5))

    (transaction,) = planned.transactions
    assert {spec.name for _, spec in transaction.chains} == {
        f"affinity-known-{ID}", f"affinity-chosen-{ID}",
    }  # fmt: skip
    assert (transaction.sets, transaction.deletes, transaction.adds) == ((), (), ())
    carry_out(planned, observed)
    assert not observed.is_sweep_due


def test_what_affinity_needed_stays_until_the_second_plan_for_nobody() -> None:
    observed = believing(sticky(A, B))
    off = sticky(A, B, timeout_s=None)

    carry_out(plan_for(observed, off), observed)
    assert set(observed.tables["IPv4"].elements[SERVICES].values()) == {"goto pick-tcp-2"}
    chains, sets = names(observed)
    assert chains
    assert sets == {CLIENTS, SLOTS, ENDPOINTS}
    assert len(observed.leaving) == len(chains) + len(sets)
    assert not prune(whole({off.key: off}), observed, LAYOUT)

    carry_out(plan(whole({off.key: off}), observed, [], LAYOUT), observed)
    assert names(observed) == (chains, sets)
    planned = plan(whole({off.key: off}), observed, [], LAYOUT)
    emptying, deleting = planned.transactions
    assert {name for _, name in emptying.gone_sets} == sets
    assert {name for _, name in deleting.gone_chains} == chains
    carry_out(planned, observed)
    assert (names(observed), observed.is_sweep_due) == ((set(), set()), False)


def test_affinity_that_is_switched_on_again_meanwhile_takes_up_what_is_there() -> None:
    observed = believing(sticky(A, B))
    carry_out(plan_for(observed, sticky(A, B, timeout_s=None)), observed)

    planned = plan_for(observed, sticky(A, B))
    assert (planned.transactions[0].chains, planned.transactions[0].sets) == ((), ())
    carry_out(planned, observed)
    for _ in range(2):
        carry_out(plan(whole({}), observed, [], LAYOUT), observed)

    assert names(observed)[1] == {CLIENTS, SLOTS, ENDPOINTS}
    assert observed.tables["IPv4"].elements["endpoints-tcp"] == {}
    assert not plan_for(observed, sticky(A, B))


def test_what_somebody_changed_in_the_own_sets_is_put_right() -> None:
    observed = believing(sticky(A, B))
    elements = observed.tables["IPv4"].elements
    before = {name: dict(elements[name]) for name in (SLOTS, ENDPOINTS)}
    del elements[ENDPOINTS][next(iter(elements[ENDPOINTS]))]
    elements[SLOTS][b"\7\0\0\0"] = b"\x10\0\0\0"

    carry_out(plan_for(observed, sticky(A, B)), observed)

    assert set(elements[ENDPOINTS].values()) == set(before[ENDPOINTS].values())
    assert len(elements[SLOTS]) == 2
    assert set(elements[SLOTS].values()) == set(elements[ENDPOINTS])


# --- source ranges


def test_ranges_are_checked_before_the_address_is_served() -> None:
    before, first, then = plan_for(believing(), ranged("192.0.2.0/24")).transactions

    assert {spec.name for _, spec in before.sets} == {batch.set for batch in before.adds}
    assert f"firewall-{ID}" in [spec.name for _, spec in before.chains]
    assert FIREWALL in {batch.set for batch in first.adds}
    assert {batch.set for batch in then.adds} == {"externals", "nodeports", "external-ips"}


def test_other_ranges_are_a_new_set_and_then_the_rule_is_replaced_in_place() -> None:
    observed = believing(ranged("192.0.2.0/24"))
    (old,) = names(observed)[1]

    filling, replacing = plan_for(observed, ranged("192.0.2.0/25")).transactions

    ((_, made),) = filling.sets
    assert made.name != old
    assert {batch.set for batch in filling.adds} == {made.name}
    assert filling.size == 1 + len(filling.adds[0].elements)
    assert [spec.name for _, spec in replacing.chains] == [f"firewall-{ID}"]
    assert replacing.size == 1
    carry_out(plan_for(observed, ranged("192.0.2.0/25")), observed)
    assert len(observed.leaving) == 1


@pytest.mark.parametrize("allows", [True, False])
def test_the_vip_is_a_source_only_if_the_ranges_hold_the_node(allows: bool) -> None:
    observed = believing(ranged("192.0.2.0/24", allows_own_vips=not allows))
    assert len(observed.tables["IPv4"].elements[VIP_SOURCES]) == (not allows)

    assert steps(plan_for(observed, ranged("192.0.2.0/24", allows_own_vips=allows))) == [
        {VIP_SOURCES: 1}
    ]


def test_without_ranges_everybody_may_come_in_again() -> None:
    observed = believing(ranged("192.0.2.0/24"))

    carry_out(plan_for(observed, ranged()), observed)

    assert observed.tables["IPv4"].elements[FIREWALL] == {}
    assert len(observed.leaving) == 2
