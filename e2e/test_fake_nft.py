"""The fake of nf_tables against the kernel: the same transactions, the same refusals, the same content afterwards."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft, Refused
from backends.kernel.nft_elements import Data
from backends.kernel.nft_expressions import AnyExpression, parse_expressions
from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_numbers import NFPROTO_IPV4, Hook
from e2e.namespace import Namespace
from proxy.netlink.codec import Request
from tests.fakes.nft import NftKernel
from tests.nft_strategies import TABLES, transactions

pytestmark = pytest.mark.requires("nftables")

NUMBER = NFPROTO_IPV4
Chain = tuple[BaseChain | None, list[tuple[str, tuple[AnyExpression, ...]]]]
Outcome = list[tuple[int | None, int, int | None]]
"""The messages refused: which, why, and at which byte."""


class Content(NamedTuple):
    """A table as it can be read back."""

    flags: int
    chains: dict[str, Chain]
    sets: dict[str, tuple[object, ...]]
    elements: dict[str, dict[bytes, Data]]


@pytest.fixture(scope="module")
def nft() -> Iterator[Nft]:
    with Namespace("fake") as namespace:
        with namespace.entered():
            door = Nft()
        with door:
            yield door


def carry_out(nft: Nft, messages: list[Request]) -> Outcome:
    try:
        nft.commit(messages)
    except Refused as refused:
        return [(each.index, each.errno, each.offset) for each in refused.refusals]
    return []


def content(nft: Nft) -> dict[str, Content]:
    """Everything in the tables of the strategies."""
    found: dict[str, Content] = {}
    for name in TABLES:
        table = nft.find_table(NUMBER, name)
        if table is None:
            continue
        rules = nft.list_rules(NUMBER, name)
        sets = nft.list_sets(NUMBER, name)
        found[name] = Content(
            table.flags,
            {
                chain.name: (
                    chain.base,
                    [
                        (rule.comment, parse_expressions(rule.expressions))
                        for rule in rules
                        if rule.chain == chain.name
                    ],
                )
                for chain in nft.list_chains(NUMBER, name)
            },
            {s.name: (s.key_type, s.key_length, s.data_type, s.flags, s.size) for s in sets},
            {
                s.name: {
                    key: data
                    for part in nft.list_elements(NUMBER, name, s.name)
                    for key, data in part
                }
                for s in sets
            },
        )
    return found


def clear(nft: Nft) -> None:
    left = [name for name in TABLES if nft.find_table(NUMBER, name)]
    nft.commit([nft_messages.del_table(NUMBER, name) for name in left])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(transactions())
def test_the_fake_refuses_and_keeps_what_the_kernel_does(
    nft: Nft, batches: list[list[Request]]
) -> None:
    fake = NftKernel()
    with fake.entered():
        imitation = Nft()
    clear(nft)
    with imitation:
        for messages in batches:
            generations = nft.generation(), imitation.generation()

            assert carry_out(imitation, messages) == carry_out(nft, messages)

            steps = nft.generation() - generations[0], imitation.generation() - generations[1]
            assert steps[0] == steps[1]
        assert content(imitation) == content(nft)


def limited_set(size: int, *keys: int) -> list[Request]:
    """A set that takes only so many elements, and elements."""
    packed = [nft_elements.pack_key_element(key.to_bytes(4, "big")) for key in keys]
    new = nft_messages.new_set(NUMBER, "t", "limited", key_type=7, key_length=4, size=size)
    return [new, *nft_elements.new_elements(NUMBER, "t", "limited", packed)]


def without(*keys: int) -> list[Request]:
    packed = [nft_elements.pack_key_element(key.to_bytes(4, "big")) for key in keys]
    return nft_elements.del_elements(NUMBER, "t", "limited", packed)


@pytest.mark.parametrize(
    ("before", "messages"),
    [
        pytest.param(limited_set(2, 1), limited_set(2, 2, 3), id="one too many"),
        pytest.param(limited_set(2, 1), limited_set(2, 2), id="the last that fits"),
        pytest.param(limited_set(2, 1, 2), limited_set(2, 1, 2), id="there already"),
        pytest.param(
            limited_set(2, 1, 2), [*without(1), *limited_set(2, 3)], id="one for another"
        ),
        pytest.param(limited_set(2, 1, 2), limited_set(3, 3), id="room made in the transaction"),
        pytest.param(limited_set(2, 1, 2), limited_set(0, 3), id="a limit is not lifted"),
        pytest.param([], limited_set(2, 1, 2, 3), id="a new set"),
    ],
)
def test_a_set_that_is_full_takes_no_more(
    nft: Nft, before: list[Request], messages: list[Request]
) -> None:
    assert_alike(nft, before, messages)


CHANGED_CHAIN = nft_messages.new_chain(NUMBER, "t", "a")
BASE = BaseChain("nat", Hook.PREROUTING, -100)
SLEEP = nft_messages.new_table(NUMBER, "t", is_dormant=True)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([CHANGED_CHAIN, SLEEP], id="after a chain that was there"),
        pytest.param([nft_messages.new_chain(NUMBER, "t", "b"), SLEEP], id="after a new chain"),
        pytest.param([nft_messages.del_chain(NUMBER, "t", "a"), SLEEP], id="after one that goes"),
        pytest.param(
            [nft_messages.del_chain(NUMBER, "t", "hook"), SLEEP],
            id="after one at a hook that goes",
        ),
        pytest.param([SLEEP, CHANGED_CHAIN], id="before a chain that was there"),
        pytest.param(
            [SLEEP, nft_messages.new_chain(NUMBER, "t", "other", BASE)], id="before one at a hook"
        ),
    ],
)
def test_a_table_is_put_to_sleep_only_before_its_chains_are_changed(
    nft: Nft, messages: list[Request]
) -> None:
    assert_alike(nft, [CHANGED_CHAIN, nft_messages.new_chain(NUMBER, "t", "hook", BASE)], messages)


def assert_alike(nft: Nft, before: list[Request], messages: list[Request]) -> None:
    fake = NftKernel()
    with fake.entered():
        imitation = Nft()
    outcomes: list[list[Outcome]] = []
    with imitation:
        for door in (nft, imitation):
            clear(door)
            steps = [[nft_messages.new_table(NUMBER, "t")], before, messages]
            outcomes.append([carry_out(door, step) for step in steps])
        assert outcomes[0] == outcomes[1]
        assert content(nft) == content(imitation)
