"""Where NodePorts listen, and what else concerns the whole node."""

import pytest

from proxy.desired import DesiredState
from proxy.desired_node import DesiredNode, NodeSettings, describe_node, is_in_any, node_address
from proxy.model import IPV4, IPV6
from tests.model_builders import make_node, make_service, make_service_port

NODE = make_node(addresses=("192.0.2.1", "198.51.100.1", "2001:db8::1"))
HOST = frozenset(
    ["127.0.0.1", "::1", "192.0.2.1", "198.51.100.1", "10.244.1.1", "2001:db8::1", "fe80::1"]
)


def listening(
    *ranges: str, addresses: frozenset[str] = HOST, bind_address: str = "0.0.0.0"
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The addresses of each family."""
    settings = NodeSettings(node_port_addresses=ranges, bind_address=bind_address)
    found = describe_node(settings, NODE, addresses, ()).node_port_addresses
    return found[IPV4], found[IPV6]


@pytest.mark.parametrize(
    ("ranges", "ipv4", "ipv6"),
    [
        pytest.param((), None, None, id="none"),
        pytest.param(("192.0.2.0/24",), ("192.0.2.1",), None, id="the other family is open"),
        pytest.param(
            ("10.0.0.0/8", "198.51.100.0/24"),
            ("10.244.1.1", "198.51.100.1"),
            None,
            id="two ranges",
        ),
        pytest.param(("10.0.0.0/8", "0.0.0.0/0"), None, None, id="a zero range swallows others"),
        pytest.param(("203.0.113.0/24",), (), None, id="no address in it"),
        pytest.param(("127.0.0.0/8", "192.0.2.1/32"), ("192.0.2.1",), None, id="no loopback"),
        pytest.param(("2001:db8::/32", "::1/128"), None, ("2001:db8::1",), id="IPv6"),
        pytest.param(("primary",), ("192.0.2.1",), ("2001:db8::1",), id="primary"),
    ],
)
def test_node_ports_listen_on_the_addresses_of_the_host_in_the_ranges_of_the_family(
    ranges: tuple[str, ...], ipv4: tuple[str, ...] | None, ipv6: tuple[str, ...] | None
) -> None:
    assert listening(*ranges) == (ipv4, ipv6)


def test_an_address_that_comes_to_the_host_counts_from_then_on() -> None:
    ranges = "192.0.2.0/24"

    assert listening(ranges)[0] == ("192.0.2.1",)
    assert listening(ranges, addresses=HOST | {"192.0.2.7"})[0] == ("192.0.2.1", "192.0.2.7")


def test_while_the_hosts_addresses_are_unknown_those_of_the_node_stand_in() -> None:
    assert listening("198.51.100.0/24", addresses=frozenset())[0] == ("198.51.100.1",)


def test_primary_is_the_address_to_bind_to_where_one_is_given() -> None:
    assert listening("primary", bind_address="198.51.100.1")[0] == ("198.51.100.1",)
    assert listening("primary", bind_address="198.51.100.1")[1] == ("2001:db8::1",)


@pytest.mark.parametrize("bind_address", ["127.0.0.1", "::1"])
def test_loopback_is_nobodys_primary_address(bind_address: str) -> None:
    ipv4, ipv6 = listening("primary", bind_address=bind_address)

    assert (ipv4, ipv6) == (
        (None, ("2001:db8::1",)) if bind_address == "127.0.0.1" else (("192.0.2.1",), None)
    )


def test_an_unknown_primary_address_means_all() -> None:
    settings = NodeSettings(node_port_addresses=("primary",))
    unknown = make_node(addresses=())

    described = describe_node(settings, unknown, HOST, ())

    assert described.node_port_addresses == {IPV4: None, IPV6: None}
    assert node_address(settings, unknown, IPV4) is None


@pytest.mark.parametrize("uses", [True, False])
def test_the_first_range_of_pods_of_each_family_counts_if_it_tells_local_traffic(
    uses: bool,
) -> None:
    node = make_node(pod_cidrs=("10.1.0.0/24", "10.2.0.0/24", "fd00::/64"))

    described = describe_node(NodeSettings(uses_pod_cidrs=uses), node, HOST, ())

    assert described.pod_cidrs == (("10.1.0.0/24", "fd00::/64") if uses else ())


def test_service_ranges_are_the_same_in_any_order() -> None:
    one, other = (
        describe_node(NodeSettings(), NODE, HOST, cidrs)
        for cidrs in (["10.96.0.0/16", "10.97.0.0/16"], ["10.97.0.0/16", "10.96.0.0/16"])
    )

    assert one == other
    assert one.service_cidrs == ("10.96.0.0/16", "10.97.0.0/16")


@pytest.mark.parametrize(
    ("address", "is_in"),
    [("10.1.2.3", True), ("10.2.0.0", False), ("fd00::1", True), ("::1", False)],
)
def test_an_address_is_looked_for_in_ranges_of_its_family(address: str, is_in: bool) -> None:
    assert is_in_any(address, ("10.1.0.0/16", "fd00::/8")) == is_in


# --- as part of the desired state


def test_a_node_described_alike_stays_the_same_object() -> None:
    desired = DesiredState(NodeSettings(node_port_addresses=("192.0.2.0/24",)))
    desired.update_node(NODE, HOST)
    before = desired.node
    desired.update_node(make_node(addresses=NODE.addresses, resource_version="2"), HOST)

    assert desired.node is before
    assert desired.whole == (desired.ports, before)
    assert desired.node != DesiredNode()


def test_a_node_that_comes_into_source_ranges_changes_those_service_ports_alone() -> None:
    desired = DesiredState()
    away, here = make_node(addresses=("10.9.9.9",)), make_node(addresses=("192.0.2.1",))
    ranged = make_service_port(
        load_balancer_vips=("203.0.113.1",), source_ranges=("192.0.2.0/24",)
    )
    other = make_service_port("default/api", cluster_ip="10.96.0.2")
    desired.update(ranged.key.name.service, make_service("default/web", ranged), {}, away)
    desired.update(other.key.name.service, make_service("default/api", other), {}, away)
    assert not desired.ports[ranged.key].allows_own_vips

    assert desired.update_node(here) == {ranged.key}
    assert desired.ports[ranged.key].allows_own_vips
    assert desired.update_node(here) == set()
    assert desired.update_node(away) == {ranged.key}
    assert not desired.ports[ranged.key].allows_own_vips
