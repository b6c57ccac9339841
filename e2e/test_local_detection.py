"""Which traffic counts as that of a pod on the node, and what is masqueraded, for every way to tell."""

from collections.abc import Iterator
from typing import Final

import pytest

from backends.nftables.layout import NftSettings
from e2e.frontends import (
    FRONTENDS,
    NODE,
    ON_NODE,
    assert_dropped,
    assert_reaches,
    frontends_world,
    programmed,
)
from e2e.topology import CLUSTER_CIDRS, FAMILIES, World

pytestmark = pytest.mark.requires("nftables")
DETECTORS: Final[dict[str, NftSettings]] = {
    "source range": NftSettings(families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS),
    "none": NftSettings(families=FAMILIES),
    "masquerade all": NftSettings(
        families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS, masquerade_all=True, masquerade_mark=1
    ),
    "bridge": NftSettings(families=FAMILIES, local_mode="BridgeInterface", interface="to-f"),
    "prefix": NftSettings(families=FAMILIES, local_mode="InterfaceNamePrefix", interface="to-f"),
    "node range": NftSettings(families=FAMILIES, local_mode="NodeCIDR"),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with frontends_world() as made:
        yield made


@pytest.mark.parametrize("name", DETECTORS)
def test_local_traffic_is_detected_as_configured(world: World, name: str) -> None:
    has_detector, marks_all = name != "none", name == "masquerade all"
    with programmed(world, DETECTORS[name], ON_NODE) as ground:
        for family in FAMILIES:
            cluster, local = ground.service(family), ground.service(family)
            ground.put(
                cluster.described(ground.pods[0], remote=ground.remote),
                local.described(ground.pods[0], remote=ground.remote, external_local=True),
            )
            everywhere: set[str] = {"a", "r1"}
            assert_reaches(ground, "pod", cluster, "ClusterIP", everywhere, is_kept=not marks_all)
            is_kept = not (has_detector or marks_all)
            assert_reaches(ground, "client", cluster, "ClusterIP", everywhere, is_kept=is_kept)
            for kind in FRONTENDS:
                assert_reaches(ground, "pod", cluster, kind, everywhere, is_kept=False)
                assert_reaches(ground, "client", local, kind, {"a"}, is_kept=True)
                assert_reaches(
                    ground,
                    "pod",
                    local,
                    kind,
                    everywhere if has_detector else {"a"},
                    is_kept=True,
                )
                assert_reaches(ground, "node", local, kind, everywhere, is_kept=False)


def test_the_range_of_pods_of_the_own_node_is_followed_when_it_becomes_known(
    world: World,
) -> None:
    with programmed(world, DETECTORS["node range"], NODE) as ground:
        local, sticky = ground.service("IPv4"), ground.service("IPv4")
        ground.put(
            local.described(ground.pods[0], remote=ground.remote, external_local=True),
            sticky.described(remote=ground.remote, external_local=True, affinity_timeout_s=60),
        )
        assert_reaches(ground, "pod", local, "NodePort", {"a"}, is_kept=True)
        assert_dropped(ground, "pod", sticky, "NodePort")

        ground.data_plane.tell(ON_NODE)
        ground.put()

        assert_reaches(ground, "pod", local, "NodePort", {"a", "r1"}, is_kept=True)
        assert_reaches(ground, "pod", sticky, "NodePort", {"r1"}, is_kept=True)
        assert_reaches(ground, "client", local, "ClusterIP", {"a", "r1"}, is_kept=False)
