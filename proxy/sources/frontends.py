"""The addresses at which a Service is reached, family by family.

Pure; the part of `convert` that deals with `clusterIPs`, `externalIPs`, load balancer addresses and the source
ranges in front of these. Whatever is of the other family is none of a family's business and no finding.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from proxy import addresses
from proxy.model import FAMILIES, Family
from proxy.sources import wire
from proxy.sources.findings import Findings, quoted

ByFamily = Mapping[Family, tuple[str, ...]]

HEADLESS: Final = "None"
_NOTHING: Final[ByFamily] = dict.fromkeys(FAMILIES, ())
_FAMILY: Final[dict[str | None, Family]] = {family: family for family in FAMILIES}
_Parsed = TypeVar("_Parsed", addresses.Address, addresses.Cidr)


def cluster_ips(spec: wire.ServiceSpec, found: Findings) -> dict[Family, str]:
    """Return the cluster IP of each family that has one.

    `clusterIPs` goes by the position of the family in `ipFamilies`. Only where the latter is empty (objects of
    API servers before 1.20, manifests) `clusterIP` counts alone, in its own family.
    """
    if not spec.ip_families:
        address = _parse_ip(spec.cluster_ip, "spec.clusterIP", found)
        return {address.family: address.text} if address else {}
    if not spec.cluster_ips:
        found.add(
            "spec.clusterIPs", "missing although ipFamilies is set: write one for each family"
        )
    result: dict[Family, str] = {}
    for index, given in enumerate(spec.ip_families):
        family = _FAMILY.get(given)
        if family is None:
            if given:
                found.add(
                    f"spec.ipFamilies[{index}]", f"{quoted(given)} is unknown: write IPv4 or IPv6"
                )
        elif spec.cluster_ips and index < len(spec.cluster_ips) and family not in result:
            field = f"spec.clusterIPs[{index}]"
            address = _parse_ip(spec.cluster_ips[index], field, found)
            if address is not None and address.family == family:
                result[family] = address.text
            elif address is not None:
                found.add(field, f"{address.text} is no {family} address, as ipFamilies demands")
    return result


def external_ips(spec: wire.ServiceSpec, found: Findings) -> ByFamily:
    """Return `externalIPs`; blank entries are legal and mean nothing."""
    if not spec.external_ips:
        return _NOTHING
    given = [(text or "").strip() and text for text in spec.external_ips]
    return _by_family(given, addresses.parse_ip, "spec.externalIPs", "IP address", found)


def source_ranges(spec: wire.ServiceSpec, found: Findings) -> ByFamily:
    """Return `loadBalancerSourceRanges`. None for a family means that every source is allowed.

    The API tolerates padding. One zero CIDR allows every source of its family, whatever else is listed.
    """
    if not spec.load_balancer_source_ranges:
        return _NOTHING
    given = [(text or "").strip() for text in spec.load_balancer_source_ranges]
    field = "spec.loadBalancerSourceRanges"
    ranges = _by_family(given, addresses.parse_cidr, field, "CIDR", found)
    return {
        family: () if any(text.endswith("/0") for text in texts) else texts
        for family, texts in ranges.items()
    }


def load_balancer_vips(status: wire.ServiceStatus | None, found: Findings) -> ByFamily:
    """Return the load balancer's addresses that nodes answer for: those of ipMode VIP, the default (KEP-1860).

    In mode Proxy traffic really has to go to the load balancer; a host name is no address.
    """
    balancer = status and status.load_balancer
    if not balancer or not balancer.ingress:
        return _NOTHING
    vips: list[str | None] = []
    for index, ingress in enumerate(balancer.ingress):
        mode = None if ingress is None else ingress.ip_mode or "VIP"
        if mode not in ("VIP", "Proxy", None):
            field = f"status.loadBalancer.ingress[{index}].ipMode"
            found.add(field, f"{quoted(mode)} is unknown: write VIP or Proxy")
        vips.append(ingress.ip if ingress is not None and mode == "VIP" else None)
    return _by_family(vips, addresses.parse_ip, "status.loadBalancer.ingress", "IP address", found)


def _by_family(
    texts: Iterable[str | None],
    parse: Callable[[str], _Parsed | None],
    field: str,
    what: str,
    found: Findings,
) -> ByFamily:
    """Return canonical texts without repetitions, in the order given."""
    result: dict[Family, dict[str, None]] = {family: {} for family in FAMILIES}
    for index, text in enumerate(texts):
        if not text:
            continue
        parsed = parse(text)
        if parsed is None:
            found.add(f"{field}[{index}]", f"{quoted(text)} is no {what}")
        else:
            result[parsed.family][parsed.text] = None
    return {family: tuple(members) for family, members in result.items()}


def _parse_ip(text: str | None, field: str, found: Findings) -> addresses.Address | None:
    if not text or text == HEADLESS:
        return None
    address = addresses.parse_ip(text)
    if address is None:
        found.add(field, f"{quoted(text)} is no IP address")
    return address
