"""SliceProxyConfiguration is read strictly, and stronger than kube-proxy's file."""

import operator

import pytest

from proxy.config import kubeproxy, own
from proxy.config.settings import ApiServerSettings, UserspaceSettings
from proxy.errors import ConfigError
from tests.unit.proxy.config.loading import CONFIG, OWN, OWN_HEADER, PODS, from_own, run


def test_without_the_file_the_defaults_hold() -> None:
    settings, _ = run()

    assert (settings.fallback, settings.verify_period_s, settings.generation_poll_period_s) == (
        "",
        60.0,
        1.0,
    )
    assert settings.debug_allow_non_loopback is False
    assert settings.ipvs.drain_timeout_s == 900.0
    assert settings.fallback_after_s == 60.0
    assert settings.sliceproxy_config_file == ""


def test_every_field_of_the_file_arrives() -> None:
    body = "mode: userspace\nfallback: userspace\nfallbackAfter: 3s\nverifyPeriod: 5m\ngenerationPollPeriod: 200ms\ndebug: {allowNonLoopback: true}\nipvs: {drainTimeout: 90s}\n"

    settings, warnings = from_own(body)

    assert warnings == ()
    assert (settings.mode, settings.fallback) == ("userspace", "userspace")
    assert settings.fallback_after_s == 3.0
    assert (settings.verify_period_s, settings.generation_poll_period_s) == (300.0, 0.2)
    assert settings.debug_allow_non_loopback is True
    assert settings.ipvs.drain_timeout_s == 90.0
    assert (settings.config_file, settings.sliceproxy_config_file) == (CONFIG, OWN)


def test_every_field_about_mode_userspace_arrives() -> None:
    settings, warnings = from_own(
        "userspace:\n"
        "  scheduler: lc\n  connectTimeout: 1ms\n  tcpIdleTimeout: 0s\n  udpIdleTimeout: 2ms\n"
        "  drainTimeout: 3ms\n  proxyProtocol: true\n"
    )

    assert warnings == ()
    assert settings.userspace == UserspaceSettings(
        scheduler="lc",
        connect_timeout_s=0.001,
        tcp_idle_timeout_s=0.0,
        udp_idle_timeout_s=0.002,
        drain_timeout_s=0.003,
        uses_proxy_protocol=True,
    )


def test_every_field_about_the_api_server_arrives() -> None:
    settings, warnings = from_own(
        "apiServer:\n"
        "  backoffFirst: 1ms\n  backoffMax: 2ms\n  connectTimeout: 3ms\n  silenceTimeout: 4ms\n"
        "  resumeWithin: 0s\n  listPageSize: 0\n  watchList: 'off'\n"
        "  watchListTimeout: 5ms\n  execTimeout: 6ms\n"
    )

    assert warnings == ()
    assert settings.api_server == ApiServerSettings(
        backoff_first_s=0.001,
        backoff_max_s=0.002,
        connect_timeout_s=0.003,
        silence_timeout_s=0.004,
        resume_within_s=0.0,
        list_page_size=0,
        uses_watch_list=False,
        watch_list_timeout_s=0.005,
        exec_timeout_s=0.006,
    )


def test_every_field_is_documented() -> None:
    leaves = kubeproxy.leaves(own.SliceProxyConfiguration)

    assert sorted(own.FIELDS) == sorted(set(leaves) - {"apiVersion", "kind"})
    settings, _ = run()
    for setting, _ in own.FIELDS.values():
        operator.attrgetter(setting)(settings)


def test_an_empty_mode_leaves_that_of_kube_proxys_file() -> None:
    settings, warnings = from_own('mode: ""\n', PODS + "mode: ipvs\n")

    assert (settings.mode, warnings) == ("ipvs", ())


def test_a_mode_here_is_stronger_and_says_so() -> None:
    settings, warnings = from_own("mode: nftables\n", PODS + "mode: ipvs\n")

    assert settings.mode == "nftables"
    assert settings.node_port_addresses == ("primary",)
    assert warnings == (
        f"{OWN}: mode: nftables is used, not ipvs of {CONFIG}: mode",
        f"{OWN}: mode: in mode nftables NodePorts are served at the node's primary addresses only; write nodePortAddresses, [primary] or others",
    )
    more = PODS + "mode: ipvs\nnodePortAddresses: [primary]\n"
    assert from_own("mode: nftables\n", more)[1] == warnings[:1]


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "userspace"])
def test_a_mode_here_that_opens_node_ports_at_more_addresses_says_so(mode: str) -> None:
    settings, warnings = from_own(f"mode: {mode}\n", PODS + "mode: nftables\n")

    assert settings.node_port_addresses == ()
    assert (
        f"{OWN}: mode: in mode {mode} NodePorts are served at all addresses of the node; write nodePortAddresses, [primary] or others"
    ) in warnings


@pytest.mark.parametrize("mode", ["", "mode: iptables\n", "mode: ipvs\n"])
def test_what_kube_proxy_reads_elsewhere_is_named_where_it_does_not_count(mode: str) -> None:
    theirs = f"{PODS}{mode}nodePortAddresses: [primary]\niptables: {{masqueradeAll: true, masqueradeBit: 20}}\n"

    _, (*_, first, second) = from_own("mode: nftables\n", theirs)

    assert first == (
        f"{CONFIG}: iptables.masqueradeAll: not read in mode nftables, unlike by kube-proxy; write nftables.masqueradeAll"
    )
    assert second.startswith(f"{CONFIG}: iptables.masqueradeBit: not read in mode nftables")


