"""How endpoints are chosen among."""

import re
import tracemalloc

import pytest

from backends.iptables.model import Chain
from backends.iptables.names import affinity_names
from backends.iptables.pools import LEAF, list_chains, remembering_chain, sticky_chain
from proxy.model import Endpoint
from tests.desired_strategies import addresses
from tests.model_builders import make_endpoint, make_key

WEB = make_key("default/web")
NAME = "SLICEPROXY-S-ABCDEFGHIJ"


def pool(count: int, first: int = 1) -> list[Endpoint]:
    return [make_endpoint(address) for address in addresses(first, count)]


def chances(chains: list[Chain]) -> dict[str, float]:
    """Return how often each endpoint is chosen."""
    by_name = {chain.name: chain for chain in chains}
    found: dict[str, float] = {}

    def walk(chain: Chain, chance: float) -> None:
        for rule in chain.rules:
            given = re.search(r"--probability (\S+)", rule)
            taken = chance * float(given[1]) if given else chance
            target = rule.split()[-1]
            if target in by_name:
                walk(by_name[target], taken)
            elif "--to-destination" in rule:
                assert target not in found
                found[target] = taken
            chance -= taken

    walk(chains[-1], 1.0)
    return found


def bare(rule: str) -> str:
    return re.sub(r'-m comment --comment "[^"]*" ?', "", rule)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100, 400])
def test_every_endpoint_is_chosen_equally_often(count: int) -> None:
    found = chances(list_chains(NAME, WEB, pool(count)))

    assert found.keys() == {endpoint.address for endpoint in pool(count)}
    assert all(abs(chance - 1 / count) < 1e-6 for chance in found.values())


@pytest.mark.parametrize("count", [0, 1, 16, 17, 300, 5000])
def test_chains_come_after_those_they_lead_to_and_are_short(count: int) -> None:
    chains = list_chains(NAME, WEB, pool(count))
    seen: set[str] = set()
    for chain in chains:
        leads = {target for rule in chain.rules for target in re.findall(r"-g (\S+)", rule)}
        assert leads <= seen
        seen.add(chain.name)
        assert len(chain.rules) <= (LEAF if count < 2000 else 64)
        assert len(chain.name) <= 28

    assert chains[-1].name == NAME
    assert len(seen) == len(chains)


def test_few_endpoints_are_one_chain_of_a_rule_each() -> None:
    (chain,) = list_chains(NAME, WEB, pool(3))

    assert [bare(rule) for rule in chain.rules] == [
        "-p tcp -m statistic --mode random --probability 0.3333333333 -j DNAT --to-destination 10.0.0.1:8080",
        "-p tcp -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 10.0.0.2:8080",
        "-p tcp -j DNAT --to-destination 10.0.0.3:8080",
    ]
    assert "default/web" in chain.rules[0]


def test_no_endpoint_is_a_chain_that_does_nothing() -> None:
    (chain,) = list_chains(NAME, WEB, [])

    assert [bare(rule) for rule in chain.rules] == [""]


def test_the_order_of_endpoints_does_not_matter() -> None:
    for count in (5, 50):
        assert list_chains(NAME, WEB, pool(count)[::-1]) == list_chains(NAME, WEB, pool(count))


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_one_endpoint_more_concerns_few_chains(count: int) -> None:
    before = {chain.name: chain for chain in list_chains(NAME, WEB, pool(count))}
    after = {chain.name: chain for chain in list_chains(NAME, WEB, pool(count + 1))}

    assert sum(chain != before.get(name) for name, chain in after.items()) <= 3


def test_rules_are_few_for_each_endpoint() -> None:
    for count, most in ((10, 1.0), (100, 1.2), (1000, 1.3)):
        rules = sum([len(chain.rules) for chain in list_chains(NAME, WEB, pool(count))])
        assert rules <= count * most


def test_ipv6_endpoints_stand_in_brackets() -> None:
    key = make_key("default/six", protocol="UDP", family="IPv6")

    (chain,) = list_chains(NAME, key, [make_endpoint("[fd00::1]:53")])

    assert bare(chain.rules[0]) == "-p udp -j DNAT --to-destination [fd00::1]:53"


def test_who_is_remembered_is_asked_for_before_anybody_is_chosen() -> None:
    endpoints = pool(2)
    (one, known_one), (two, known_two) = (affinity_names(WEB, e.address) for e in endpoints)

    chain = sticky_chain(NAME, WEB, endpoints[::-1])

    assert [bare(rule) for rule in chain.rules] == [
        f"-m set --match-set {known_one} src -g {one}",
        f"-m set --match-set {known_two} src -g {two}",
        f"-m statistic --mode random --probability 0.5000000000 -g {one}",
        f"-g {two}",
    ]
    assert len(sticky_chain(NAME, WEB, []).rules) == 1


def test_what_long_lists_were_like_is_not_kept() -> None:
    endpoints = pool(600)
    tracemalloc.start()
    try:
        for count in range(580, 600):
            sticky_chain(NAME, WEB, endpoints[:count])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


def test_a_client_is_remembered_anew_with_each_connection() -> None:
    (endpoint,) = pool(1)
    name, known = affinity_names(WEB, endpoint.address)

    chain = remembering_chain(WEB, endpoint, 60)

    assert chain.name == name
    assert [bare(rule) for rule in chain.rules] == [
        f"-j SET --add-set {known} src --exist --timeout 60",
        "-p tcp -j DNAT --to-destination 10.0.0.1:8080",
    ]
