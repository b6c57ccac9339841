"""Source ranges of load balancers: what a ServicePort that has some has to itself. Pure.

All its VIPs jump to one chain, which returns for who may come in and drops everybody else. The set of ranges never
changes: other ranges are another set, named after its content, and the rule that looks it up is replaced in place.
"""

import functools
import hashlib
from typing import Final, NamedTuple

from backends.kernel import nft_phrases as say
from backends.kernel import nft_table
from backends.kernel.nft_numbers import SetFlag
from backends.kernel.nft_table import ChainSpec, RuleSpec, SetSpec, declared
from backends.nftables.model import VIP_SOURCES
from backends.nftables.names import identity
from backends.nftables.sets import address_type
from proxy.addresses import parse_ip
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey

BEGIN, END = b"\0", b"\1"
_WIDTHS: Final[dict[Family, int]] = {"IPv4": 4, "IPv6": 16}


class Firewall(NamedTuple):
    """What the chain depends on. `ranges` are canonical CIDRs of the family, never none."""

    key: PortKey
    ranges: tuple[str, ...]

    @property
    def chain_name(self) -> str:
        return f"firewall-{identity(self.key)}"

    @property
    def set_name(self) -> str:
        content = b"".join(interval_keys(self.key.family, self.ranges))
        digest = hashlib.blake2b(content, digest_size=4).hexdigest()
        return f"ranges-{identity(self.key)}-{digest}"


def firewall_of(port: DesiredPort) -> Firewall | None:
    """Return what a ServicePort with source ranges needs, None for one whose VIPs (if any) take everybody."""
    has_vip = any(frontend.kind == "LoadBalancer" for frontend in port.frontends)
    return Firewall(port.key, port.source_ranges) if has_vip and port.source_ranges else None


def firewall_set(firewall: Firewall) -> SetSpec:
    address = address_type(firewall.key.family)
    return declared(firewall.set_name, address, flags=SetFlag.INTERVAL, owner=firewall.key)


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


@functools.lru_cache(maxsize=1024)
def interval_keys(family: Family, cidrs: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return the elements of ranges as an interval set holds them, without overlaps: the kernel refuses those.

    A range ends where its end says; without one it goes on to the last address.
    """
    width = _WIDTHS[family]
    beyond = 1 << (8 * width)
    bounds: list[list[int]] = []
    for start, end in sorted([_bounds(cidr) for cidr in cidrs]):
        if bounds and start <= bounds[-1][1]:
            bounds[-1][1] = max(bounds[-1][1], end)
        else:
            bounds.append([start, end])
    keys: list[bytes] = []
    for start, end in bounds:
        keys.append(start.to_bytes(width) + BEGIN)
        if end < beyond:
            keys.append(end.to_bytes(width) + END)
    return tuple(keys)


def _bounds(cidr: str) -> tuple[int, int]:
    """Return the first address of a canonical CIDR, and the one beyond its last."""
    host, _, length = cidr.partition("/")
    address = parse_ip(host)
    if address is None:
        raise ValueError(f"{cidr} is no range")
    start = int.from_bytes(address.packed)
    return start, start + (1 << (8 * len(address.packed) - int(length)))
