"""Each mode is named only where it may be, and reads its own sections."""

import pytest

from proxy.config import modes
from proxy.config.kubeproxy import IPVS, IPTables, KubeProxyConfiguration, NFTables

CONFIG = KubeProxyConfiguration(
    iptables=IPTables(masquerade_bit=1),
    ipvs=IPVS(scheduler="sh"),
    nftables=NFTables(masquerade_bit=2),
)


@pytest.mark.parametrize("is_from_file", [True, False])
@pytest.mark.parametrize("mode", ["", "nftables", "ipvs", "iptables"])
def test_modes_of_kube_proxy_are_allowed_everywhere(mode: str, is_from_file: bool) -> None:
    assert modes.problem(mode, is_from_file=is_from_file) == ""


@pytest.mark.parametrize("mode", ["userspace", "null"])
def test_our_own_modes_are_allowed_as_a_flag_only(mode: str) -> None:
    assert modes.problem(mode, is_from_file=False) == ""
    assert f"kube-proxy does not know {mode}" in modes.problem(mode, is_from_file=True)
    assert "--sliceproxy-config" in modes.problem(mode, is_from_file=True)


@pytest.mark.parametrize(
    ("mode", "is_from_file", "problem"),
    [
        ("kernelspace", True, "for Windows"),
        ("kernelspace", False, "for Windows"),
        ("NFTables", True, "must be nftables, ipvs, iptables or empty"),
        ("NFTables", False, "must be nftables, ipvs, iptables, userspace, null or empty"),
    ],
)
def test_other_modes_are_refused(mode: str, problem: str, *, is_from_file: bool) -> None:
    assert problem in modes.problem(mode, is_from_file=is_from_file)


@pytest.mark.parametrize(
    ("mode", "periods", "masquerade"),
    [
        ("iptables", "iptables", "iptables"),
        ("ipvs", "ipvs", "iptables"),
        ("nftables", "nftables", "nftables"),
        ("", "nftables", "nftables"),
        ("userspace", "nftables", "nftables"),
        ("null", "nftables", "nftables"),
    ],
)
def test_a_mode_reads_its_sections(mode: str, periods: str, masquerade: str) -> None:
    assert modes.periods(CONFIG, mode) == (periods, getattr(CONFIG, periods))
    assert modes.masquerade(CONFIG, mode) == (masquerade, getattr(CONFIG, masquerade))
    assert modes.paths(CONFIG, mode) == {
        "masqueradeAll": f"{masquerade}.masqueradeAll",
        "masqueradeBit": f"{masquerade}.masqueradeBit",
        "syncPeriod": f"{periods}.syncPeriod",
        "minSyncPeriod": f"{periods}.minSyncPeriod",
    }
