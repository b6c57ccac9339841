"""From belief and desire to operations. Convergence is for the contract tests; here is what they do not see."""

import pytest
from msgspec import structs

from backends.userspace import plan as planning
from backends.userspace.belief import Observed
from backends.userspace.model import Listening, Place, UserspacePlan
from backends.userspace.plan import plan, prune
from proxy.desired import Frontend
from proxy.desired_node import DesiredNode
from tests.desired_strategies import Ports, desired_state, make_desired, many_services, whole
from tests.work_counter import Visits, Work, count_work, watch

HOST = frozenset(["192.0.2.1"])
NODE_PORT = Frontend("NodePort", None, 30080)
WEB = make_desired("default/web", "10.1.0.1:80")
PLACE = Place("IPv4", "TCP", "10.96.0.10", 80)


def carry_out(plan: UserspacePlan, observed: Observed) -> None:
    """Believe that all of a plan was done."""
    for text, _ in plan.routes:
        (observed.black_holes if "/" in text else observed.routes)[text] = None
    observed.node = plan.node or observed.node
    for key, serving in plan.serving:
        observed.serve(key, serving)
    for place, listening in plan.listening:
        observed.listen(place, listening)
    for place, _ in plan.closing:
        observed.listen(place, None)
    for key in plan.forgotten:
        observed.serve(key, None)
    for text, _ in plan.unrouted:
        (observed.black_holes if "/" in text else observed.routes).pop(text)


def served(ports: Ports, node: DesiredNode | None = None) -> Observed:
    observed = Observed(host=HOST)
    carry_out(plan(whole(ports, node), observed, list(ports)), observed)
    carry_out(prune(whole(ports, node), observed), observed)
    return observed


def test_another_endpoint_changes_nothing_but_the_pool() -> None:
    observed = served(desired_state(WEB))
    changed = make_desired("default/web", "10.1.0.2:80")

    found = plan(whole({WEB.key: changed}), observed, [WEB.key])

    assert len(found.serving) == found.size == 1


def test_a_frontend_that_moves_keeps_its_socket_and_its_address() -> None:
    observed = served(desired_state(WEB))
    heir = make_desired("default/heir", "10.1.0.1:80")

    found = plan(whole(desired_state(heir)), observed, [heir.key, WEB.key])

    assert found.listening == ((PLACE, Listening(heir.key, "internal")),)
    assert (found.routes, found.closing, found.unrouted) == ((), (), ())
    assert found.forgotten == (WEB.key,)


def test_it_does_so_too_where_the_two_are_planned_one_after_the_other() -> None:
    observed = served(desired_state(WEB))
    heir = make_desired("default/heir", "10.1.0.1:80")
    ports = desired_state(heir)
    carry_out(plan(whole(ports), observed, [heir.key]), observed)

    found = plan(whole(ports), observed, [WEB.key])

    assert (found.closing, found.unrouted) == ((), ())
    assert found.forgotten == (WEB.key,)


def test_an_address_goes_with_the_last_who_needs_it() -> None:
    beside = make_desired("default/beside", "10.1.0.1:80", port=81)
    observed = served(desired_state(WEB, beside))

    first = plan(whole(desired_state(beside)), observed, [WEB.key])
    carry_out(first, observed)
    second = plan(whole({}), observed, [beside.key])

    assert first.unrouted == ()
    assert second.unrouted == (("10.96.0.10", beside.key),)


def test_node_ports_follow_the_addresses_of_this_host() -> None:
    port = make_desired("default/web", "10.1.0.1:80", outer=(NODE_PORT,))
    observed = served(desired_state(port))
    observed.host = frozenset(["192.0.2.2"])

    found = plan(whole(desired_state(port)), observed, [])

    old, new = (Place("IPv4", "TCP", address, 30080) for address in ("192.0.2.1", "192.0.2.2"))
    assert found.listening == ((new, Listening(port.key, "external")),)
    assert found.closing == ((old, port.key),)
    assert found.describe()[-1] == "NodePorts at 192.0.2.2"