def test_the_same_mode_twice_needs_no_words() -> None:
    assert from_own("mode: ipvs\n", PODS + "mode: ipvs\n")[1] == ()


def test_a_mode_here_is_stronger_than_the_flag() -> None:
    argv = ("--proxy-mode=null", "--cluster-cidr=10.0.0.0/8", "--sliceproxy-config", OWN)

    settings, warnings = run(*argv, files={OWN: OWN_HEADER + "mode: userspace\n"})

    assert settings.mode == "userspace"
    assert warnings == (f"{OWN}: mode: userspace is used, not null of --proxy-mode",)


def test_the_null_backend_needs_quotes() -> None:
    assert from_own('mode: "null"\n')[0].mode == "null"
    with pytest.raises(
        ConfigError, match=f'{OWN}: mode: null without quotes is YAML for "not set"'
    ):
        from_own("mode: null\n")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("modus: x\n", "modus: unknown field"),
        ("debug: {allow: true}\n", "debug.allow: unknown field"),
        ("mode: ipvs\nmode: ipvs\n", "line 4: mode stands twice"),
        (
            "mode: kernelspace\n",
            "mode: must be nftables, ipvs, iptables, userspace, null or empty, got 'kernelspace'",
        ),
        ("fallbackAfter: 0s\n", "fallbackAfter: must be longer than 0"),
        ("userspace: {scheduler: wrr}\n", "userspace.scheduler: must be rr or lc, got 'wrr'"),
        ("userspace: {connectTimeout: 0s}\n", "userspace.connectTimeout: must be longer than 0"),
        ("userspace: {tcpIdleTimeout: -1s}\n", "userspace.tcpIdleTimeout: must be 0 or more"),
        ("userspace: {udpIdleTimeout: 0s}\n", "userspace.udpIdleTimeout: must be longer than 0"),
        ("userspace: {drainTimeout: -1s}\n", "userspace.drainTimeout: must be 0 or more"),
        ("fallback: iptables\n", "fallback: must be userspace or empty, got 'iptables'"),
        ("verifyPeriod: 0s\n", "verifyPeriod: must be longer than 0"),
        ("verifyPeriod: -1s\n", "verifyPeriod: must be longer than 0"),
        ("verifyPeriod: 60\n", "verifyPeriod: must be a duration"),
        ("generationPollPeriod: 0s\n", "generationPollPeriod: must be longer than 0"),
        ("ipvs: {drainTimeout: -1s}\n", "ipvs.drainTimeout: must be 0 or more"),
        ("ipvs: {scheduler: rr}\n", "ipvs.scheduler: unknown field"),
        ("apiServer: {backoffFirst: 0s}\n", "apiServer.backoffFirst: must be longer than 0"),
        ("apiServer: {connectTimeout: 0s}\n", "apiServer.connectTimeout: must be longer than 0"),
        ("apiServer: {silenceTimeout: 0s}\n", "apiServer.silenceTimeout: must be longer than 0"),
        ("apiServer: {execTimeout: 0s}\n", "apiServer.execTimeout: must be longer than 0"),
        (
            "apiServer: {watchListTimeout: 0s}\n",
            "apiServer.watchListTimeout: must be longer than 0",
        ),
        (
            "apiServer: {backoffMax: 199ms}\n",
            "apiServer.backoffMax: must not be shorter than backoffFirst",
        ),
        ("apiServer: {resumeWithin: -1s}\n", "apiServer.resumeWithin: must be 0 or more"),
        ("apiServer: {listPageSize: -1}\n", "apiServer.listPageSize: must be 0 or more, got -1"),
        (
            "apiServer: {watchList: always}\n",
            "apiServer.watchList: must be auto or off, got 'always'",
        ),
        ("apiServer: {watchList: off}\n", "apiServer.watchList: expected str, got bool"),
        ("debug: {allowNonLoopback: yess}\n", "debug.allowNonLoopback: expected bool, got str"),
        ("---\nmode: ipvs\n", "holds 2 documents"),
    ],
)
def test_what_is_not_understood_is_refused(body: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_own(body)

    assert str(caught.value).startswith(f"{OWN}: {problem}")


def test_periods_may_be_as_short_as_one_likes() -> None:
    settings, _ = from_own("verifyPeriod: 1ms\ngenerationPollPeriod: 1ms\n")

    assert (settings.verify_period_s, settings.generation_poll_period_s) == (0.001, 0.001)


def test_every_mistake_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        from_own("mode: x\nfallback: x\nverifyPeriod: 0s\ngenerationPollPeriod: 0s\n")

    assert len(str(caught.value).splitlines()) == 4


def test_another_kind_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=f"{OWN}: kind: must be SliceProxyConfiguration, got 'KubeProxyConfiguration'",
    ):
        run(
            "--sliceproxy-config",
            OWN,
            files={OWN: "apiVersion: sliceproxy/v1alpha1\nkind: KubeProxyConfiguration\n"},
        )
