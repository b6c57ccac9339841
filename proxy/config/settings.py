"""`Settings`: the resolved settings everything else reads, and how they follow from a valid configuration.

Nothing reads a configuration file's own types but this package: whoever needs a setting takes it from here, in the unit and form
that the code wants.
"""

from typing import Literal, cast

from proxy.config import addresses, modes, validate
from proxy.config.addresses import HostPort
from proxy.config.gates import DEFAULTS
from proxy.config.kubeproxy import IPVS, Conntrack, KubeProxyConfiguration
from proxy.config.own import ApiServer, Ipvs, SliceProxyConfiguration, Userspace
from proxy.model import Value

Mode = Literal["", "nftables", "ipvs", "iptables", "userspace", "null"]
LocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
LogFormat = Literal["text", "json"]


class ConntrackSettings(Value, frozen=True, kw_only=True):
    """The kernel's connection tracking. A timeout of 0 leaves the kernel's value as it is."""

    max_per_core: int
    """Connections to track for each CPU; 0 leaves the limit alone and ignores `min`."""
    min: int
    """Connections to track at least."""
    tcp_established_timeout_s: float
    tcp_close_wait_timeout_s: float
    tcp_be_liberal: bool
    """Only ever switched on: False leaves the kernel's value as it is."""
    udp_timeout_s: float
    udp_stream_timeout_s: float


class IpvsSettings(Value, frozen=True, kw_only=True):
    """What only mode ipvs reads. A timeout of 0 leaves the kernel's value as it is."""

    scheduler: str
    exclude_cidrs: tuple[str, ...]
    """Virtual servers in these canonical ranges are not ours to remove."""
    strict_arp: bool
    tcp_timeout_s: float
    tcp_fin_timeout_s: float
    udp_timeout_s: float
    drain_timeout_s: float
    """How long a destination that nobody wants any more keeps its TCP connections."""
    problem: str = ""
    """Why mode ipvs cannot run with its section of the file: judged here where no mode is set, so that it may be tried."""


class UserspaceSettings(Value, frozen=True, kw_only=True):
    """What only mode userspace reads. What each means stands at `own.Userspace`."""

    scheduler: Literal["rr", "lc"]
    connect_timeout_s: float
    tcp_idle_timeout_s: float
    """0 for ever."""
    udp_idle_timeout_s: float
    drain_timeout_s: float
    uses_proxy_protocol: bool


class ApiServerSettings(Value, frozen=True, kw_only=True):
    """How to talk to the API server. What each means stands at `own.ApiServer`."""

    backoff_first_s: float
    backoff_max_s: float
    connect_timeout_s: float
    silence_timeout_s: float
    resume_within_s: float
    list_page_size: int
    """0 for everything in one page."""
    uses_watch_list: bool
    """Try WatchList before lists."""
    watch_list_timeout_s: float
    exec_timeout_s: float


