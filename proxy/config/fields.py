"""What every field of KubeProxyConfiguration means here: used, or not applicable and why.

A test holds the two tables against the wire types, so that no field is forgotten and none stands in both, and renders
docs/configuration.md from them. The advice for fields that kube-proxy no longer has, or never had, is here as well.
"""

import difflib
from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy.config import kubeproxy


class Used(NamedTuple):
    """A field that changes what this program does: the attribute of `Settings` it ends in, and what it says."""

    setting: str
    meaning: str


class NotApplicable(NamedTuple):
    """A field without effect here. `harmless` are values, besides the default, that ask for nothing and so need no warning."""

    reason: str
    harmless: tuple[object, ...] = ()


_WINDOWS: Final = "this program runs on Linux only"
_UNBUFFERED: Final = "log lines are written at once, to standard error only"
_SECTION: Final = "read in mode {} only"
_JSON_ONLY: Final = (
    "objects are read as JSON, decoded straight into the few fields that are needed"
)

USED: Final[dict[str, Used]] = {
    "apiVersion": Used("", "must be `kubeproxy.config.k8s.io/v1alpha1`"),
    "kind": Used("", "must be `KubeProxyConfiguration`"),
    "featureGates": Used("feature_gates", "see the table of feature gates; an unknown gate is a warning"),
    "clientConnection.kubeconfig": Used("kubeconfig", "path of the kubeconfig; empty means the service account of the pod"),
    "clientConnection.qps": Used("client_qps", "read and kept; three watches stay far below any rate, and apiServer.backoffFirst and backoffMax of the file of --sliceproxy-config bound their retries"),
    "clientConnection.burst": Used("client_burst", "0 or more; read and kept, as qps"),
    "logging.format": Used("log_format", "`text` or `json`"),
    "logging.verbosity": Used("verbosity", "0 or more; a higher number logs more"),
    "hostnameOverride": Used("node_name", "name of the own Node, instead of the host name; trimmed and lower-cased"),
    "bindAddress": Used("bind_address", "an IP address: what to take for the node's primary address (nothing listens on it)"),
    "healthzBindAddress": Used("healthz_bind", "`IP:port` of /healthz and /livez; a missing port is added; follows the family of bindAddress"),
    "metricsBindAddress": Used("metrics_bind", "`IP:port` of /metrics and the debug pages; a missing port is added; follows the family of bindAddress"),
    "bindAddressHardFail": Used("bind_address_hard_fail", "exit when one of those two cannot be bound, instead of trying again"),
    "mode": Used("mode", "`nftables`, `ipvs` or `iptables`; empty means the best this host supports, while kube-proxy takes iptables"),
    "iptables.masqueradeBit": Used("masquerade_mark", "bit of the packet mark for what needs SNAT, 0 to 31; read in modes iptables and ipvs"),
    "iptables.masqueradeAll": Used("masquerade_all", "SNAT all traffic to cluster IPs; read in modes iptables and ipvs"),
    "iptables.localhostNodePorts": Used("localhost_node_ports", "serve NodePorts at localhost where `nodePortAddresses` leaves that open: in mode iptables at 127.0.0.0/8 by rules; in the other modes at 127.0.0.1 and ::1, by a listener of this process for TCP and UDP"),
    "iptables.syncPeriod": Used("sync_period_s", "longer than 0; " + _SECTION.format("iptables")),
    "iptables.minSyncPeriod": Used("min_sync_period_s", "0 to syncPeriod; " + _SECTION.format("iptables")),
    "ipvs.syncPeriod": Used("sync_period_s", "longer than 0; " + _SECTION.format("ipvs")),
    "ipvs.minSyncPeriod": Used("min_sync_period_s", "0 to syncPeriod; " + _SECTION.format("ipvs")),
    "ipvs.scheduler": Used("ipvs.scheduler", "the kernel's scheduler of virtual servers"),
    "ipvs.excludeCIDRs": Used("ipvs.exclude_cidrs", "virtual servers in these ranges are left alone"),
    "ipvs.strictARP": Used("ipvs.strict_arp", "set arp_ignore to 1 and arp_announce to 2"),
    "ipvs.tcpTimeout": Used("ipvs.tcp_timeout_s", "of idle connections; 0 keeps the kernel's value"),
    "ipvs.tcpFinTimeout": Used("ipvs.tcp_fin_timeout_s", "of connections after a FIN; 0 keeps the kernel's value"),
    "ipvs.udpTimeout": Used("ipvs.udp_timeout_s", "of UDP flows; 0 keeps the kernel's value"),
    "nftables.masqueradeBit": Used("masquerade_mark", "bit of the packet mark for what needs SNAT, 0 to 31; read in every mode but iptables and ipvs"),
    "nftables.masqueradeAll": Used("masquerade_all", "SNAT all traffic to cluster IPs; read in every mode but iptables and ipvs"),
    "nftables.syncPeriod": Used("sync_period_s", "longer than 0; read in every mode but iptables and ipvs"),
    "nftables.minSyncPeriod": Used("min_sync_period_s", "0 to syncPeriod; read in every mode but iptables and ipvs (kube-proxy's default is 1s)"),
    "detectLocalMode": Used("detect_local_mode", "`ClusterCIDR`, `NodeCIDR`, `BridgeInterface` or `InterfaceNamePrefix`: how traffic of local pods is told from other traffic"),
    "detectLocal.bridgeInterface": Used("bridge_interface", "required in mode BridgeInterface"),
    "detectLocal.interfaceNamePrefix": Used("interface_name_prefix", "required in mode InterfaceNamePrefix"),
    "clusterCIDR": Used("cluster_cidrs", "one range of pods, or one of each family with a comma between; read in mode ClusterCIDR"),
    "nodePortAddresses": Used("node_port_addresses", "ranges whose node addresses serve NodePorts, or the one word `primary`; empty means all (`primary` in mode nftables)"),
    "oomScoreAdj": Used("oom_score_adj", "-1000 to 1000"),
    "conntrack.maxPerCore": Used("conntrack.max_per_core", "connections to track for each CPU; 0 keeps the kernel's limit and ignores min"),
    "conntrack.min": Used("conntrack.min", "connections to track at least"),
    "conntrack.tcpEstablishedTimeout": Used("conntrack.tcp_established_timeout_s", "0 keeps the kernel's value"),
    "conntrack.tcpCloseWaitTimeout": Used("conntrack.tcp_close_wait_timeout_s", "0 keeps the kernel's value"),
    "conntrack.tcpBeLiberal": Used("conntrack.tcp_be_liberal", "do not call packets outside the TCP window invalid"),
    "conntrack.udpTimeout": Used("conntrack.udp_timeout_s", "of flows without reply; 0 keeps the kernel's value"),
    "conntrack.udpStreamTimeout": Used("conntrack.udp_stream_timeout_s", "of flows with reply; 0 keeps the kernel's value"),
    "configSyncPeriod": Used("config_sync_period_s", "longer than 0; read and kept: kube-proxy hands out again what it has cached that often, which is no new list either, and here every stage keeps the latest state"),
}  # fmt: skip

