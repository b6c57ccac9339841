"""How traffic of pods is told from other traffic."""

import pytest

from backends.kernel import nft_phrases as say
from backends.kernel.nft_pods import Detector
from proxy.model import FAMILIES, Family

both_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("mode", ["ClusterCIDR", "NodeCIDR"])
def test_by_address_each_family_has_its_own_range(mode: str) -> None:
    detector = Detector(mode=mode, cidrs=("10.1.0.0/16",))  # type: ignore[arg-type] # one of the modes

    base, mask = bytes([10, 1, 0, 0]), bytes([255, 255, 0, 0])
    assert detector.is_pod("IPv4") == say.source_in_network("IPv4", base, mask)
    assert detector.is_no_pod("IPv4") == say.source_in_network(
        "IPv4", base, mask, is_inverted=True
    )
    assert (detector.is_pod("IPv6"), detector.is_no_pod("IPv6")) == (None, None)


@both_families
def test_a_bridge_is_known_by_its_whole_name(family: Family) -> None:
    detector = Detector(mode="BridgeInterface", interface="cni0", cidrs=("10.1.0.0/16",))

    assert detector.is_pod(family) == say.interface("cni0")
    assert detector.is_no_pod(family) == say.interface("cni0", is_inverted=True)


@both_families
def test_interfaces_are_known_by_how_their_names_begin(family: Family) -> None:
    detector = Detector(mode="InterfaceNamePrefix", interface="cali")

    assert detector.is_pod(family) == say.interface_prefix("cali")
    assert detector.is_no_pod(family) == say.interface_prefix("cali", is_inverted=True)
    assert say.interface_prefix("cali") != say.interface("cali")
