"""Random manifests: small worlds of Services, EndpointSlices and Nodes, full of what hands and old clusters write.

Few names and addresses, so that objects meet: slices that name the same service, endpoints that stand in several of
them, objects that come twice. Every field may be absent or null, but rarely is, so that most services are served. The
own node is n1.
"""

from typing import Any, Final

from hypothesis import strategies as st

# What JSON can hold, as in tests.builders.
Wire = dict[str, Any]
Strategy = st.SearchStrategy[Any]

LABEL: Final = "kubernetes.io/service-name"
ABSENT: Final = object()
IPV4: Final = (
    *("10.1.0.1", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.10", "010.001.000.002"),
    *("::ffff:10.1.0.1", "junk", ""),
)
IPV6: Final = ("fd00::1", "FD00::1", "fd00:0:0::2", "fd00::0010", "2001:DB8::A", "junk")
RANGES: Final = (
    *("10.0.0.0/8", " 10.0.0.0/8 ", "0.0.0.0/0", "010.000.000.000/08", "1.2.3.4/28", "10.0.0.1"),
    *("::/0", "fd00::/8", "FD00::1/64", "", "  ", "junk", "::ffff:10.0.0.0/104", None),
)
DUAL: Final = ("10.96.0.1", "fd00:96::1")


def often(usual: object, *others: object) -> Strategy:
    """Return a value that is the usual one in six of seven cases."""
    return st.sampled_from([usual] * 6 * len(others) + list(others))


def mostly(usual: Strategy, *others: Strategy) -> Strategy:
    """Draw from the usual strategy in six of seven cases (`one_of` would count repeated ones once)."""
    every = [usual] * 6 * len(others) + list(others)
    return st.sampled_from(range(len(every))).flatmap(lambda index: every[index])


def some(**fields: Strategy) -> st.SearchStrategy[Wire]:
    """Return objects of which each field has a value in most cases, and otherwise is absent or null."""
    return st.fixed_dictionaries(
        {name: mostly(values, st.just(ABSENT), st.none()) for name, values in fields.items()}
    ).map(lambda obj: {name: value for name, value in obj.items() if value is not ABSENT})


def merged(*parts: st.SearchStrategy[Wire]) -> st.SearchStrategy[Wire]:
    return st.tuples(*parts).map(lambda each: {k: v for part in each for k, v in part.items()})


def lists(elements: Strategy, least: int = 0, most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(elements, min_size=least, max_size=most)


def metadata(names: Strategy, labels: Strategy) -> st.SearchStrategy[Wire]:
    return merged(
        st.fixed_dictionaries({"name": names, "labels": labels}),
        some(namespace=often("default", "shop")),
    )


def by_identity(ports: list[Wire]) -> list[Wire]:
    """Keep one port of each name and protocol: nobody says what a second one means."""
    return list({(p.get("name") or "", p.get("protocol") or "TCP"): p for p in ports}.values())


def beside(usual: Strategy, odd: Strategy) -> st.SearchStrategy[list[Any]]:
    """Return a list that begins with something usual."""
    return st.tuples(usual, lists(odd, most=2)).map(lambda pair: [pair[0], *pair[1]])


service_ports = beside(
    st.fixed_dictionaries(
        {"name": st.just("http"), "port": st.just(80), "nodePort": st.sampled_from([0, 30080])}
    ),
    merged(
        st.fixed_dictionaries({"port": st.sampled_from([80, 443])}),
        some(
            name=st.sampled_from(["http", "", "https"]),
            protocol=st.sampled_from(["TCP", "UDP", "SCTP"]),
            nodePort=st.sampled_from([0, 30080]),
        ),
    ),
).map(by_identity)
ingress = some(
    ip=st.sampled_from(["203.0.113.9", "203.0.113.007", "fd00:f::1", ""]),
    ipMode=often("VIP", "Proxy"),
    hostname=st.just("lb.example.org"),
)
# What says which families a service has: fitting together, as an API server makes it, and not.
families = st.sampled_from(
    [
        {"clusterIP": "10.96.0.1"},
        {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"]},
        {"clusterIP": "10.96.0.1", "clusterIPs": [*DUAL], "ipFamilies": ["IPv4", "IPv6"]},
        {"clusterIP": "FD00:96::1", "clusterIPs": [*DUAL[::-1]], "ipFamilies": ["IPv6", "IPv4"]},
        {"clusterIP": "fd00:96::1"},
        {"clusterIP": "010.96.000.001", "clusterIPs": [], "ipFamilies": []},
        {"clusterIP": "::ffff:10.96.0.9", "clusterIPs": None, "ipFamilies": None},
        {"clusterIP": "10.96.0.1", "clusterIPs": [*DUAL]},
    ]
)
misfits = st.sampled_from(
    [
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"clusterIP": "", "clusterIPs": [*DUAL], "ipFamilies": ["IPv4", "IPv6"]},
        {"clusterIP": None},
        {"clusterIPs": [*DUAL], "ipFamilies": ["IPv4", "IPv6"]},
        {"clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"]},
        {"clusterIP": "10.96.0.1", "clusterIPs": [*DUAL], "ipFamilies": ["IPv6", "IPv4"]},
        {"clusterIP": "10.96.0.1", "clusterIPs": [*DUAL], "ipFamilies": ["IPv6"]},
        {"clusterIP": "10.96.0.1", "clusterIPs": DUAL[:1], "ipFamilies": ["IPv4", "IPv6"]},
        {"clusterIP": "junk"},
    ]
)
specs = merged(
    some(
        type=st.sampled_from(["LoadBalancer", "ClusterIP", "NodePort"]),
        ports=service_ports,
        externalIPs=st.sampled_from(
            [[], ["203.0.113.1"], ["fd00:e::1", "203.0.113.002"], ["junk"], ["", " "]]
        ),
        loadBalancerSourceRanges=lists(st.sampled_from(RANGES)),
        sessionAffinity=st.sampled_from(["ClientIP", "None"]),
        sessionAffinityConfig=st.sampled_from(
            [{"clientIP": {"timeoutSeconds": 30}}, {}, {"clientIP": None}]
        ),
        internalTrafficPolicy=st.sampled_from(["Cluster", "Local"]),
        externalTrafficPolicy=st.sampled_from(["Local", "Cluster"]),
        healthCheckNodePort=st.sampled_from([31000, 0]),
    ),
    mostly(families, misfits),
    st.sampled_from([{}] * 15 + [{"type": "ExternalName"}]),
)
services = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Service"),
        "metadata": metadata(
            often("web", "api"),
            often({}, None, {"service.kubernetes.io/service-proxy-name": ""}),
        ),
        "spec": specs,
        "status": st.none() | some(loadBalancer=some(ingress=lists(ingress))),
    }
)