NOT_APPLICABLE: Final[dict[str, NotApplicable]] = {
    "clientConnection.acceptContentTypes": NotApplicable(_JSON_ONLY, ("application/json",)),
    "clientConnection.contentType": NotApplicable(_JSON_ONLY, ("application/json", "application/vnd.kubernetes.protobuf")),
    "logging.flushFrequency": NotApplicable(_UNBUFFERED, ("0s", "5s", 5_000_000_000)),
    "logging.vmodule": NotApplicable("its patterns name source files of kube-proxy; use logging.verbosity"),
    "logging.options.text.splitStream": NotApplicable(_UNBUFFERED),
    "logging.options.text.infoBufferSize": NotApplicable(_UNBUFFERED, (0, "")),
    "logging.options.json.splitStream": NotApplicable(_UNBUFFERED),
    "logging.options.json.infoBufferSize": NotApplicable(_UNBUFFERED, (0, "")),
    "enableProfiling": NotApplicable("there is no Go runtime to profile; attach py-spy to the process"),
    "showHiddenMetricsForVersion": NotApplicable("no metric is hidden"),
    "winkernel.networkName": NotApplicable(_WINDOWS),
    "winkernel.sourceVip": NotApplicable(_WINDOWS),
    "winkernel.enableDSR": NotApplicable(_WINDOWS),
    "winkernel.rootHnsEndpointName": NotApplicable(_WINDOWS),
    "winkernel.forwardHealthCheckVip": NotApplicable(_WINDOWS),
    "portRange": NotApplicable("kube-proxy does not use it either, since its userspace mode is gone"),
    "windowsRunAsService": NotApplicable(_WINDOWS),
}  # fmt: skip

