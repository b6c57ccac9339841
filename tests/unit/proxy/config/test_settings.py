"""Settings follow from the configuration: every used field arrives, in the unit and form the code wants."""

import msgspec
import pytest

from proxy.config import duration, fields
from proxy.config.addresses import HostPort
from proxy.config.settings import (
    ApiServerSettings,
    ConntrackSettings,
    IpvsSettings,
    Settings,
    UserspaceSettings,
)
from tests.unit.proxy.config.loading import PODS, from_file, run

FULL = """\
featureGates: {AllowServiceExternalIPs: false}
clientConnection: {kubeconfig: /k, qps: 50, burst: 100}
logging: {format: json, verbosity: 4}
hostnameOverride: " Node-B "
bindAddress: fd00:0::1
healthzBindAddress: 10.0.0.1:1
metricsBindAddress: "::1"
bindAddressHardFail: true
mode: ipvs
iptables: {masqueradeBit: 20, masqueradeAll: true, localhostNodePorts: false, syncPeriod: 3s, minSyncPeriod: 2s}
ipvs:
  syncPeriod: 20s
  minSyncPeriod: 5s
  scheduler: sh
  excludeCIDRs: [10.1.2.3/16]
  strictARP: true
  tcpTimeout: 1s
  tcpFinTimeout: 2s
  udpTimeout: 3s
nftables: {masqueradeBit: 21, syncPeriod: 40s, minSyncPeriod: 6s}
detectLocalMode: ClusterCIDR
detectLocal: {bridgeInterface: cbr0, interfaceNamePrefix: veth}
clusterCIDR: fd00:10:244::1/56, 10.244.1.2/16
nodePortAddresses: [192.168.1.1/24, FD00::/8]
oomScoreAdj: -5
conntrack:
  maxPerCore: 1
  min: 2
  tcpEstablishedTimeout: 3s
  tcpCloseWaitTimeout: 4s
  tcpBeLiberal: true
  udpTimeout: 5s
  udpStreamTimeout: 6s
configSyncPeriod: 7m
"""


def test_every_field_arrives() -> None:
    settings, warnings = from_file(
        FULL, "--master=https://api:6443", "--state-dir=/state", "--manifests=/m"
    )

    assert warnings == ()
    assert settings == Settings(
        node_name="node-b",
        mode="ipvs",
        fallback="",
        fallback_after_s=60.0,
        kubeconfig="/k",
        master="https://api:6443",
        api_server=ApiServerSettings(
            backoff_first_s=0.2,
            backoff_max_s=1.2,
            connect_timeout_s=3.0,
            silence_timeout_s=90.0,
            resume_within_s=60.0,
            list_page_size=500,
            uses_watch_list=True,
            watch_list_timeout_s=10.0,
            exec_timeout_s=30.0,
        ),
        client_qps=50.0,
        client_burst=100,
        config_sync_period_s=420.0,
        manifests="/m",
        watch_events=None,
        bind_address="fd00::1",
        healthz_bind=HostPort("10.0.0.1", 1),
        metrics_bind=HostPort("::1", 10249),
        bind_address_hard_fail=True,
        debug_allow_non_loopback=False,
        detect_local_mode="ClusterCIDR",
        cluster_cidrs=("fd00:10:244::/56", "10.244.0.0/16"),
        bridge_interface="cbr0",
        interface_name_prefix="veth",
        node_port_addresses=("192.168.1.0/24", "fd00::/8"),
        localhost_node_ports=False,
        masquerade_all=True,
        masquerade_mark=1 << 20,
        sync_period_s=20.0,
        min_sync_period_s=5.0,
        verify_period_s=60.0,
        generation_poll_period_s=1.0,
        conntrack=ConntrackSettings(
            max_per_core=1,
            min=2,
            tcp_established_timeout_s=3.0,
            tcp_close_wait_timeout_s=4.0,
            tcp_be_liberal=True,
            udp_timeout_s=5.0,
            udp_stream_timeout_s=6.0,
        ),
        ipvs=IpvsSettings(
            scheduler="sh",
            exclude_cidrs=("10.1.0.0/16",),
            strict_arp=True,
            tcp_timeout_s=1.0,
            tcp_fin_timeout_s=2.0,
            udp_timeout_s=3.0,
            drain_timeout_s=900.0,
        ),
        userspace=UserspaceSettings(
            scheduler="rr",
            connect_timeout_s=2.0,
            tcp_idle_timeout_s=86400.0,
            udp_idle_timeout_s=120.0,
            drain_timeout_s=25.0,
            uses_proxy_protocol=False,
        ),
        feature_gates=(("AllowServiceExternalIPs", False),),
        oom_score_adj=-5,
        verbosity=4,
        log_format="json",
        state_dir="/state",
        config_file="/etc/config.conf",
        sliceproxy_config_file="",
        configuration=settings.configuration,
    )
    assert settings.configuration.cluster_cidr == "fd00:10:244::1/56, 10.244.1.2/16"