class Settings(Value, frozen=True, kw_only=True):
    """All settings, resolved. Durations are float seconds, addresses and ranges canonical text."""

    node_name: str
    """Name of the own Node: the override or the host's name, trimmed and in lower case."""
    mode: Mode
    """The backend asked for; empty means the best one this host supports."""
    fallback: Literal["", "userspace"]
    """What a mode that was asked for ends in when it cannot run here, or can program nothing any more; empty for nothing else."""
    fallback_after_s: float
    """How long nothing may be programmed before another mode takes over."""

    kubeconfig: str
    """Path of the kubeconfig; empty for the pod's service account."""
    master: str
    """URL of the API server, instead of the kubeconfig's; empty for none."""
    api_server: ApiServerSettings
    """How to talk to it."""
    client_qps: float
    """Accepted for kube-proxy's sake: three watches never come near any limit, and `api_server` bounds their retries."""
    client_burst: int
    """As `client_qps`."""
    config_sync_period_s: float
    """Accepted for kube-proxy's sake: its resync hands out again what it has cached. Here every stage keeps the latest state."""
    manifests: str | None
    """File or directory to read objects from instead of an API server."""
    watch_events: str | None
    """File with a stream of watch events (`-` is standard input) to read instead of an API server."""

    bind_address: str
    """The node's primary address as the operator sees it; unspecified (`0.0.0.0`, `::`) says nothing. Nothing listens on it."""
    healthz_bind: HostPort | None
    """Where /healthz and /livez are served; None when switched off."""
    metrics_bind: HostPort | None
    """Where /metrics and the debug pages are served; None when switched off."""
    bind_address_hard_fail: bool
    """Exit when one of them cannot listen, instead of trying again."""
    debug_allow_non_loopback: bool
    """Serve the debug pages also where `metrics_bind` is no loopback address."""

    detect_local_mode: LocalMode
    """How traffic of this node's pods is told from other traffic."""
    cluster_cidrs: tuple[str, ...]
    """The pods' ranges, at most one of each family; empty unless the mode is ClusterCIDR. A family without one has no detection."""
    bridge_interface: str
    """The bridge of local pods; read in mode BridgeInterface."""
    interface_name_prefix: str
    """How the names of local pods' interfaces start; read in mode InterfaceNamePrefix."""
    node_port_addresses: tuple[str, ...]
    """Ranges whose node addresses serve NodePorts, or (`primary`,). A family without a range is open on all its addresses."""
    localhost_node_ports: bool
    """Serve NodePorts at localhost, where `node_port_addresses` leaves that open; see `proxy.localhost`."""

    masquerade_all: bool
    """SNAT all traffic to cluster IPs."""
    masquerade_mark: int
    """The packet mark, one bit, of traffic that needs SNAT."""
    sync_period_s: float
    """A change that waits for twice this is unhealthy, as if kube-proxy had missed a full sync."""
    min_sync_period_s: float
    """Pause from the end of a reconcile to the start of the next; 0 for none."""
    verify_period_s: float
    """How often everything in the kernel is read back in the background, compared and repaired."""
    generation_poll_period_s: float
    """How often the kernel is asked whether somebody else changed something."""
    conntrack: ConntrackSettings
    ipvs: IpvsSettings
    userspace: UserspaceSettings

    configuration: KubeProxyConfiguration
    """What the above follows from, with every default, for whoever asks at /configz."""
    feature_gates: tuple[tuple[str, bool], ...]
    """The gates that were set, by name; ask `is_enabled`."""
    oom_score_adj: int
    """Written to the own process; -1000 to 1000."""
    verbosity: int
    """How much is logged."""
    log_format: LogFormat
    state_dir: str
    """Directory of the state that must outlive a restart."""
    config_file: str
    """Path of the KubeProxyConfiguration that was read, to be watched for changes; empty for none."""
    sliceproxy_config_file: str
    """Path of the SliceProxyConfiguration that was read; empty for none."""

    def is_enabled(self, gate: str) -> bool:
        """Return whether a feature gate is on; asking for a gate without a default is a mistake of ours."""
        return dict(self.feature_gates).get(gate, DEFAULTS[gate])


class Program(Value, frozen=True, kw_only=True):
    """What the command line alone says, besides the configuration."""

    master: str = ""
    manifests: str | None = None
    watch_events: str | None = None
    state_dir: str
    config_file: str = ""
    sliceproxy_config_file: str = ""


def resolve(
    config: KubeProxyConfiguration,
    own: SliceProxyConfiguration,
    program: Program,
    mode: str,
    node_name: str,
) -> Settings:
    """Return the settings of a configuration that is complete and valid for this mode."""
    _, periods = modes.periods(config, mode)
    _, masquerade = modes.masquerade(config, mode)
    return Settings(
        node_name=node_name,
        mode=cast("Mode", mode),
        fallback=cast("Literal['', 'userspace']", own.fallback),
        fallback_after_s=float(own.fallback_after),
        kubeconfig=config.client_connection.kubeconfig,
        master=program.master,
        api_server=_api_server(own.api_server),
        client_qps=config.client_connection.qps,
        client_burst=config.client_connection.burst,
        config_sync_period_s=float(config.config_sync_period),
        manifests=program.manifests,
        watch_events=program.watch_events,
        bind_address=addresses.parse_ip(config.bind_address),
        healthz_bind=_server(config.healthz_bind_address),
        metrics_bind=_server(config.metrics_bind_address),
        bind_address_hard_fail=config.bind_address_hard_fail,
        debug_allow_non_loopback=own.debug.allow_non_loopback,
        detect_local_mode=cast("LocalMode", config.detect_local_mode),
        cluster_cidrs=cluster_cidrs(config),
        bridge_interface=config.detect_local.bridge_interface,
        interface_name_prefix=config.detect_local.interface_name_prefix,
        node_port_addresses=tuple(_range(entry) for entry in config.node_port_addresses),
        localhost_node_ports=bool(config.iptables.localhost_node_ports),
        masquerade_all=masquerade.masquerade_all,
        masquerade_mark=1 << _filled(masquerade.masquerade_bit),
        sync_period_s=float(periods.sync_period),
        min_sync_period_s=float(periods.min_sync_period),
        verify_period_s=float(own.verify_period),
        generation_poll_period_s=float(own.generation_poll_period),
        conntrack=_conntrack(config.conntrack),
        ipvs=_ipvs(config.ipvs, own.ipvs, mode),
        userspace=_userspace(own.userspace),
        configuration=config,
        feature_gates=tuple(sorted(config.feature_gates.items())),
        oom_score_adj=_filled(config.oom_score_adj),
        verbosity=config.logging.verbosity,
        log_format=cast("LogFormat", config.logging.format),
        state_dir=program.state_dir,
        config_file=program.config_file,
        sliceproxy_config_file=program.sliceproxy_config_file,
    )


