"""What is at localhost: NodePorts of the families that are open there, and nothing else."""

import pytest

from proxy.desired import Desired, Frontend
from proxy.desired_node import DesiredNode
from proxy.localhost import Localhost, families
from proxy.model import Family
from tests.desired_strategies import make_desired
from tests.model_builders import make_key

PLAIN, OPEN = make_key("default/plain"), make_key("default/open")
OPEN_6 = make_key("default/open", family="IPv6")
NODE_PORT = Frontend("NodePort", None, 30080)
PORTS = {
    PLAIN: make_desired("default/plain"),
    OPEN: make_desired(
        "default/open", outer=(NODE_PORT, Frontend("LoadBalancer", "203.0.113.1", 80))
    ),
    OPEN_6: make_desired("default/open", cluster_ip="fd00::1", outer=(NODE_PORT,)),
}
NODE = DesiredNode(
    node_port_addresses={"IPv4": ("192.0.2.1",)},
    pod_cidrs=("10.1.0.0/24",),
    service_cidrs=("10.96.0.0/16",),
)


@pytest.mark.parametrize(
    ("ranges", "served"),
    [
        ((), ("IPv4", "IPv6")),
        (("primary",), ()),
        (("127.0.0.0/8",), ("IPv4", "IPv6")),
        (("192.0.2.0/24",), ("IPv6",)),
        (("192.0.2.0/24", "0.0.0.0/0", "fd00::/8"), ("IPv4",)),
        (("192.0.2.0/24", "::1/128"), ("IPv6",)),
    ],
)
def test_which_families_are_open_at_localhost(
    ranges: tuple[str, ...], served: tuple[Family, ...]
) -> None:
    assert families(ranges) == served


def test_only_node_ports_are_there() -> None:
    there = Localhost(("IPv4", "IPv6")).of(Desired(PORTS, NODE))

    assert list(there.ports) == [OPEN, OPEN_6]
    assert len(there.ports) == 2
    assert there.ports[OPEN].frontends == (NODE_PORT,)
    assert there.ports[OPEN].cluster == PORTS[OPEN].cluster
    assert there.ports.get(PLAIN) is None
    assert make_key("default/gone") not in there.ports


def test_what_no_listener_can_forward_is_not_there() -> None:
    key = make_key("default/open", protocol="SCTP")
    port = make_desired("default/open", protocol="SCTP", outer=(NODE_PORT,))

    assert list(Localhost(("IPv4",)).of(Desired({key: port}, NODE)).ports) == []


def test_only_the_families_that_are_open() -> None:
    there = Localhost(("IPv6",)).of(Desired(PORTS, NODE))

    assert list(there.ports) == [OPEN_6]
    assert there.node.node_port_addresses == {"IPv4": (), "IPv6": ("::1",)}


def test_of_the_node_only_what_tells_pods_is_there() -> None:
    there = Localhost(("IPv4", "IPv6")).of(Desired(PORTS, NODE))

    assert there.node == DesiredNode(
        node_port_addresses={"IPv4": ("127.0.0.1",), "IPv6": ("::1",)},
        pod_cidrs=("10.1.0.0/24",),
    )


def test_as_long_as_it_is_about_the_same_it_is_the_same() -> None:
    localhost = Localhost(("IPv4",))
    first = localhost.of(Desired(PORTS, NODE))

    assert localhost.of(Desired(PORTS, NODE)) is first
    moved = localhost.of(Desired(PORTS, DesiredNode(pod_cidrs=("10.1.1.0/24",))))
    assert moved.ports is first.ports
    assert moved.node.pod_cidrs == ("10.1.1.0/24",)
    assert list(localhost.of(Desired({}, NODE)).ports) == []


def test_what_changes_is_seen() -> None:
    ports = dict(PORTS)
    there = Localhost(("IPv4", "IPv6")).of(Desired(ports, NODE))
    del ports[OPEN]

    assert list(there.ports) == [OPEN_6]