def test_a_named_address_comes_before_a_node_port_which_has_it_again_afterwards() -> None:
    place = Place("IPv4", "TCP", "192.0.2.1", 30080)
    port = structs.replace(make_desired("default/web", "10.1.0.1:80"), frontends=(NODE_PORT,))
    named = structs.replace(
        make_desired("default/named", "10.1.0.2:80"),
        frontends=(Frontend("ExternalIP", "192.0.2.1", 30080),),
    )
    both, one = whole(desired_state(port, named)), whole(desired_state(port))
    ours, theirs = Listening(port.key, "external"), Listening(named.key, "external")

    for keys in ([port.key, named.key], [named.key, port.key]):
        assert plan(both, Observed(host=HOST), keys).listening == ((place, theirs),)
    observed = served(desired_state(port))
    carry_out(plan(both, observed, [named.key]), observed)
    assert observed.listening == {place: theirs}
    assert not plan(both, observed, [port.key])

    for keys in ([named.key], [port.key, named.key], [named.key, port.key]):
        gone = plan(one, observed, keys)
        assert (gone.listening, gone.closing) == (((place, ours),), ())
    assert prune(one, observed).listening == ((place, ours),)
    new = served(desired_state(named))
    for keys in ([port.key, named.key], [named.key, port.key]):
        gone = plan(one, new, keys)
        assert (gone.listening, gone.closing) == (((place, ours),), ())


def test_giving_places_back_costs_the_same_at_any_number_of_node_ports() -> None:
    def work(count: int) -> Work:
        ports = [
            structs.replace(
                make_desired(f"default/{number}", "10.1.0.1:80"),
                frontends=(Frontend("NodePort", None, 30000 + number),),
            )
            for number in range(count)
        ]
        frontend = Frontend("ExternalIP", "192.0.2.1", 30001)
        named = structs.replace(
            make_desired("default/named", "10.1.0.2:80"), frontends=(frontend,)
        )
        observed, one = served(desired_state(*ports, named)), whole(desired_state(*ports))
        visits, found = Visits(), list[UserspacePlan]()
        watch(observed, visits)
        cost = count_work(lambda: found.append(plan(one, observed, [named.key])), visits)
        place = Place("IPv4", "TCP", "192.0.2.1", 30001)
        assert found[0].listening == ((place, Listening(ports[1].key, "external")),)
        return cost

    assert work(1000).is_as_much_as(work(10))


def test_unknown_addresses_lead_nowhere_only_once_all_services_are_there() -> None:
    node = DesiredNode(service_cidrs=("10.96.0.0/16", "fd00:10:96::/112"))
    ports = desired_state(WEB)
    observed = Observed(host=HOST, black_holes=["10.97.0.0/16"])
    first = plan(whole(ports, node), observed, list(ports))
    carry_out(first, observed)

    second = prune(whole(ports, node), observed)
    carry_out(second, observed)

    assert first.routes == (("10.96.0.10", WEB.key),)
    assert first.unrouted == ()
    assert second.routes == (("10.96.0.0/16", None), ("fd00:10:96::/112", None))
    assert second.unrouted == (("10.97.0.0/16", None),)
    assert not plan(whole(ports, node), observed, list(ports))
    gone = plan(whole(ports, DesiredNode()), observed, [])
    assert [text for text, _ in gone.unrouted] == ["10.96.0.0/16", "fd00:10:96::/112"]


def test_those_who_could_not_listen_are_tried_again_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "RETRIED_AT_ONCE", 2)
    ports = many_services(3)
    observed = served(ports)
    for place, listening in list(observed.listening.items()):
        observed.listen(place, None)
        observed.refused[place] = listening.owner

    tried = []
    for _ in range(3):
        for place, listening in plan(whole(ports), observed, []).listening:
            observed.listen(place, None)
            observed.refused[place] = listening.owner
            tried.append(listening.owner)

    first, second, third = ports
    assert tried == [first, second, third, first, second, third]


def test_addresses_of_nobody_are_pruned() -> None:
    observed = served(desired_state(WEB))
    observed.routes["10.96.9.9"] = None

    assert prune(whole(desired_state(WEB)), observed).unrouted == (("10.96.9.9", None),)


def test_a_family_that_this_host_does_not_have_is_left_out() -> None:
    six = make_desired("default/six", "[fd00::1]:80", cluster_ip="fd00:10:96::1")
    node = DesiredNode(service_cidrs=("10.96.0.0/16", "fd00:10:96::/112"))
    ports = desired_state(WEB, six)
    observed = Observed(host=HOST)

    first = plan(whole(ports, node), observed, list(ports), ["IPv4"])
    carry_out(first, observed)
    second = prune(whole(ports, node), observed, ["IPv4"])

    assert [key for key, _ in first.serving] == [WEB.key]
    assert second.routes == (("10.96.0.0/16", None),)
