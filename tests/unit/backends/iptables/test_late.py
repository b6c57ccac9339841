"""A plan that is made when it is needed, and once."""

from backends.iptables.late import LatePlan
from backends.iptables.model import IptablesPlan
from tests.unit.backends.iptables.planning import A, believing, plan_for, web


def test_it_is_made_when_it_is_asked_for_and_once() -> None:
    observed, made = believing(), list[IptablesPlan]()

    def make() -> IptablesPlan:
        made.append(plan_for(observed, web(A)))
        return made[-1]

    late = LatePlan(make)
    assert made == []

    assert late
    assert late.describe() == plan_for(observed, web(A)).describe()
    assert [late.make()] == made


def test_one_without_operations_is_false() -> None:
    observed = believing(web(A))

    assert not LatePlan(lambda: plan_for(observed, web(A)))
