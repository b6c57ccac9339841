"""The command line flags: kube-proxy's under kube-proxy's names, and the few that are ours.

A flag that nobody passed is None in the namespace, so that "passed as zero" and "not passed" differ, as in kube-proxy. With
`--config`, kube-proxy ignores most flags; `keeps_with_config` marks those it does not.
"""

import argparse
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from proxy.config import defaults, duration, kubeproxy
from proxy.config.fields import NOT_APPLICABLE
from proxy.config.flag_values import PARSERS, Kind
from proxy.model import Value

FILES: Final = "configuration files"
API: Final = "API server and node"
SERVERS: Final = "health and metrics"
MODE: Final = "mode and masquerade"
IPVS: Final = "mode ipvs"
TRAFFIC: Final = "local traffic and NodePorts"
KERNEL: Final = "connection tracking and process"
LOGS: Final = "logs"
OWN: Final = "only in sliceproxy"
COMPATIBLE: Final = "accepted for compatibility, without effect"
DEFAULT_STATE_DIR: Final = "/run/sliceproxy"
PORT_FLAGS: Final = {
    "healthz-port": "healthz-bind-address",
    "metrics-port": "metrics-bind-address",
}
"""Deprecated flags, and those to write instead."""


class Flag(Value, frozen=True):
    """One flag. `fields` are the fields of KubeProxyConfiguration it sets; a flag without any is read by the program itself.

    `reason` says why a flag has no effect, where its field does not say so; `harmless` are values that then need no warning.
    """

    name: str
    kind: Kind
    group: str
    help: str
    fields: tuple[str, ...] = ()
    keeps_with_config: bool = False
    metavar: str = ""
    reason: str = ""
    harmless: tuple[object, ...] = ()

    @property
    def dest(self) -> str:
        """The attribute of the parsed namespace."""
        return self.name.replace("-", "_")

    @property
    def has_effect(self) -> bool:
        return not self.reason and not (self.fields and self.fields[0] in NOT_APPLICABLE)


