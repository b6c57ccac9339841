"""What clients of a service experience at its NodePorts, external IPs and load balancers.

Who asks matters as much as where.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Final

import pytest
from msgspec import structs

from backends.kernel.nft import Nft
from backends.kernel.nft_node import SERVICE_CIDRS as SERVICE_CIDRS_SET
from backends.kernel.nft_ranges import interval_keys
from backends.kernel.nft_table import NUMBERS
from backends.kernel.nft_transaction import Form, parse_interval
from backends.nftables.model import TABLE
from e2e.client import Answer, Failure, Outcome
from e2e.frontends import (
    AT_ONCE_S,
    DROPPED_S,
    FRONTENDS,
    GATEWAY,
    NODE,
    SERVER_PORT,
    SOURCE_RANGE,
    Ground,
    assert_dropped,
    assert_reaches,
    assert_refused,
    frontends_world,
    programmed,
    seen,
    who_can_tell,
)
from e2e.namespace import Namespace
from e2e.topology import FAMILIES, SERVICE_CIDRS, Addresses, Family, World
from proxy.desired import Frontend
from proxy.desired_node import DesiredNode
from proxy.model import PROTOCOLS, Protocol

pytestmark = pytest.mark.requires("nftables")
both_families = pytest.mark.parametrize("family", FAMILIES)
both_protocols = pytest.mark.parametrize("protocol", ["TCP", "UDP"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with frontends_world() as made:
        yield made


@pytest.fixture(scope="module")
def ground(world: World) -> Iterator[Ground]:
    with programmed(world, SOURCE_RANGE, NODE) as made:
        yield made


# --- policies


@both_families
@both_protocols
def test_policy_cluster_leads_everybody_everywhere_and_masquerades(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(ground.pods[0], remote=ground.remote))

    for kind in FRONTENDS:
        for who in ("pod", "node", "client"):
            assert_reaches(ground, who, service, kind, {"a", "r1"}, is_kept=False)


@both_families
@both_protocols
def test_policy_local_keeps_the_client_and_leads_pods_and_the_node_everywhere(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(ground.pods[0], remote=ground.remote, external_local=True))

    for kind in FRONTENDS:
        assert_reaches(ground, "client", service, kind, {"a"}, is_kept=True)
        assert_reaches(ground, "pod", service, kind, {"a", "r1"}, is_kept=True)
        assert_reaches(ground, "node", service, kind, {"a", "r1"}, is_kept=False)


@both_families
@both_protocols
def test_policy_local_with_none_here_drops_the_client_and_serves_pods_and_the_node(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(remote=ground.remote, external_local=True))

    for kind in FRONTENDS:
        assert_dropped(ground, "client", service, kind)
        assert_reaches(ground, "pod", service, kind, {"r1"}, is_kept=True)
        assert_reaches(ground, "node", service, kind, {"r1"}, is_kept=False)


@both_families
@both_protocols
@pytest.mark.parametrize("external_local", [False, True], ids=["cluster", "local"])
def test_without_any_endpoint_everybody_is_refused(
    ground: Ground, family: Family, protocol: Protocol, external_local: bool
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(external_local=external_local))

    for kind in FRONTENDS:
        for who in who_can_tell(protocol):
            assert_refused(ground, who, service, kind)


@both_families
@both_protocols
def test_internal_policy_local_concerns_the_cluster_ip_alone(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(ground.pods[0], remote=ground.remote, internal_local=True))
    assert_reaches(ground, "pod", service, "ClusterIP", {"a"}, is_kept=True)
    assert_reaches(ground, "client", service, "ClusterIP", {"a"}, is_kept=False)
    assert_reaches(ground, "client", service, "NodePort", {"a", "r1"}, is_kept=False)

    ground.put(service.described(remote=ground.remote, internal_local=True))
    for who in who_can_tell(protocol):
        assert_dropped(ground, who, service, "ClusterIP")
    assert_reaches(ground, "client", service, "NodePort", {"r1"}, is_kept=False)


@both_families
def test_policies_can_be_switched_back_and_forth(ground: Ground, family: Family) -> None:
    service = ground.service(family)
    for external_local, internal_local in itertools.islice(
        itertools.cycle([(False, False), (True, False), (True, True), (False, True)]), 6
    ):
        ground.put(
            service.described(
                ground.pods[0],
                remote=ground.remote,
                external_local=external_local,
                internal_local=internal_local,
            )
        )
        outer = {"a"} if external_local else {"a", "r1"}
        assert_reaches(ground, "client", service, "LoadBalancer", outer, is_kept=external_local)
        inner = {"a"} if internal_local else {"a", "r1"}
        assert_reaches(ground, "pod", service, "ClusterIP", inner, is_kept=True)


@both_families
def test_a_pod_reaches_itself_through_every_frontend(ground: Ground, family: Family) -> None:
    service, itself = ground.service(family), ground.pods[0]
    ground.put(service.described(itself, external_local=True))

    for kind in FRONTENDS:
        outcomes = ground.ask(itself, service, kind, count=5)
        assert seen(outcomes) == {(itself.name, GATEWAY.of(family))}


# --- addresses


@both_families
def test_a_node_port_listens_where_it_is_told_to(ground: Ground, family: Family) -> None:
    service, other = ground.service(family), GATEWAY.of(family)
    ground.put(service.described(ground.pods[0]))
    port = service.frontend("NodePort").port
    client = ground.world.client

    def asked(address: str) -> Outcome:
        return client.ask(address, port, timeout_s=AT_ONCE_S)

    assert isinstance(asked(other), Answer)
    own = ground.world.node.addresses.of(family)
    try:
        for addresses, reaches_own, reaches_other in (
            ((own,), True, False), ((other,), False, True), ((), False, False), (None, True, True),
        ):  # fmt: skip
            ground.data_plane.tell(
                DesiredNode(node_port_addresses={family: addresses}, service_cidrs=SERVICE_CIDRS)
            )
            ground.put()
            assert isinstance(asked(own), Answer) == reaches_own, addresses
            assert isinstance(asked(other), Answer) == reaches_other, addresses
    finally:
        ground.data_plane.tell(NODE)


@both_families
def test_only_the_ports_of_an_external_ip_are_the_services(ground: Ground, family: Family) -> None:
    service = ground.service(family)
    ground.put(service.described(ground.pods[0]))

    # nobody but the router has that address, and it does not answer
    outcomes = ground.ask("client", service, "ExternalIP", port=81, timeout_s=DROPPED_S)
    assert not isinstance(outcomes[0], Answer)
    assert outcomes[0] is not Failure.REFUSED
    assert isinstance(ground.ask("client", service, "ExternalIP")[0], Answer)


@both_families
@both_protocols
def test_an_address_of_the_cluster_that_no_service_has_is_dropped(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    other = ground.service(family, protocol)
    ground.put(other.described(ground.pods[0]))

    for who in who_can_tell(protocol):
        assert_dropped(ground, who, service, "ClusterIP")
        assert isinstance(ground.ask(who, other, "ClusterIP")[0], Answer)


def test_the_ranges_of_cluster_ips_may_change_in_any_way(ground: Ground) -> None:
    rng = random.Random(1)
    with ground.world.node.namespace.entered():
        nft = Nft()
    try:
        for _ in range(60):
            count = rng.randrange(5)
            cidrs = {
                *[_network(rng, "{}.{}.0.0", 10) for _ in range(count)],
                *[_network(rng, "fd{:02x}:{:x}::", 26) for _ in range(count)],
            }
            ground.data_plane.tell(DesiredNode(service_cidrs=tuple(cidrs)))
            for family, number in NUMBERS.items():
                own = tuple([cidr for cidr in cidrs if (":" in cidr) == (family == "IPv6")])
                listed = nft.list_all_elements(number, TABLE, SERVICE_CIDRS_SET)
                bounds = [parse_interval(Form.BOUNDS, each) for each in listed]
                assert sorted(bounds) == interval_keys(family, own)
    finally:
        nft.close()
        ground.data_plane.tell(NODE)


def _network(rng: random.Random, address: str, shortest: int) -> str:
    """Return one of few networks that lie beside, within and around each other."""
    return f"{address.format(rng.randrange(8, 12), rng.randrange(4) * 64)}/{rng.randrange(shortest, shortest + 6)}"


@both_families
def test_what_another_proxy_translates_is_left_to_it(ground: Ground, family: Family) -> None:
    service = ground.service(family)  # with the label service-proxy-name: only that proxy knows it
    address, port = service.at("ClusterIP")
    pod, ip = ground.pods[0].addresses.of(family), "ip6" if family == "IPv6" else "ip"
    to = f"[{pod}]:{SERVER_PORT}" if family == "IPv6" else f"{pod}:{SERVER_PORT}"
    node = ground.world.node.namespace
    node.run(
        ["nft", "-f", "-"],
        stdin=f"""table {ip} other {{
            chain translating {{
                type nat hook prerouting priority -95
                {ip} daddr {address} tcp dport {port} dnat to {to}
            }}
        }}
        """,
    )
    try:
        assert isinstance(ground.ask("pod", service, "ClusterIP")[0], Answer)
    finally:
        node.run(["nft", "delete", "table", ip, "other"])
    assert_dropped(ground, "pod", service, "ClusterIP")


@both_families
def test_an_address_of_this_host_is_not_dropped_though_no_service_has_it(
    ground: Ground, family: Family
) -> None:
    service = ground.service(family)
    address, _ = service.at("ClusterIP")
    host = ground.world.node.namespace
    route = f"local {address} dev lo table local"  # unlike an address, IPv6 has it at once
    host.ip(f"route add {route}")
    try:
        assert_refused(ground, "pod", service, "ClusterIP")  # nobody listens there
    finally:
        host.ip(f"route del {route}")
    assert_dropped(ground, "pod", service, "ClusterIP")


@both_families
def test_a_load_balancer_may_have_another_services_cluster_ip(
    ground: Ground, family: Family
) -> None:
    owner, guest = ground.service(family), ground.service(family)
    address, _ = owner.at("ClusterIP")
    described = guest.described(
        *ground.pods[:3], kinds=(), source_ranges=(OTHER_RANGES.of(family),)
    )
    described = structs.replace(
        described, frontends=(*described.frontends, Frontend("LoadBalancer", address, 81))
    )
    ground.put(owner.described(ground.pods[4]), described)
    client = ground.world.client

    assert isinstance(ground.ask("client", owner, "ClusterIP")[0], Answer)
    assert client.ask(address, 81, timeout_s=DROPPED_S) is Failure.TIMEOUT
    assert client.ask(address, 82, timeout_s=AT_ONCE_S) is Failure.REFUSED

    ground.put(structs.replace(described, source_ranges=()))
    names = {name for name, _ in seen(client.ask_often(40, address, 81))}
    assert names == {pod.name for pod in ground.pods[:3]}


@both_families
def test_a_service_that_loses_its_frontends_is_reached_by_the_rest(
    ground: Ground, family: Family
) -> None:
    service = ground.service(family)
    ground.put(service.described(ground.pods[0], external_local=True))
    ground.put(service.described(ground.pods[0], external_local=True, kinds=("ExternalIP",)))

    assert isinstance(ground.ask("client", service, "ExternalIP")[0], Answer)
    assert isinstance(ground.ask("client", service, "ClusterIP")[0], Answer)
    for kind in ("NodePort", "LoadBalancer"):
        outcome = ground.ask("client", service, kind, timeout_s=DROPPED_S)[0]
        assert not isinstance(outcome, Answer), kind


# --- source ranges

CLIENT_RANGES: Final = Addresses("172.18.0.64/26", "fd00:172:18::/96")
OTHER_RANGES: Final = Addresses("192.0.2.0/24", "2001:db8:2::/64")


@both_families
@both_protocols
def test_only_sources_in_the_ranges_reach_a_load_balancer(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    allowed = (OTHER_RANGES.of(family), CLIENT_RANGES.of(family))
    ground.put(service.described(ground.pods[0], source_ranges=allowed))

    assert isinstance(ground.ask("client", service, "LoadBalancer")[0], Answer)
    assert_dropped(ground, "pod", service, "LoadBalancer")
    for kind in ("ClusterIP", "ExternalIP", "NodePort"):
        assert isinstance(ground.ask("pod", service, kind)[0], Answer), kind

    ground.put(service.described(ground.pods[0], source_ranges=(OTHER_RANGES.of(family),)))
    assert_dropped(ground, "client", service, "LoadBalancer")
    ground.put(service.described(source_ranges=(OTHER_RANGES.of(family),)))
    assert_dropped(ground, "client", service, "LoadBalancer")
    ground.put(service.described(source_ranges=(CLIENT_RANGES.of(family),)))
    assert_refused(ground, "client", service, "LoadBalancer")
    ground.put(service.described(ground.pods[0]))
    for who in ("client", "pod", "node"):
        assert isinstance(ground.ask(who, service, "LoadBalancer")[0], Answer), who


@both_families
@pytest.mark.parametrize("allows_own_vips", [True, False])
def test_a_load_balancer_may_be_its_own_source_if_the_ranges_hold_the_node(
    ground: Ground, family: Family, allows_own_vips: bool
) -> None:
    service = ground.service(family)
    vip, port = service.at("LoadBalancer")
    ground.put(
        service.described(
            ground.pods[0],
            source_ranges=(OTHER_RANGES.of(family),),
            allows_own_vips=allows_own_vips,
        )
    )
    node, length = ground.world.node, 128 if family == "IPv6" else 32
    nodad = " nodad" if family == "IPv6" else ""
    node.namespace.ip(f"address add {vip}/{length} dev to-router{nodad}")
    try:
        outcome = node.ask(vip, port, source=vip, timeout_s=AT_ONCE_S)
    finally:
        node.namespace.ip(f"address del {vip}/{length} dev to-router")

    assert isinstance(outcome, Answer) == allows_own_vips


# --- what an administrator sees


def test_the_stock_tool_takes_back_every_kind_of_rule(ground: Ground) -> None:
    services = [
        (ground.service(family, protocol), family) for family in FAMILIES for protocol in PROTOCOLS
    ]
    ground.put(
        *[
            service.described(
                *ground.pods[: 1 + number % 3],
                remote=ground.remote,
                external_local=bool(number % 2),
                internal_local=number % 3 == 1,
                source_ranges=(CLIENT_RANGES.of(family), OTHER_RANGES.of(family)),
                allows_own_vips=True,
                affinity_timeout_s=60 if number % 2 else None,
            )
            for number, (service, family) in enumerate(services)
        ]
    )
    asked = [service for service, _ in services if service.protocol != "SCTP"]
    for service in asked:  # learnt clients are listed too
        ground.ask("client", service, "LoadBalancer")

    listed = ground.world.node.namespace.run(["nft", "list", "ruleset"])

    for word in ("ranges-", "remember-", "split-", "external-", "-local-", "expires"):
        assert word in listed
    with Namespace("copy") as copy:
        copy.run(["nft", "-c", "-f", "-"], stdin=listed)
        copy.run(["nft", "-f", "-"], stdin=listed)
