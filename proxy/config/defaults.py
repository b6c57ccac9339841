"""What a field becomes that nobody set: kube-proxy's defaults, and the three that differ because this program does.

As in kube-proxy, the zero of most fields in a file means "not set"; a flag given as zero means zero, because flags are laid
over the defaults. Different here: `mode` stays empty (choose the best), `nftables.minSyncPeriod` is 0 (an update costs the
same however many services there are, so waiting gains nothing), and the file's addresses of servers follow bindAddress
for flags too.
"""

from typing import Final

from msgspec.structs import replace

from proxy.config import addresses
from proxy.config.duration import Duration
from proxy.config.kubeproxy import IPVS, Conntrack, IPTables, KubeProxyConfiguration, NFTables

HEALTHZ_PORT: Final = 10256
METRICS_PORT: Final = 10249
PRIMARY: Final = "primary"
MASQUERADE_BIT: Final = 14
_SYNC_PERIOD: Final = Duration(30)


def fill(config: KubeProxyConfiguration) -> KubeProxyConfiguration:
    """Return the configuration with a value in every field that does not depend on the mode."""
    bind_address = config.bind_address or "0.0.0.0"  # noqa: S104 (kube-proxy's default; nothing listens on it)
    any_host, loopback = _default_hosts(bind_address)
    client = config.client_connection
    return replace(
        config,
        client_connection=replace(
            client,
            content_type=client.content_type or "application/vnd.kubernetes.protobuf",
            qps=client.qps or 5.0,
            burst=client.burst or 10,
        ),
        logging=replace(
            config.logging,
            format=config.logging.format or "text",
            flush_frequency=config.logging.flush_frequency or "5s",
        ),
        bind_address=bind_address,
        healthz_bind_address=addresses.append_port(
            config.healthz_bind_address or any_host, HEALTHZ_PORT
        ),
        metrics_bind_address=addresses.append_port(
            config.metrics_bind_address or loopback, METRICS_PORT
        ),
        iptables=_iptables(config.iptables),
        ipvs=_ipvs(config.ipvs),
        nftables=_nftables(config.nftables),
        detect_local_mode=config.detect_local_mode or "ClusterCIDR",
        oom_score_adj=_either(config.oom_score_adj, -999),
        conntrack=_conntrack(config.conntrack),
        config_sync_period=config.config_sync_period or Duration(15 * 60),
    )


def fill_for_mode(config: KubeProxyConfiguration, mode: str) -> KubeProxyConfiguration:
    """Return the configuration with the default that depends on the mode that will run.

    In mode nftables, NodePorts are served on the node's primary addresses only; in every other mode, and while the mode is
    not chosen yet, on all of them, as by kube-proxy without a mode.
    """
    if mode == "nftables" and not config.node_port_addresses:
        return replace(config, node_port_addresses=(PRIMARY,))
    return config


def _default_hosts(bind_address: str) -> tuple[str, str]:
    try:
        family = addresses.family_of(addresses.parse_ip(bind_address))
    except ValueError:  # the validation will say so
        family = "IPv4"
    return ("::", "::1") if family == "IPv6" else ("0.0.0.0", "127.0.0.1")  # noqa: S104 (probes come from outside)


def _iptables(section: IPTables) -> IPTables:
    return replace(
        section,
        masquerade_bit=_either(section.masquerade_bit, MASQUERADE_BIT),
        localhost_node_ports=section.localhost_node_ports is not False,
        sync_period=section.sync_period or _SYNC_PERIOD,
        min_sync_period=section.min_sync_period or Duration(1),
    )


def _ipvs(section: IPVS) -> IPVS:
    return replace(
        section,
        sync_period=section.sync_period or _SYNC_PERIOD,
        scheduler=section.scheduler or "rr",
    )


def _nftables(section: NFTables) -> NFTables:
    return replace(
        section,
        masquerade_bit=_either(section.masquerade_bit, MASQUERADE_BIT),
        sync_period=section.sync_period or _SYNC_PERIOD,
    )


def _conntrack(section: Conntrack) -> Conntrack:
    established, close_wait = section.tcp_established_timeout, section.tcp_close_wait_timeout
    return replace(
        section,
        max_per_core=_either(section.max_per_core, 32 * 1024),
        min=_either(section.min, 128 * 1024),
        tcp_established_timeout=Duration(24 * 3600) if established is None else established,
        tcp_close_wait_timeout=Duration(3600) if close_wait is None else close_wait,
    )


def _either(value: int | None, default: int) -> int:
    return default if value is None else value
