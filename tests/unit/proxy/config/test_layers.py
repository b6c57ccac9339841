"""With --config the file counts, without it the flags do, and every flag that is left out is named."""

import pytest

from proxy.config import flags, kubeproxy, layers
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.errors import ConfigError
from tests.unit.proxy.config.loading import CONFIG, HEADER, PODS, from_file, parse, reader, run

VALUES: dict[str, str] = {
    "bool": "true",
    "int": "5",
    "float": "6",
    "duration": "5s",
    "str": "text",
    "list": "10.0.0.0/8",
    "gates": "AllowServiceExternalIPs=false",
    "vmodule": "proxier=5",
}
NO_DEFAULT = {
    "proxy-mode": "nftables",
    "logging-format": "json",
    "iptables-localhost-nodeports": "false",
}
ALWAYS_READ = {
    "config",
    "sliceproxy-config",
    "write-config-to",
    "cleanup",
    "init-only",
    "master",
    "hostname-override",
}
LOGGING = {
    "v",
    "vmodule",
    "logging-format",
    "log-flush-frequency",
    "log-json-split-stream",
    "log-text-split-stream",
}


def _combine(*argv: str, body: str | None = None) -> layers.Layered:
    files = {} if body is None else {CONFIG: HEADER + body}
    config = () if body is None else ("--config", CONFIG)
    return layers.combine(parse(*config, *argv), reader(files))


def _config(*argv: str) -> KubeProxyConfiguration:
    return _combine(*argv).config


def _argument(flag: flags.Flag) -> str:
    return f"--{flag.name}={NO_DEFAULT.get(flag.name) or VALUES[flag.kind]}"


@pytest.mark.parametrize(
    "flag",
    [flag for flag in flags.FLAGS if not flag.keeps_with_config],
    ids=lambda flag: flag.name,
)
def test_with_a_file_an_ordinary_flag_is_ignored_and_named(flag: flags.Flag) -> None:
    layered = _combine(_argument(flag), body="")

    assert layered.config == _combine(body="").config
    [warning] = layered.warnings
    assert warning.startswith(
        f"--{flag.name}: ignored, as by kube-proxy, because --config is given"
    )
    assert not flag.has_effect or f"set {' or '.join(flag.fields)} in {CONFIG}" in warning


@pytest.mark.parametrize(
    "flag",
    [flag for flag in flags.FLAGS if flag.keeps_with_config and flag.name != "config"],
    ids=lambda flag: flag.name,
)
def test_with_a_file_these_flags_still_count(flag: flags.Flag) -> None:
    layered = _combine(_argument(flag), body="")

    assert not [warning for warning in layered.warnings if "ignored" in warning]
    for path in flag.fields:
        assert kubeproxy.get(layered.config, path) != kubeproxy.get(_combine(body="").config, path)


def test_the_flags_that_count_with_a_file_are_those_of_kube_proxy_and_ours() -> None:
    kept = {flag.name for flag in flags.FLAGS if flag.keeps_with_config}

    assert kept >= ALWAYS_READ | LOGGING | {"manifests", "watch-events", "state-dir"}
    assert not kept & {
        "kubeconfig",
        "proxy-mode",
        "cluster-cidr",
        "feature-gates",
        "bind-address",
        "masquerade-all",
    }


@pytest.mark.parametrize(
    "flag",
    [flag for flag in flags.FLAGS if flag.fields and flag.name not in flags.PORT_FLAGS],
    ids=lambda flag: flag.name,
)
def test_without_a_file_a_flag_sets_its_fields(flag: flags.Flag) -> None:
    layered = _combine(_argument(flag))

    plain = _config()
    changed = {
        path
        for path in kubeproxy.leaves()
        if kubeproxy.get(layered.config, path) != kubeproxy.get(plain, path)
    }
    assert changed == set(flag.fields)
    assert {layered.origins.label(path) for path in changed} == {f"--{flag.name}"}


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (("--conntrack-max-per-core=0",), "conntrack.maxPerCore", 0),
        (("--conntrack-tcp-timeout-established=0",), "conntrack.tcpEstablishedTimeout", 0.0),
        (("--iptables-min-sync-period=0",), "iptables.minSyncPeriod", 0.0),
        (("--oom-score-adj=0",), "oomScoreAdj", 0),
        (("--kube-api-burst=0",), "clientConnection.burst", 0),
    ],
)
def test_a_flag_given_as_zero_is_zero(argv: tuple[str, ...], path: str, value: object) -> None:
    assert kubeproxy.get(_config(*argv), path) == value