_KLOG: Final = "log lines go to standard error only, each with its time and level"
_NO_CADVISOR: Final = "this program does not identify machines"

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("config", "str", FILES, "KubeProxyConfiguration file, YAML or JSON; most flags are then ignored", keeps_with_config=True, metavar="FILE"),
    Flag("sliceproxy-config", "str", FILES, "SliceProxyConfiguration file: the settings kube-proxy does not have", keeps_with_config=True, metavar="FILE"),
    Flag("write-config-to", "str", FILES, "write the KubeProxyConfiguration with all defaults to this file and exit", keeps_with_config=True, metavar="FILE"),
    Flag("cleanup", "bool", FILES, "remove everything this program put into the kernel and exit", keeps_with_config=True),
    Flag("init-only", "bool", FILES, "do what needs full root rights (sysctls, checks) and exit; few capabilities are enough afterwards", keeps_with_config=True),
    Flag("feature-gates", "gates", FILES, "feature gates, as Name=true,Other=false", ("featureGates",)),
    Flag("kubeconfig", "str", API, "kubeconfig file; without it, the service account of the pod is used", ("clientConnection.kubeconfig",), metavar="FILE"),
    Flag("master", "str", API, "address of the API server, instead of the one in the kubeconfig", keeps_with_config=True, metavar="URL"),
    Flag("kube-api-qps", "float", API, "requests a second to the API server", ("clientConnection.qps",)),
    Flag("kube-api-burst", "int", API, "requests to the API server above that rate in one go", ("clientConnection.burst",)),
    Flag("config-sync-period", "duration", API, "how often the API server is compared with what is known", ("configSyncPeriod",)),
    Flag("hostname-override", "str", API, "name of the own Node, instead of the host name", ("hostnameOverride",), keeps_with_config=True, metavar="NAME"),
    Flag("bind-address", "str", API, "what to take for the node's primary IP address; nothing listens on it", ("bindAddress",), metavar="IP"),
    Flag("healthz-bind-address", "str", SERVERS, "where /healthz and /livez are served; empty switches them off", ("healthzBindAddress",), metavar="IP:PORT"),
    Flag("healthz-port", "int", SERVERS, "port of /healthz, 0 to switch it off; --healthz-bind-address is better", ("healthzBindAddress",)),
    Flag("metrics-bind-address", "str", SERVERS, "where /metrics and the debug pages are served; empty switches them off", ("metricsBindAddress",), metavar="IP:PORT"),
    Flag("metrics-port", "int", SERVERS, "port of /metrics, 0 to switch it off; --metrics-bind-address is better", ("metricsBindAddress",)),
    Flag("bind-address-hard-fail", "bool", SERVERS, "exit when a server cannot listen, instead of trying again", ("bindAddressHardFail",)),
    Flag("proxy-mode", "str", MODE, "nftables, ipvs, iptables, or userspace or null, which kube-proxy does not know; without it, the first of nftables, ipvs, iptables and userspace that can do everything needed here", ("mode",), metavar="MODE"),
    Flag("masquerade-all", "bool", MODE, "SNAT all traffic to cluster IPs", ("iptables.masqueradeAll", "nftables.masqueradeAll")),
    Flag("iptables-masquerade-bit", "int", MODE, "modes iptables and ipvs: bit of the packet mark for what needs SNAT, 0 to 31", ("iptables.masqueradeBit",)),
    Flag("iptables-localhost-nodeports", "bool", MODE, "serve NodePorts at localhost: in mode iptables by rules (IPv4), in the other modes by a listener of this process", ("iptables.localhostNodePorts",)),
    Flag("iptables-sync-period", "duration", MODE, "every mode but ipvs: a change that waits twice as long makes /livez fail; what is checked in the kernel, and when, is verifyPeriod", ("iptables.syncPeriod", "nftables.syncPeriod")),
    Flag("iptables-min-sync-period", "duration", MODE, "every mode but ipvs: pause between two updates; 0 updates at once", ("iptables.minSyncPeriod", "nftables.minSyncPeriod")),
    Flag("ipvs-sync-period", "duration", IPVS, "as --iptables-sync-period, for mode ipvs", ("ipvs.syncPeriod",)),
    Flag("ipvs-min-sync-period", "duration", IPVS, "pause between two updates; 0 updates at once", ("ipvs.minSyncPeriod",)),
    Flag("ipvs-scheduler", "str", IPVS, "the kernel's scheduler of virtual servers", ("ipvs.scheduler",), metavar="NAME"),
    Flag("ipvs-exclude-cidrs", "list", IPVS, "leave virtual servers in these ranges alone", ("ipvs.excludeCIDRs",), metavar="CIDR,..."),
    Flag("ipvs-strict-arp", "bool", IPVS, "set arp_ignore to 1 and arp_announce to 2", ("ipvs.strictARP",)),
    Flag("ipvs-tcp-timeout", "duration", IPVS, "timeout of idle TCP connections; 0 keeps the kernel's", ("ipvs.tcpTimeout",)),
    Flag("ipvs-tcpfin-timeout", "duration", IPVS, "timeout of TCP connections after a FIN; 0 keeps the kernel's", ("ipvs.tcpFinTimeout",)),
    Flag("ipvs-udp-timeout", "duration", IPVS, "timeout of UDP flows; 0 keeps the kernel's", ("ipvs.udpTimeout",)),
    Flag("detect-local-mode", "str", TRAFFIC, "how traffic of local pods is recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", ("detectLocalMode",), metavar="MODE"),
    Flag("cluster-cidr", "str", TRAFFIC, "with ClusterCIDR: the range of pods, or one of each family", ("clusterCIDR",), metavar="CIDR[,CIDR]"),
    Flag("pod-bridge-interface", "str", TRAFFIC, "with BridgeInterface: the bridge local pods are connected to", ("detectLocal.bridgeInterface",), metavar="NAME"),
    Flag("pod-interface-name-prefix", "str", TRAFFIC, "with InterfaceNamePrefix: how the names of local pods' interfaces start", ("detectLocal.interfaceNamePrefix",), metavar="PREFIX"),
    Flag("nodeport-addresses", "list", TRAFFIC, "ranges whose node addresses serve NodePorts, or the one word primary; without it, all", ("nodePortAddresses",), metavar="CIDR,..."),
    Flag("conntrack-max-per-core", "int", KERNEL, "connections to track for each CPU; 0 keeps the kernel's limit", ("conntrack.maxPerCore",)),
    Flag("conntrack-min", "int", KERNEL, "connections to track at least", ("conntrack.min",)),
    Flag("conntrack-tcp-timeout-established", "duration", KERNEL, "timeout of idle TCP connections; 0 keeps the kernel's", ("conntrack.tcpEstablishedTimeout",)),
    Flag("conntrack-tcp-timeout-close-wait", "duration", KERNEL, "timeout of TCP connections in CLOSE_WAIT; 0 keeps the kernel's", ("conntrack.tcpCloseWaitTimeout",)),
    Flag("conntrack-tcp-be-liberal", "bool", KERNEL, "do not call packets outside the TCP window invalid", ("conntrack.tcpBeLiberal",)),
    Flag("conntrack-udp-timeout", "duration", KERNEL, "timeout of UDP flows without reply; 0 keeps the kernel's", ("conntrack.udpTimeout",)),
    Flag("conntrack-udp-timeout-stream", "duration", KERNEL, "timeout of UDP flows with reply; 0 keeps the kernel's", ("conntrack.udpStreamTimeout",)),
    Flag("oom-score-adj", "int", KERNEL, "how willingly the kernel kills this process, -1000 to 1000", ("oomScoreAdj",)),
    Flag("v", "int", LOGS, "how much is logged; a higher number logs more", ("logging.verbosity",), keeps_with_config=True),
    Flag("logging-format", "str", LOGS, "text or json", ("logging.format",), keeps_with_config=True, metavar="FORMAT"),
    Flag("manifests", "str", OWN, "read Services, EndpointSlices and Nodes from this file or directory instead of an API server, again after each change", keeps_with_config=True, metavar="PATH"),
    Flag("watch-events", "str", OWN, "read a stream of watch events from this file, or - for standard input, instead of an API server", keeps_with_config=True, metavar="PATH"),
    Flag("state-dir", "str", OWN, f"where state is kept that must outlive a restart (default {DEFAULT_STATE_DIR})", keeps_with_config=True, metavar="DIR"),
    Flag("profiling", "bool", COMPATIBLE, "", ("enableProfiling",)),
    Flag("show-hidden-metrics-for-version", "str", COMPATIBLE, "", ("showHiddenMetricsForVersion",)),
    Flag("kube-api-content-type", "str", COMPATIBLE, "", ("clientConnection.contentType",)),
    Flag("vmodule", "vmodule", COMPATIBLE, "", ("logging.vmodule",), keeps_with_config=True),
    Flag("log-flush-frequency", "duration", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(5.0,)),
    Flag("log-json-info-buffer-size", "str", COMPATIBLE, "", ("logging.options.json.infoBufferSize",), keeps_with_config=True),
    Flag("log-json-split-stream", "bool", COMPATIBLE, "", ("logging.options.json.splitStream",), keeps_with_config=True),
    Flag("log-text-info-buffer-size", "str", COMPATIBLE, "", ("logging.options.text.infoBufferSize",), keeps_with_config=True),
    Flag("log-text-split-stream", "bool", COMPATIBLE, "", ("logging.options.text.splitStream",), keeps_with_config=True),
    Flag("logtostderr", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(True,)),
    Flag("alsologtostderr", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(True, False)),
    Flag("stderrthreshold", "str", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG),
    Flag("log-dir", "str", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=("",)),
    Flag("log-file", "str", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=("",)),
    Flag("log-file-max-size", "int", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG),
    Flag("log-backtrace-at", "str", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=("", ":0")),
    Flag("add-dir-header", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(False,)),
    Flag("one-output", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(False,)),
    Flag("skip-headers", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(False,)),
    Flag("skip-log-headers", "bool", COMPATIBLE, "", keeps_with_config=True, reason=_KLOG, harmless=(False,)),
    Flag("boot-id-file", "str", COMPATIBLE, "", keeps_with_config=True, reason=_NO_CADVISOR),
    Flag("machine-id-file", "str", COMPATIBLE, "", keeps_with_config=True, reason=_NO_CADVISOR),
)  # fmt: skip


