"""The addresses of a Service, family by family."""

from collections.abc import Sequence

import pytest

from proxy.sources import wire
from proxy.sources.findings import Findings
from proxy.sources.frontends import (
    cluster_ips,
    external_ips,
    load_balancer_vips,
    source_ranges,
)


def _found() -> Findings:
    return Findings("Service", wire.Metadata(name="web", namespace="default"), "")


def _fields(found: Findings) -> list[str]:
    return [rejected.field for rejected in found.rejected()]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (wire.ServiceSpec(cluster_ip="10.96.0.1"), {"IPv4": "10.96.0.1"}),
        (wire.ServiceSpec(cluster_ip="fd00::1"), {"IPv6": "fd00::1"}),
        (wire.ServiceSpec(cluster_ip="010.096.000.001"), {"IPv4": "10.96.0.1"}),
        (wire.ServiceSpec(cluster_ip="::ffff:10.96.0.1"), {"IPv4": "10.96.0.1"}),
        (
            wire.ServiceSpec(cluster_ip="10.96.0.1", cluster_ips=["10.96.0.1", "fd00::1"]),
            {"IPv4": "10.96.0.1"},
        ),
        (
            wire.ServiceSpec(
                cluster_ip="fd00::1",
                cluster_ips=["fd00::1", "10.96.0.1"],
                ip_families=["IPv6", "IPv4"],
            ),
            {"IPv6": "fd00::1", "IPv4": "10.96.0.1"},
        ),
        (
            wire.ServiceSpec(
                cluster_ip="10.96.0.1", cluster_ips=["10.96.0.1"], ip_families=["IPv4", "IPv6"]
            ),
            {"IPv4": "10.96.0.1"},
        ),
        (
            wire.ServiceSpec(
                cluster_ip="10.96.0.1", cluster_ips=["10.96.0.1", "fd00::1"], ip_families=["IPv4"]
            ),
            {"IPv4": "10.96.0.1"},
        ),
        (
            wire.ServiceSpec(
                cluster_ip="10.96.0.1", cluster_ips=["", "fd00::1"], ip_families=["IPv4", "IPv6"]
            ),
            {"IPv6": "fd00::1"},
        ),
        (wire.ServiceSpec(cluster_ip=None), {}),
        (wire.ServiceSpec(cluster_ip=""), {}),
        (wire.ServiceSpec(cluster_ip="None"), {}),
    ],
)
def test_cluster_ips_go_by_the_position_of_the_family(
    spec: wire.ServiceSpec, expected: dict[str, str]
) -> None:
    found = _found()

    assert cluster_ips(spec, found) == expected
    assert found.rejected() == ()


@pytest.mark.parametrize(
    ("spec", "expected", "field"),
    [
        (wire.ServiceSpec(cluster_ip="10.96.0.1", ip_families=["IPv4"]), {}, "spec.clusterIPs"),
        (wire.ServiceSpec(cluster_ip="10.96.0"), {}, "spec.clusterIP"),
        (wire.ServiceSpec(cluster_ip=" 10.96.0.1"), {}, "spec.clusterIP"),
        (
            wire.ServiceSpec(cluster_ips=["10.96.0.1", "x"], ip_families=["IPv4", "IPv6"]),
            {"IPv4": "10.96.0.1"},
            "spec.clusterIPs[1]",
        ),
        (
            wire.ServiceSpec(cluster_ips=["10.96.0.1"], ip_families=["IPv6"]),
            {},
            "spec.clusterIPs[0]",
        ),
        (
            wire.ServiceSpec(cluster_ips=["10.96.0.1", "fd00::1"], ip_families=["ipv4", "IPv6"]),
            {"IPv6": "fd00::1"},
            "spec.ipFamilies[0]",
        ),
    ],
)
def test_cluster_ips_that_cannot_be_used_are_named(
    spec: wire.ServiceSpec, expected: dict[str, str], field: str
) -> None:
    found = _found()

    assert cluster_ips(spec, found) == expected
    assert _fields(found) == [field]


