"""`sliceproxy/v1alpha1 SliceProxyConfiguration`: the settings only this program has, in the file of `--sliceproxy-config`.

KubeProxyConfiguration is never extended, so that kubeadm and kube-proxy keep accepting it. As this format is ours alone, it
is read strictly: an unknown or repeated field is an error.
"""

from collections.abc import Callable, Iterator
from typing import Final

from proxy.config import document
from proxy.config.duration import Duration
from proxy.config.kubeproxy import Wire
from proxy.config.modes import MODES
from proxy.errors import ConfigError

API_VERSION: Final = "sliceproxy/v1alpha1"
KIND: Final = "SliceProxyConfiguration"

FALLBACKS: Final = ("", "userspace")
WATCH_LISTS: Final = ("auto", "off")
SCHEDULERS: Final = ("rr", "lc")


class ApiServer(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to talk to the API server, and how to go on when it does not answer.

    `backoff_first` and `backoff_max`: the pause after the first failure, and the longest one; it doubles in between, and
    each is shortened at random by up to half. While a server is away, each node asks it at most about twice in
    `backoff_max`; the default lets a node find a server that is back within two seconds.
    `connect_timeout`: for the connection with its TLS handshake.
    `silence_timeout`: how long an open request may bring nothing. Servers send a bookmark about once a minute, up to
    75 s apart, unless nothing at all has changed and etcd seldom reports progress.
    `resume_within`: a server that could not be reached for longer than this is asked for everything anew when it is back,
    since it may have been restored from a backup; after a shorter gap the watch goes on where it broke off.
    `list_page_size`: objects in one page of a list; 0 asks for all at once.
    `watch_list`: `auto` has objects streamed where the server offers that and lists them where not; `off` always lists.
    `watch_list_timeout`: how long the stream may bring no further object before its end is marked. After that
    the server is taken for one that does not know such streams.
    `exec_timeout`: how long a kubeconfig's exec plugin may take.
    """

    backoff_first: Duration = Duration(0.2)
    backoff_max: Duration = Duration(1.2)
    connect_timeout: Duration = Duration(3)
    silence_timeout: Duration = Duration(90)
    resume_within: Duration = Duration(60)
    list_page_size: int = 500
    watch_list: str = "auto"
    watch_list_timeout: Duration = Duration(10)
    exec_timeout: Duration = Duration(30)


class Debug(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may see the debug pages, which show every Service and endpoint of the cluster.

    `allow_non_loopback`: to others than this host, where `metricsBindAddress` is no loopback address. Otherwise these get the
    metrics alone.
    """

    allow_non_loopback: bool = False


class Ipvs(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What kube-proxy's section `ipvs` has no field for.

    `drain_timeout`: how long a TCP endpoint that is not wanted any more keeps its connections in mode ipvs. The kernel forgets
    a connection that is silent for `ipvs.tcpTimeout`, 15 minutes unless that is set.
    """

    drain_timeout: Duration = Duration(900)


class Userspace(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only mode userspace reads, which forwards connections in this process.

    `scheduler`: how an endpoint is chosen, `rr` (in turn) or `lc` (the one with the fewest connections).
    `connect_timeout`: how long an endpoint may take to accept before another one is tried.
    `tcp_idle_timeout`, `udp_idle_timeout`: how long a connection or flow may be silent before it is ended; for TCP, 0 is for ever.
    `drain_timeout`: how long a connection may go on whose endpoint is not wanted any more, or when the program is told to stop.
    `proxy_protocol`: begin each TCP connection to an endpoint with a header that tells who the client is (PROXY protocol,
    version 2). Only for endpoints that expect one.
    """

    scheduler: str = "rr"
    connect_timeout: Duration = Duration(2)
    tcp_idle_timeout: Duration = Duration(86400)
    udp_idle_timeout: Duration = Duration(120)
    drain_timeout: Duration = Duration(25)
    proxy_protocol: bool = False


class SliceProxyConfiguration(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Our own settings.

    `mode`: as in KubeProxyConfiguration, and stronger than it; also `userspace` and `null`, which kube-proxy does not know.
    `fallback`: what to do when the mode that is named cannot run here, or can program nothing any more: empty for exiting
    with what is missing and for trying on, `userspace` for forwarding connections in this process. Where no mode is named,
    the next one is taken anyway.
    `fallback_after`: how long nothing may be programmed before another mode takes over.
    `verify_period`: how often everything in the kernel is read back in the background, compared and repaired.
    `generation_poll_period`: how often the kernel is asked, cheaply, whether somebody else changed something.
    """

    api_version: str = API_VERSION
    kind: str = KIND
    mode: str = ""
    fallback: str = ""
    fallback_after: Duration = Duration(60)
    verify_period: Duration = Duration(60)
    generation_poll_period: Duration = Duration(1)
    debug: Debug = Debug()
    ipvs: Ipvs = Ipvs()
    userspace: Userspace = Userspace()
    api_server: ApiServer = ApiServer()


FIELDS: Final[dict[str, tuple[str, str]]] = {
    "mode": ("mode", "`nftables`, `ipvs`, `iptables`, `userspace`, `\"null\"` (in quotes) or empty; stronger than `mode` of KubeProxyConfiguration and than `--proxy-mode`"),
    "fallback": ("fallback", "`userspace` or empty: what to do when the mode that is set cannot run here, or can program nothing any more; empty means to exit and say what is missing, or to try on. Where no mode is set, the next one is taken anyway"),
    "fallbackAfter": ("fallback_after_s", "longer than 0: how long nothing may be programmed before another mode takes over"),
    "verifyPeriod": ("verify_period_s", "longer than 0: how often everything in the kernel is read back in the background, compared and repaired"),
    "generationPollPeriod": ("generation_poll_period_s", "longer than 0: how often the kernel is asked whether somebody else changed something"),
    "debug.allowNonLoopback": ("debug_allow_non_loopback", "serve the debug pages to others than this host, where metricsBindAddress is no loopback address"),
    "ipvs.drainTimeout": ("ipvs.drain_timeout_s", "0 or more, mode ipvs: how long a TCP endpoint that goes keeps the connections it has; it leaves when they have ended, at the latest after this time, and then they are reset"),
    "userspace.scheduler": ("userspace.scheduler", "mode userspace: `rr` gives connections to endpoints in turn, `lc` to the one that has the fewest"),
    "userspace.connectTimeout": ("userspace.connect_timeout_s", "longer than 0, mode userspace: how long an endpoint may take to accept a connection before another is tried; four times that where there is no other"),
    "userspace.tcpIdleTimeout": ("userspace.tcp_idle_timeout_s", "0 or more, mode userspace: how long a TCP connection may be silent before it is ended; 0 for ever"),
    "userspace.udpIdleTimeout": ("userspace.udp_idle_timeout_s", "longer than 0, mode userspace: how long a UDP flow may be silent before it is forgotten"),
    "userspace.drainTimeout": ("userspace.drain_timeout_s", "0 or more, mode userspace: how long a connection may go on whose endpoint is not wanted any more, or when the program is told to stop; a pod needs a longer terminationGracePeriodSeconds"),
    "userspace.proxyProtocol": ("userspace.uses_proxy_protocol", "mode userspace: begin each TCP connection to an endpoint with a PROXY protocol header (version 2) that tells who the client is; every endpoint has to expect it"),
    "apiServer.backoffFirst": ("api_server.backoff_first_s", "longer than 0: pause after the first failed request; doubles up to backoffMax, and each is shortened at random by up to half"),
    "apiServer.backoffMax": ("api_server.backoff_max_s", "not shorter than backoffFirst: longest pause between attempts to reach the server, and so about how soon it is found when it is back"),
    "apiServer.connectTimeout": ("api_server.connect_timeout_s", "longer than 0: for the connection with its TLS handshake"),
    "apiServer.silenceTimeout": ("api_server.silence_timeout_s", "longer than 0: how long an open request may bring nothing; servers send a bookmark about once a minute, unless nothing at all changes"),
    "apiServer.resumeWithin": ("api_server.resume_within_s", "0 or more: after a longer time without a reachable server everything is asked for anew, since the server may have lost history; after a shorter one the watch goes on where it broke off"),
    "apiServer.listPageSize": ("api_server.list_page_size", "objects in one page of a list; 0 for all at once"),
    "apiServer.watchList": ("api_server.uses_watch_list", "`auto`: have all objects streamed (WatchList) where the server offers it, list them where not; `off`: always list (in quotes, as YAML reads a bare off as false)"),
    "apiServer.watchListTimeout": ("api_server.watch_list_timeout_s", "longer than 0: how long that stream may bring no further object before its end is marked; then lists are used"),
    "apiServer.execTimeout": ("api_server.exec_timeout_s", "longer than 0: how long the kubeconfig's exec plugin may take"),
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
    if config.fallback_after <= 0:
        problems.append("fallbackAfter: must be longer than 0")
    if config.verify_period <= 0:
        problems.append("verifyPeriod: must be longer than 0")
    if config.generation_poll_period <= 0:
        problems.append("generationPollPeriod: must be longer than 0")
    if config.ipvs.drain_timeout < 0:
        problems.append("ipvs.drainTimeout: must be 0 or more")
    problems += [f"userspace.{problem}" for problem in _userspace_problems(config.userspace)]
    return problems + [f"apiServer.{problem}" for problem in _api_problems(config.api_server)]


def _userspace_problems(section: Userspace) -> Iterator[str]:
    if section.scheduler not in SCHEDULERS:
        yield f"scheduler: must be {' or '.join(SCHEDULERS)}, got {section.scheduler!r}"
    if section.connect_timeout <= 0:
        yield "connectTimeout: must be longer than 0"
    if section.tcp_idle_timeout < 0:
        yield "tcpIdleTimeout: must be 0 or more"
    if section.udp_idle_timeout <= 0:
        yield "udpIdleTimeout: must be longer than 0"
    if section.drain_timeout < 0:
        yield "drainTimeout: must be 0 or more"


def _api_problems(api: ApiServer) -> Iterator[str]:
    periods = {
        "backoffFirst": api.backoff_first,
        "connectTimeout": api.connect_timeout,
        "silenceTimeout": api.silence_timeout,
        "watchListTimeout": api.watch_list_timeout,
        "execTimeout": api.exec_timeout,
    }
    for name, period in periods.items():
        if period <= 0:
            yield f"{name}: must be longer than 0"
    if api.backoff_max < api.backoff_first:
        yield "backoffMax: must not be shorter than backoffFirst"
    if api.resume_within < 0:
        yield "resumeWithin: must be 0 or more"
    if api.list_page_size < 0:
        yield f"listPageSize: must be 0 or more, got {api.list_page_size}"
    if api.watch_list not in WATCH_LISTS:
        yield f"watchList: must be {' or '.join(WATCH_LISTS)}, got {api.watch_list!r}"
