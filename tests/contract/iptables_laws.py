"""The laws for iptables, which finds services by walking a tree: who comes or goes costs a step more for four times the services."""

from typing import Final

from tests.contract.driving import run_on
from tests.contract.host import Ground
from tests.contract.laws import KernelLaws
from tests.contract.proportion import work_of_changes
from tests.effort import examples

_OUTER: Final = ("new", "every frontend", "policies", "affinity", "ranges")
"""How changes begin in which a frontend comes, or is outside the tree of cluster IPs."""


class IptablesLaws(KernelLaws):
    """What every backend in the kernel keeps, but that work is proportional to the depth of the tree."""

    def test_l6_planning_one_change_looks_at_as_much_among_ten_thousand_services_as_among_a_hundred(
        self, ground: Ground
    ) -> None:
        few = run_on(ground, work_of_changes(100))
        many = run_on(ground, work_of_changes(examples(10_000)))

        for name, work in few.items():
            # two levels are walked, or five, for each frontend outside the pool that changes
            most = 1.5 if name.startswith(_OUTER) else 1
            assert 0 < work.instructions <= many[name].instructions, name
            assert many[name].instructions <= most * work.instructions, name
