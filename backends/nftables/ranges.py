"""Source ranges of load balancers: who may come in to which VIP. Pure.

A VIP with ranges is in `guarded`. Its ranges are in sets by the length of their prefixes, as `ranges-24`: each element is
a frontend and a network from which it may be reached. One chain for all of them looks the source up in each of these
sets, cut to that length. Such a set comes with the first range of its length, and stays.
"""

import functools
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from backends.kernel import nft_phrases as say
from backends.kernel.nft_table import ChainSpec, RuleSpec, SetSpec, declared, rule
from backends.nftables import rules
from backends.nftables.model import GUARDED, SOURCES
from backends.nftables.sets import address_type, frontend_type
from proxy.addresses import pack_ip
from proxy.model import FAMILIES, IPV4, Family

LENGTHS: Final[dict[Family, dict[str, int]]] = {
    family: {f"ranges-{n}": n for n in range(1, (32 if family == IPV4 else 128) + 1)}
    for family in FAMILIES
}
"""The length of the prefixes in a set, by its name. Length 0 does not occur: it would be no limit."""


def admitted(frontend: bytes, cidrs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield what lets sources in these canonical CIDRs in to a frontend."""
    for cidr in cidrs:
        name, network = _parse(cidr)
        yield name, frontend + network


def admitted_itself(frontend: bytes, address: bytes) -> tuple[str, bytes]:
    """Return what lets a VIP in to itself: the node's own packets to it come back with it as their source."""
    return f"ranges-{8 * len(address)}", frontend + address


@functools.lru_cache(maxsize=4096)
def _parse(cidr: str) -> tuple[str, bytes]:
    """Return the set and the network of a CIDR; many ServicePorts have the same ones."""
    network, _, length = cidr.partition("/")
    return f"ranges-{length}", pack_ip(network)


@functools.cache
def set_of_ranges(family: Family, name: str) -> SetSpec:
    return declared(name, f"{frontend_type(family)} . {address_type(family)}")


@functools.cache
def sources_chain(family: Family, names: Collection[str]) -> ChainSpec:
    """Return the chain that returns for those who may come in, and asks these sets.

    A packet reads one set after the other and may be held up in between, while ranges are replaced: the only one it is in
    may come into a set it has asked already, and the former one go from the next. Whatever it misses once for that reason
    it finds when it asks all of them again; and it is not dropped if nobody limits the frontend any more. That is asked in
    between too: if its range has gone with the limit, and both come back before it is asked last, it finds its range again.
    """
    lengths = LENGTHS[family]
    asked = [
        [*rules.from_range(family, name, lengths[name]), say.leave()]
        for name in sorted(names, key=lengths.__getitem__, reverse=True)
    ]
    return ChainSpec(
        SOURCES,
        None,
        (
            *[rule(expressions, "in a range") for expressions in asked],
            *([_nobody_limits(family)] if asked else []),
            *[rule(expressions, "replaced meanwhile") for expressions in asked],
            _everybody_else(family),
        ),
    )


@functools.cache
def _nobody_limits(family: Family) -> RuleSpec:
    return rule([*say.frontend_not_in(family, GUARDED), say.leave()], "no limit any more")


@functools.cache
def _everybody_else(family: Family) -> RuleSpec:
    return rule([*say.frontend_in(family, GUARDED), say.drop()], "everybody else")