flags = st.booleans()
conditions = some(ready=flags, serving=often(True, False), terminating=flags)
zone_hints = st.sampled_from(
    [[{"name": "z1"}], [{"name": "z1"}, {"name": "z2"}], [{"name": "z2"}]]
)
node_hints = st.sampled_from([[{"name": "n1"}], [{"name": "n2"}]])
# How the endpoints of one slice are hinted: all of them, some, or none.
hint_styles: tuple[Strategy, ...] = (
    st.fixed_dictionaries({"forZones": zone_hints}),
    st.fixed_dictionaries({"forNodes": node_hints, "forZones": zone_hints}),
    some(forZones=zone_hints | st.just([]), forNodes=node_hints | st.just([])),
    st.sampled_from([{}, None]),
)


def endpoints(addresses: tuple[str, ...], hints: Strategy) -> st.SearchStrategy[list[Wire]]:
    one = merged(
        st.fixed_dictionaries({"hints": hints}),
        some(
            addresses=beside(st.sampled_from(addresses), st.just("junk")),
            conditions=conditions,
            nodeName=st.sampled_from(["n1", "n1", "n2", "N1"]),
            zone=st.sampled_from(["z1", "z2"]),
        ),
    )
    return lists(one, least=1, most=6)


slice_ports = beside(
    st.fixed_dictionaries({"name": st.just("http"), "port": st.sampled_from([8080, 8081])}),
    some(
        name=st.sampled_from(["http", "", "https"]),
        protocol=st.sampled_from(["TCP", "UDP"]),
        port=st.sampled_from([8080, 8081, 0]),
    ),
)
HEADLESS: Final = {LABEL: "web", "service.kubernetes.io/headless": ""}


def slices_of(
    address_type: str, addresses: tuple[str, ...], hints: Strategy
) -> st.SearchStrategy[Wire]:
    return merged(
        st.fixed_dictionaries(
            {
                "apiVersion": st.just("discovery.k8s.io/v1"),
                "kind": st.just("EndpointSlice"),
                "metadata": metadata(
                    st.sampled_from(["web-a", "web-b", "web-B", "web-10", "web-2"]),
                    often(
                        {LABEL: "web"}, {LABEL: "web"}, {LABEL: "api"}, {LABEL: ""}, None, HEADLESS
                    ),
                ),
                "addressType": st.just(address_type),
            }
        ),
        some(ports=slice_ports, endpoints=endpoints(addresses, hints)),
    )


slices = st.one_of(
    *[slices_of("IPv4", IPV4, hints) for hints in hint_styles],
    *[slices_of("IPv6", IPV6, hints) for hints in hint_styles[:2]],
    slices_of("FQDN", ("pod.example.org",), hint_styles[3]),
)
nodes = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Node"),
        "metadata": metadata(
            often("n1", "n2", "N1"), some(**{"topology.kubernetes.io/zone": often("z1", "z2", "")})
        ),
    }
)
worlds: st.SearchStrategy[list[Wire]] = st.tuples(
    lists(services, 1, 2), lists(slices, 2, 4), lists(nodes, 1, 2)
).flatmap(lambda groups: st.permutations([obj for group in groups for obj in group]))
