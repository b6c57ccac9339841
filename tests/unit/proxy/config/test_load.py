"""From the command line to settings and warnings, or to an error that names every mistake."""

import json
import subprocess
import sys

import msgspec
import pytest
import yaml

from proxy.config import load
from proxy.errors import ConfigError
from tests.unit.proxy.config.loading import (
    CONFIG,
    HEADER,
    KUBEADM,
    OWN,
    OWN_HEADER,
    PODS,
    from_file,
    parse,
    reader,
    run,
)

FLAGS = ("--cluster-cidr=10.244.0.0/16",)


def _write(*argv: str, files: dict[str, str] | None = None) -> tuple[str, tuple[str, ...]]:
    return load.write_config(parse(*argv), read_file=reader(files or {}))


@pytest.mark.parametrize(
    ("argv", "body", "hostname", "name"),
    [
        ((), "", "Node-A.Example\n", "node-a.example"),
        (("--hostname-override= Node-B ",), "", "host", "node-b"),
        ((), "hostnameOverride: Node-C\n", "host", "node-c"),
        (("--hostname-override=d",), "hostnameOverride: c\n", "host", "d"),
    ],
)
def test_the_nodes_name_is_trimmed_and_in_lower_case(
    argv: tuple[str, ...], body: str, hostname: str, name: str
) -> None:
    files = {CONFIG: HEADER + PODS + body}

    settings, _ = run("--config", CONFIG, *argv, files=files, hostname=hostname)

    assert settings.node_name == name


@pytest.mark.parametrize(
    ("argv", "hostname", "problem"),
    [
        (("--hostname-override= ",), "host", "--hostname-override: must not be blank"),
        ((), " ", "host name: must not be blank"),
    ],
)
def test_a_blank_name_is_refused(argv: tuple[str, ...], hostname: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        run(*argv, hostname=hostname)


def test_without_anything_the_defaults_hold() -> None:
    settings, warnings = run(*FLAGS)

    assert (settings.mode, settings.kubeconfig, settings.state_dir) == ("", "", "/run/sliceproxy")
    assert (settings.manifests, settings.watch_events, settings.master) == (None, None, "")
    assert warnings == ()


def test_a_kubeadm_file_in_json_is_read_the_same() -> None:
    as_json = json.dumps(yaml.safe_load(KUBEADM))

    assert run("--config", CONFIG, files={CONFIG: as_json}) == run(
        "--config", CONFIG, files={CONFIG: KUBEADM}
    )


def test_a_kubeadm_file_gives_what_kube_proxy_makes_of_it() -> None:
    settings, _ = run("--config", CONFIG, "--hostname-override=worker-1", files={CONFIG: KUBEADM})

    assert settings.node_name == "worker-1"
    assert settings.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert settings.cluster_cidrs == ("10.244.0.0/16", "fd00:10:244::/56")
    assert (settings.client_qps, settings.client_burst) == (5.0, 10)
    assert settings.masquerade_mark == 0x4000
    assert str(settings.healthz_bind) == "0.0.0.0:10256"
    assert str(settings.metrics_bind) == "127.0.0.1:10249"
    assert settings.node_port_addresses == ()


def test_every_mistake_is_named_at_once_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        from_file("bindAddress: x\noomScoreAdj: 5000\nlogging: {verbosity: 1}\n", "-v=-1")

    assert str(caught.value).splitlines() == [
        f"{CONFIG}: bindAddress: must be an IP address, got 'x'",
        f"{CONFIG}: oomScoreAdj: must be -1000 to 1000, got 5000",
        "--v: must be 0 to 2147483647, got -1",
    ]


def test_a_mistake_in_flags_names_the_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        run("--cluster-cidr=10.0.0.0", "--nodeport-addresses=10.0.0.0/8,x", "--healthz-port=70000")

    lines = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert lines == ["--healthz-port", "--cluster-cidr", "--nodeport-addresses"]


def test_the_section_of_the_mode_that_runs_is_judged_also_when_ours_names_it() -> None:
    files = {
        CONFIG: HEADER + PODS + "mode: nftables\nipvs: {scheduler: x}\n",
        OWN: OWN_HEADER + "mode: ipvs\n",
    }

    with pytest.raises(ConfigError, match=f"^{CONFIG}: ipvs.scheduler: must be one of rr"):
        run("--config", CONFIG, "--sliceproxy-config", OWN, files=files)


@pytest.mark.parametrize("flag", ["--manifests", "--watch-events"])
def test_where_objects_come_from_has_a_name(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: is empty"):
        run(*FLAGS, f"{flag}=")


def test_objects_come_from_one_source() -> None:
    assert run(*FLAGS, "--watch-events=-")[0].watch_events == "-"
    with pytest.raises(ConfigError, match=r"^--watch-events: cannot be combined with --manifests"):
        run(*FLAGS, "--manifests=/m", "--watch-events=-")


def test_missing_ranges_of_pods_are_a_warning() -> None:
    [warning] = from_file("")[1]

    assert warning.startswith(
        "clusterCIDR is empty: traffic of local pods cannot be told from other traffic"
    )


@pytest.mark.parametrize(
    ("ranges", "missing"),
    [
        ("[10.0.0.0/8]", "IPv4 only"),
        ("[fd00::/8]", "IPv6 only"),
        ("[10.0.0.0/8, 11.0.0.0/8]", "IPv4 only"),
    ],
)
def test_node_ports_limited_in_one_family_only_are_a_warning(ranges: str, missing: str) -> None:
    assert from_file(PODS + f"nodePortAddresses: {ranges}\n")[1] == (
        f"{CONFIG}: nodePortAddresses: has ranges of {missing}; NodePorts stay open on every address of the other family",
    )


@pytest.mark.parametrize("ranges", ["[10.0.0.0/8, fd00::/8]", "[primary]", "[]"])
def test_node_ports_limited_in_both_families_are_no_warning(ranges: str) -> None:
    assert from_file(PODS + f"nodePortAddresses: {ranges}\n")[1] == ()


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("masqueradeAll: true", "masqueradeAll"),
        ("masqueradeBit: 20", "masqueradeBit"),
        ("syncPeriod: 10s", "syncPeriod"),
        ("minSyncPeriod: 5s", "minSyncPeriod"),
    ],
)
def test_without_a_mode_what_kube_proxy_would_have_read_is_a_warning(
    setting: str, field: str
) -> None:
    body = f"{PODS}iptables: {{{setting}}}\n"

    assert from_file(body)[1] == (
        f"{CONFIG}: iptables.{field}: not read while no mode is set, unlike by kube-proxy; write nftables.{field}, or mode: iptables",
    )
    assert from_file(body + f"nftables: {{{setting}}}\n")[1] == ()
    assert from_file(body + "mode: iptables\n")[1] == ()
    assert from_file(body + "mode: nftables\n")[1] == ()


