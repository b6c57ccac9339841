"""What planning does about the fixed part of our tables, and about what nobody needs."""

import pytest

from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_table import ChainFacts, TableFacts
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import REFUSED, SERVICES
from backends.nftables.plan import plan
from backends.nftables.prune import is_entangled, judge, prune
from proxy.desired import Frontend
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_key
from tests.unit.backends.nftables.planning import (
    LAYOUT,
    A,
    B,
    believing,
    carry_out,
    plan_for,
    web,
)

# --- the fixed part


def test_on_an_empty_host_everything_is_one_transaction() -> None:
    (transaction,) = plan_for(Observed({"IPv4": TableFacts()}), web(A)).transactions

    assert transaction.tables == ("IPv4",)
    assert [spec for _, spec in transaction.sets] == list(LAYOUT.sets("IPv4"))
    names = [spec.name for _, spec in transaction.chains]
    assert names == [*[spec.name for spec in LAYOUT.skeleton("IPv4")], "pick-tcp-1"]


def test_without_services_prune_makes_the_fixed_part() -> None:
    observed = Observed({"IPv4": TableFacts()})

    carry_out(prune(whole({}), observed, LAYOUT), observed)

    assert observed.tables["IPv4"].is_present
    assert not prune(whole({}), observed, LAYOUT)


def test_a_rule_changed_from_outside_is_written_again() -> None:
    observed = believing(web(A))
    observed.tables["IPv4"].chains[SERVICES] = ChainFacts(None, ("something else",))

    (transaction,) = plan_for(observed, web(A)).transactions

    assert [spec.name for _, spec in transaction.chains] == [SERVICES]
    assert (transaction.deletes, transaction.adds) == ((), ())


@pytest.mark.parametrize("change", ["set", "size", "hook", "dormant", "entangled"])
def test_a_table_that_cannot_be_changed_into_ours_is_made_anew_as_a_whole(change: str) -> None:
    observed = believing(web(A))
    facts = observed.tables["IPv4"]
    match change:
        case "set":
            facts.sets[REFUSED] = facts.sets[REFUSED]._replace(key_length=4)
        case "size":
            facts.sets[REFUSED] = facts.sets[REFUSED]._replace(size=5)
        case "hook":
            hook = BaseChain("nat", 0, -99)
            facts.chains["prerouting"] = facts.chains["prerouting"]._replace(base=hook)
        case "dormant":
            facts.is_dormant = True
        case _:
            facts.chains[SERVICES] = ChainFacts(facts.chains[SERVICES].base, ())
            facts.chains["stranger"] = ChainFacts(None, ())
    judge(facts, LAYOUT, "IPv4")
    facts.elements[SERVICES][b"foreign"] = "drop"
    facts.chains["stranger"] = ChainFacts(None, ())

    planned = plan_for(observed, web(A, B))
    (transaction,) = planned.transactions
    assert transaction.rebuild == transaction.tables == ("IPv4",)
    assert not transaction.deletes
    carry_out(planned, observed)

    assert not prune(whole({}), observed, LAYOUT)
    fresh = believing(web(A, B)).tables["IPv4"]
    rebuilt = observed.tables["IPv4"]
    assert (rebuilt.sets, rebuilt.elements) == (fresh.sets, fresh.elements)
    assert rebuilt.chains == fresh.chains
    judge(rebuilt, LAYOUT, "IPv4")
    assert not rebuilt.has_to_go


def test_without_services_prune_makes_the_table_anew() -> None:
    observed = believing()
    facts = observed.tables["IPv4"]
    facts.is_dormant = facts.has_to_go = True
    facts.chains["stranger"] = ChainFacts(None, ())

    (transaction,) = prune(whole({}), observed, LAYOUT).transactions

    assert transaction.rebuild == ("IPv4",)
    assert (transaction.gone_chains, transaction.gone_sets) == ((), ())


@pytest.mark.parametrize(
    ("lost", "verdict", "stranger", "entangled"),
    [
        pytest.param("", f"goto {SERVICES}", "stranger", False, id="all rules are there"),
        pytest.param(SERVICES, "drop", "", False, id="a verdict that leads nowhere"),
        pytest.param(SERVICES, "goto pick-udp-8", "", False, id="a verdict like ours"),
        pytest.param(SERVICES, f"goto {SERVICES}", "", True, id="a verdict that leads back"),
        pytest.param(SERVICES, "drop", "stranger", True, id="a foreign chain"),
        pytest.param(SERVICES, "drop", "pick-tcp-64", False, id="a chain that picks"),
    ],
)
def test_rules_that_could_make_a_loop_are_seen_before_the_kernel_refuses_them(
    lost: str, verdict: str, stranger: str, entangled: bool
) -> None:
    facts = believing(web(A)).tables["IPv4"]
    facts.chains.pop(lost, None)
    facts.elements[SERVICES][b"key"] = verdict
    if stranger:
        facts.chains[stranger] = ChainFacts(None, ())

    assert is_entangled(facts, LAYOUT, "IPv4") == entangled


def test_with_another_mark_all_chains_that_pick_have_it_as_soon_as_the_hook_that_masquerades() -> (
    None
):
    desired = desired_state(
        *[
            make_desired(
                f"default/s{size}",
                *(A, B)[:size],
                cluster_ip=f"10.96.0.{size}",
                outer=(Frontend("NodePort", None, 30000 + size),),
            )
            for size in (1, 2)
        ]
    )
    old, new = (
        Layout(NftSettings(families=("IPv4",), masquerade_mark=mark)) for mark in (0x4000, 0x8000)
    )
    earlier = Observed({"IPv4": TableFacts()})
    carry_out(plan(whole(desired), earlier, list(desired), old), earlier)
    observed = Observed(earlier.tables)

    carry_out(plan(whole(desired), observed, [make_key("default/s1")], new), observed)

    chains = observed.tables["IPv4"].chains
    assert chains["postrouting"] == new.fixed("IPv4").chains["postrouting"]
    for name in ("external-nodeport-tcp-1", "external-nodeport-tcp-2"):
        assert chains[name] == new.chain("IPv4", name).facts
