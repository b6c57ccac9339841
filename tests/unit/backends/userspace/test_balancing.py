"""Which endpoint gets a connection."""

import collections

from backends.userspace import balancing
from backends.userspace.balancing import Balancer, Pool
from backends.userspace.model import Target

A, B, C = (Target(f"10.1.0.{number}", 80) for number in (1, 2, 3))


def chosen(balancer: Balancer, pool: Pool, count: int, now_s: float = 0.0) -> list[Target | None]:
    return [balancer.choose(pool, f"c{number}", now_s) for number in range(count)]


def test_endpoints_have_their_turns_beginning_with_that_of_the_node() -> None:
    assert chosen(Balancer(), Pool((A, B, C), offset=1), 2) == [B, C]


def test_each_round_has_all_and_begins_one_further_on() -> None:
    assert chosen(Balancer(), Pool((A, B, C)), 9) == [A, B, C, B, C, A, C, A, B]


def test_clients_that_connect_by_turns_each_meet_all() -> None:
    turns = chosen(Balancer(), Pool((A, B)), 8)

    assert set(turns[::2]) == set(turns[1::2]) == {A, B}


def test_without_endpoints_there_is_none() -> None:
    assert Balancer().choose(Pool(), "c", 0.0) is None
    assert Balancer(is_least=True).choose(Pool(), "c", 0.0) is None


def test_who_has_the_fewest_connections_gets_the_next() -> None:
    balancer = Balancer(is_least=True)
    balancer.open = {A: 2, B: 1, C: 2}

    assert balancer.choose(Pool((A, B, C)), "c", 0.0) == B


def test_where_all_have_as_many_they_have_their_turns() -> None:
    balancer = Balancer(is_least=True)

    assert collections.Counter(chosen(balancer, Pool((A, B, C)), 9)) == {A: 3, B: 3, C: 3}


def test_what_was_tried_is_not_chosen_again() -> None:
    pool = Pool((A, B, C))

    assert Balancer().choose(pool, "c", 0.0, (A, B)) == C
    assert Balancer().choose(pool, "c", 0.0, (A, B, C)) is None


def test_an_endpoint_that_did_not_accept_comes_last_for_a_while() -> None:
    balancer, pool = Balancer(avoid_s=5.0), Pool((A, B))
    balancer.refused(A, 10.0)

    assert chosen(balancer, pool, 3, now_s=14.0) == [B, B, B]
    assert set(chosen(balancer, pool, 4, now_s=15.0)) == {A, B}


def test_it_is_chosen_all_the_same_where_there_is_no_other() -> None:
    balancer = Balancer()
    balancer.refused(A, 10.0)

    assert balancer.choose(Pool((A,)), "c", 11.0) == A


def test_it_has_its_turns_again_once_it_has_accepted() -> None:
    balancer = Balancer()
    balancer.refused(A, 10.0)
    balancer.accepted(A)

    assert set(chosen(balancer, Pool((A, B)), 2, now_s=11.0)) == {A, B}


def test_a_client_stays_with_its_endpoint_for_as_long_as_it_comes_back() -> None:
    balancer, pool = Balancer(), Pool((A, B, C))
    balancer.affinity_s = 10.0
    first = balancer.choose(pool, "c", 0.0)

    found = [balancer.choose(pool, "c", now_s) for now_s in (9.0, 18.0, 27.0)]

    assert found == [first] * 3
    assert balancer.choose(pool, "c", 37.0) != first


def test_all_frontends_of_a_service_share_the_memory() -> None:
    balancer = Balancer()
    balancer.affinity_s = 10.0

    first = balancer.choose(Pool((A, B)), "c", 0.0)
    assert balancer.choose(Pool((B, A)), "c", 1.0) == first


def test_a_client_whose_endpoint_has_gone_gets_another_and_stays_with_it() -> None:
    balancer = Balancer()
    balancer.affinity_s = 10.0
    balancer.choose(Pool((A,)), "c", 0.0)

    second = balancer.choose(Pool((B, C)), "c", 1.0)
    assert second in (B, C)
    assert balancer.choose(Pool((A, B, C)), "c", 2.0) == second


def test_a_client_whose_endpoint_does_not_accept_gets_another() -> None:
    balancer, pool = Balancer(), Pool((A, B))
    balancer.affinity_s = 10.0
    first = balancer.choose(pool, "c", 0.0)
    assert first is not None

    second = balancer.choose(pool, "c", 1.0, (first,))
    assert second not in (first, None)
    assert balancer.choose(pool, "c", 2.0) == second


def test_as_many_clients_are_remembered_as_there_is_room_for() -> None:
    balancer, pool = Balancer(), Pool((A, B))
    balancer.affinity_s = 1e9
    for number in range(balancing.REMEMBERED + 10):
        balancer.choose(pool, f"c{number}", 0.0)

    assert len(balancer._memory) == balancing.REMEMBERED
    assert "c9" not in balancer._memory


def test_what_is_remembered_of_endpoints_that_have_gone_is_forgotten() -> None:
    balancer = Balancer()
    balancer.refused(A, 0.0)
    balancer.refused(B, 0.0)

    balancer.keep_only({B})

    assert list(balancer._avoided) == [B]
