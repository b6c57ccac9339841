"""A share of a core, saved up and owed."""

import pytest

from proxy.budget import Budget


def make_budget() -> Budget:
    return Budget(share=0.1, most_s=1.0, now_s=100.0)


def test_what_is_saved_up_may_be_used_at_once() -> None:
    budget = make_budget()
    assert budget.allowed_s == 100.0

    budget.spend(0.6, 100.6)
    assert budget.allowed_s == 100.6
    budget.spend(0.4, 101.0)
    assert budget.allowed_s == 101.0


def test_debts_are_waited_for() -> None:
    budget = make_budget()

    budget.spend(1.5, 100.0)
    assert budget.allowed_s == pytest.approx(105.0)
    budget.spend(0.1, 105.0)
    assert budget.allowed_s == pytest.approx(106.0)


def test_time_that_passes_fills_it_up_to_its_limit() -> None:
    budget = make_budget()

    budget.spend(1.0, 100.0)
    budget.spend(0.5, 105.0)
    assert budget.allowed_s == 105.0
    budget.spend(1.5, 10000.0)
    assert budget.allowed_s == pytest.approx(10005.0)


def test_no_more_is_owed_than_can_be_saved_up() -> None:
    budget = make_budget()

    budget.spend(50.0, 100.0)

    assert budget.allowed_s == pytest.approx(110.0)


@pytest.mark.parametrize("cost_s", [0.005, 0.05, 0.5])
def test_in_the_long_run_the_share_is_used_and_no_more(cost_s: float) -> None:
    budget, now_s, used_s = make_budget(), 100.0, 0.0
    while now_s < 1100.0:
        now_s = max(now_s + 0.01, budget.allowed_s)
        budget.spend(cost_s, now_s)
        used_s += cost_s

    assert used_s == pytest.approx(0.1 * 1000 + 1.0, abs=2 * cost_s)
