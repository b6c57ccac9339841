"""What the names of chains and sets say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_transaction import Form
from backends.nftables import names
from backends.nftables.model import Kind
from backends.nftables.names import (
    Act,
    Picking,
    capacity_for,
    is_picking,
    parse_picking,
    picking_chain,
)
from proxy.model import PROTOCOLS, Protocol


@given(st.integers(1, 100_000))
def test_a_pool_fills_more_than_half_of_its_capacity(endpoints: int) -> None:
    capacity = capacity_for(endpoints)

    assert capacity / 2 < endpoints <= capacity
    assert capacity & (capacity - 1) == 0


def test_an_empty_pool_has_the_smallest_capacity() -> None:
    assert capacity_for(0) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(st.integers(0, 20))
def test_a_chain_that_picks_is_known_by_its_name(protocol: Protocol, power: int) -> None:
    name = picking_chain(protocol, 1 << power)

    assert is_picking(name)
    assert [p for p in PROTOCOLS if is_picking(name, p)] == [protocol]


@pytest.mark.parametrize("name", ["pick-tcp-3", "pick-tcp-0", "pick-icmp-2", "pick-tcp-2x", ""])
def test_other_names_are_no_chains_that_pick(name: str) -> None:
    assert not is_picking(name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["cluster-ip", "external-ip", "node-port"])
@pytest.mark.parametrize(
    ("act", "is_local"),
    [("pick", False), ("pick", True), ("external", False)],
)
def test_a_name_says_all_that_the_rules_depend_on(
    protocol: Protocol, kind: Kind, act: Act, is_local: bool
) -> None:
    name = picking_chain(protocol, 8, kind, act=act, is_local=is_local)

    assert is_picking(name)
    assert parse_picking(name) == (act, kind == "node-port", is_local, protocol, 8, 0, 0)
    assert parse_picking(name).name == name


@pytest.mark.parametrize("timeout_s", [0, 60])
def test_a_split_has_two_capacities(timeout_s: int) -> None:
    name = picking_chain("TCP", 8, "node-port", act="split", here=2, timeout_s=timeout_s)

    assert name.startswith("split-nodeport-tcp-2-of-8")
    assert parse_picking(name) == Picking("split", True, False, "TCP", 8, timeout_s, 2)
    assert parse_picking(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "external-local-tcp-8",
        "split-local-tcp-1-of-2",
        "split-tcp-2",
        "split-tcp-3-of-4",
        "split-tcp-2-of-5",
        "pick-tcp-1-of-2",
        "external-tcp-1-of-2",
        "pick-tcp-3",
        "services",
    ],
)
def test_what_we_never_make_has_no_meaning(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        parse_picking(name)


@pytest.mark.parametrize("is_local", [True, False])
@given(st.integers(1, 86_400))
def test_chains_for_session_affinity_say_how_long_it_lasts(is_local: bool, timeout_s: int) -> None:
    name = picking_chain("UDP", 4, "node-port", is_local=is_local, timeout_s=timeout_s)
    remember = Picking("remember", False, is_local, "UDP", 0, timeout_s)

    assert parse_picking(name) == Picking("pick", True, is_local, "UDP", 4, timeout_s)
    assert parse_picking(remember.name) == remember
    assert [names.timeout_of(each) for each in (name, remember.name)] == [timeout_s] * 2
    assert names.timeout_of("pick-udp-4") == names.timeout_of("services") == 0


@pytest.mark.parametrize(
    "name",
    ["pick-tcp-8-affinity-0", "remember-tcp-0", "remember-nodeport-tcp-5", "pick-tcp-8-affinity-"],
)
def test_no_chain_for_session_affinity_has_such_a_name(name: str) -> None:
    assert not is_picking(name)
    assert names.timeout_of(name) == 0


def test_chains_and_sets_of_source_ranges_as_they_were_are_still_known() -> None:
    assert names.is_former_chain("firewall-0123456789abcdef")
    assert names.form_of("ranges-0123456789abcdef-01234567") is Form.BOUNDS
    for name in ("services", "pick-tcp-4", "affinity-x", "firewall-", "endpoints-tcp", "ranges-1"):
        assert not names.is_former_chain(name)
        assert names.form_of(name) is Form.PLAIN


@pytest.mark.parametrize(
    "part", ["", "-local", "-known", "-choose-local", "-chosen", "-external", "-shortcut"]
)
def test_chains_of_session_affinity_as_they_were_are_still_known_as_ours(part: str) -> None:
    assert names.is_former_chain(f"affinity{part}-0123456789abcdef")


@pytest.mark.parametrize(
    "name", ["shortcut-tcp-8", "shortcut-nodeport-udp-1", "shortcut-tcp-4-affinity-10800"]
)
def test_chains_past_policy_local_as_they_were_are_still_known_as_ours(name: str) -> None:
    assert names.is_former_chain(name)
    assert not is_picking(name)
