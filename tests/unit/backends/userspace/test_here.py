"""Who is on this node."""

import pytest

from backends.userspace.here import Detector, Here
from proxy.desired_node import DesiredNode


@pytest.mark.parametrize(
    ("client", "asked", "expected"),
    [
        ("192.0.2.1", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.1", True),
        ("10.244.1.7", "10.96.0.1", True),
        ("10.245.0.0", "10.96.0.1", False),
        ("2001:db8::1", "fd00::1", False),
        ("fd00:10:244::9", "fd00::1", True),
    ],
    ids=["own address", "the address asked", "pod", "past the range", "elsewhere", "IPv6 pod"],
)
def test_the_node_and_pods_here_are_told_from_others(
    client: str, asked: str, expected: bool
) -> None:
    here = Here(frozenset(["192.0.2.1"]), ("10.244.0.0/16", "fd00:10:244::/48"))

    assert here.holds(client, asked) is expected


def test_the_ranges_are_those_configured_or_the_nodes_own() -> None:
    node = DesiredNode(pod_cidrs=("10.244.1.0/24",))

    assert Detector(cidrs=("10.0.0.0/8",)).ranges(node) == ("10.0.0.0/8",)
    assert Detector(mode="NodeCIDR").ranges(node) == ("10.244.1.0/24",)
    assert Detector(mode="BridgeInterface", interface="br0").ranges(node) == ()


def test_interfaces_are_told_by_name_or_by_its_beginning() -> None:
    bridge = Detector(mode="BridgeInterface", interface="br0")
    prefix = Detector(mode="InterfaceNamePrefix", interface="veth")

    assert (bridge.is_pod_interface("br0"), bridge.is_pod_interface("br01")) == (True, False)
    assert (prefix.is_pod_interface("veth7"), prefix.is_pod_interface("eth0")) == (True, False)
    assert not Detector().is_pod_interface("")
    assert (bridge.is_by_interface, Detector().is_by_interface) == (True, False)


@pytest.mark.parametrize(("interface", "expected"), [(0, False), (7, True), (8, False)])
def test_pods_are_told_by_the_interface_they_come_in_by(interface: int, expected: bool) -> None:
    here = Here(interfaces=frozenset([7]))

    assert here.holds("203.0.113.9", "10.96.0.1", interface) is expected
