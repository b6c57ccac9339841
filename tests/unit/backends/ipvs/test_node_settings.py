"""The kernel's settings that IPVS needs."""

import pytest

from backends.ipvs.node_settings import offset, wanted_settings


@pytest.mark.parametrize(
    ("release", "is_set"),
    [
        ("3.10.0", False),
        ("4.1.0", True),
        ("5.8.18", True),
        ("5.9.0", False),
        ("6.1.0-56-amd64", False),
    ],
)
def test_a_port_used_again_goes_where_it_went_on_kernels_that_would_let_it_wait(
    release: str, is_set: bool
) -> None:
    wanted = wanted_settings(strict_arp=False, release=release)

    assert wanted.get("proc/sys/net/ipv4/vs/conn_reuse_mode") == (0 if is_set else None)
    assert wanted["proc/sys/net/ipv4/vs/conntrack"] == 1


def test_strict_arp_is_only_set_when_asked_for() -> None:
    with_it = wanted_settings(strict_arp=True, release="6.1")
    without = wanted_settings(strict_arp=False, release="6.1")

    assert with_it.items() - without.items() == {
        ("proc/sys/net/ipv4/conf/all/arp_ignore", 1),
        ("proc/sys/net/ipv4/conf/all/arp_announce", 2),
    }


def test_nodes_begin_in_different_places() -> None:
    assert len({offset(f"node-{number}") for number in range(50)}) > 40
    assert offset("n1") == offset("n1")