HOSTNAME_OVERRIDE: Final = next(flag for flag in FLAGS if flag.name == "hostname-override")


def add_flags(parser: argparse.ArgumentParser, hidden: Collection[str] = ()) -> None:
    """Define every flag on the parser, in groups. Help does not list `hidden` ones, nor those without effect.

    Booleans are written Go's way, `--masquerade-all` or `--masquerade-all=true`; unlike Go, a following word is taken as the
    value too. Names are never abbreviated: `--config-s` would become another flag as soon as there is a second match.
    """
    parser.allow_abbrev = False
    shown = defaults.fill(kubeproxy.KubeProxyConfiguration())
    for name in dict.fromkeys(flag.group for flag in FLAGS):
        members = [flag for flag in FLAGS if flag.group == name]
        group = parser.add_argument_group(
            name, _without_effect_text(members) if name == COMPATIBLE else None
        )
        for flag in members:
            text = (
                f"{flag.help}{_default_text(flag, shown)}"
                if flag.has_effect and flag.name not in hidden
                else argparse.SUPPRESS
            )
            _add(group, flag, text)


def _add(group: argparse._ArgumentGroup, flag: Flag, text: str) -> None:
    names = ["-v", "--v"] if flag.name == "v" else [f"--{flag.name}"]
    if "-" in flag.name and flag.reason:
        names.append(
            f"--{flag.dest}"
        )  # the logging library of Go spells its own flags with underscores
    parse = PARSERS[flag.kind]
    if flag.kind == "bool":
        group.add_argument(
            *names,
            dest=flag.dest,
            type=parse,
            nargs="?",
            const=True,
            metavar="true|false",
            help=text,
        )
    elif flag.kind in {"list", "gates", "vmodule"}:
        group.add_argument(
            *names, dest=flag.dest, type=parse, action="extend", metavar=_metavar(flag), help=text
        )
    else:
        group.add_argument(*names, dest=flag.dest, type=parse, metavar=_metavar(flag), help=text)


