"""What is removed because nobody asks for it, and what stays."""

import pytest

from backends.ipvs.belief import Observed
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import ALLOWED, BOUND, EXTERNALS, HAIRPIN, NODEPORTS, SERVICES, IpvsStep
from backends.ipvs.planned import IpvsPlan
from backends.ipvs.prune import prune
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_phrases import word
from backends.kernel.nft_table import Data
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_endpoint
from tests.unit.backends.ipvs.planning import LAYOUT, WEB, believing, carry_out

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
LEFT = ServerId("IPv4", "TCP", "10.96.0.99", 80)
PLACE = ("10.1.0.9", 80)
KEY = bytes([10, 96, 0, 99, 6, 0, 0, 0, 0, 80, 0, 0])
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
NODE_PORT = Frontend("NodePort", None, 30080)
NOTHING = whole({})


def web(endpoint: str = "10.1.0.1:80", *ranges: str) -> DesiredPort:
    """The service with every kind of frontend, and a local endpoint."""
    here = make_endpoint(endpoint, is_local=True)
    return make_desired("default/web", here, outer=(NODE_PORT, VIP), source_ranges=ranges)


def settled(*ports: DesiredPort) -> Observed:
    """A belief in which these have been programmed and the rest was pruned."""
    observed = believing(*ports)
    carry_out(prune(NOTHING, observed, LAYOUT), observed)
    return observed


def left_behind(*ports: DesiredPort) -> Observed:
    """A belief in which an earlier process has programmed these."""
    observed = settled(*ports)
    observed.occupy(IpvsPlan((), dict.fromkeys(list(observed.rendered))))
    return observed


def leave_server(observed: Observed, server: ServerId) -> None:
    observed.servers[server] = VirtualServer(server, "rr")
    observed.destinations[server] = {PLACE: Destination(*PLACE)}


def elements(observed: Observed) -> dict[str, dict[bytes, Data]]:
    return {name: dict(each) for name, each in observed.tables["IPv4"].elements.items() if each}


def test_what_is_occupied_stays_even_if_it_is_not_desired_any_more() -> None:
    observed = believing(web("10.1.0.1:80", "192.0.2.0/24"), make_desired("default/api"))
    before = elements(observed), dict(observed.servers), list(observed.bound)
    assert {ALLOWED, HAIRPIN, NODEPORTS} <= before[0].keys()

    carry_out(prune(NOTHING, observed, LAYOUT), observed)

    assert (elements(observed), observed.servers, list(observed.bound)) == before
    assert not prune(NOTHING, observed, LAYOUT)


@pytest.mark.parametrize(
    ("name", "key", "data"),
    [
        (SERVICES, KEY, None),
        (EXTERNALS, KEY, word(0xA6000005)),
        (NODEPORTS, KEY[4:], word(0xA6000005)),
        (ALLOWED, b"\n\0\0\0" + KEY + b"\n\0\0\xff" + KEY, None),
        (HAIRPIN, b"\n\1\0\x09\n\1\0\x09", None),
        (NODEPORT_IPS, KEY[:4], None),
        (SERVICE_CIDRS, KEY[:4] + b"\0", None),
    ],
)
def test_an_element_nobody_occupies_goes(name: str, key: bytes, data: Data) -> None:
    observed = settled(web())
    kept = elements(observed)
    observed.tables["IPv4"].elements[name][key] = data

    carry_out(prune(NOTHING, observed, LAYOUT), observed)

    assert elements(observed) == kept


def test_an_address_nobody_occupies_leaves_the_device() -> None:
    observed = settled(web())
    kept = list(observed.bound)
    observed.bound["10.96.0.99"] = None
    observed.tables["IPv4"].elements[BOUND][KEY[:4]] = None

    carry_out(prune(NOTHING, observed, LAYOUT), observed)

    assert list(observed.bound) == kept
    assert KEY[:4] not in observed.tables["IPv4"].elements[BOUND]


@pytest.mark.parametrize("server", [LEFT, marked("IPv4", LAYOUT.marks.mark(9, "local"))])
def test_a_virtual_server_nobody_occupies_goes_at_once(server: ServerId) -> None:
    observed = settled(web())
    kept = set(observed.servers)
    leave_server(observed, server)

    planned = prune(NOTHING, observed, LAYOUT)

    (step,) = planned.steps
    assert isinstance(step, IpvsStep)
    assert [(each.verb, each.server) for each in step.operations] == [("del server", server)]
    carry_out(planned, observed)
    assert set(observed.servers) == kept


def test_a_virtual_server_stays_for_what_drains() -> None:
    observed = settled(web())
    leave_server(observed, LEFT)
    observed.drain(LEFT, PLACE, 900.0)

    assert not prune(NOTHING, observed, LAYOUT)


@pytest.mark.parametrize(
    ("cidr", "server", "stays"),
    [
        ("10.96.0.99/32", LEFT, True),
        ("10.96.0.98/32", LEFT, False),
        ("fd00::/8", LEFT, False),
        ("0.0.0.0/0", marked("IPv4", LAYOUT.marks.mark(9, "local")), False),
    ],
)
def test_what_has_an_address_in_an_excluded_range_stays(
    cidr: str, server: ServerId, stays: bool
) -> None:
    layout = Layout(IpvsSettings(families=("IPv4",), exclude_cidrs=("192.0.2.0/24", cidr)))
    observed = settled(web())
    leave_server(observed, server)

    carry_out(prune(NOTHING, observed, layout), observed)

    assert (server in observed.servers) == stays


def test_what_an_earlier_process_left_for_who_is_desired_but_was_refused_stays() -> None:
    observed = left_behind(
        web("10.1.0.1:80", "192.0.2.0/24"),
        make_desired("default/gone", "10.1.0.8:80", cluster_ip="10.96.0.99"),
    )
    kept = {server for server in observed.servers if server != LEFT}
    before = elements(observed)
    del before[SERVICES][KEY], before[BOUND][KEY[:4]]

    desired = whole(desired_state(web("10.1.0.2:80", "198.51.100.0/24")))
    carry_out(prune(desired, observed, LAYOUT), observed)

    assert elements(observed) == before
    assert set(observed.servers) == kept
    assert len(kept) == 2
    assert "10.96.0.99" not in observed.bound
    assert "203.0.113.1" in observed.bound


def test_without_anybody_everything_goes() -> None:
    observed = left_behind(web("10.1.0.1:80", "192.0.2.0/24"))

    carry_out(prune(NOTHING, observed, LAYOUT), observed)

    assert (elements(observed), observed.servers, list(observed.bound)) == ({}, {}, [])


def test_once_all_is_there_addresses_that_no_service_has_are_dropped() -> None:
    node = DesiredNode(
        node_port_addresses={"IPv4": ("192.0.2.1",)}, service_cidrs=("10.96.0.0/16",)
    )
    observed = believing(web())
    assert not observed.tables["IPv4"].elements[SERVICE_CIDRS]

    desired = whole(desired_state(web()), node)
    carry_out(prune(desired, observed, LAYOUT), observed)

    found = observed.tables["IPv4"].elements
    assert set(found[SERVICE_CIDRS]) == {b"\n\x60\0\0\0", b"\n\x61\0\0\1"}
    assert set(found[NODEPORT_IPS]) == {b"\xc0\0\2\1"}
    assert observed.node is not None
    assert observed.node.is_settled
    assert not prune(desired, observed, LAYOUT)
    assert WEB in observed.rendered
