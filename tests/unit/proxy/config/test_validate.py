"""Each rule that kube-proxy checks is checked here, at its edge, and named with the field and what is allowed."""

import pytest

from proxy.config import defaults, kubeproxy, validate
from proxy.config.duration import Duration
from proxy.config.kubeproxy import KubeProxyConfiguration

SECONDS = Duration(1)
ZERO = Duration(0)
NEGATIVE = Duration(-1)


def _problems(changes: dict[str, object], mode: str = "") -> list[tuple[str, str]]:
    config = defaults.fill(KubeProxyConfiguration())
    for path, value in changes.items():
        config = kubeproxy.put(config, path, value)
    return list(validate.problems(config, mode))


@pytest.mark.parametrize("mode", ["", "nftables", "ipvs", "iptables", "userspace", "null"])
def test_the_defaults_are_valid_in_every_mode(mode: str) -> None:
    assert _problems({}, mode) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bindAddress", "::"),
        ("bindAddress", "010.0.0.1"),
        ("healthzBindAddress", ""),
        ("metricsBindAddress", ""),
        ("metricsBindAddress", "[::1]:1"),
        ("clientConnection.burst", 0),
        ("clientConnection.qps", -1.0),
        ("oomScoreAdj", -1000),
        ("oomScoreAdj", 1000),
        ("logging.verbosity", 0),
        ("logging.format", "json"),
        ("iptables.masqueradeBit", 0),
        ("iptables.masqueradeBit", 31),
        ("nftables.masqueradeBit", 31),
        ("nftables.minSyncPeriod", Duration(30)),
        ("conntrack.maxPerCore", 0),
        ("conntrack.min", 0),
        ("conntrack.tcpEstablishedTimeout", ZERO),
        ("conntrack.udpTimeout", ZERO),
        ("detectLocalMode", "NodeCIDR"),
        ("clusterCIDR", "10.244.0.0/16"),
        ("clusterCIDR", "fd00::/48"),
        ("clusterCIDR", "10.244.0.0/16,fd00::/48"),
        ("clusterCIDR", "fd00::/48, 10.244.0.0/16"),
        ("nodePortAddresses", ("primary",)),
        ("nodePortAddresses", ("10.0.0.0/8", "fd00::/8", "127.0.0.0/8")),
    ],
)
def test_a_value_within_the_rules_passes(path: str, value: object) -> None:
    assert _problems({path: value}) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("bindAddress", "10.10.12.11:2000", "must be an IP address, got '10.10.12.11:2000'"),
        ("bindAddress", "", "must be an IP address, got ''"),
        ("healthzBindAddress", "0.0.0.0", "must be IP:port or [IPv6]:port, got '0.0.0.0'"),
        ("healthzBindAddress", "0.0.0.0:0", "the port must be 1 to 65535, got '0'"),
        ("metricsBindAddress", "127.0.0.1:65536", "the port must be 1 to 65535, got '65536'"),
        ("metricsBindAddress", "localhost:10249", "must be an IP address, got 'localhost'"),
        ("clientConnection.burst", -1, "must be 0 to 2147483647, got -1"),
        ("oomScoreAdj", -1001, "must be -1000 to 1000, got -1001"),
        ("oomScoreAdj", 1001, "must be -1000 to 1000, got 1001"),
        ("logging.verbosity", -1, "must be 0 to 2147483647, got -1"),
        ("logging.format", "xml", "must be one of text, json, got 'xml'"),
        ("configSyncPeriod", ZERO, "must be longer than 0"),
        ("configSyncPeriod", NEGATIVE, "must be longer than 0"),
        ("iptables.masqueradeBit", -1, "must be 0 to 31, got -1"),
        ("iptables.masqueradeBit", 32, "must be 0 to 31, got 32"),
        ("nftables.masqueradeBit", -1, "must be 0 to 31, got -1"),
        ("nftables.masqueradeBit", 32, "must be 0 to 31, got 32"),
        ("conntrack.maxPerCore", -1, "must be 0 to 2147483647, got -1"),
        ("conntrack.maxPerCore", 2**31, "must be 0 to 2147483647, got 2147483648"),
        ("conntrack.min", -1, "must be 0 to 2147483647, got -1"),
        ("conntrack.tcpEstablishedTimeout", NEGATIVE, "must be 0 or longer"),
        ("conntrack.tcpCloseWaitTimeout", NEGATIVE, "must be 0 or longer"),
        ("conntrack.udpTimeout", NEGATIVE, "must be 0 or longer"),
        ("conntrack.udpStreamTimeout", NEGATIVE, "must be 0 or longer"),
        ("detectLocalMode", "clusterCIDR", "must be one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix, got 'clusterCIDR'"),
        ("clusterCIDR", "192.168.59.0", "must be a CIDR such as 10.244.0.0/16 or fd00:10:244::/56, got '192.168.59.0'"),
        ("clusterCIDR", "10.0.0.0/8,", "must be a CIDR such as 10.244.0.0/16 or fd00:10:244::/56, got ''"),
        ("clusterCIDR", "10.0.0.0/8,fd00::/8,11.0.0.0/8", "must be one CIDR, or one of each family with a comma between; got 3"),
        ("clusterCIDR", "10.0.0.0/8,11.0.0.0/8", "two CIDRs must be one of each family, such as 10.244.0.0/16,fd00:10:244::/56; got '10.0.0.0/8,11.0.0.0/8'"),
        ("clusterCIDR", "10.0.0.0/8,::ffff:11.0.0.0/104", "two CIDRs must be one of each family, such as 10.244.0.0/16,fd00:10:244::/56; got '10.0.0.0/8,::ffff:11.0.0.0/104'"),
        ("nodePortAddresses", ("primary", "10.0.0.0/8"), "primary must stand alone; it cannot be mixed with CIDRs"),
        ("nodePortAddresses", ("10.0.0.0/8", "primary"), "primary must stand alone; it cannot be mixed with CIDRs"),
        ("nodePortAddresses", ("primary", "primary"), "primary must stand alone; it cannot be mixed with CIDRs"),
    ],
)  # fmt: skip
def test_a_value_outside_the_rules_is_named_with_what_is_allowed(
    path: str, value: object, problem: str
) -> None:
    assert _problems({path: value}) == [(path, problem)]