def test_external_ips_are_split_by_family_and_said_once() -> None:
    found = _found()
    spec = wire.ServiceSpec(
        external_ips=[
            "192.0.2.1",
            "2001:DB8::1",
            "192.0.2.01",
            "",
            " ",
            None,
            "example.com",
            "192.0.2.2",
        ]
    )

    assert external_ips(spec, found) == {
        "IPv4": ("192.0.2.1", "192.0.2.2"),
        "IPv6": ("2001:db8::1",),
    }
    assert _fields(found) == ["spec.externalIPs[6]"]


@pytest.mark.parametrize(
    ("given", "v4", "v6"),
    [
        (["10.0.0.0/8"], ("10.0.0.0/8",), ()),
        ([" 10.0.0.0/8 ", "\t192.0.2.7/24\n"], ("10.0.0.0/8", "192.0.2.0/24"), ()),
        (["10.0.0.0/8", "fd00::/8"], ("10.0.0.0/8",), ("fd00::/8",)),
        (["10.0.0.0/8", "0.0.0.0/0"], (), ()),
        (["10.0.0.0/8", "1.2.3.4/0", "fd00::/8"], (), ("fd00::/8",)),
        (["10.0.0.0/8", "::/0"], ("10.0.0.0/8",), ()),
        (["::ffff:0:0/96", "10.0.0.0/8"], (), ()),
        (["::ffff:10.0.0.0/104"], ("10.0.0.0/8",), ()),
        (["10.0.0.0/10"], ("10.0.0.0/10",), ()),
        (["010.0.0.0/008"], ("10.0.0.0/8",), ()),
        (["", " ", None], (), ()),
        ([], (), ()),
        (None, (), ()),
    ],
)
def test_source_ranges_are_trimmed_and_emptied_by_a_zero_cidr(
    given: list[str | None] | None, v4: Sequence[str], v6: Sequence[str]
) -> None:
    found = _found()

    assert source_ranges(wire.ServiceSpec(load_balancer_source_ranges=given), found) == {
        "IPv4": v4,
        "IPv6": v6,
    }
    assert found.rejected() == ()


def test_a_source_range_that_is_none_is_named_and_skipped() -> None:
    found = _found()
    spec = wire.ServiceSpec(load_balancer_source_ranges=["10.0.0.1", "10.0.0.0/8"])

    assert source_ranges(spec, found)["IPv4"] == ("10.0.0.0/8",)
    assert _fields(found) == ["spec.loadBalancerSourceRanges[0]"]


def _status(*ingress: wire.LoadBalancerIngress | None) -> wire.ServiceStatus:
    return wire.ServiceStatus(load_balancer=wire.LoadBalancerStatus(ingress=list(ingress)))


def test_nodes_answer_for_vips_but_not_for_proxies() -> None:
    found = _found()
    status = _status(
        wire.LoadBalancerIngress(ip="203.0.113.1"),
        wire.LoadBalancerIngress(ip="203.0.113.2", ip_mode="VIP"),
        wire.LoadBalancerIngress(ip="203.0.113.3", ip_mode="Proxy"),
        wire.LoadBalancerIngress(ip="2001:db8::1"),
        wire.LoadBalancerIngress(),
        None,
    )

    assert load_balancer_vips(status, found) == {
        "IPv4": ("203.0.113.1", "203.0.113.2"),
        "IPv6": ("2001:db8::1",),
    }
    assert found.rejected() == ()


def test_load_balancer_addresses_that_cannot_be_used_are_named() -> None:
    found = _found()
    status = _status(
        wire.LoadBalancerIngress(ip="203.0.113.1", ip_mode="vip"),
        wire.LoadBalancerIngress(ip="lb.example.com"),
    )

    assert load_balancer_vips(status, found) == {"IPv4": (), "IPv6": ()}
    assert _fields(found) == [
        "status.loadBalancer.ingress[0].ipMode",
        "status.loadBalancer.ingress[1]",
    ]


@pytest.mark.parametrize("status", [None, wire.ServiceStatus(), _status()])
def test_there_may_be_no_load_balancer(status: wire.ServiceStatus | None) -> None:
    assert load_balancer_vips(status, _found()) == {"IPv4": (), "IPv6": ()}
