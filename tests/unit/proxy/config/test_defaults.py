"""What nobody set becomes what kube-proxy makes of it, but for the stated differences."""

import pytest
from msgspec.structs import replace

from proxy.config import defaults, kubeproxy
from proxy.config.duration import Duration
from proxy.config.kubeproxy import KubeProxyConfiguration

DEFAULTS: dict[str, object] = {
    "clientConnection.contentType": "application/vnd.kubernetes.protobuf",
    "clientConnection.qps": 5.0,
    "clientConnection.burst": 10,
    "logging.format": "text",
    "logging.flushFrequency": "5s",
    "bindAddress": "0.0.0.0",
    "healthzBindAddress": "0.0.0.0:10256",
    "metricsBindAddress": "127.0.0.1:10249",
    "iptables.masqueradeBit": 14,
    "iptables.localhostNodePorts": True,
    "iptables.syncPeriod": 30.0,
    "iptables.minSyncPeriod": 1.0,
    "ipvs.syncPeriod": 30.0,
    "ipvs.scheduler": "rr",
    "nftables.masqueradeBit": 14,
    "nftables.syncPeriod": 30.0,
    "detectLocalMode": "ClusterCIDR",
    "oomScoreAdj": -999,
    "conntrack.maxPerCore": 32768,
    "conntrack.min": 131072,
    "conntrack.tcpEstablishedTimeout": 86400.0,
    "conntrack.tcpCloseWaitTimeout": 3600.0,
    "configSyncPeriod": 900.0,
}


def test_an_empty_configuration_gets_these_defaults_and_no_others() -> None:
    empty = KubeProxyConfiguration()

    filled = defaults.fill(empty)

    changed = {
        path: kubeproxy.get(filled, path)
        for path in kubeproxy.leaves()
        if kubeproxy.get(filled, path) != kubeproxy.get(empty, path)
    }
    assert changed == DEFAULTS


SET: dict[str, object] = {
    "clientConnection.contentType": "application/json",
    "clientConnection.qps": -1.0,
    "clientConnection.burst": 7,
    "logging.format": "json",
    "logging.flushFrequency": "1s",
    "bindAddress": "10.0.0.1",
    "healthzBindAddress": "10.0.0.1:1",
    "metricsBindAddress": "10.0.0.1:2",
    "iptables.masqueradeBit": 0,
    "iptables.localhostNodePorts": False,
    "iptables.syncPeriod": Duration(7),
    "iptables.minSyncPeriod": Duration(7),
    "ipvs.syncPeriod": Duration(7),
    "ipvs.scheduler": "sh",
    "nftables.masqueradeBit": 0,
    "nftables.syncPeriod": Duration(7),
    "detectLocalMode": "NodeCIDR",
    "oomScoreAdj": 0,
    "conntrack.maxPerCore": 0,
    "conntrack.min": 0,
    "conntrack.tcpEstablishedTimeout": Duration(0),
    "conntrack.tcpCloseWaitTimeout": Duration(0),
    "configSyncPeriod": Duration(7),
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_what_is_set_stays(path: str) -> None:
    config = kubeproxy.put(KubeProxyConfiguration(), path, SET[path])

    assert kubeproxy.get(defaults.fill(config), path) == SET[path]


def test_filling_twice_changes_nothing() -> None:
    once = defaults.fill(KubeProxyConfiguration())

    assert defaults.fill(once) == once


@pytest.mark.parametrize(
    ("bind", "healthz", "metrics"),
    [
        ("10.0.0.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("::", "[::]:10256", "[::1]:10249"),
        ("fd00::1", "[::]:10256", "[::1]:10249"),
        ("nonsense", "0.0.0.0:10256", "127.0.0.1:10249"),
    ],
)
def test_servers_listen_in_the_family_of_the_bind_address(
    bind: str, healthz: str, metrics: str
) -> None:
    filled = defaults.fill(KubeProxyConfiguration(bind_address=bind))

    assert (filled.healthz_bind_address, filled.metrics_bind_address) == (healthz, metrics)


def test_a_missing_port_is_added() -> None:
    filled = defaults.fill(
        KubeProxyConfiguration(healthz_bind_address="10.0.0.1", metrics_bind_address="::1")
    )

    assert (filled.healthz_bind_address, filled.metrics_bind_address) == (
        "10.0.0.1:10256",
        "[::1]:10249",
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nftables", ("primary",)),
        ("", ()),
        ("iptables", ()),
        ("ipvs", ()),
        ("userspace", ()),
        ("null", ()),
    ],
)
def test_node_ports_are_limited_to_primary_addresses_in_mode_nftables(
    mode: str, expected: tuple[str, ...]
) -> None:
    assert defaults.fill_for_mode(KubeProxyConfiguration(), mode).node_port_addresses == expected


def test_ranges_for_node_ports_stay_in_mode_nftables() -> None:
    config = replace(KubeProxyConfiguration(), node_port_addresses=("10.0.0.0/8",))

    assert defaults.fill_for_mode(config, "nftables").node_port_addresses == ("10.0.0.0/8",)
