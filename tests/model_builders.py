"""Builders of model values: valid by default, so that a test states only what it is about.

The node under test is `n1` in zone `z1`, and the service is `default/web` with one unnamed TCP port. An endpoint is
on another node unless it is said to be local.
"""

import ipaddress
from collections.abc import Iterable

from msgspec import structs

from proxy.model import (
    IPV4,
    IPV6,
    LOCAL,
    NODE_HINTED,
    READY,
    SERVING,
    TERMINATING,
    ZONE_HINTED,
    Endpoint,
    EndpointSlice,
    Family,
    NodeInfo,
    PortKey,
    Protocol,
    Service,
    ServiceName,
    ServicePort,
    ServicePortName,
    SlicePort,
)

THIS_NODE = "n1"
OTHER_NODE = "n2"


def make_service_name(text: str = "default/web") -> ServiceName:
    """Return the ServiceName written `namespace/name`."""
    namespace, _, name = text.partition("/")
    return ServiceName(namespace, name)


def make_key(
    service: str = "default/web",
    port_name: str = "",
    *,
    protocol: Protocol = "TCP",
    family: Family = IPV4,
) -> PortKey:
    """Return the key of a port of the service written `namespace/name`."""
    return PortKey(ServicePortName(*make_service_name(service), port_name, protocol), family)


def make_service_port(
    service: str = "default/web",
    port_name: str = "",
    *,
    protocol: Protocol = "TCP",
    cluster_ip: str = "10.96.0.10",
    port: int = 80,
    node_port: int = 0,
    external_ips: tuple[str, ...] = (),
    load_balancer_vips: tuple[str, ...] = (),
    source_ranges: tuple[str, ...] = (),
    affinity_timeout_s: int | None = None,
    internal_local: bool = False,
    external_local: bool = False,
    health_check_node_port: int = 0,
) -> ServicePort:
    """Make a port of the service written `namespace/name`; its family is that of the cluster IP."""
    family = IPV6 if ":" in cluster_ip else IPV4
    return ServicePort(
        key=make_key(service, port_name, protocol=protocol, family=family),
        cluster_ip=cluster_ip,
        port=port,
        node_port=node_port,
        external_ips=external_ips,
        load_balancer_vips=load_balancer_vips,
        source_ranges=source_ranges,
        affinity_timeout_s=affinity_timeout_s,
        internal_local=internal_local,
        external_local=external_local,
        health_check_node_port=health_check_node_port,
    )


def make_service(
    name: str = "default/web",
    *ports: ServicePort,
    created: str = "2026-01-01T00:00:00Z",
    skipped: str = "",
    uid: str = "",
    resource_version: str = "1",
) -> Service:
    """Make the service written `namespace/name`; it owns its ports, for whichever service they were made.

    Without ports it has one, unless it is skipped.
    """
    identity = make_service_name(name)
    given = ports or (() if skipped else (make_service_port(),))
    return Service(
        name=identity,
        ports=tuple(_owned_by(identity, port) for port in given),
        created=created,
        skipped=skipped,
        uid=uid,
        resource_version=resource_version,
    )


def make_endpoint(
    address: str = "10.1.0.1:80",
    *,
    slice_name: str = "web-a",
    ready: bool = True,
    serving: bool = True,
    terminating: bool = False,
    is_local: bool = False,
    node_name: str | None = None,
    zone: str | None = "z1",
    zone_hints: Iterable[str] = (),
    node_hints: Iterable[str] = (),
) -> Endpoint:
    """Make the endpoint at `host:port` (IPv6 in brackets). Empty hints are no hints, as the model wants it."""
    host, _, port = address.rpartition(":")
    ip = host.removeprefix("[").removesuffix("]")
    zones, nodes = frozenset(zone_hints), frozenset(node_hints)
    flags = {
        READY: ready,
        SERVING: serving,
        TERMINATING: terminating,
        LOCAL: is_local,
        ZONE_HINTED: bool(zones),
        NODE_HINTED: bool(nodes),
    }
    return Endpoint(
        address=address,
        ip=ip,
        port=int(port),
        packed=ipaddress.ip_address(ip).packed + int(port).to_bytes(2, "big") + b"\0\0",
        slice=slice_name,
        flags=sum(flag for flag, is_set in flags.items() if is_set),
        node_name=node_name or (THIS_NODE if is_local else OTHER_NODE),
        zone=zone,
        zone_hints=zones or None,
        node_hints=nodes or None,
    )


def make_slice(
    name: str = "web-a",
    *endpoints: Endpoint,
    namespace: str = "default",
    service: str | None = "web",
    port_name: str = "",
    protocol: Protocol = "TCP",
    family: Family | None = None,
    uid: str = "",
    resource_version: str = "1",
    triggered_s: float | None = None,
) -> EndpointSlice:
    """Make a slice with one port; its endpoints name it, for whichever slice they were made.

    The family is that of the first endpoint. `service` is the label's value, None where there is no label.
    """
    is_ipv6 = bool(endpoints) and ":" in endpoints[0].ip
    return EndpointSlice(
        namespace=namespace,
        name=name,
        family=family or (IPV6 if is_ipv6 else IPV4),
        service=None if service is None else ServiceName(namespace, service),
        ports=(
            (
                SlicePort(port_name, protocol),
                tuple(structs.replace(endpoint, slice=name) for endpoint in endpoints),
            ),
        ),
        uid=uid,
        resource_version=resource_version,
        triggered_s=triggered_s,
    )


def make_node(
    name: str = THIS_NODE,
    *,
    zone: str = "z1",
    addresses: tuple[str, ...] = ("192.0.2.1",),
    pod_cidrs: tuple[str, ...] = (),
    leaving: str = "",
    is_known: bool = True,
    resource_version: str = "1",
) -> NodeInfo:
    """Make the own Node."""
    return NodeInfo(
        name=name,
        zone=zone,
        addresses=addresses,
        pod_cidrs=pod_cidrs,
        leaving=leaving,
        is_known=is_known,
        resource_version=resource_version,
    )


def _owned_by(service: ServiceName, port: ServicePort) -> ServicePort:
    of = port.key.name
    return structs.replace(
        port, key=PortKey(ServicePortName(*service, of.port, of.protocol), port.key.family)
    )
