"""The endpoints of one EndpointSlice, port by port.

Pure; the part of `convert` that runs once for each endpoint of the cluster at start and for each endpoint of
the slice on every change, so its inner loop is flat and its strings are shared. Nothing is chosen here: which
endpoints serve, and what duplicates in other slices mean, is the business of `cache` and `selection`.
"""

import operator
from collections.abc import Iterable
from functools import lru_cache
from sys import intern
from typing import Final, NamedTuple

from proxy.addresses import pack_canonical_ipv4, parse_ip
from proxy.model import (
    IPV4,
    LOCAL,
    NODE_HINTED,
    READY,
    SERVING,
    TERMINATING,
    ZONE_HINTED,
    Endpoint,
    Family,
    SlicePort,
)
from proxy.sources import advice, wire
from proxy.sources.findings import Findings, quoted

_NO_CONDITIONS: Final = wire.EndpointConditions()
_address_of: Final = operator.attrgetter("address")


def by_port(
    obj: wire.EndpointSlice, family: Family, node_name: str, found: Findings
) -> tuple[tuple[SlicePort, tuple[Endpoint, ...]], ...]:
    """Return for each port the endpoints, sorted bytewise by address, one address twice in list order.

    An endpoint is local if its nodeName is exactly `node_name`. Sorting here makes the merge of many slices cheap.

    The same name and protocol may come with several numbers: all of them serve.
    """
    ports = _ports(obj.ports or (), found)
    _gather(obj, [gathering for _, gathering in ports], family, node_name, found)
    merged: dict[SlicePort, tuple[Endpoint, ...]] = {}
    for port, gathering in ports:
        gathering.endpoints.sort(key=_address_of)
        merged[port] = merged.get(port, ()) + tuple(gathering.endpoints)
    return tuple(merged.items())


class _Gathering(NamedTuple):
    """A port number in the forms that its endpoints need, and those endpoints."""

    number: int
    suffix: str
    packed: bytes
    endpoints: list[Endpoint]


def _ports(
    given: Iterable[wire.EndpointPort | None], found: Findings
) -> list[tuple[SlicePort, _Gathering]]:
    ports: dict[tuple[SlicePort, int], _Gathering] = {}
    for index, port in enumerate(given):
        if port is None:
            continue
        protocol = found.protocol(port.protocol, f"ports[{index}].protocol")
        number = found.port(port.port, f"ports[{index}].port")
        if port.name is None:
            found.add(f"ports[{index}].name", 'missing: write name: "" for an unnamed port')
        elif protocol is not None and number is not None:
            key = (SlicePort(intern(port.name), protocol), number)
            if key in ports:
                found.add(f"ports[{index}]", "stands in the list twice")
            else:
                ports[key] = _Gathering(number, f":{number}", number.to_bytes(2) + b"\0\0", [])
    return [(port, gathering) for (port, _), gathering in ports.items()]


def _gather(
    obj: wire.EndpointSlice,
    gatherings: list[_Gathering],
    family: Family,
    node_name: str,
    found: Findings,
) -> None:
    """Add every usable endpoint of the slice to every port."""
    slice_name = found.name
    old_topology: list[int] = []
    for index, endpoint in enumerate(obj.endpoints or ()):
        if endpoint is None:
            continue
        if endpoint.topology is not None:
            old_topology.append(index)
        # More addresses would be further ones of the same pod; kube-proxy uses the first, and so do we.
        given = endpoint.addresses[0] if endpoint.addresses else None
        if given is None:
            found.add(f"endpoints[{index}].addresses", "empty")
            continue
        ip, packed = given, pack_canonical_ipv4(given) if family == IPV4 else None
        if packed is None:
            address = parse_ip(given)
            if address is None or address.family != family:
                field = f"endpoints[{index}].addresses[0]"
                found.add(field, f"{quoted(given)} is no {family} address")
                continue
            ip, packed, _ = address
        host = ip if family == IPV4 else f"[{ip}]"
        conditions = endpoint.conditions or _NO_CONDITIONS
        at_node, zone, hints = endpoint.node_name, endpoint.zone, endpoint.hints
        zone_hints = node_hints = None
        if hints is not None:
            zone_hints, node_hints = _hinted(hints.for_zones), _hinted(hints.for_nodes)
        flags = (
            # Absent means true, true and false, each on its own: a mirrored slice sets only `ready`.
            (0 if conditions.ready is False else READY)
            | (0 if conditions.serving is False else SERVING)
            | (TERMINATING if conditions.terminating else 0)
            | (LOCAL if at_node and at_node == node_name else 0)
            | (0 if zone_hints is None else ZONE_HINTED)
            | (0 if node_hints is None else NODE_HINTED)
        )
        for number, suffix, packed_port, gathered in gatherings:
            gathered.append(
                Endpoint(
                    address=host + suffix,
                    ip=ip,
                    port=number,
                    packed=packed + packed_port,
                    slice=slice_name,
                    flags=flags,
                    node_name=at_node and intern(at_node),
                    zone=zone and intern(zone),
                    zone_hints=zone_hints,
                    node_hints=node_hints,
                )
            )
    if old_topology:
        more = f" (and on {len(old_topology) - 1} more)" if old_topology[1:] else ""
        found.add(f"endpoints[{old_topology[0]}].topology", advice.TOPOLOGY + more)


def _hinted(hints: list[wire.Hint | None] | None) -> frozenset[str] | None:
    """Return the names that are hinted at, or None if there are none: an empty list is no hint."""
    if not hints:
        return None
    names = tuple([hint.name or "" for hint in hints if hint is not None])
    return _shared_set(names) if names else None


@lru_cache(maxsize=16384)
def _shared_set(names: tuple[str, ...]) -> frozenset[str]:
    """Return one set for all endpoints with these hints: a cluster has few of them, but many endpoints."""
    return frozenset(map(intern, names))