def test_a_bad_node_port_range_is_named_with_its_place() -> None:
    [(path, problem)] = _problems({"nodePortAddresses": ("10.0.0.0/8", "10.0.0.1")})

    assert path == "nodePortAddresses[1]"
    assert "must be a CIDR" in problem
    assert "the one word primary; got '10.0.0.1'" in problem


@pytest.mark.parametrize(
    ("mode", "field"),
    [
        ("BridgeInterface", "detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
    ],
)
def test_modes_by_interface_need_the_interface(mode: str, field: str) -> None:
    [(path, problem)] = _problems({"detectLocalMode": mode})

    assert path == field
    assert f"because detectLocalMode is {mode}" in problem
    assert _problems({"detectLocalMode": mode, field: "cbr0"}) == []


def test_ranges_of_pods_are_judged_only_where_they_are_read() -> None:
    assert _problems({"detectLocalMode": "NodeCIDR", "clusterCIDR": "nonsense"}) == []


@pytest.mark.parametrize(
    ("mode", "section"),
    [
        ("", "nftables"),
        ("nftables", "nftables"),
        ("userspace", "nftables"),
        ("iptables", "iptables"),
        ("ipvs", "ipvs"),
    ],
)
def test_periods_are_judged_in_the_section_that_is_read(mode: str, section: str) -> None:
    others = {"nftables", "iptables", "ipvs"} - {section}
    unread: dict[str, object] = {f"{other}.syncPeriod": NEGATIVE for other in others}
    period, pause = f"{section}.syncPeriod", f"{section}.minSyncPeriod"

    assert _problems(unread, mode) == []
    assert _problems({period: ZERO, pause: ZERO}, mode) == [(period, "must be longer than 0")]
    assert _problems({pause: NEGATIVE}, mode) == [(pause, "must be 0 or longer")]
    assert _problems({period: SECONDS, pause: Duration(2)}, mode) == [
        (pause, f"must not be longer than {period}")
    ]
    assert _problems({period: SECONDS, pause: SECONDS}, mode) == []


@pytest.mark.parametrize(
    ("path", "value", "problems"),
    [
        ("ipvs.scheduler", "wrong", [("ipvs.scheduler", "must be one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq, mh, got 'wrong'")]),
        ("ipvs.scheduler", "mh", []),
        ("ipvs.tcpTimeout", NEGATIVE, [("ipvs.tcpTimeout", "must be 0 or longer")]),
        ("ipvs.tcpFinTimeout", NEGATIVE, [("ipvs.tcpFinTimeout", "must be 0 or longer")]),
        ("ipvs.udpTimeout", NEGATIVE, [("ipvs.udpTimeout", "must be 0 or longer")]),
        ("ipvs.excludeCIDRs", ("10.0.0.0/8", "x"), [("ipvs.excludeCIDRs[1]", "must be a CIDR such as 10.244.0.0/16 or fd00:10:244::/56, got 'x'")]),
    ],
)  # fmt: skip
def test_ipvs_settings_are_judged_in_mode_ipvs_only(
    path: str, value: object, problems: list[tuple[str, str]]
) -> None:
    assert _problems({path: value}, "ipvs") == problems
    assert _problems({path: value}, "nftables") == []


def test_every_broken_rule_is_named() -> None:
    broken = _problems(
        {"bindAddress": "x", "oomScoreAdj": 5000, "conntrack.min": -1, "clusterCIDR": "x,y"}
    )

    assert [path for path, _ in broken] == [
        "bindAddress",
        "oomScoreAdj",
        "conntrack.min",
        "clusterCIDR",
        "clusterCIDR",
    ]
