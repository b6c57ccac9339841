"""What `sliceproxy explain -o json` promises of frontends, and of the source ranges in front of them.

Everything expected here is derived from the contract and from what kube-proxy does, and is compared with what the
command prints.
"""

import pytest

from tests.unit.proxy.explaining import endpoint_slice, explain, service

DUAL = "clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6]"
INGRESS = "{loadBalancer: {ingress: [%s]}}"


def frontends(manifests: str, family: str = "IPv4") -> list[tuple[str, str | None, int]]:
    (document,) = [d for d in explain(manifests) if d["family"] == family]
    return [(f["kind"], f["address"], f["port"]) for f in document["frontends"]]


@pytest.mark.parametrize(
    ("manifests", "expected"),
    [
        (service(ports="[{port: 80, nodePort: 30080}]"), [("NodePort", None, 30080)]),
        # the type does not decide: what stands in spec and status is served
        (
            service("type: ClusterIP", ports="[{port: 80, nodePort: 30080}]"),
            [("NodePort", None, 30080)],
        ),
        (service("type: NodePort", ports="[{port: 80, nodePort: 0}]"), []),
        (service("type: NodePort", ports="[{port: 80, nodePort: null}]"), []),
        (service("externalIPs: [203.0.113.1]"), [("ExternalIP", "203.0.113.1", 80)]),
        (service("externalIPs: null"), []),
        (
            service("externalIPs: [203.0.113.001, ' ', '', junk, null, 'fd00::9']"),
            [("ExternalIP", "203.0.113.1", 80)],
        ),
        (
            service("externalIPs: ['::ffff:203.0.113.1']"),
            [("ExternalIP", "203.0.113.1", 80)],
        ),
        (service(status=INGRESS % "{ip: 203.0.113.2}"), [("LoadBalancer", "203.0.113.2", 80)]),
        (
            service(status=INGRESS % "{ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.03}"),
            [("LoadBalancer", "203.0.113.2", 80), ("LoadBalancer", "203.0.113.3", 80)],
        ),
        (
            service(status=INGRESS % "{ip: 203.0.113.2, ipMode: null}"),
            [("LoadBalancer", "203.0.113.2", 80)],
        ),
        (service(status=INGRESS % "{ip: 203.0.113.2, ipMode: Proxy}"), []),
        (service(status=INGRESS % "{hostname: lb.example.org}"), []),
        (service(status=INGRESS % "{ip: ''}, null, {ip: 'fd00::2'}"), []),
        (service(status="{loadBalancer: null}"), []),
        (service(status="{loadBalancer: {ingress: null}}"), []),
        (service(status="{}"), []),
    ],
)
def test_frontends_beside_the_cluster_ip(
    manifests: str, expected: list[tuple[str, str | None, int]]
) -> None:
    assert frontends(manifests) == [("ClusterIP", "10.96.0.1", 80), *expected]


def test_each_family_has_its_own_frontends_and_all_have_the_node_port() -> None:
    manifests = service(
        f"{DUAL}, externalIPs: [203.0.113.1, 'FD00:E::1']",
        ports="[{port: 80, nodePort: 30080}]",
        status=INGRESS % "{ip: 'fd00:f::1'}",
    )

    assert frontends(manifests) == [
        ("ClusterIP", "10.96.0.1", 80),
        ("NodePort", None, 30080),
        ("ExternalIP", "203.0.113.1", 80),
    ]
    assert frontends(manifests, "IPv6") == [
        ("ClusterIP", "fd00:96::1", 80),
        ("NodePort", None, 30080),
        ("ExternalIP", "fd00:e::1", 80),
        ("LoadBalancer", "fd00:f::1", 80),
    ]


def test_frontends_are_shown_with_and_without_endpoints_alike() -> None:
    manifests = service("externalIPs: [203.0.113.1]", ports="[{port: 80, nodePort: 30080}]")

    without = frontends(manifests)

    assert len(without) == 3
    assert frontends(manifests + endpoint_slice("addresses: [10.1.0.1]")) == without


@pytest.mark.parametrize(
    ("ranges", "ipv4", "ipv6"),
    [
        ("null", [], []),
        ("[]", [], []),
        ("['', ' ', null]", [], []),
        ("[198.51.100.0/24]", ["198.51.100.0/24"], []),
        ("[' 198.51.100.0/24 ', '\tfd00::/8\n']", ["198.51.100.0/24"], ["fd00::/8"]),
        # leading zeros and host bits
        ("[203.0.113.000/025, 1.2.3.4/28]", ["203.0.113.0/25", "1.2.3.0/28"], []),
        ("['FD00:0::1/64']", [], ["fd00::/64"]),
        ("['::ffff:10.0.0.0/104']", ["10.0.0.0/8"], []),
        # a zero CIDR opens its family, wherever it stands
        ("[198.51.100.0/24, 0.0.0.0/0, 'fd00::/8']", [], ["fd00::/8"]),
        ("[' 0.0.0.0/0', 'fd00::/8']", [], ["fd00::/8"]),
        ("[10.0.0.0/8, '::/0']", ["10.0.0.0/8"], []),
        ("[10.1.2.3/0, 10.0.0.0/8]", [], []),
        # what cannot be read is ignored
        ("[junk, 10.0.0.0/8, 10.0.0.1, 10.0.0.0/33]", ["10.0.0.0/8"], []),
        ("[junk]", [], []),
    ],
)
def test_source_ranges_of_each_family(ranges: str, ipv4: list[str], ipv6: list[str]) -> None:
    documents = explain(service(f"{DUAL}, loadBalancerSourceRanges: {ranges}"))

    assert {d["family"]: d["sourceRanges"] for d in documents} == {"IPv4": ipv4, "IPv6": ipv6}
