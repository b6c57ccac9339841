"""The sets of which our rules ask whether a packet is in them: names and shapes. Pure.

Which members they have is the business of `render`, and of `plan` for those that are there for the node itself.
"""

import functools
from typing import Final

from backends.iptables.model import SETS
from backends.iptables.names import affinity_prefix
from backends.kernel.ipset_objects import IpSet, SetKind
from proxy.model import FAMILIES, PROTOCOLS, Family, Protocol

CLUSTER_IPS: Final = "cluster-ips"
EXTERNAL_IPS: Final = "external-ips"
NODEPORT_IPS: Final = "nodeport-ips"
FRONTENDS: Final = "frontends"
REFUSED: Final = "refused"
GUARDED: Final = "guarded"
ALLOWED: Final = "allowed"
HAIRPIN: Final = "hairpin"
SERVICE_CIDRS: Final = "service-cidrs"
HEALTH_PORTS: Final = "ports-health"
PORTS: Final[dict[Protocol, str]] = {p: f"ports-{p.lower()}" for p in PROTOCOLS}
PORTS_REFUSED: Final[dict[Protocol, str]] = {p: f"ports-refused-{p.lower()}" for p in PROTOCOLS}

_KINDS: Final = {
    CLUSTER_IPS: SetKind.ADDRESS,
    EXTERNAL_IPS: SetKind.ADDRESS,
    NODEPORT_IPS: SetKind.ADDRESS,
    FRONTENDS: SetKind.ADDRESS_PORT,
    REFUSED: SetKind.ADDRESS_PORT,
    GUARDED: SetKind.ADDRESS_PORT,
    ALLOWED: SetKind.ADDRESS_PORT_NETWORK,
    HAIRPIN: SetKind.ADDRESS_PORT_ADDRESS,
    SERVICE_CIDRS: SetKind.NETWORK,
    HEALTH_PORTS: SetKind.PORT,
    **dict.fromkeys([*PORTS.values(), *PORTS_REFUSED.values()], SetKind.PORT),
}
_MOST: Final = 1 << 20
_REMEMBERED_S: Final = 10800
"""How long a set for session affinity would keep clients if rules did not say: it is never asked, and the same for all."""


@functools.cache
def set_name(family: Family, short: str) -> str:
    """Return the whole name of a fixed set."""
    return SETS[family] + short


@functools.cache
def fixed_sets(family: Family) -> dict[str, IpSet]:
    """Return the sets that are there whatever the services, by name."""
    made = [
        IpSet(set_name(family, short), kind, None if kind is SetKind.PORT else family)
        for short, kind in _KINDS.items()
    ]
    return {
        each.name: each if each.family is None else each._replace(max_members=_MOST)
        for each in made
    }


def affinity_set(family: Family, name: str) -> IpSet:
    """Return the set that remembers the clients of one endpoint."""
    return IpSet(name, SetKind.ADDRESS, family, _REMEMBERED_S)


def is_misshapen(found: IpSet) -> bool:
    """Whether a set has a name that we use and is not of the shape it should be: then it cannot be put right in place."""
    for family in FAMILIES:
        if found.name.startswith(affinity_prefix(family)):
            return found != affinity_set(family, found.name)
        if found.name in fixed_sets(family):
            return found != fixed_sets(family)[found.name]
    return False
