"""What matches traffic of pods on this node, and what all other."""

import pytest

from backends.kernel.xtables_pods import pod_words
from proxy.config.settings import LocalMode
from proxy.model import Family

CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")


@pytest.mark.parametrize(
    ("mode", "family", "expected"),
    [
        ("ClusterCIDR", "IPv4", ("-s 10.244.0.0/16", "! -s 10.244.0.0/16")),
        ("NodeCIDR", "IPv6", ("-s fd00:10:244::/48", "! -s fd00:10:244::/48")),
        ("BridgeInterface", "IPv4", ("-i cni0", "! -i cni0")),
        ("InterfaceNamePrefix", "IPv6", ("-i cni0+", "! -i cni0+")),
    ],
)
def test_each_mode_has_words_for_pods_and_for_all_else(
    mode: LocalMode, family: Family, expected: tuple[str, str]
) -> None:
    assert pod_words(mode, CIDRS, "cni0", family) == expected


def test_a_family_without_a_range_has_no_words() -> None:
    assert pod_words("ClusterCIDR", CIDRS[:1], "", "IPv6") is None
