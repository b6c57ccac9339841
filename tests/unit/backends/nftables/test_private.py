"""What a change costs a ServicePort with source ranges, and what is left for a while."""

import pytest

from backends.nftables.belief import Observed
from backends.nftables.model import FIREWALL, VIP_SOURCES
from backends.nftables.names import identity
from proxy.desired import DesiredPort, Frontend
from tests.desired_strategies import make_desired
from tests.unit.backends.nftables.planning import (
    WEB,
    A,
    believing,
    carry_out,
    plan_for,
    steps,
)

NODE_PORT = Frontend("NodePort", None, 30080)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
ID = identity(WEB)


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
