"""The wire types know every field of Kubernetes 1.36, and find those that are none."""

import msgspec
import pytest

from proxy.config import defaults, kubeproxy
from proxy.config.kubeproxy import KubeProxyConfiguration

# as kube-proxy 1.36 writes its own defaults, field by field
UPSTREAM = """
apiVersion kind featureGates
clientConnection.kubeconfig clientConnection.acceptContentTypes clientConnection.contentType clientConnection.qps
clientConnection.burst
logging.format logging.flushFrequency logging.verbosity logging.vmodule
logging.options.text.splitStream logging.options.text.infoBufferSize
logging.options.json.splitStream logging.options.json.infoBufferSize
hostnameOverride bindAddress healthzBindAddress metricsBindAddress bindAddressHardFail enableProfiling
showHiddenMetricsForVersion mode
iptables.masqueradeBit iptables.masqueradeAll iptables.localhostNodePorts iptables.syncPeriod iptables.minSyncPeriod
ipvs.syncPeriod ipvs.minSyncPeriod ipvs.scheduler ipvs.excludeCIDRs ipvs.strictARP ipvs.tcpTimeout ipvs.tcpFinTimeout
ipvs.udpTimeout
nftables.masqueradeBit nftables.masqueradeAll nftables.syncPeriod nftables.minSyncPeriod
winkernel.networkName winkernel.sourceVip winkernel.enableDSR winkernel.rootHnsEndpointName
winkernel.forwardHealthCheckVip
detectLocalMode detectLocal.bridgeInterface detectLocal.interfaceNamePrefix clusterCIDR nodePortAddresses oomScoreAdj
conntrack.maxPerCore conntrack.min conntrack.tcpEstablishedTimeout conntrack.tcpCloseWaitTimeout
conntrack.tcpBeLiberal conntrack.udpTimeout conntrack.udpStreamTimeout
configSyncPeriod portRange windowsRunAsService
"""


def _unknown(data: dict[str, object]) -> list[str]:
    return [text.partition(":")[0] for text in kubeproxy.unknown_fields(data, lambda path: "?")]


def test_every_field_of_kube_proxy_is_known_under_its_own_name() -> None:
    assert sorted(kubeproxy.leaves()) == sorted(UPSTREAM.split())


@pytest.mark.parametrize("path", kubeproxy.leaves())
def test_what_is_put_at_a_field_is_got_there_and_nowhere_else(path: str) -> None:
    before = KubeProxyConfiguration()

    after = kubeproxy.put(before, path, "marked")

    changed = [
        leaf
        for leaf in kubeproxy.leaves()
        if kubeproxy.get(after, leaf) != kubeproxy.get(before, leaf)
    ]
    assert changed == [path]
    assert kubeproxy.get(after, path) == "marked"


def test_no_known_field_is_called_unknown() -> None:
    everything = msgspec.to_builtins(defaults.fill(KubeProxyConfiguration()), enc_hook=str)

    assert _unknown(everything) == []
    assert msgspec.convert(
        everything, KubeProxyConfiguration, dec_hook=lambda wire, text: wire(text)
    ) == defaults.fill(KubeProxyConfiguration())


def test_unknown_fields_are_found_at_every_depth() -> None:
    data: dict[str, object] = {
        "a": {"b": 1},
        "iptables": {"masqueradeAll": True, "c": 1},
        "logging": {
            "options": {"json": {"d": 1}},
            "vmodule": [{"filePattern": "x", "e": 1}, "odd"],
        },
        "featureGates": {"Any": True},
        "nodePortAddresses": [{"odd": 1}],
    }

    assert _unknown(data) == ["a", "iptables.c", "logging.options.json.d", "logging.vmodule[0].e"]


def test_names_are_case_sensitive() -> None:
    assert _unknown({"Mode": "", "clusterCidr": "", "clusterCIDR": ""}) == ["Mode", "clusterCidr"]


def test_two_configurations_do_not_share_their_gates() -> None:
    first, second = KubeProxyConfiguration(), msgspec.convert({}, KubeProxyConfiguration)

    first.feature_gates["A"] = True

    assert second.feature_gates == KubeProxyConfiguration().feature_gates == {}
