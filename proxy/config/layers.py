"""Flags over file over defaults: one complete KubeProxyConfiguration, and for each field where its value came from.

kube-proxy's rule decides which layer counts: with `--config` the file does, and of the flags only those for logging,
for the node's name and for the program itself; without it the flags do. Here every flag that is left out is named.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from proxy.config import addresses, defaults, document, fields, flags, gates, kubeproxy, modes
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.errors import ConfigError


class Origins(NamedTuple):
    """Where values come from, to name the place in errors and warnings."""

    file: str
    flag_of: dict[str, str]

    def label(self, path: str) -> str:
        """Return the flag that set a field, else the file and the field."""
        flag = self.flag_of.get(path.partition("[")[0])
        if flag:
            return f"--{flag}"
        return f"{self.file}: {path}" if self.file else path


class Layered(NamedTuple):
    """A configuration with the defaults that do not depend on the mode; not validated yet, but for its types and its mode."""

    config: KubeProxyConfiguration
    origins: Origins
    warnings: tuple[str, ...]


def combine(args: argparse.Namespace, read_file: Callable[[str], bytes]) -> Layered:
    """Return the configuration that file and flags make together; raise ConfigError for what cannot be read."""
    file: str = getattr(args, "config", None) or ""
    warnings: list[str] = []
    given = dict(flags.passed(args))
    base = _read(file, read_file, warnings) if file else KubeProxyConfiguration()
    if file and (problem := modes.problem(base.mode, is_from_file=True)):
        raise ConfigError(f"{file}: mode: {problem}")
    if given.get(flags.HOSTNAME_OVERRIDE) == "":
        # as in kube-proxy, an empty name leaves the file's alone
        del given[flags.HOSTNAME_OVERRIDE]
    used = {flag: value for flag, value in given.items() if flag.keeps_with_config or not file}
    warnings += [_ignored(flag, file) for flag in given if flag not in used]
    config, origins = _overlay(base, file, used)
    if not file and (problem := modes.problem(config.mode, is_from_file=False)):
        raise ConfigError(f"--proxy-mode: {problem}")
    warnings += _flag_warnings(used)
    warnings += [
        f"{origins.label(path)}: has no effect: {reason}"
        for path, reason in fields.without_effect(config)
    ]
    warnings += [
        f"{origins.label('featureGates')}: {gate}: {advice}"
        for gate, advice in gates.warnings(config.feature_gates)
    ]
    return Layered(config, origins, tuple(warnings))


def _read(
    file: str, read_file: Callable[[str], bytes], warnings: list[str]
) -> KubeProxyConfiguration:
    read = document.read(file, read_file)
    warnings += read.warnings
    document.check_kind(file, read.data, kubeproxy.API_VERSION, kubeproxy.KIND)
    unknown = kubeproxy.unknown_fields(read.data, fields.describe_unknown)
    buried = [
        f"{path}: {fields.describe_unknown(path)}" for path in fields.buried_switches(read.data)
    ]
    warnings += [f"{file}: {text}" for text in dict.fromkeys((*unknown, *buried))]
    _check_gates(file, read.data.get("featureGates", {}))
    return document.convert(file, read.data, KubeProxyConfiguration)


def _check_gates(file: str, value: object) -> None:
    """Raise ConfigError naming the gate; the decoder knows only that some value of the mapping is no boolean."""
    for gate, state in value.items() if isinstance(value, dict) else ():
        if not isinstance(state, bool):
            raise ConfigError(f"{file}: featureGates.{gate}: must be true or false, got {state!r}")


def _overlay(
    base: KubeProxyConfiguration, file: str, used: dict[flags.Flag, object]
) -> tuple[KubeProxyConfiguration, Origins]:
    """Lay the flags over the filled file: there, unlike in the file, a zero is a zero and an empty text is empty."""
    values = {flag.name: value for flag, value in used.items()}
    address = values.get("bind-address")
    filled = defaults.fill(kubeproxy.put(base, "bindAddress", address) if address else base)
    config = filled
    flag_of: dict[str, str] = {}
    for flag, value in used.items():
        for path in flag.fields:
            flag_of[path] = flag.name
            if flag.name not in flags.PORT_FLAGS:
                config = kubeproxy.put(config, path, value)
    for port_flag, field, default_port in (
        ("healthz-port", "healthzBindAddress", defaults.HEALTHZ_PORT),
        ("metrics-port", "metricsBindAddress", defaults.METRICS_PORT),
    ):
        if field in flag_of:
            wanted, port = values.get(flags.PORT_FLAGS[port_flag]), values.get(port_flag)
            server = _server(wanted, port, kubeproxy.get(filled, field), default_port)
            config = kubeproxy.put(config, field, server)
    return config, Origins(file, flag_of)


def _server(address: object, port: object, default: object, default_port: int) -> str:
    """Return the address of a server from its two flags; the deprecated port counts where the address has none."""
    if port == 0:
        return ""
    number = port if isinstance(port, int) else default_port
    if isinstance(address, str):
        return addresses.append_port(address, number) if address else ""
    return str(addresses.parse_host_port(str(default))._replace(port=number))


def _flag_warnings(used: dict[flags.Flag, object]) -> list[str]:
    warnings = []
    for flag, value in used.items():
        if flag.name in flags.PORT_FLAGS:
            warnings.append(f"--{flag.name}: deprecated; write --{flags.PORT_FLAGS[flag.name]}")
        if flag.reason and value not in flag.harmless:
            warnings.append(f"--{flag.name}: has no effect: {flag.reason}")
    return warnings


def _ignored(flag: flags.Flag, file: str) -> str:
    text = f"--{flag.name}: ignored, as by kube-proxy, because --config is given"
    return f"{text}; set {' or '.join(flag.fields)} in {file}" if flag.has_effect else text
