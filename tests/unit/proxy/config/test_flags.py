"""The command line is kube-proxy's: names, Go's booleans, both ways to give a value."""

import argparse

import pytest

from proxy.config import fields, flags, kubeproxy
from tests.unit.proxy.config.loading import parse

# every flag of kube-proxy 1.36 on Linux, but for --help and --version, which belong to the command itself
UPSTREAM = """
bind-address bind-address-hard-fail cleanup cluster-cidr config config-sync-period conntrack-max-per-core conntrack-min
conntrack-tcp-be-liberal conntrack-tcp-timeout-close-wait conntrack-tcp-timeout-established conntrack-udp-timeout
conntrack-udp-timeout-stream detect-local-mode feature-gates healthz-bind-address healthz-port hostname-override
init-only iptables-localhost-nodeports iptables-masquerade-bit iptables-min-sync-period iptables-sync-period
ipvs-exclude-cidrs ipvs-min-sync-period ipvs-scheduler ipvs-strict-arp ipvs-sync-period ipvs-tcp-timeout
ipvs-tcpfin-timeout ipvs-udp-timeout kube-api-burst kube-api-content-type kube-api-qps kubeconfig log-flush-frequency
log-json-info-buffer-size log-json-split-stream log-text-info-buffer-size log-text-split-stream logging-format
masquerade-all master metrics-bind-address metrics-port nodeport-addresses oom-score-adj pod-bridge-interface
pod-interface-name-prefix profiling proxy-mode show-hidden-metrics-for-version v vmodule write-config-to
add-dir-header alsologtostderr boot-id-file log-backtrace-at log-dir log-file log-file-max-size logtostderr
machine-id-file one-output skip-headers skip-log-headers stderrthreshold
"""
OURS = ["sliceproxy-config", "manifests", "watch-events", "state-dir"]


def _passed(*argv: str) -> dict[str, object]:
    return {flag.name: value for flag, value in flags.passed(parse(*argv))}


@pytest.fixture
def help_text(monkeypatch: pytest.MonkeyPatch) -> str:
    """The help on a terminal so wide that argparse breaks no name at its hyphens."""
    monkeypatch.setenv("COLUMNS", "10000")
    parser = argparse.ArgumentParser(prog="sliceproxy")
    flags.add_flags(parser)
    return " ".join(parser.format_help().split())


def test_every_flag_of_kube_proxy_exists_and_few_more() -> None:
    assert sorted(flag.name for flag in flags.FLAGS) == sorted([*UPSTREAM.split(), *OURS])


@pytest.mark.parametrize("flag", flags.FLAGS, ids=lambda flag: flag.name)
def test_a_flag_sets_fields_that_exist(flag: flags.Flag) -> None:
    assert set(flag.fields) <= set(kubeproxy.leaves())
    assert flag.has_effect == bool(flag.help)
    assert flag.has_effect or flags.without_effect_reason(flag)


def test_every_field_that_is_used_has_a_flag_or_is_known_to_have_none() -> None:
    with_flag = {path for flag in flags.FLAGS for path in flag.fields}

    assert set(fields.USED) - with_flag == {"apiVersion", "kind", "nftables.masqueradeBit"}


def test_nothing_passed_is_nothing_set() -> None:
    assert _passed() == {}


def test_booleans_are_written_gos_way() -> None:
    assert _passed("--masquerade-all") == {"masquerade-all": True}
    assert _passed("--masquerade-all=true") == {"masquerade-all": True}
    assert _passed("--masquerade-all=F") == {"masquerade-all": False}
    assert _passed("--masquerade-all", "--cleanup=0") == {"masquerade-all": True, "cleanup": False}


def test_values_follow_an_equals_sign_or_a_space() -> None:
    assert _passed("--cluster-cidr=10.0.0.0/8") == _passed("--cluster-cidr", "10.0.0.0/8")
    assert (
        _passed("--oom-score-adj", "-999")
        == _passed("--oom-score-adj=-999")
        == {"oom-score-adj": -999}
    )


@pytest.mark.parametrize("argv", [("-v", "4"), ("-v=4",), ("-v4",), ("--v", "4"), ("--v=4",)])
def test_verbosity_has_a_short_name(argv: tuple[str, ...]) -> None:
    assert _passed(*argv) == {"v": 4}


def test_lists_may_be_repeated() -> None:
    argv = ("--nodeport-addresses=10.0.0.0/8,fd00::/8", "--nodeport-addresses", "192.168.0.0/16")

    assert _passed(*argv) == {"nodeport-addresses": ("10.0.0.0/8", "fd00::/8", "192.168.0.0/16")}


def test_gates_may_be_repeated_and_the_last_one_counts() -> None:
    assert _passed("--feature-gates=A=true,B=true", "--feature-gates=A=false") == {
        "feature-gates": {"A": False, "B": True}
    }


def test_an_empty_value_was_passed_all_the_same() -> None:
    assert _passed("--healthz-bind-address=", "--nodeport-addresses=") == {
        "healthz-bind-address": "",
        "nodeport-addresses": (),
    }


@pytest.mark.parametrize("name", ["add_dir_header", "skip_headers", "one_output"])
def test_go_logging_flags_are_taken_with_underscores(name: str) -> None:
    assert _passed(f"--{name}") == {name.replace("_", "-"): True}


@pytest.mark.parametrize(
    "argv",
    [
        ("--masquerade-all=maybe",),
        ("--config-sync-period=30",),
        ("--conntrack-min=x",),
        ("--feature-gates=A",),
        ("--masquerade-al",),
        ("--conf", "x"),
        ("--no-such-flag",),
        ("--config",),
    ],
)
def test_a_bad_command_line_exits_with_status_2(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*argv)

    assert caught.value.code == 2
    assert "sliceproxy: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "how often the API server is compared with what is known (default 15m0s)",
        "pause between two updates; 0 updates at once (default 1s in iptables, 0s in nftables)",
        "where /healthz and /livez are served; empty switches them off (default 0.0.0.0:10256)",
        "in the other modes by a listener of this process (default true)",
        "--healthz-bind-address is better --metrics-bind-address",  # the port flags have no default of their own
        "SNAT all traffic to cluster IPs --iptables-masquerade-bit",
    ],
)
def test_help_tells_the_default_of_a_flag(help_text: str, line: str) -> None:
    assert line in help_text


def test_help_names_flags_without_effect_in_one_place(help_text: str) -> None:
    assert (
        "--profiling (there is no Go runtime to profile; attach py-spy to the process)"
        in help_text
    )
    assert help_text.count("--logtostderr") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, ""),
        (5.0, "5"),
        (-999, "-999"),
        ((), ""),
        ({}, ""),
        (None, ""),
        ("", ""),
        ("rr", "rr"),
    ],
)
def test_a_default_is_shown_where_there_is_one(value: object, text: str) -> None:
    assert flags.render_value(value) == text