def passed(args: argparse.Namespace) -> Iterator[tuple[Flag, object]]:
    """Yield every flag that was on the command line, with its value; lists as tuples, gates as a mapping."""
    for flag in FLAGS:
        value = getattr(args, flag.dest, None)
        if value is None:
            continue
        if flag.kind == "gates":
            yield flag, dict(value)
        else:
            yield flag, tuple(value) if isinstance(value, list) else value


def without_effect_reason(flag: Flag) -> str:
    """Return why the flag does nothing here."""
    return flag.reason or NOT_APPLICABLE[flag.fields[0]].reason


_METAVARS: Final[dict[Kind, str]] = {
    "int": "N",
    "float": "N",
    "duration": "DURATION",
    "gates": "NAME=true|false,...",
    "vmodule": "PATTERN=N,...",
}


def _metavar(flag: Flag) -> str:
    return flag.metavar or _METAVARS.get(flag.kind, "VALUE")


def _without_effect_text(members: Iterable[Flag]) -> str:
    names: dict[str, list[str]] = {}
    for flag in members:
        names.setdefault(without_effect_reason(flag), []).append(f"--{flag.name}")
    return "; ".join(f"{', '.join(flags)} ({reason})" for reason, flags in names.items())


def _default_text(flag: Flag, shown: kubeproxy.KubeProxyConfiguration) -> str:
    if flag.name in PORT_FLAGS:
        return ""
    texts = {
        path.partition(".")[0]: render_value(kubeproxy.get(shown, path)) for path in flag.fields
    }
    if len(set(texts.values())) > 1:
        return f" (default {', '.join(f'{text} in {section}' for section, text in texts.items())})"
    text = next(iter(texts.values()), "")
    return f" (default {text})" if text else ""


def render_value(value: object) -> str:
    """Return a default as text for people; empty where there is none worth telling."""
    if isinstance(value, duration.Duration):
        return duration.render(value)
    if isinstance(value, bool):
        return "true" if value else ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value not in ("", (), None, {}) else ""