@pytest.mark.parametrize(
    ("argv", "healthz", "metrics"),
    [
        ((), "0.0.0.0:10256", "127.0.0.1:10249"),
        (("--bind-address=::",), "[::]:10256", "[::1]:10249"),
        (("--healthz-bind-address=",), "", "127.0.0.1:10249"),
        (("--metrics-bind-address=",), "0.0.0.0:10256", ""),
        (("--healthz-bind-address=10.0.0.1",), "10.0.0.1:10256", "127.0.0.1:10249"),
        (("--metrics-bind-address=::1",), "0.0.0.0:10256", "[::1]:10249"),
        (("--healthz-port=1", "--metrics-port=2"), "0.0.0.0:1", "127.0.0.1:2"),
        (("--healthz-port=0", "--metrics-port=0"), "", ""),
        (("--healthz-port=0", "--healthz-bind-address=10.0.0.1:5"), "", "127.0.0.1:10249"),
        (("--healthz-port=1", "--healthz-bind-address=10.0.0.1"), "10.0.0.1:1", "127.0.0.1:10249"),
        (
            ("--healthz-port=1", "--healthz-bind-address=10.0.0.1:5"),
            "10.0.0.1:5",
            "127.0.0.1:10249",
        ),
        (("--metrics-port=1", "--metrics-bind-address=0.0.0.0"), "0.0.0.0:10256", "0.0.0.0:1"),
        (("--bind-address=::", "--metrics-port=2"), "[::]:10256", "[::1]:2"),
    ],
)
def test_addresses_of_servers(argv: tuple[str, ...], healthz: str, metrics: str) -> None:
    config = _config(*argv)

    assert (config.healthz_bind_address, config.metrics_bind_address) == (healthz, metrics)


def test_a_deprecated_flag_names_its_successor() -> None:
    assert _combine("--healthz-port=1", "--metrics-port=2").warnings == (
        "--healthz-port: deprecated; write --healthz-bind-address",
        "--metrics-port: deprecated; write --metrics-bind-address",
    )


@pytest.mark.parametrize(
    "argument",
    [
        "--logtostderr",
        "--logtostderr=true",
        "--alsologtostderr",
        "--add-dir-header=false",
        "--log-dir=",
        "--log-flush-frequency=5s",
        "--profiling=false",
        "--kube-api-content-type=application/json",
    ],
)
def test_a_flag_that_asks_for_nothing_is_accepted_in_silence(argument: str) -> None:
    assert _combine(argument).warnings == ()


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--logtostderr=false", "log lines go to standard error only"),
        ("--log_dir=/var/log", "log lines go to standard error only"),
        ("--stderrthreshold=2", "log lines go to standard error only"),
        ("--boot_id_file=/x", "this program does not identify machines"),
        ("--profiling", "there is no Go runtime to profile"),
        ("--vmodule=proxier=5", "its patterns name source files of kube-proxy"),
        ("--log-json-split-stream", "log lines are written at once"),
        ("--show-hidden-metrics-for-version=1.35", "no metric is hidden"),
    ],
)
def test_a_flag_without_effect_says_so(argument: str, reason: str) -> None:
    [warning] = _combine(argument).warnings

    name = argument.partition("=")[0].replace("_", "-")
    assert warning.startswith(f"{name}: has no effect: {reason}")


def test_gates_of_a_flag_are_judged_too() -> None:
    assert _combine("--feature-gates=EndpointSliceProxying=true").warnings == (
        "--feature-gates: EndpointSliceProxying: has no effect: EndpointSlices are always used; delete the gate",
    )


