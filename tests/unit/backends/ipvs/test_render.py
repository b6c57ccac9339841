"""What a ServicePort looks like: elements, virtual servers, and what it shares with others."""

import pytest
from msgspec import structs

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.model import BOUND, ELSEWHERE, HAIRPIN, HEALTH_PORTS
from backends.ipvs.render import (
    RenderedPort,
    mark_keys,
    needs_number,
    read_mark,
    render_port,
)
from backends.kernel.ipvs_marks import Marks, Role
from backends.kernel.ipvs_objects import ServerFlag, ServerId, VirtualServer, marked
from backends.kernel.nft_phrases import word
from backends.kernel.nft_table import Data
from proxy.addresses import pack_ip
from proxy.desired import DesiredPort, Frontend
from proxy.model import Protocol
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint

MARKS = Marks(0x4000)
NUMBER = 5
IPV4 = bytes([10, 96, 0, 10])
VIP, EXTERNAL_IP = "203.0.113.1", "198.51.100.1"
NODE_PORT = Frontend("NodePort", None, 30080)
ON_VIP = Frontend("LoadBalancer", VIP, 80)
OUTER = (NODE_PORT, Frontend("ExternalIP", EXTERNAL_IP, 80), ON_VIP)
HERE, THERE = make_endpoint("10.1.0.1:80", is_local=True), make_endpoint("10.1.0.2:80")
CLUSTER_IP = ServerId("IPv4", "TCP", "10.96.0.10", 80)


def rendered(
    port: DesiredPort,
    *,
    scheduler: str = "rr",
    offset: int = 0,
    elsewhere: tuple[str, ...] = (),
    number: int | None = NUMBER,
) -> RenderedPort:
    settings = IpvsSettings(families=("IPv4", "IPv6"), scheduler=scheduler, offset=offset)
    return render_port(port, settings, MARKS, frozenset(elsewhere), number)


def elements(port: DesiredPort) -> list[dict[str, Data]]:
    """The elements of each frontend."""
    return list(rendered(port).elements.values())


def by_mark(role: Role) -> ServerId:
    return marked("IPv4", MARKS.mark(NUMBER, role))


def data(role: Role) -> bytes:
    return word(MARKS.mark(NUMBER, role))


def pools(port: DesiredPort) -> dict[ServerId, list[str]]:
    """The addresses behind each virtual server."""
    return {
        server: [address for address, _ in each.destinations]
        for server, each in rendered(port).servers.items()
    }


# --- keys


@pytest.mark.parametrize(("protocol", "number"), [("TCP", 6), ("UDP", 17), ("SCTP", 132)])
def test_the_key_of_a_frontend_is_address_protocol_and_port_each_filled_up_to_four_bytes(
    protocol: Protocol, number: int
) -> None:
    port = make_desired(protocol=protocol, port=0x1234, outer=(NODE_PORT,))

    inner, outer = rendered(port).rendered.frontends

    rest = bytes([number, 0, 0, 0])
    assert (inner.kind, inner.key) == ("address", IPV4 + rest + b"\x12\x34\0\0")
    assert inner.server == ServerId("IPv4", protocol, "10.96.0.10", 0x1234)
    assert (outer.kind, outer.key) == ("node-port", rest + (30080).to_bytes(2, "big") + b"\0\0")
    assert outer.server is None


def test_ipv6_has_virtual_servers_and_marks_of_its_own_family() -> None:
    port = make_desired(
        "default/web", "[fd00::2]:8080", cluster_ip="fd00:10:96::1", outer=(NODE_PORT,)
    )

    made = rendered(port)

    by_address = ServerId("IPv6", "TCP", "fd00:10:96::1", 80)
    assert list(made.servers) == [by_address, marked("IPv6", MARKS.mark(NUMBER, "cluster"))]
    assert list(made.servers[by_address].destinations) == [("fd00::2", 8080)]
    assert made.rendered.frontends[0].key[:16] == pack_ip("fd00:10:96::1")


# --- frontends


def test_a_cluster_ip_is_a_virtual_server_at_its_address_and_needs_no_mark() -> None:
    made = rendered(make_desired("default/web", HERE, THERE), number=None)

    assert list(made.elements.values()) == [{"services": None}]
    assert list(made.servers) == [CLUSTER_IP]
    assert made.servers[CLUSTER_IP].server == VirtualServer(CLUSTER_IP, "rr")
    assert (made.rendered.number, made.rendered.marked) == (None, ())


