"""What a ServicePort looks like: endpoints, and where and for whom it listens."""

import pytest

from backends.userspace.model import EVERYBODY, NOBODY, Admission, Place, Target
from backends.userspace.render import listeners, node_addresses, render
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint

NODE_PORT = Frontend("NodePort", None, 30080)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
HERE, THERE = make_endpoint("10.1.0.1:8080", is_local=True), make_endpoint("10.1.0.2:8080")


def admissions(port: DesiredPort) -> dict[str, Admission]:
    found = listeners(port.key, render(port), ("192.0.2.1",))
    return {place.address: listening.admission for place, listening in found}


def test_pools_are_those_of_the_policies() -> None:
    port = make_desired("default/web", HERE, THERE, outer=(NODE_PORT,), external_local=True)

    serving = render(port)

    everywhere = (Target("10.1.0.1", 8080), Target("10.1.0.2", 8080))
    assert serving.internal == serving.here == everywhere
    assert serving.outside == everywhere[:1]
    assert serving.is_split


def test_a_service_listens_at_each_of_its_addresses_and_on_the_node() -> None:
    port = make_desired("default/web", THERE, outer=(NODE_PORT, VIP))

    found = dict(listeners(port.key, render(port), ("192.0.2.1", "192.0.2.2")))

    assert {place: listening.role for place, listening in found.items()} == {
        Place("IPv4", "TCP", "10.96.0.10", 80): "internal",
        Place("IPv4", "TCP", "192.0.2.1", 30080): "external",
        Place("IPv4", "TCP", "192.0.2.2", 30080): "external",
        Place("IPv4", "TCP", "203.0.113.1", 80): "external",
    }


def test_without_endpoints_anywhere_nobody_listens_and_the_kernel_refuses() -> None:
    assert admissions(make_desired("default/web", outer=(NODE_PORT, VIP))) == {}


def test_where_the_policy_leaves_none_nobody_is_let_in() -> None:
    port = make_desired(
        "default/web", THERE, outer=(NODE_PORT,), internal_local=True, external_local=True
    )

    assert admissions(port) == {"10.96.0.10": NOBODY, "192.0.2.1": Admission(only_here=True)}


def test_nobody_is_let_in_where_what_is_usable_is_for_others() -> None:
    port = make_desired("default/web", outer=(VIP,), is_any_usable=True)

    assert admissions(port) == {"10.96.0.10": NOBODY, "203.0.113.1": NOBODY}


@pytest.mark.parametrize("allows_own_vips", [False, True])
def test_ranges_are_for_load_balancers_alone(allows_own_vips: bool) -> None:
    ranges = ("192.0.2.0/24",)
    port = make_desired(
        "default/web",
        THERE,
        outer=(NODE_PORT, VIP),
        source_ranges=ranges,
        allows_own_vips=allows_own_vips,
    )

    assert admissions(port) == {
        "10.96.0.10": EVERYBODY,
        "192.0.2.1": EVERYBODY,
        "203.0.113.1": Admission(ranges, takes_node=allows_own_vips),
    }


def test_what_cannot_be_forwarded_is_not_listened_for() -> None:
    assert admissions(make_desired("default/web", THERE, protocol="SCTP")) == {}


def test_node_ports_are_at_every_address_of_this_host_but_loopback() -> None:
    host = frozenset(["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"])

    assert node_addresses(DesiredNode(), host) == {
        "IPv4": ("192.0.2.1",),
        "IPv6": ("2001:db8::1",),
    }


def test_or_at_those_that_the_node_says() -> None:
    named = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1", "192.0.2.9"), "IPv6": None})

    found = node_addresses(named, frozenset(["192.0.2.1", "192.0.2.2"]))

    assert found == {"IPv4": ("192.0.2.1", "192.0.2.9"), "IPv6": ()}


def test_they_are_at_localhost_as_well_where_that_is_wanted_and_once() -> None:
    said = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": ("::1",)})
    host = frozenset(["127.0.0.1", "192.0.2.1"])

    assert node_addresses(DesiredNode(), host, ["IPv4"]) == {
        "IPv4": ("192.0.2.1", "127.0.0.1"),
        "IPv6": (),
    }
    assert node_addresses(said, host, ["IPv4", "IPv6"]) == {
        "IPv4": ("192.0.2.1", "127.0.0.1"),
        "IPv6": ("::1",),
    }
