"""Source ranges of load balancers: what a ServicePort that has some has to itself. Pure.

All its VIPs jump to one chain, which returns for who may come in and drops everybody else. The set of ranges never
changes: other ranges are another set, named after its content, and the rule that looks it up is replaced in place.
"""

import functools
import hashlib
from typing import NamedTuple

from backends.kernel import nft_phrases as say
from backends.kernel import nft_table
from backends.kernel.nft_numbers import SetFlag
from backends.kernel.nft_ranges import interval_keys
from backends.kernel.nft_table import ChainSpec, RuleSpec, SetSpec, declared
from backends.nftables.model import VIP_SOURCES
from backends.nftables.names import identity
from backends.nftables.sets import address_type
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey


class Firewall(NamedTuple):
    """The chain and the set of a ServicePort, and what is in the set: the bounds of its ranges, never none."""

    key: PortKey
    chain_name: str
    set_name: str
    bounds: tuple[bytes, ...]


def firewall_of(port: DesiredPort) -> Firewall | None:
    """Return what a ServicePort with source ranges needs, None for one whose VIPs (if any) take everybody."""
    if not port.source_ranges or all(each.kind != "LoadBalancer" for each in port.frontends):
        return None
    return firewall_for(port.key, port.source_ranges)


@functools.lru_cache(maxsize=1024)
def firewall_for(key: PortKey, ranges: tuple[str, ...]) -> Firewall:
    """Return what a ServicePort needs to admit those in the ranges, canonical CIDRs of its family."""
    bounds = tuple(interval_keys(key.family, ranges))
    digest = hashlib.blake2b(b"".join(bounds), digest_size=4).hexdigest()
    own = identity(key)
    return Firewall(key, f"firewall-{own}", f"ranges-{own}-{digest}", bounds)


def firewall_set(firewall: Firewall) -> SetSpec:
    empty = _set_of_ranges(firewall.key.family)
    return empty._replace(name=firewall.set_name, owner=firewall.key)


@functools.cache
def _set_of_ranges(family: Family) -> SetSpec:
    """Return what all these sets have in common, declared once."""
    return declared("", address_type(family), flags=SetFlag.INTERVAL)


def firewall_chain(firewall: Firewall) -> ChainSpec:
    family = firewall.key.family
    in_the_ranges = [*say.source_in(family, firewall.set_name), say.leave()]
    first = nft_table.rule(in_the_ranges, "in the ranges")
    return ChainSpec(firewall.chain_name, None, (first, *_rules_of_all(family)), firewall.key)


@functools.cache
def _rules_of_all(family: Family) -> tuple[RuleSpec, ...]:
    """Return what follows in each of these chains, packed once."""
    return (
        nft_table.rule(
            [*say.source_of_frontend_in(family, VIP_SOURCES), say.leave()],
            "this node, looped back",
        ),
        nft_table.rule([say.drop()], "everybody else"),
    )
