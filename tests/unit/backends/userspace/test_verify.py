"""What differs from belief, and whom that concerns."""

import asyncio

import pytest

from backends.userspace import verify as verify_module
from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.kernel import Facts, News
from backends.userspace.model import ROUTE_PROTOCOL, Listening, Place, Serving
from backends.userspace.plan import plan
from backends.userspace.settings import ForwarderSettings
from backends.userspace.verify import check_listeners, concerns, correct, is_as_believed
from proxy.desired import Frontend
from proxy.localhost import Localhost
from proxy.model import Family
from proxy.netlink.fib import Route
from tests.desired_strategies import make_desired, whole
from tests.model_builders import make_key

KEY = make_key("default/web")
HOST = frozenset(["192.0.2.1"])
FACTS = Facts(frozenset(["10.96.0.1"]), frozenset(["10.96.0.0/16"]), HOST)
LOCAL = Route("local", "10.96.0.1/32", ROUTE_PROTOCOL)
HOLE = Route("blackhole", "10.96.0.0/16", ROUTE_PROTOCOL)


def believed() -> Observed:
    observed = Observed(routes=["10.96.0.1"], black_holes=["10.96.0.0/16"], host=HOST)
    frontends = Frontend("ClusterIP", "10.96.0.1", 80), Frontend("NodePort", None, 30080)
    observed.serve(KEY, Serving(frontends=frontends))
    return observed


def told(facts: Facts) -> list[tuple[object, str]]:
    """What is different, once."""
    observed = believed()
    assert not is_as_believed(facts, observed)
    drifts = correct(facts, observed)
    assert is_as_believed(facts, observed)
    assert correct(facts, observed) == []
    return [(drift.key, drift.what) for drift in drifts]


def test_what_is_as_believed_is_no_drift() -> None:
    assert is_as_believed(FACTS, believed())
    assert correct(FACTS, believed()) == []


def test_a_route_that_is_gone_concerns_who_needs_it() -> None:
    gone = FACTS._replace(routes=frozenset())

    assert told(gone) == [(KEY, "10.96.0.1 is not local any more")]


def test_other_differences_concern_nobody_in_particular() -> None:
    more = FACTS._replace(routes=FACTS.routes | {"10.96.9.9"})
    holes = FACTS._replace(black_holes=frozenset())

    assert told(more) == [(None, "10.96.9.9 is local, and no service has it")]
    assert told(holes) == [(None, "ranges that lead nowhere are others")]


def test_a_route_nobody_needs_may_go_too() -> None:
    observed = believed()
    observed.routes["10.96.9.9"] = None

    assert [drift.key for drift in correct(FACTS, observed)] == [None]


def test_other_addresses_concern_who_has_node_ports() -> None:
    assert told(FACTS._replace(host=frozenset())) == [(KEY, "this host's addresses are others")]


def test_addresses_concern_nobody_where_node_ports_have_theirs_by_name() -> None:
    families: tuple[Family, ...] = ("IPv4", "IPv6")
    port = make_desired("default/web", "10.1.0.1:80", outer=(Frontend("NodePort", None, 30080),))
    part = Localhost(families).of(whole({port.key: port}))
    observed = Observed(host=HOST)
    observed.fold(plan(part, observed, [port.key], at_localhost=families))
    more = HOST | {"192.0.2.2"}

    assert not concerns(News({}, {"192.0.2.2": True}), observed)
    assert concerns(News({LOCAL: True}, {"192.0.2.2": True}), observed)
    assert correct(Facts(frozenset(), frozenset(), more), observed) == []
    assert observed.host == more
    found = plan(part, observed, [], at_localhost=families)
    assert found.node is not None
    assert (found.node.host, found.size) == (more, 1)


def test_a_listener_that_is_gone_concerns_its_owner() -> None:
    observed, place = believed(), Place("IPv4", "TCP", "10.96.0.1", 80)
    observed.listen(place, Listening(KEY, "internal"))

    (drift,) = asyncio.run(check_listeners(Engine(ForwarderSettings()), observed))

    assert (drift.key, drift.what) == (KEY, f"nobody listens at {place} any more")
    assert observed.listening == {}


def test_what_is_closed_while_listeners_are_asked_is_no_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify_module, "AT_ONCE", 1)
    observed, place = believed(), Place("IPv4", "TCP", "10.96.0.1", 80)
    observed.listen(place, Listening(KEY, "internal"))

    async def test() -> None:
        asking = asyncio.create_task(check_listeners(Engine(ForwarderSettings()), observed))
        await asyncio.sleep(0)
        observed.listen(place, None)
        assert await asking == []

    asyncio.run(test())


def test_only_news_that_are_not_believed_are_of_concern() -> None:
    observed = believed()

    assert not concerns(News({LOCAL: True, HOLE: True}, {"192.0.2.1": True}), observed)
    assert concerns(News({LOCAL: False}, {}), observed)
    assert concerns(News({HOLE: False}, {}), observed)
    assert concerns(News({LOCAL._replace(cidr="10.96.9.9/32"): True}, {}), observed)
    assert concerns(News({}, {"192.0.2.1": False}), observed)
    assert concerns(News({}, {"192.0.2.2": True}), observed)
