"""`sliceproxy/v1alpha1 SliceProxyConfiguration`: the settings only this program has, in the file of `--sliceproxy-config`.

KubeProxyConfiguration is never extended, so that kubeadm and kube-proxy keep accepting it. As this format is ours alone, it
is read strictly: an unknown or repeated field is an error.
"""

from collections.abc import Callable
from typing import Final

from proxy.config import document
from proxy.config.duration import Duration
from proxy.config.kubeproxy import Wire
from proxy.config.modes import MODES
from proxy.errors import ConfigError

API_VERSION: Final = "sliceproxy/v1alpha1"
KIND: Final = "SliceProxyConfiguration"

FALLBACKS: Final = ("", "userspace")


class Debug(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may see the debug pages, which show every Service and endpoint of the cluster.

    `allow_non_loopback`: serve them also where `metricsBindAddress` is no loopback address. Otherwise such an address
    serves the metrics alone.
    """

    allow_non_loopback: bool = False


class SliceProxyConfiguration(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Our own settings.

    `mode`: as in KubeProxyConfiguration, and stronger than it; also `userspace` and `null`, which kube-proxy does not know.
    `fallback`: what to do when the mode is chosen automatically and this kernel supports none: empty for exiting
    with what is missing, `userspace` for forwarding connections in this process.
    `verify_period`: how often everything in the kernel is read back in the background, compared and repaired.
    `generation_poll_period`: how often the kernel is asked, cheaply, whether somebody else changed something.
    """

    api_version: str = API_VERSION
    kind: str = KIND
    mode: str = ""
    fallback: str = ""
    verify_period: Duration = Duration(60)
    generation_poll_period: Duration = Duration(1)
    debug: Debug = Debug()


FIELDS: Final[dict[str, tuple[str, str]]] = {
    "mode": ("mode", "`nftables`, `ipvs`, `iptables`, `userspace`, `\"null\"` (in quotes) or empty; stronger than `mode` of KubeProxyConfiguration and than `--proxy-mode`"),
    "fallback": ("fallback", "`userspace` or empty: what to do when no mode is set and this kernel supports none; empty means to exit and say what is missing"),
    "verifyPeriod": ("verify_period_s", "longer than 0: how often everything in the kernel is read back in the background, compared and repaired"),
    "generationPollPeriod": ("generation_poll_period_s", "longer than 0: how often the kernel is asked whether somebody else changed something"),
    "debug.allowNonLoopback": ("debug_allow_non_loopback", "serve the debug pages also where metricsBindAddress is no loopback address"),
}  # fmt: skip
"""For each field: the attribute of Settings it ends in, and its meaning, for docs/configuration.md."""


def load(path: str, read_file: Callable[[str], bytes]) -> SliceProxyConfiguration:
    """Return what the file says; raise ConfigError for anything in it that is not understood."""
    read = document.read(path, read_file)
    if read.warnings:
        raise ConfigError("\n".join(read.warnings))
    document.check_kind(path, read.data, API_VERSION, KIND)
    if "mode" in read.nulls:
        raise ConfigError(
            f'{path}: mode: null without quotes is YAML for "not set"; write "null" in quotes or remove the field'
        )
    config = document.convert(path, read.data, SliceProxyConfiguration)
    problems = tuple(f"{path}: {problem}" for problem in _problems(config))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _problems(config: SliceProxyConfiguration) -> list[str]:
    problems = []
    if config.mode not in MODES:
        problems.append(f"mode: must be {', '.join(MODES[1:])} or empty, got {config.mode!r}")
    if config.fallback not in FALLBACKS:
        problems.append(f"fallback: must be userspace or empty, got {config.fallback!r}")
    if config.verify_period <= 0:
        problems.append("verifyPeriod: must be longer than 0")
    if config.generation_poll_period <= 0:
        problems.append("generationPollPeriod: must be longer than 0")
    return problems
