"""The reference: the same services as kube-proxy's nftables mode lays them out, as text for the stock tool. Pure.

A chain for each service, which picks among its endpoints with an anonymous verdict map, and a chain for each
endpoint; maps lead to the service chains. A change flushes the service's chain and writes it anew, with the whole
anonymous map. Deleting the chain of a removed endpoint comes a second later in kube-proxy and is not counted here.
"""

from collections.abc import Iterator, Sequence

from bench import workload

TABLE = "ip kube-proxy"


def skeleton() -> str:
    """Return the table with its maps, sets and hooks."""
    return f"""
add table {TABLE}
add map {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map {TABLE} no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add set {TABLE} cluster-ips {{ type ipv4_addr ; }}
add chain {TABLE} reject-chain
add rule {TABLE} reject-chain reject
add chain {TABLE} mark-for-masquerade
add rule {TABLE} mark-for-masquerade mark set mark or 0x4000
add chain {TABLE} services
add rule {TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips
add chain {TABLE} nat-prerouting {{ type nat hook prerouting priority dstnat ; }}
add rule {TABLE} nat-prerouting jump services
add chain {TABLE} nat-output {{ type nat hook output priority -100 ; }}
add rule {TABLE} nat-output jump services
add chain {TABLE} filter-forward {{ type filter hook forward priority -110 ; }}
add rule {TABLE} filter-forward ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add chain {TABLE} nat-postrouting {{ type nat hook postrouting priority srcnat ; }}
add rule {TABLE} nat-postrouting mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
"""


def service_chain(number: int) -> str:
    """Return a chain name in the style of kube-proxy: hash, service, protocol and port."""
    return f"service-{number:08X}-namespace-{number % 50}/service-{number}/tcp/http"


def endpoint_chain(number: int, endpoint: int) -> str:
    ip = workload.endpoint_ip(endpoint)
    return (
        f"endpoint-{endpoint:08X}-namespace-{number % 50}/service-{number}/tcp/http"
        f"__{ip}/{workload.TARGET_PORT}"
    )


def load(services: int, endpoints: int, at_once: int = 250) -> Iterator[str]:
    """Yield the whole layout in parts: loading it at once is quadratic in the kernel."""
    yield skeleton()
    for first in range(0, services, at_once):
        numbers = range(first, min(services, first + at_once))
        yield "".join([_service(n, workload.endpoints_of(n, endpoints)) for n in numbers])


def _service(number: int, endpoints: Sequence[int]) -> str:
    lines = [_endpoint(number, endpoint) for endpoint in endpoints]
    lines.append(f"add chain {TABLE} {service_chain(number)}\n")
    lines.append(_pick(number, endpoints))
    ip = workload.cluster_ip(number)
    lines.append(f"add element {TABLE} cluster-ips {{ {ip} }}\n")
    lines.append(
        f"add element {TABLE} service-ips {{ {_frontend(number)} : goto {service_chain(number)} }}\n"
    )
    return "".join(lines)


def _frontend(number: int) -> str:
    return f"{workload.cluster_ip(number)} . tcp . {workload.PORT}"


def _endpoint(number: int, endpoint: int) -> str:
    chain = endpoint_chain(number, endpoint)
    target = f"{workload.endpoint_ip(endpoint)}:{workload.TARGET_PORT}"
    return (
        f"add chain {TABLE} {chain}\nadd rule {TABLE} {chain} meta l4proto tcp dnat to {target}\n"
    )


def _pick(number: int, endpoints: Sequence[int]) -> str:
    choices = " , ".join(
        f"{index} : goto {endpoint_chain(number, endpoint)}"
        for index, endpoint in enumerate(endpoints)
    )
    chain = service_chain(number)
    cidr = workload.CLUSTER_CIDR
    return (
        f"add rule {TABLE} {chain} ip daddr {workload.cluster_ip(number)} tcp dport {workload.PORT}"
        f" ip saddr != {cidr} jump mark-for-masquerade\n"
        f"add rule {TABLE} {chain} numgen random mod {len(endpoints)} vmap {{ {choices} }}\n"
    )


def change(number: int, before: Sequence[int], after: Sequence[int]) -> str:
    """Return the transaction for a service whose endpoints change."""
    lines = [_endpoint(number, endpoint) for endpoint in after if endpoint not in before]
    lines.append(f"flush chain {TABLE} {service_chain(number)}\n")
    frontend = _frontend(number)
    to_service = f"{{ {frontend} : goto {service_chain(number)} }}"
    to_reject = f"{{ {frontend} : goto reject-chain }}"
    if after:
        lines.append(_pick(number, after))
    if before and not after:
        lines.append(f"delete element {TABLE} service-ips {{ {frontend} }}\n")
        lines.append(f"add element {TABLE} no-endpoint-services {to_reject}\n")
    if after and not before:
        lines.append(f"delete element {TABLE} no-endpoint-services {{ {frontend} }}\n")
        lines.append(f"add element {TABLE} service-ips {to_service}\n")
    return "".join(lines)


def forget(number: int, endpoints: Sequence[int]) -> str:
    """Return the later transaction that deletes the chains of removed endpoints."""
    return "".join(
        [
            f"flush chain {TABLE} {endpoint_chain(number, e)}\n"
            f"delete chain {TABLE} {endpoint_chain(number, e)}\n"
            for e in endpoints
        ]
    )
