"""The sets and maps that every service shares, and how any of them is declared. Pure."""

from typing import Final

from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS
from backends.kernel.nft_numbers import SetFlag
from backends.kernel.nft_table import SetSpec, declared
from backends.nftables.model import (
    AFFINITY_CLIENTS,
    AFFINITY_ENDPOINTS,
    AFFINITY_ENDPOINTS_LOCAL,
    AFFINITY_NODEPORTS,
    AFFINITY_SERVICES,
    AFFINITY_SLOTS,
    CLUSTER_IPS,
    ENDPOINTS,
    EXTERNAL_IPS,
    EXTERNALS,
    FIREWALL,
    GUARDED,
    HAIRPIN,
    NODEPORT_ENDPOINTS,
    NODEPORTS,
    NODEPORTS_REFUSED,
    REFUSED,
    SERVICES,
)
from proxy.model import IPV4, Family, Protocol

# Declared by `typeof`, because the stock tool takes no plain integer as a type. The number after
# `mod` is for its eyes only.
SLOT = "numgen random mod 65536"
# A number of session affinity, as rules hand it on.
NUMBER = "meta priority"
CLIENTS_AT_MOST: Final = 1 << 20
"""Clients of all ServicePorts that are remembered at a time; further ones are served without affinity.

The kernel makes room for as many elements as the lower 16 bits of a limit say (the `nelem_hint` of rhashtable_params):
for 65,535, which it would set itself, 2 MiB; for this one nothing (6.18).
"""


def address_type(family: Family) -> str:
    return "ipv4_addr" if family == IPV4 else "ipv6_addr"


def destination(family: Family) -> str:
    return "ip daddr" if family == IPV4 else "ip6 daddr"


def endpoint_type(family: Family, protocol: Protocol) -> str:
    """Return an endpoint, address and port, in the words of the stock tool."""
    return f"{destination(family)} . {protocol.lower()} dport"


def frontend_type(family: Family) -> str:
    return f"{address_type(family)} . inet_proto . inet_service"


def shared_sets(family: Family) -> tuple[SetSpec, ...]:
    """Return the sets that every service shares."""
    address = address_type(family)
    frontend, node_port = frontend_type(family), "inet_proto . inet_service"
    slots = [
        declared(
            name,
            f"{destination(family)} . {protocol.lower()} dport . {SLOT}",
            endpoint_type(family, protocol),
        )
        for protocol, name in ENDPOINTS.items()
    ]
    slots += [
        declared(name, f"{protocol.lower()} dport . {SLOT}", endpoint_type(family, protocol))
        for protocol, name in NODEPORT_ENDPOINTS.items()
    ]
    return (
        *[declared(name, frontend, "verdict") for name in (SERVICES, EXTERNALS)],
        declared(NODEPORTS, node_port, "verdict"),
        *slots,
        *[declared(name, frontend) for name in (REFUSED, GUARDED)],
        declared(NODEPORTS_REFUSED, node_port),
        *[declared(name, address) for name in (CLUSTER_IPS, EXTERNAL_IPS, NODEPORT_IPS)],
        declared(SERVICE_CIDRS, address, flags=SetFlag.INTERVAL),
        declared(HAIRPIN, f"{address} . {address}"),
        *_affinity_sets(family),
    )


def former_firewall(family: Family) -> SetSpec:
    """Return the verdict map that an earlier layout had."""
    return declared(FIREWALL, frontend_type(family), "verdict")


def _affinity_sets(family: Family) -> tuple[SetSpec, ...]:
    frontend = f"{destination(family)} . meta l4proto . th dport"
    # declared by types: endpoints of all protocols are in one
    endpoint = f"{address_type(family)} . inet_service"
    return (
        declared(
            AFFINITY_CLIENTS,
            f"{NUMBER} . {'ip saddr' if family == IPV4 else 'ip6 saddr'}",
            NUMBER,
            flags=SetFlag.EVAL | SetFlag.TIMEOUT,
            size=CLIENTS_AT_MOST,
        ),
        declared(AFFINITY_SERVICES, frontend, NUMBER),
        declared(AFFINITY_NODEPORTS, "meta l4proto . th dport", NUMBER),
        declared(AFFINITY_SLOTS, f"{NUMBER} . {SLOT}", NUMBER),
        declared(AFFINITY_ENDPOINTS, "classid", endpoint),
        declared(AFFINITY_ENDPOINTS_LOCAL, "classid", endpoint),
    )