# fields of older versions, and what people write who mean something that exists
_ADVICE: Final = {
    "udpIdleTimeout": "was for kube-proxy's userspace mode; idle UDP flows end by conntrack.udpTimeout",
    "resourceContainer": "does nothing since Kubernetes 1.17; delete it",
    "conntrack.max": "write conntrack.maxPerCore and conntrack.min",
    "ipvs.masqueradeAll": "write iptables.masqueradeAll, which mode ipvs reads",
    "ipvs.masqueradeBit": "write iptables.masqueradeBit, which mode ipvs reads",
    "ipvs.ipSet": "the sizes of IP sets cannot be set; delete it",
    "logging.sanitization": "does nothing since Kubernetes 1.24; delete it",
    "clusterCIDRs": "write clusterCIDR, with a comma between two ranges",
    "proxyMode": "write mode",
    "featureGate": "write featureGates",
    "masqueradeAll": "write nftables.masqueradeAll, or iptables.masqueradeAll for modes iptables and ipvs",
    "masqueradeBit": "write nftables.masqueradeBit, or iptables.masqueradeBit for modes iptables and ipvs",
    "syncPeriod": "write it in the section of the mode: nftables.syncPeriod, iptables.syncPeriod or ipvs.syncPeriod",
    "minSyncPeriod": "write it in the section of the mode: nftables.minSyncPeriod, iptables.minSyncPeriod or ipvs.minSyncPeriod",
    "fallback": "belongs in the file of --sliceproxy-config",
    "verifyPeriod": "belongs in the file of --sliceproxy-config",
    "generationPollPeriod": "belongs in the file of --sliceproxy-config",
    "debug": "belongs in the file of --sliceproxy-config",
}  # fmt: skip
_ENDPOINT_SLICE_PROXYING: Final = "endpointsliceproxying"


def describe_unknown(path: str) -> str:
    """Return why a field is not known and what to write instead."""
    name = path.rpartition(".")[2]
    if name.lower() == _ENDPOINT_SLICE_PROXYING:
        return "was a switch of Kubernetes 1.18 to 1.24; EndpointSlices are always used, delete it"
    if path in _ADVICE:
        return f"unknown field: {_ADVICE[path]}"
    leaves = kubeproxy.leaves()
    same_name = [leaf for leaf in leaves if leaf.rpartition(".")[2].lower() == name.lower()]
    similar = same_name or difflib.get_close_matches(path, leaves, n=1, cutoff=0.8)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "kube-proxy has no such field"
    return f"unknown field, ignored: {hint}"


def without_effect(config: kubeproxy.KubeProxyConfiguration) -> Iterator[tuple[str, str]]:
    """Yield path and reason of every field that asks for something this program does not have."""
    plain = kubeproxy.KubeProxyConfiguration()
    for path, field in NOT_APPLICABLE.items():
        value = kubeproxy.get(config, path)
        if value != kubeproxy.get(plain, path) and value not in field.harmless:
            yield path, field.reason


def buried_switches(data: dict[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the path of every `endpointSliceProxying` below a field that is itself unknown; tutorials place it anywhere."""
    for name, value in data.items():
        path = f"{prefix}{name}"
        if name.lower() == _ENDPOINT_SLICE_PROXYING:
            yield path
        if (
            isinstance(value, dict) and path != "featureGates"
        ):  # a gate of that name is the affair of `gates`
            yield from buried_switches(value, f"{path}.")