def test_all_external_frontends_share_the_virtual_server_of_one_mark() -> None:
    port = make_desired("default/web", HERE, THERE, outer=OUTER)

    assert elements(port)[1:] == [
        {"nodeports": data("cluster")}, {"externals": data("cluster")}, {"externals": data("cluster")},
    ]  # fmt: skip
    both = ["10.1.0.1", "10.1.0.2"]
    assert pools(port) == {CLUSTER_IP: both, by_mark("cluster"): both}
    assert rendered(port).rendered.marked == MARKS.servers("IPv4", NUMBER)


def test_policy_local_is_the_local_list_for_outside_and_a_short_cut_to_all_for_here() -> None:
    port = make_desired("default/web", HERE, THERE, outer=(NODE_PORT, ON_VIP), external_local=True)

    assert elements(port)[1:] == [
        {"nodeports": data("local"), "nodeport-shortcuts": data("here")},
        {"externals": data("local"), "shortcuts": data("here")},
    ]
    both = ["10.1.0.1", "10.1.0.2"]
    assert pools(port) == {
        CLUSTER_IP: both, by_mark("local"): ["10.1.0.1"], by_mark("here"): both,
    }  # fmt: skip


def test_policy_local_without_a_local_endpoint_drops_but_still_has_the_short_cut() -> None:
    port = make_desired("default/web", THERE, outer=(ON_VIP,), external_local=True)

    assert elements(port)[1] == {"dropped": None, "shortcuts": data("here")}
    assert by_mark("local") not in pools(port)


@pytest.mark.parametrize(("is_any_usable", "name"), [(False, "refused"), (True, "dropped")])
def test_without_endpoints_there_is_no_virtual_server_and_connections_are_refused_or_dropped(
    is_any_usable: bool, name: str
) -> None:
    made = rendered(make_desired(is_any_usable=is_any_usable, outer=(NODE_PORT, ON_VIP)))

    assert list(made.elements.values()) == [
        {name: None}, {f"nodeports-{name}": None}, {name: None},
    ]  # fmt: skip
    assert made.servers == {}


def test_a_cluster_ip_of_policy_local_has_local_endpoints_only() -> None:
    port = make_desired("default/web", HERE, THERE, outer=(ON_VIP,), internal_local=True)

    assert pools(port)[CLUSTER_IP] == ["10.1.0.1"]
    assert pools(port)[by_mark("cluster")] == ["10.1.0.1", "10.1.0.2"]


def test_an_external_frontend_without_a_number_is_a_bug() -> None:
    with pytest.raises(ValueError, match="without a number"):
        rendered(make_desired("default/web", THERE, outer=(ON_VIP,)), number=None)


# --- virtual servers


def test_affinity_is_persistence_by_address_and_a_hash_of_the_source_by_mark() -> None:
    port = make_desired("default/web", THERE, outer=(ON_VIP,), affinity_timeout_s=60)

    servers = rendered(port).servers

    assert servers[CLUSTER_IP].server == VirtualServer(
        CLUSTER_IP, "rr", ServerFlag.PERSISTENT, timeout_s=60
    )
    assert servers[by_mark("cluster")].server == VirtualServer(
        by_mark("cluster"), "mh", ServerFlag.SCHEDULER_1
    )


def test_a_scheduler_that_hashes_looks_at_the_port_unless_clients_shall_stay() -> None:
    def flags(affinity_timeout_s: int | None) -> list[int]:
        port = make_desired(
            "default/web", THERE, outer=(ON_VIP,), affinity_timeout_s=affinity_timeout_s
        )
        servers = rendered(port, scheduler="mh").servers
        return [each.server.flags for each in servers.values()]

    by_port = ServerFlag.SCHEDULER_1 | ServerFlag.SCHEDULER_2
    assert flags(None) == [by_port, by_port]
    assert flags(60)[1] == ServerFlag.SCHEDULER_1


@pytest.mark.parametrize(("scheduler", "is_hashing"), [("sh", True), ("mh", True), ("rr", False)])
def test_a_scheduler_that_hashes_passes_over_what_drains(scheduler: str, is_hashing: bool) -> None:
    port = make_desired("default/web", THERE, outer=(ON_VIP,))

    for each in rendered(port, scheduler=scheduler).servers.values():
        assert bool(each.server.flags & ServerFlag.SCHEDULER_1) == is_hashing