def test_no_used_field_is_left_out_of_the_file_above() -> None:
    assert [
        path
        for path in fields.USED
        if path.rpartition(".")[2] not in FULL
        and path not in {"apiVersion", "kind", "nftables.masqueradeAll"}
    ] == []


@pytest.mark.parametrize(
    ("mode", "mark", "everything", "period_s", "pause_s"),
    [
        ("", 21, False, 40.0, 6.0),
        ("nftables", 21, False, 40.0, 6.0),
        ("iptables", 20, True, 3.0, 2.0),
        ("ipvs", 20, True, 20.0, 5.0),
    ],
)
def test_a_mode_reads_its_own_section(
    mode: str, mark: int, everything: bool, period_s: float, pause_s: float
) -> None:
    settings, _ = from_file(FULL.replace("mode: ipvs", f'mode: "{mode}"'))

    assert settings.masquerade_mark == 1 << mark
    assert settings.masquerade_all is everything
    assert (settings.sync_period_s, settings.min_sync_period_s) == (period_s, pause_s)


@pytest.mark.parametrize(
    ("mode", "ranges", "problem"),
    [
        ("ipvs", ("10.1.0.0/16",), False),
        ("", ("10.1.0.0/16",), False),
        ("nftables", (), False),
    ],
)
def test_the_ranges_of_mode_ipvs_are_read_where_it_may_come_to_run(
    mode: str, ranges: tuple[str, ...], *, problem: bool
) -> None:
    settings, _ = from_file(FULL.replace("mode: ipvs", f'mode: "{mode}"'))

    assert settings.ipvs.exclude_cidrs == ranges
    assert bool(settings.ipvs.problem) is problem


def test_a_section_of_mode_ipvs_that_makes_no_sense_keeps_only_that_mode_from_running() -> None:
    body = PODS + "ipvs: {excludeCIDRs: [nonsense], scheduler: best}\n"

    settings, _ = from_file(body)

    assert settings.ipvs.exclude_cidrs == ()
    assert "ipvs.scheduler: must be one of rr," in settings.ipvs.problem
    assert "ipvs.excludeCIDRs[0]: " in settings.ipvs.problem
    assert from_file(body + "mode: iptables\n")[0].ipvs.problem == ""


@pytest.mark.parametrize(
    ("mode", "pause_s"), [("", 0.0), ("nftables", 0.0), ("ipvs", 0.0), ("iptables", 1.0)]
)
def test_only_mode_iptables_pauses_unasked(mode: str, pause_s: float) -> None:
    assert from_file(PODS + f'mode: "{mode}"\n')[0].min_sync_period_s == pause_s


@pytest.mark.parametrize("mode", ["NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"])
def test_ranges_of_pods_are_empty_where_they_are_not_read(mode: str) -> None:
    body = f"detectLocalMode: {mode}\nclusterCIDR: 10.0.0.0/8\ndetectLocal: {{bridgeInterface: b, interfaceNamePrefix: p}}\n"

    settings, warnings = from_file(body)

    assert (settings.detect_local_mode, settings.cluster_cidrs, warnings) == (mode, (), ())


def test_exclusions_of_ipvs_are_empty_where_they_are_not_read() -> None:
    settings, _ = from_file(PODS + "mode: nftables\nipvs: {excludeCIDRs: [nonsense]}\n")

    assert settings.ipvs.exclude_cidrs == ()


def test_a_gate_that_was_not_set_has_its_default() -> None:
    assert run()[0].is_enabled("AllowServiceExternalIPs") is True
    assert (
        from_file("featureGates: {AllowServiceExternalIPs: false}")[0].is_enabled(
            "AllowServiceExternalIPs"
        )
        is False
    )


def test_asking_for_a_gate_that_is_not_read_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        run()[0].is_enabled("EndpointSliceProxying")


def test_settings_can_be_shown_as_json() -> None:
    settings, _ = from_file(FULL)

    shown = msgspec.json.decode(msgspec.json.encode(settings, enc_hook=duration.render))

    assert shown["metrics_bind"] == ["::1", 10249]
    assert shown["config_sync_period_s"] == 420.0
    assert shown["configuration"]["configSyncPeriod"] == "7m0s"
    assert settings == from_file(FULL)[0]
