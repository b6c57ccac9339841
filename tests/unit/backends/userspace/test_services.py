"""A ServicePort that changes in place."""

from backends.userspace.balancing import Balancer
from backends.userspace.model import Serving, Target
from backends.userspace.services import Service

A, B, C = (Target(f"10.1.0.{number}", 80) for number in (1, 2, 3))


def make(
    internal: tuple[Target, ...] = (),
    outside: tuple[Target, ...] = (),
    here: tuple[Target, ...] = (),
) -> Serving:
    return Serving(frontends=(), internal=internal, outside=outside, here=here)


def test_what_nobody_leads_to_any_more_is_told() -> None:
    service = Service(make(internal=(A,), outside=(B,), here=(B, C)), Balancer())

    gone = service.update(make(internal=(A,), outside=(C,), here=(C,)))

    assert gone == {B}
    assert service.members == {A, C}


def test_turns_go_on_where_a_pool_stays_the_same() -> None:
    service = Service(make(internal=(A, B)), Balancer())
    assert service.internal.next() == A

    service.update(make(internal=(A, B), here=(C,)))

    assert service.internal.next() == B


def test_the_world_outside_has_a_pool_of_its_own_with_policy_local_only() -> None:
    service = Service(make(outside=(A,), here=(A,)), Balancer())
    assert service.outside is service.here

    service.update(Serving(frontends=(), outside=(A,), here=(A, B), is_split=True))

    assert (service.outside.targets, service.here.targets) == ((A,), (A, B))


def test_session_affinity_is_told_to_the_balancer() -> None:
    service = Service(Serving(frontends=(), affinity_s=60), Balancer())
    assert service.balancer.affinity_s == 60

    service.update(Serving(frontends=()))

    assert service.balancer.affinity_s is None


def test_what_is_counted_starts_at_nothing() -> None:
    service = Service(make(), Balancer())

    assert set(service.counted.values()) == {0}
    assert service.is_idle
    assert service.leaving({A}) == []


def test_who_is_looking_for_an_endpoint_sees_those_of_now() -> None:
    service = Service(make(internal=(A,), outside=(A,), here=(A,)), Balancer())
    internal, outside = service.internal, service.outside

    service.update(make(internal=(B,), outside=(C,), here=(C,)))

    assert (internal.next(), outside.next()) == (B, C)
    assert (internal.members, outside.members) == (frozenset([B]), frozenset([C]))
