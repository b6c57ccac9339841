"""The chains that choose among the endpoints of a list. Pure.

Each endpoint is a rule, taken with a probability such that all are chosen equally often. More than sixteen are divided by a
hash of their addresses, so that one that comes or goes changes its own part and the probabilities above it.

Under session affinity each endpoint has a chain that notes the client in the endpoint's set and translates; the list asks these
sets first, one after the other, since nothing can be looked up by client alone.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from backends.iptables.model import Chain, make_chain
from backends.iptables.names import affinity_names
from proxy.model import Endpoint, PortKey

LEAF: Final = 16
"""Longer lists are divided."""
_LEVELS: Final = 2

Act = Callable[[Endpoint], str]
"""What a rule does for an endpoint, in words of a rule."""


def list_chains(name: str, key: PortKey, pool: Sequence[Endpoint]) -> list[Chain]:
    """Return the chains that choose among some endpoints, each after those it leads to; the last one bears the name."""
    protocol = key.name.protocol.lower()

    def translate(endpoint: Endpoint) -> str:
        return f"-p {protocol}{{}} -j DNAT --to-destination {endpoint.address}"

    return list(_divided(name, str(key.name), _in_order(pool), translate, 0))


def sticky_chain(name: str, key: PortKey, pool: Sequence[Endpoint], secret: str = "") -> Chain:
    """Return the chain that asks who remembers the client, and else chooses among some endpoints."""
    endpoints = _in_order(pool)
    names = [affinity_names(key, endpoint.address, secret) for endpoint in endpoints]
    asked = [f"-m set --match-set {known} src -g {chain}" for chain, known in names]
    chosen = _choosing([(f"{{}} -g {chain}", 1) for chain, _ in names])
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


def _divided(
    name: str, about: str, pool: Sequence[Endpoint], act: Act, level: int
) -> Iterator[Chain]:
    if len(pool) <= LEAF or level == _LEVELS:
        yield make_chain(name, _choosing([(act(endpoint), 1) for endpoint in pool]), about)
        return
    parts: dict[str, list[Endpoint]] = {}
    for endpoint in pool:
        digit = zlib.crc32(endpoint.packed) >> 4 * level & 15
        parts.setdefault(f"{name}{'' if level else '-'}{digit:X}", []).append(endpoint)
    for part in sorted(parts):
        yield from _divided(part, about, parts[part], act, level + 1)
    leads = [(f"{{}} -g {part}", len(parts[part])) for part in sorted(parts)]
    yield make_chain(name, _choosing(leads), about)


def _choosing(rules: Sequence[tuple[str, int]]) -> list[str]:
    """Return rules of which each is taken in proportion to its weight; the last one takes whoever is left."""
    left = sum([weight for _, weight in rules])
    texts: list[str] = []
    for text, weight in rules:
        chance = f" -m statistic --mode random --probability {weight / left:.10f}"
        texts.append(text.format(chance if weight < left else "").strip())
        left -= weight
    return texts


def _in_order(pool: Sequence[Endpoint]) -> list[Endpoint]:
    """Return endpoints in an order that depends on nothing but them."""
    return sorted(pool, key=lambda endpoint: endpoint.address)