@pytest.mark.parametrize(("offset", "first"), [(0, 1), (1, 2), (2, 3), (4, 2)])
def test_destinations_begin_where_the_node_begins(offset: int, first: int) -> None:
    port = make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80")

    (server,) = rendered(port, offset=offset).servers.values()

    numbers = [int(address[-1]) for address, _ in server.destinations]
    assert numbers == [first, first % 3 + 1, (first + 1) % 3 + 1]


# --- source ranges


def test_source_ranges_guard_load_balancers_and_nothing_else() -> None:
    port = make_desired(
        "default/web", THERE, outer=OUTER, source_ranges=("10.0.0.0/9", "10.128.0.0/9")
    )

    made = rendered(port)

    *others, vip = made.rendered.frontends
    assert [each.allowed for each in others] == [frozenset()] * 3
    assert vip.allowed == {bytes([10, 0, 0, 0]) + vip.key + bytes([10, 255, 255, 255]) + vip.key}
    assert [each for each in made.elements.values() if "guarded" in each] == [
        {"externals": data("cluster"), "guarded": None}
    ]


@pytest.mark.parametrize(
    ("allows_own_vips", "source_range", "count"),
    [
        (False, "10.0.0.0/8", 1),
        (True, "10.0.0.0/8", 2),
        (True, "203.0.113.0/24", 1),
        (
            True,
            "203.0.113.2/31",
            1,
        ),  # its neighbours: what touches is one range, also when it is read back
    ],
)
def test_a_node_in_the_ranges_may_come_with_the_vip_as_its_source(
    allows_own_vips: bool, source_range: str, count: int
) -> None:
    port = make_desired(
        "default/web",
        THERE,
        outer=(ON_VIP,),
        source_ranges=(source_range,),
        allows_own_vips=allows_own_vips,
    )

    allowed = rendered(port).rendered.frontends[1].allowed

    own = pack_ip(VIP)
    assert len(allowed) == count
    assert any(key[:4] <= own <= key[16:20] for key in allowed) == allows_own_vips


# --- what is shared


def test_an_address_of_another_interface_is_not_ours_unless_it_is_a_cluster_ip() -> None:
    port = make_desired(outer=OUTER)

    shared = rendered(port, elsewhere=(VIP, "10.96.0.10")).rendered.shared

    assert shared == {
        (BOUND, IPV4), (ELSEWHERE, pack_ip(VIP)), (BOUND, pack_ip(EXTERNAL_IP)),
    }  # fmt: skip


def test_local_endpoints_may_reach_themselves_and_so_may_those_of_unknown_place() -> None:
    somewhere = structs.replace(make_endpoint("10.1.0.3:80"), node_name=None)

    shared = rendered(make_desired("default/web", HERE, THERE, somewhere)).rendered.shared

    assert {member for name, member in shared if name == HAIRPIN} == {
        b"\n\1\0\1\n\1\0\1", b"\n\1\0\3\n\1\0\3",
    }  # fmt: skip


def test_a_health_check_node_port_is_shared_by_all_ports_of_its_service() -> None:
    port = structs.replace(
        make_desired("default/web", HERE, outer=OUTER, external_local=True),
        health_check_node_port=0x7D00,
    )

    shared = rendered(port).rendered.shared

    assert (HEALTH_PORTS, b"\x06\0\0\0\x7d\0\0\0") in shared


# --- marks


def test_marks_are_found_again_where_they_are_written() -> None:
    port = make_desired("default/web", HERE, outer=OUTER, external_local=True)

    written = {
        (name, frontend.key)
        for frontend, values in rendered(port).elements.items()
        for name, mark in values.items()
        if mark is not None
    }

    assert set(mark_keys(port)) == written
    assert read_mark(data("here")) == MARKS.mark(NUMBER, "here")


def test_only_who_has_external_frontends_needs_a_number() -> None:
    assert not needs_number(make_desired("default/web", THERE))
    assert needs_number(make_desired("default/web", THERE, outer=(NODE_PORT,)))
    assert list(mark_keys(make_desired("default/web", THERE))) == []


def test_an_address_that_is_none_is_a_bug() -> None:
    with pytest.raises(ValueError, match="not an address"):
        rendered(make_desired(cluster_ip="ten.ninety"))