def cluster_cidrs(config: KubeProxyConfiguration) -> tuple[str, ...]:
    """Return the ranges of pods that are read: none unless the mode is ClusterCIDR."""
    if config.detect_local_mode != "ClusterCIDR" or not config.cluster_cidr:
        return ()
    return tuple(addresses.parse_cidr(part) for part in config.cluster_cidr.split(","))


def _filled(value: int | None) -> int:
    return cast("int", value)  # None, which means "not set", is gone once the defaults are in


def _server(text: str) -> HostPort | None:
    return addresses.parse_host_port(text) if text else None


def _range(entry: str) -> str:
    return addresses.parse_cidr(entry) if "/" in entry else entry


def _api_server(section: ApiServer) -> ApiServerSettings:
    return ApiServerSettings(
        backoff_first_s=float(section.backoff_first),
        backoff_max_s=float(section.backoff_max),
        connect_timeout_s=float(section.connect_timeout),
        silence_timeout_s=float(section.silence_timeout),
        resume_within_s=float(section.resume_within),
        list_page_size=section.list_page_size,
        uses_watch_list=section.watch_list == "auto",
        watch_list_timeout_s=float(section.watch_list_timeout),
        exec_timeout_s=float(section.exec_timeout),
    )


def _conntrack(section: Conntrack) -> ConntrackSettings:
    return ConntrackSettings(
        max_per_core=_filled(section.max_per_core),
        min=_filled(section.min),
        tcp_established_timeout_s=float(section.tcp_established_timeout or 0),
        tcp_close_wait_timeout_s=float(section.tcp_close_wait_timeout or 0),
        tcp_be_liberal=section.tcp_be_liberal,
        udp_timeout_s=float(section.udp_timeout),
        udp_stream_timeout_s=float(section.udp_stream_timeout),
    )


def _ipvs(section: IPVS, ours: Ipvs, mode: str) -> IpvsSettings:
    # kube-proxy does not judge what it does not read: where the mode is not ipvs, these may be no ranges at all
    problem = (
        "; ".join([f"{field}: {words}" for field, words in validate.ipvs(section)])
        if not mode
        else ""
    )
    is_read = mode in {"", "ipvs"} and not problem
    return IpvsSettings(
        scheduler=section.scheduler,
        problem=problem,
        exclude_cidrs=tuple(addresses.parse_cidr(cidr) for cidr in section.exclude_cidrs)
        if is_read
        else (),
        strict_arp=section.strict_arp,
        tcp_timeout_s=float(section.tcp_timeout),
        tcp_fin_timeout_s=float(section.tcp_fin_timeout),
        udp_timeout_s=float(section.udp_timeout),
        drain_timeout_s=float(ours.drain_timeout),
    )


def _userspace(section: Userspace) -> UserspaceSettings:
    return UserspaceSettings(
        scheduler=cast("Literal['rr', 'lc']", section.scheduler),
        connect_timeout_s=float(section.connect_timeout),
        tcp_idle_timeout_s=float(section.tcp_idle_timeout),
        udp_idle_timeout_s=float(section.udp_idle_timeout),
        drain_timeout_s=float(section.drain_timeout),
        uses_proxy_protocol=section.proxy_protocol,
    )
