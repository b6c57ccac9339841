import pytest
from msgspec import structs

from backends.nftables.model import CLUSTER_IPS, HAIRPIN, SharedMember
from backends.nftables.render import RenderedFrontend, render_port
from proxy.desired import DesiredPort
from proxy.model import Protocol
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint


def render_frontends(port: DesiredPort) -> tuple[RenderedFrontend, ...]:
    return render_port(port).frontends


def render_shared(port: DesiredPort) -> frozenset[SharedMember]:
    return render_port(port).shared


IPV4 = bytes([10, 96, 0, 10])
IPV6 = bytes.fromhex("fd000010009600000000000000000001")


@pytest.mark.parametrize(
    ("protocol", "number"), [("TCP", 6), ("UDP", 17), ("SCTP", 132)], ids=["tcp", "udp", "sctp"]
)
def test_the_key_of_a_service_is_address_protocol_and_port_each_filled_up_to_four_bytes(
    protocol: Protocol, number: int
) -> None:
    (frontend,) = render_frontends(make_desired(protocol=protocol, port=0x1234))

    assert frontend.target.key == IPV4 + bytes([number, 0, 0, 0]) + b"\x12\x34\0\0"
    assert frontend.target.protocol == protocol


def test_keys_of_ipv6_are_alike() -> None:
    port = make_desired("default/web", "[fd00::2]:8080", cluster_ip="fd00:10:96::1")

    (frontend,) = render_frontends(port)

    assert frontend.target.key == IPV6 + b"\6\0\0\0" + b"\0\x50\0\0"
    assert frontend.target.prefix == IPV6 + b"\0\x50\0\0"
    assert frontend.cluster == (bytes.fromhex("fd00" + "00" * 13 + "02") + b"\x1f\x90\0\0",)


def test_a_pool_is_the_addresses_and_ports_of_its_endpoints_in_order() -> None:
    (frontend,) = render_frontends(make_desired("default/web", "10.1.0.2:80", "10.1.0.1:8080"))

    assert frontend.cluster == (b"\n\1\0\2\0\x50\0\0", b"\n\1\0\1\x1f\x90\0\0")
    assert frontend.target.slots == 2


def test_the_pool_of_a_local_policy_is_the_local_one() -> None:
    port = make_desired("default/web", "10.1.0.1:80", internal_local=True)

    (frontend,) = render_frontends(port)

    assert (frontend.cluster, len(frontend.local or ())) == (None, 1)


@pytest.mark.parametrize(("is_any_usable", "is_refused"), [(False, True), (True, False)])
def test_without_any_usable_endpoint_connections_are_refused(
    is_any_usable: bool, is_refused: bool
) -> None:
    (frontend,) = render_frontends(make_desired(is_any_usable=is_any_usable))

    assert bool(frontend.members) == is_refused


def test_a_frontend_another_service_owns_is_not_rendered() -> None:
    port = make_desired("default/web", "10.1.0.1:80", cluster_ip=None)

    assert render_frontends(port) == ()
    assert render_shared(port) == frozenset()


def test_local_endpoints_may_reach_themselves_and_others_cannot() -> None:
    here, there = make_endpoint("10.1.0.1:80", is_local=True), make_endpoint("10.1.0.2:80")

    shared = render_shared(make_desired("default/web", here, there))

    assert shared == {(CLUSTER_IPS, IPV4), (HAIRPIN, b"\n\1\0\1\n\1\0\1")}


def test_an_endpoint_of_which_nobody_says_where_it_is_may_be_here() -> None:
    somewhere = structs.replace(make_endpoint("10.1.0.1:80"), node_name=None)

    shared = render_shared(make_desired("default/web", somewhere))

    assert (HAIRPIN, b"\n\1\0\1\n\1\0\1") in shared


def test_an_address_that_is_none_is_a_bug() -> None:
    with pytest.raises(ValueError, match="not an address"):
        render_frontends(make_desired(cluster_ip="ten.ninety"))