def test_a_gate_that_is_neither_true_nor_false_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=f"^{CONFIG}: featureGates.A: must be true or false, got 'true'$"
    ):
        _combine(body='featureGates: {A: "true"}\n')


def test_gates_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"^{CONFIG}: featureGates: expected object, got str$"):
        _combine(body='featureGates: ""\n')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            HEADER.replace("KubeProxyConfiguration", "SliceProxyConfiguration"),
            "kind: must be KubeProxyConfiguration",
        ),
        (
            HEADER.replace("v1alpha1", "v1alpha2"),
            "apiVersion: must be kubeproxy.config.k8s.io/v1alpha1",
        ),
    ],
)
def test_a_file_of_another_kind_or_version_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{CONFIG}: {problem}"):
        layers.combine(parse("--config", CONFIG), reader({CONFIG: text}))


def test_oddities_of_a_file_are_warnings() -> None:
    body = "Mode: ipvs\nendpointSliceProxying: true\nspec: {endpointSliceProxying: true}\nmode: ipvs\nmode: iptables\nfeatureGates: {Foo: true}\n"

    layered = _combine(body=body)

    assert layered.config.mode == "iptables"
    assert layered.warnings == (
        f"{CONFIG}: line 7: mode stands twice; the last one counts",
        f"{CONFIG}: Mode: unknown field, ignored: did you mean mode?",
        f"{CONFIG}: endpointSliceProxying: was a switch of Kubernetes 1.18 to 1.24; EndpointSlices are always used, delete it",
        f"{CONFIG}: spec: unknown field, ignored: kube-proxy has no such field",
        f"{CONFIG}: spec.endpointSliceProxying: was a switch of Kubernetes 1.18 to 1.24; EndpointSlices are always used, delete it",
        f"{CONFIG}: featureGates: Foo: unknown feature gate, ignored; delete it",
    )


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("userspace", "kube-proxy does not know userspace"),
        ('"null"', "kube-proxy does not know null"),
        ("kernelspace", "is for Windows"),
        ("ebpf", "got 'ebpf'"),
    ],
)
def test_a_mode_kube_proxy_refuses_is_refused_in_its_file(mode: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{CONFIG}: mode: .*{problem}"):
        _combine(body=f"mode: {mode}\n")


def test_a_mode_nobody_knows_is_refused_as_a_flag() -> None:
    assert _config("--proxy-mode=userspace").mode == "userspace"
    with pytest.raises(
        ConfigError,
        match=r"^--proxy-mode: must be nftables, ipvs, iptables, userspace, null or empty .* got 'ebpf'$",
    ):
        _combine("--proxy-mode=ebpf")


def test_the_nodes_name_on_the_command_line_is_stronger_than_the_files() -> None:
    assert from_file(PODS + "hostnameOverride: a\n", "--hostname-override=b")[0].node_name == "b"
    assert from_file(PODS + "hostnameOverride: a\n", "--hostname-override=")[0].node_name == "a"


def test_verbosity_on_the_command_line_is_stronger_than_the_files() -> None:
    assert from_file(PODS + "logging: {verbosity: 2, format: json}\n", "-v=7")[0].verbosity == 7
    assert (
        from_file(PODS + "logging: {verbosity: 2, format: json}\n", "-v=7")[0].log_format == "json"
    )


def test_an_empty_path_is_no_file() -> None:
    assert run("--config=", "--cluster-cidr=10.0.0.0/8")[0].config_file == ""


def test_values_are_named_after_the_flag_or_the_file() -> None:
    origins = _combine("-v=3", body="").origins

    assert origins.label("logging.verbosity") == "--v"
    assert origins.label("nodePortAddresses[2]") == f"{CONFIG}: nodePortAddresses[2]"
    assert (
        _combine("--nodeport-addresses=x").origins.label("nodePortAddresses[0]")
        == "--nodeport-addresses"
    )
    assert _combine().origins.label("oomScoreAdj") == "oomScoreAdj"