def test_masquerade_all_as_a_flag_counts_in_every_mode() -> None:
    for mode in ("", "nftables", "iptables", "ipvs", "userspace"):
        settings, warnings = run(*FLAGS, "--masquerade-all", f"--proxy-mode={mode}")
        assert (settings.masquerade_all, warnings) == (True, ())


def test_the_period_flags_of_iptables_count_in_every_mode_but_ipvs() -> None:
    argv = (*FLAGS, "--iptables-sync-period=9s", "--iptables-min-sync-period=8s")
    periods = {
        mode: run(*argv, f"--proxy-mode={mode}")[0]
        for mode in ("", "nftables", "iptables", "ipvs")
    }

    assert {mode: (s.sync_period_s, s.min_sync_period_s) for mode, s in periods.items()} == {
        "": (9.0, 8.0),
        "nftables": (9.0, 8.0),
        "iptables": (9.0, 8.0),
        "ipvs": (30.0, 0.0),
    }


def test_a_written_configuration_is_read_back_to_the_same_settings() -> None:
    argv = (
        "--cluster-cidr=10.0.0.0/8,fd00::/8",
        "--proxy-mode=iptables",
        "--conntrack-udp-timeout=1m30s",
        "--masquerade-all",
        "--feature-gates=AllowServiceExternalIPs=false",
    )
    text, warnings = _write(*argv)

    settings, again = run("--config", CONFIG, files={CONFIG: text})

    assert (warnings, again) == ((), ())
    expected, _ = run(*argv)
    assert settings == msgspec.structs.replace(expected, config_file=CONFIG)


def test_a_written_configuration_says_what_kube_proxy_says() -> None:
    written = yaml.safe_load(_write("--config", CONFIG, files={CONFIG: KUBEADM})[0])

    assert list(written) == sorted(written)
    assert written["apiVersion"] == "kubeproxy.config.k8s.io/v1alpha1"
    assert written["kind"] == "KubeProxyConfiguration"
    assert written["mode"] == ""
    assert written["clusterCIDR"] == "10.244.0.0/16,fd00:10:244::/56"
    assert written["configSyncPeriod"] == "15m0s"
    assert written["conntrack"]["tcpEstablishedTimeout"] == "24h0m0s"
    assert written["iptables"]["minSyncPeriod"] == "1s"
    assert written["ipvs"]["excludeCIDRs"] == []
    assert written["healthzBindAddress"] == "0.0.0.0:10256"
    assert written["winkernel"]["enableDSR"] is False


def test_what_the_format_cannot_say_is_a_warning_when_written() -> None:
    text, warnings = _write(*FLAGS, "--proxy-mode=userspace", "--healthz-bind-address=")

    assert yaml.safe_load(text)["mode"] == ""
    assert [warning.partition(" is")[0] for warning in warnings] == [
        "mode userspace",
        "healthzBindAddress",
    ]


def test_a_bad_configuration_is_not_written() -> None:
    with pytest.raises(ConfigError, match=r"^--oom-score-adj"):
        _write("--oom-score-adj=5000")


def test_importing_the_settings_is_cheap() -> None:
    heavy = (
        "asyncio",
        "aiohttp",
        "uvloop",
        "kubernetes",
        "yaml",
        "json.tool",
        "socket",
        "hypothesis",
    )
    program = "import sys; import proxy.config.load, proxy.config.flags; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "proxy.config.load" in loaded
    assert not set(heavy) & set(loaded)
