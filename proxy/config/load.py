"""The way in: the parsed command line becomes `Settings` and warnings, or a ConfigError that names every mistake.

Two callers: the composition root, and `--write-config-to`. Both pass a function that reads files; tests pass a dict's.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from proxy.config import (
    addresses,
    defaults,
    duration,
    flags,
    kubeproxy,
    layers,
    modes,
    settings,
    validate,
)
from proxy.config import own as own_file
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.config.modes import OWN_MODES
from proxy.config.own import SliceProxyConfiguration
from proxy.config.settings import Settings
from proxy.errors import ConfigError

ReadFile = Callable[[str], bytes]


class _Valid(NamedTuple):
    config: KubeProxyConfiguration
    origins: layers.Origins
    own: SliceProxyConfiguration
    mode: str
    warnings: tuple[str, ...]


def load(
    args: argparse.Namespace, *, hostname: str, read_file: ReadFile
) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings and what the operator should know about them.

    `args` comes from a parser that `flags.add_flags` prepared, `hostname` is what the host calls itself, `read_file` returns the
    bytes of a file or raises OSError. Raises ConfigError.
    """
    valid = _validated(args, read_file)
    if _passed(args, "manifests") and _passed(args, "watch_events"):
        raise ConfigError(
            "--watch-events: cannot be combined with --manifests; objects come from one source"
        )
    for flag in ("manifests", "watch_events"):
        if _passed(args, flag) == "":
            raise ConfigError(
                f"--{flag.replace('_', '-')}: is empty; name where objects come from"
            )
    program = settings.Program(
        master=_passed(args, "master") or "",
        manifests=_passed(args, "manifests"),
        watch_events=_passed(args, "watch_events"),
        state_dir=_passed(args, "state_dir") or flags.DEFAULT_STATE_DIR,
        config_file=valid.origins.file,
        sliceproxy_config_file=_passed(args, "sliceproxy_config") or "",
    )
    node_name = _node_name(valid, hostname)
    return settings.resolve(
        valid.config, valid.own, program, valid.mode, node_name
    ), valid.warnings


def write_config(args: argparse.Namespace, *, read_file: ReadFile) -> tuple[str, tuple[str, ...]]:
    """Return the KubeProxyConfiguration with all defaults as YAML that kube-proxy accepts too, and warnings.

    Raises ConfigError, as kube-proxy validates before it writes. What the format cannot say is a warning.
    """
    import yaml  # noqa: PLC0415 (slow to import, and only this command needs it)

    valid = _validated(args, read_file)
    config, warnings = valid.config, list(valid.warnings)
    if config.mode in OWN_MODES:
        warnings.append(
            f"mode {config.mode} is not written, since kube-proxy does not know it; name it in the file of --sliceproxy-config"
        )
        config = kubeproxy.put(config, "mode", "")
    warnings += [
        f"{field} is written empty, which a file reads as the default; only a flag can switch the server off"
        for field in ("healthzBindAddress", "metricsBindAddress")
        if not kubeproxy.get(config, field)
    ]
    text: str = yaml.safe_dump(msgspec.to_builtins(config, enc_hook=_encode), sort_keys=True)
    return text, tuple(warnings)


def _validated(args: argparse.Namespace, read_file: ReadFile) -> _Valid:
    config, origins, warnings = layers.combine(args, read_file)
    path = _passed(args, "sliceproxy_config")
    own = own_file.load(path, read_file) if path else SliceProxyConfiguration()
    mode = own.mode or config.mode
    given, config = config, defaults.fill_for_mode(config, mode)
    mistakes = [
        f"{origins.label(field)}: {problem}" for field, problem in validate.problems(config, mode)
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    more = []
    if own.mode and config.mode and own.mode != config.mode:
        more.append(
            f"{path}: mode: {own.mode} is used, not {config.mode} of {origins.label('mode')}"
        )
    if own.mode:
        more += _node_ports_warnings(path, given, mode)
    more += _unread_sections(config, origins, mode)
    more += _local_traffic_warnings(config, origins)
    return _Valid(config, origins, own, mode, (*warnings, *more))


def _node_ports_warnings(
    path: str | None, given: KubeProxyConfiguration, mode: str
) -> Iterator[str]:
    """Yield a warning where the mode of our own file (`path`) moves NodePorts to other addresses than kube-proxy has them at."""
    kube_proxys = defaults.fill_for_mode(given, given.mode).node_port_addresses
    ours = defaults.fill_for_mode(given, mode).node_port_addresses
    if kube_proxys != ours:
        where = "at the node's primary addresses only" if ours else "at all addresses of the node"
        yield f"{path}: mode: in mode {mode} NodePorts are served {where}; write nodePortAddresses, [primary] or others"


def _unread_sections(
    config: KubeProxyConfiguration, origins: layers.Origins, mode: str
) -> Iterator[str]:
    """Yield a warning for settings that kube-proxy would have read: it knows no mode but that of its file, and none means iptables."""
    plain = defaults.fill(KubeProxyConfiguration())
    ours = modes.paths(config, mode)
    for field, path in modes.paths(config, config.mode or "iptables").items():
        value = kubeproxy.get(config, path)
        if value in (kubeproxy.get(plain, path), kubeproxy.get(config, ours[field])):
            continue
        where = f"in mode {mode}" if mode else "while no mode is set"
        way_out = f"write {ours[field]}" if mode else f"write {ours[field]}, or mode: iptables"
        yield f"{origins.label(path)}: not read {where}, unlike by kube-proxy; {way_out}"


def _local_traffic_warnings(
    config: KubeProxyConfiguration, origins: layers.Origins
) -> Iterator[str]:
    """Yield a warning for settings that silently leave something open."""
    if config.detect_local_mode == "ClusterCIDR" and not config.cluster_cidr:
        yield (
            "clusterCIDR is empty: traffic of local pods cannot be told from other traffic, so that traffic to cluster IPs is "
            "not masqueraded (unless masqueradeAll is set), and pods count as outside clients of node ports and load balancers"
        )
    ranges = [entry for entry in config.node_port_addresses if entry != defaults.PRIMARY]
    families = {addresses.family_of(addresses.parse_cidr(entry)) for entry in ranges}
    if len(families) == 1:
        closed = families.pop()
        yield f"{origins.label('nodePortAddresses')}: has ranges of {closed} only; NodePorts stay open on every address of the other family"


def _node_name(valid: _Valid, hostname: str) -> str:
    override = valid.config.hostname_override
    name = (override or hostname).strip().lower()
    if not name:
        what = valid.origins.label("hostnameOverride") if override else "host name"
        raise ConfigError(
            f"{what}: must not be blank; give the Node's name with --hostname-override"
        )
    return name


def _passed(args: argparse.Namespace, name: str) -> str | None:
    value: str | None = getattr(args, name, None)
    return value


def _encode(value: duration.Duration) -> str:
    return duration.render(value)
