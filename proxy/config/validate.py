"""The rules a configuration must keep, as kube-proxy checks them: every broken one is named, not only the first.

Takes the configuration with its defaults and the mode that will run. Periods, ranges and IPVS settings that are not read in
that mode are not judged, so that a file which is fine for kube-proxy is fine here.
"""

from collections.abc import Callable, Iterator
from typing import Final

from proxy.config import addresses, modes
from proxy.config.defaults import PRIMARY
from proxy.config.kubeproxy import IPVS, KubeProxyConfiguration

Problem = tuple[str, str]
"""A field path, and what is allowed there."""

_INT32_MAX: Final = 2**31 - 1
_LOCAL_MODES: Final = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_LOG_FORMATS: Final = ("text", "json")
_SCHEDULERS: Final = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")


def problems(config: KubeProxyConfiguration, mode: str) -> Iterator[Problem]:
    """Yield every rule that the configuration breaks."""
    yield from _text(addresses.parse_ip, "bindAddress", config.bind_address)
    for field, address in (
        ("healthzBindAddress", config.healthz_bind_address),
        ("metricsBindAddress", config.metrics_bind_address),
    ):
        if address:  # a flag may switch the server off
            yield from _text(addresses.parse_host_port, field, address)
    yield from _within("clientConnection.burst", config.client_connection.burst, 0, _INT32_MAX)
    yield from _within("oomScoreAdj", config.oom_score_adj, -1000, 1000)
    yield from _within("logging.verbosity", config.logging.verbosity, 0, _INT32_MAX)
    yield from _one_of("logging.format", config.logging.format, _LOG_FORMATS)
    yield from _longer_than_zero("configSyncPeriod", config.config_sync_period)
    yield from _within("iptables.masqueradeBit", config.iptables.masquerade_bit, 0, 31)
    yield from _within("nftables.masqueradeBit", config.nftables.masquerade_bit, 0, 31)
    yield from _sync_periods(config, mode)
    yield from _conntrack(config)
    if mode == "ipvs":
        yield from ipvs(config.ipvs)
    yield from _local_traffic(config)
    yield from _node_port_addresses(config.node_port_addresses)


def _sync_periods(config: KubeProxyConfiguration, mode: str) -> Iterator[Problem]:
    name, section = modes.periods(config, mode)
    yield from _longer_than_zero(f"{name}.syncPeriod", section.sync_period)
    yield from _not_negative(f"{name}.minSyncPeriod", section.min_sync_period)
    if section.min_sync_period > section.sync_period:
        yield f"{name}.minSyncPeriod", f"must not be longer than {name}.syncPeriod"


def _conntrack(config: KubeProxyConfiguration) -> Iterator[Problem]:
    conntrack = config.conntrack
    yield from _within("conntrack.maxPerCore", conntrack.max_per_core, 0, _INT32_MAX)
    yield from _within("conntrack.min", conntrack.min, 0, _INT32_MAX)
    yield from _not_negative("conntrack.tcpEstablishedTimeout", conntrack.tcp_established_timeout)
    yield from _not_negative("conntrack.tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout)
    yield from _not_negative("conntrack.udpTimeout", conntrack.udp_timeout)
    yield from _not_negative("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout)


def ipvs(section: IPVS) -> Iterator[Problem]:
    """Yield every rule that the section of mode ipvs breaks."""
    yield from _one_of("ipvs.scheduler", section.scheduler, _SCHEDULERS)
    yield from _not_negative("ipvs.tcpTimeout", section.tcp_timeout)
    yield from _not_negative("ipvs.tcpFinTimeout", section.tcp_fin_timeout)
    yield from _not_negative("ipvs.udpTimeout", section.udp_timeout)
    for index, cidr in enumerate(section.exclude_cidrs):
        yield from _text(addresses.parse_cidr, f"ipvs.excludeCIDRs[{index}]", cidr)


def _local_traffic(config: KubeProxyConfiguration) -> Iterator[Problem]:
    match config.detect_local_mode:
        case "ClusterCIDR":
            yield from _cluster_cidr(config.cluster_cidr)
        case "BridgeInterface" if not config.detect_local.bridge_interface:
            yield (
                "detectLocal.bridgeInterface",
                "must name the bridge, because detectLocalMode is BridgeInterface",
            )
        case "InterfaceNamePrefix" if not config.detect_local.interface_name_prefix:
            yield (
                "detectLocal.interfaceNamePrefix",
                "must not be empty, because detectLocalMode is InterfaceNamePrefix",
            )
        case mode:
            yield from _one_of("detectLocalMode", mode, _LOCAL_MODES)


def _cluster_cidr(text: str) -> Iterator[Problem]:
    cidrs = [part for part in text.split(",") if text]
    broken = [
        problem for cidr in cidrs for problem in _text(addresses.parse_cidr, "clusterCIDR", cidr)
    ]
    if broken:
        yield from broken
    elif len(cidrs) > 2:
        yield (
            "clusterCIDR",
            f"must be one CIDR, or one of each family with a comma between; got {len(cidrs)}",
        )
    elif (
        len(cidrs) == 2
        and len({addresses.family_of(addresses.parse_cidr(cidr)) for cidr in cidrs}) == 1
    ):
        yield (
            "clusterCIDR",
            f"two CIDRs must be one of each family, such as 10.244.0.0/16,fd00:10:244::/56; got {text!r}",
        )


def _node_port_addresses(entries: tuple[str, ...]) -> Iterator[Problem]:
    if PRIMARY in entries:
        if len(entries) > 1:
            yield "nodePortAddresses", f"{PRIMARY} must stand alone; it cannot be mixed with CIDRs"
        return
    for index, entry in enumerate(entries):
        try:
            addresses.parse_cidr(entry)
        except ValueError:
            hint = (
                f"{addresses.CIDR_FORM}, or the list must be the one word {PRIMARY}; got {entry!r}"
            )
            yield f"nodePortAddresses[{index}]", hint


def _within(field: str, value: int | None, low: int, high: int) -> Iterator[Problem]:
    if value is not None and not low <= value <= high:
        yield field, f"must be {low} to {high}, got {value}"


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> Iterator[Problem]:
    if value not in allowed:
        yield field, f"must be one of {', '.join(allowed)}, got {value!r}"


def _longer_than_zero(field: str, value: float) -> Iterator[Problem]:
    if value <= 0:
        yield field, "must be longer than 0"


def _not_negative(field: str, value: float | None) -> Iterator[Problem]:
    if value is not None and value < 0:
        yield field, "must be 0 or longer"


def _text(parse: Callable[[str], object], field: str, text: str) -> Iterator[Problem]:
    try:
        parse(text)
    except ValueError as error:
        yield field, str(error)
