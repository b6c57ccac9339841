"""The wire types of `kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration`, as of Kubernetes 1.36.

Every field kube-proxy knows is here under its own name, used or not, so that a file made for kube-proxy is understood as
a whole; `fields` says what each one does in this program. Defaults are Go's zero values: what "not set" becomes
is decided in `defaults`. None stands where kube-proxy tells "not set" from zero.
"""

from collections.abc import Callable
from typing import Final, cast, get_args

import msgspec

from proxy.config.duration import Duration
from proxy.model import Value

API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
KIND: Final = "KubeProxyConfiguration"
_ZERO: Final = Duration(0)


class Wire(Value, frozen=True, kw_only=True, rename="camel"):
    """Base of the wire types: names in camelCase, as Kubernetes writes them."""


class ClientConnection(Wire, frozen=True, kw_only=True):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = ""
    qps: float = 0.0
    burst: int = 0


class OutputRouting(Wire, frozen=True, kw_only=True):
    split_stream: bool = False
    info_buffer_size: str | int = "0"


class FormatOptions(Wire, frozen=True, kw_only=True):
    text: OutputRouting = OutputRouting()
    json: OutputRouting = OutputRouting()


class VModuleItem(Wire, frozen=True, kw_only=True):
    file_pattern: str = ""
    verbosity: int = 0


class Logging(Wire, frozen=True, kw_only=True):
    format: str = ""
    flush_frequency: str | int = 0
    verbosity: int = 0
    vmodule: tuple[VModuleItem, ...] = ()
    options: FormatOptions = FormatOptions()


class IPTables(Wire, frozen=True, kw_only=True):
    masquerade_bit: int | None = None
    masquerade_all: bool = False
    localhost_node_ports: bool | None = None
    sync_period: Duration = _ZERO
    min_sync_period: Duration = _ZERO


class IPVS(Wire, frozen=True, kw_only=True):
    sync_period: Duration = _ZERO
    min_sync_period: Duration = _ZERO
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = msgspec.field(name="excludeCIDRs", default=())
    strict_arp: bool = msgspec.field(name="strictARP", default=False)
    tcp_timeout: Duration = _ZERO
    tcp_fin_timeout: Duration = _ZERO
    udp_timeout: Duration = _ZERO


class NFTables(Wire, frozen=True, kw_only=True):
    masquerade_bit: int | None = None
    masquerade_all: bool = False
    sync_period: Duration = _ZERO
    min_sync_period: Duration = _ZERO


class Winkernel(Wire, frozen=True, kw_only=True):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(name="enableDSR", default=False)
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class DetectLocal(Wire, frozen=True, kw_only=True):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Conntrack(Wire, frozen=True, kw_only=True):
    max_per_core: int | None = None
    min: int | None = None
    tcp_established_timeout: Duration | None = None
    tcp_close_wait_timeout: Duration | None = None
    tcp_be_liberal: bool = False
    udp_timeout: Duration = _ZERO
    udp_stream_timeout: Duration = _ZERO


class KubeProxyConfiguration(Wire, frozen=True, kw_only=True):
    api_version: str = API_VERSION
    kind: str = KIND
    feature_gates: dict[str, bool] = msgspec.field(default_factory=dict)
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: str = ""
    healthz_bind_address: str = ""
    metrics_bind_address: str = ""
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: IPTables = IPTables()
    ipvs: IPVS = IPVS()
    nftables: NFTables = NFTables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: str = msgspec.field(name="clusterCIDR", default="")
    node_port_addresses: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    conntrack: Conntrack = Conntrack()
    config_sync_period: Duration = _ZERO
    port_range: str = ""
    windows_run_as_service: bool = False


def get(config: msgspec.Struct, path: str) -> object:
    """Return the value at a field path such as `iptables.masqueradeBit`."""
    name, _, rest = path.partition(".")
    value: object = getattr(config, _attribute(type(config), name))
    return get(value, rest) if rest and isinstance(value, msgspec.Struct) else value


def put(config: KubeProxyConfiguration, path: str, value: object) -> KubeProxyConfiguration:
    """Return the configuration with another value at a field path; the types are the caller's promise."""
    section, _, name = path.rpartition(".")
    if section:
        inner = cast("Wire", get(config, section))
        return put(
            config,
            section,
            msgspec.structs.replace(inner, **{_attribute(type(inner), name): value}),
        )
    return msgspec.structs.replace(config, **{_attribute(type(config), path): value})


def leaves(
    wire: type[msgspec.Struct] = KubeProxyConfiguration, prefix: str = ""
) -> tuple[str, ...]:
    """Return the path of every field that is not a section itself, in the order of the types."""
    paths: list[str] = []
    for field in msgspec.structs.fields(wire):
        section = _section(field.type)
        path = f"{prefix}{field.encode_name}"
        paths += leaves(section, f"{path}.") if section else [path]
    return tuple(paths)


def unknown_fields(
    data: dict[str, object],
    describe: Callable[[str], str],
    wire: type[msgspec.Struct] = KubeProxyConfiguration,
    prefix: str = "",
) -> tuple[str, ...]:
    """Return `path: description` of every field that kube-proxy does not have either."""
    found: list[str] = []
    known = {field.encode_name: field.type for field in msgspec.structs.fields(wire)}
    for name, value in data.items():
        path = f"{prefix}{name}"
        if name not in known:
            found.append(f"{path}: {describe(path)}")
        elif isinstance(value, dict) and (section := _section(known[name])):
            found += unknown_fields(value, describe, section, f"{path}.")
        elif isinstance(value, list) and (item := _item(known[name])):
            for index, inner in enumerate(value):
                if isinstance(inner, dict):
                    found += unknown_fields(inner, describe, item, f"{path}[{index}].")
    return tuple(found)


def _attribute(wire: type[msgspec.Struct], encode_name: str) -> str:
    return next(
        field.name for field in msgspec.structs.fields(wire) if field.encode_name == encode_name
    )


def _section(annotation: object) -> type[msgspec.Struct] | None:
    return (
        annotation
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)
        else None
    )


def _item(annotation: object) -> type[msgspec.Struct] | None:
    arguments = get_args(annotation)
    return _section(arguments[0]) if arguments else None
