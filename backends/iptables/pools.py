"""The chains that choose among the endpoints of a list. Pure.

Each endpoint is a rule, taken with a probability such that all are chosen equally often. More than sixteen are divided by a
hash of their addresses, so that one that comes or goes changes its own part and the probabilities above it.

Under session affinity each endpoint has a chain that notes the client in the endpoint's set and translates; the list asks these
sets first, one after the other, since nothing can be looked up by client alone.
"""

import functools
import itertools
import operator
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from backends.iptables.model import Chain, make_chain
from backends.iptables.names import affinity_names
from proxy.model import Endpoint, PortKey

LEAF: Final = 16
"""Longer lists are divided."""
_LEVELS: Final = 2
_address_of: Final = operator.attrgetter("address")


def list_chains(name: str, key: PortKey, pool: Sequence[Endpoint]) -> list[Chain]:
    """Return the chains that choose among some endpoints, each after those it leads to; the last one bears the name."""
    return list(_divided(name, key, _in_order(pool), 0))


def sticky_chain(name: str, key: PortKey, pool: Sequence[Endpoint], secret: str = "") -> Chain:
    """Return the chain that asks who remembers the client, and else chooses among some endpoints."""
    names = [affinity_names(key, endpoint.address, secret) for endpoint in _in_order(pool)]
    asked = [f"-m set --match-set {known} src -g {chain}" for chain, known in names]
    chances = _chances((1,) * len(names))
    chosen = [f"{chance}-g {chain}" for (chain, _), chance in zip(names, chances, strict=True)]
    return make_chain(name, [*asked, *chosen], str(key.name))


def remembering_chain(key: PortKey, endpoint: Endpoint, timeout_s: int, secret: str = "") -> Chain:
    """Return the chain that leads to one endpoint and has the client remembered; each new connection begins the time anew."""
    name, known = affinity_names(key, endpoint.address, secret)
    return make_chain(
        name,
        [
            f"-j SET --add-set {known} src --exist --timeout {timeout_s}",
            f"-p {key.name.protocol.lower()} -j DNAT --to-destination {endpoint.address}",
        ],
        str(key.name),
    )


def _divided(name: str, key: PortKey, pool: Sequence[Endpoint], level: int) -> Iterator[Chain]:
    if len(pool) <= LEAF or level == _LEVELS:
        match = f"-p {key.name.protocol.lower()}"
        rules = [
            f"{match} {chance}-j DNAT --to-destination {endpoint.address}"
            for endpoint, chance in zip(pool, _few_chances((1,) * len(pool)), strict=True)
        ]
        yield make_chain(name, rules, str(key.name))
        return
    parts: dict[str, list[Endpoint]] = {}
    for endpoint in pool:
        digit = zlib.crc32(endpoint.packed) >> 4 * level & 15
        parts.setdefault(f"{name}{'' if level else '-'}{digit:X}", []).append(endpoint)
    names = sorted(parts)
    for part in names:
        yield from _divided(part, key, parts[part], level + 1)
    chances = _few_chances(tuple([len(parts[part]) for part in names]))
    rules = [f"{chance}-g {part}" for part, chance in zip(names, chances, strict=True)]
    yield make_chain(name, rules, str(key.name))


def _chances(weights: tuple[int, ...]) -> tuple[str, ...]:
    """Return what has each of some rules taken in proportion to its weight, in words; the last one takes whoever is left."""
    left = list(itertools.accumulate(reversed(weights)))[::-1]
    chances = [
        f"-m statistic --mode random --probability {weight / of:.10f} "
        for weight, of in zip(weights, left, strict=True)
    ]
    return (*chances[:-1], "") if chances else ()


_few_chances: Final = functools.lru_cache(maxsize=1024)(_chances)
"""The same for the chains of lists, which are short, and many are alike. Those of long ones would fill the memory."""


def _in_order(pool: Sequence[Endpoint]) -> list[Endpoint]:
    """Return endpoints in an order that depends on nothing but them."""
    return sorted(pool, key=_address_of)
