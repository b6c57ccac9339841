"""Source ranges: who has some, what the kernel holds of them, and what a change of them writes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_expressions import Bitwise, Lookup, Payload, Verdict, parse_expressions
from backends.kernel.nft_numbers import VerdictCode
from backends.nftables.belief import Observed
from backends.nftables.model import GUARDED, SOURCES
from backends.nftables.planned import NftPlan
from backends.nftables.prune import prune
from backends.nftables.ranges import LENGTHS, admitted, admitted_itself, sources_chain
from proxy.desired import DesiredPort, Frontend
from proxy.model import FAMILIES, IPV4, Family
from tests.desired_strategies import desired_state, make_desired, whole
from tests.unit.backends.held_up import Asking, outcomes
from tests.unit.backends.nftables.planning import (
    LAYOUT,
    A,
    believing,
    carry_out,
    plan_for,
    steps,
)

VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
EXTERNAL = Frontend("ExternalIP", "198.51.100.1", 80)
NODE_PORT = Frontend("NodePort", None, 30080)
KEY = bytes([203, 0, 113, 1, 6, 0, 0, 0, 0, 80, 0, 0])
both_families = pytest.mark.parametrize("family", FAMILIES)


def ranged(
    *ranges: str, outer: tuple[Frontend, ...] = (NODE_PORT, VIP), allows_own_vips: bool = False
) -> DesiredPort:
    return make_desired(
        "default/web", A, outer=outer, source_ranges=ranges, allows_own_vips=allows_own_vips
    )


def held(observed: Observed) -> dict[str, set[bytes]]:
    """Who is guarded, and the ranges."""
    elements = observed.tables["IPv4"].elements
    return {
        name: set(found)
        for name, found in elements.items()
        if found and (name == GUARDED or name in LENGTHS["IPv4"])
    }


def written(planned: NftPlan) -> list[list[str]]:
    """What each transaction does with sets, chains, and elements."""
    return [
        [f"set {spec.name}" for _, spec in each.sets]
        + [f"chain {spec.name}" for _, spec in each.chains]
        + [f"-{batch.set}" for batch in each.deletes]
        + [f"+{batch.set}" for batch in each.adds]
        for each in planned.transactions
    ]


@pytest.mark.parametrize(
    ("outer", "ranges", "has_some"),
    [
        ((VIP,), ("192.0.2.0/24",), True),
        ((VIP,), (), False),
        ((EXTERNAL,), ("192.0.2.0/24",), False),
        ((NODE_PORT,), ("192.0.2.0/24",), False),
    ],
)
def test_ranges_are_for_load_balancers_alone(
    outer: tuple[Frontend, ...], ranges: tuple[str, ...], has_some: bool
) -> None:
    found = held(believing(ranged(*ranges, outer=outer)))

    network = KEY + bytes([192, 0, 2, 0])
    assert found == ({GUARDED: {KEY}, "ranges-24": {network}} if has_some else {})


@both_families
@given(st.data())
def test_an_address_is_admitted_by_the_set_of_a_length_if_it_is_in_a_range_of_that_length(
    family: Family, data: st.DataObject
) -> None:
    bits = 32 if family == IPV4 else 128
    numbers, lengths = st.integers(0, (1 << bits) - 1), st.integers(1, bits)
    version = ipaddress.IPv4Address if family == IPV4 else ipaddress.IPv6Address
    length = data.draw(lengths)
    source = version(data.draw(numbers))
    near = version(int(source) ^ data.draw(st.integers(0, 1 << data.draw(lengths) - 1)))
    cidr = str(ipaddress.ip_network(f"{near}/{length}", strict=False))

    ((name, key),) = admitted(KEY, [cidr])

    assert LENGTHS[family][name] == length
    asking = parse_expressions(sources_chain(family, frozenset({name})).rules[0].expressions)
    assert asking[-2:] == (Lookup(name), Verdict(VerdictCode.RETURN))
    masks = [each.mask for each in asking if isinstance(each, Bitwise)]
    mask = int.from_bytes(masks[0]) if masks else (1 << bits) - 1
    cut = (int(source) & mask).to_bytes(bits // 8)
    assert (KEY + cut == key) == (source in ipaddress.ip_network(cidr))


@both_families
def test_the_vip_itself_is_a_range_of_one_address(family: Family) -> None:
    address = bytes([203, 0, 113, 1]) if family == IPV4 else bytes(15) + b"\1"

    name, key = admitted_itself(address + KEY[4:], address)

    assert list(admitted(address + KEY[4:], [f"{ipaddress.ip_address(address)}/{name[7:]}"])) == [
        (name, key)
    ]
    assert LENGTHS[family][name] == 8 * len(address)


@both_families
def test_all_sets_are_asked_twice_before_who_is_still_limited_is_dropped(family: Family) -> None:
    chain = sources_chain(family, frozenset({"ranges-8", "ranges-24", "ranges-32"}))
    *asking, last = [parse_expressions(rule.expressions) for rule in chain.rules]

    assert chain.name == SOURCES
    order = [e.set_name for rule in asking for e in rule if isinstance(e, Lookup)]
    once = ["ranges-32", "ranges-24", "ranges-8"]
    assert order == [*once, GUARDED, *once]
    assert asking[3][-2:] == (Lookup(GUARDED, is_inverted=True), Verdict(VerdictCode.RETURN))
    assert all(rule[-1] == Verdict(VerdictCode.RETURN) for rule in asking)
    assert {e.length for rule in asking for e in rule if isinstance(e, Payload)} >= {2}
    assert last[-2:] == (Lookup(GUARDED), Verdict(VerdictCode.DROP))


def test_a_packet_that_is_held_up_while_a_limit_goes_and_comes_back_is_let_in() -> None:
    """Its range goes with the limit and comes back with it, at any two moments between the rules it passes."""
    chain = sources_chain("IPv4", frozenset({"ranges-8", "ranges-24", "ranges-32"}))
    asking = []
    for rule in chain.rules:
        *_, asked, found = parse_expressions(rule.expressions)
        assert isinstance(asked, Lookup)
        assert isinstance(found, Verdict)
        asking.append(
            Asking(asked.set_name, asked.is_inverted, VerdictCode(found.code).name.lower())
        )

    assert outcomes(asking, {GUARDED, "ranges-24"}) == {"return"}


def test_a_table_without_ranges_asks_for_none() -> None:
    assert len(sources_chain("IPv4", frozenset()).rules) == 1


# --- what a change writes


def test_ranges_are_checked_before_the_address_is_served() -> None:
    before, first, then = written(plan_for(believing(), ranged("192.0.2.0/24")))

    assert before[0] == "set ranges-24"
    assert f"chain {SOURCES}" in before
    assert {f"+{GUARDED}", "+ranges-24"} <= set(first)
    assert set(then) >= {"+externals", "+nodeports", "+external-ips", "+endpoints-tcp"}
    assert not {f"+{GUARDED}", "+ranges-24"} & set(then)


def test_a_new_length_is_asked_for_before_there_is_anything_of_that_length() -> None:
    observed = believing(ranged("192.0.2.0/24"))

    assert written(plan_for(observed, ranged("192.0.2.0/25"))) == [
        ["set ranges-25", f"chain {SOURCES}"], ["+ranges-25"], ["-ranges-24"],
    ]  # fmt: skip


def test_other_ranges_come_before_the_former_ones_go_and_nothing_else_is_written() -> None:
    observed = believing(ranged("192.0.2.0/24", "10.0.0.0/8"))

    planned = plan_for(observed, ranged("192.0.3.0/24", "10.0.0.0/8", "198.51.100.0/24"))

    assert steps(planned) == [{"ranges-24": 2}, {"ranges-24": 1}]
    carry_out(planned, observed)
    assert held(observed)["ranges-24"] == {
        KEY + bytes([192, 0, 3, 0]),
        KEY + bytes([198, 51, 100, 0]),
    }
    assert not observed.is_sweep_due


@pytest.mark.parametrize("allows", [True, False])
def test_the_vip_is_a_source_only_if_the_ranges_hold_the_node(allows: bool) -> None:
    observed = believing(
        ranged("192.0.2.0/24", "192.0.2.7/32"),
        make_desired("default/other", A, cluster_ip="10.96.0.11"),
    )
    carry_out(plan_for(observed, ranged("192.0.2.0/24", allows_own_vips=not allows)), observed)
    assert ("ranges-32" in held(observed)) == (not allows)

    planned = plan_for(observed, ranged("192.0.2.0/24", allows_own_vips=allows))

    assert steps(planned) == [{"ranges-32": 1}]
    carry_out(planned, observed)
    assert held(observed).get("ranges-32", set()) == ({KEY + KEY[:4]} if allows else set())


def test_without_ranges_everybody_may_come_in_again() -> None:
    observed = believing(ranged("192.0.2.0/24"))

    assert steps(plan_for(observed, ranged())) == [{GUARDED: 1, "ranges-24": 1}]
    carry_out(plan_for(observed, ranged()), observed)
    assert held(observed) == {}


def test_ranges_for_the_first_time_come_with_what_asks_for_them() -> None:
    observed = believing(ranged(), make_desired("default/ranged", A, cluster_ip="10.96.0.11"))
    carry_out(plan_for(observed, ranged("192.0.2.0/24")), observed)
    carry_out(plan_for(observed, ranged()), observed)

    assert written(plan_for(observed, ranged("192.0.2.0/24"))) == [[f"+{GUARDED}", "+ranges-24"]]


def test_whoever_takes_an_address_over_does_not_inherit_its_ranges() -> None:
    """The one that has the address is changed first; the one that has lost it may have to wait, refused by the kernel."""
    observed = believing(ranged("192.0.2.0/24", "10.0.0.0/8"))

    def taking(*ranges: str) -> DesiredPort:
        return make_desired(
            "default/other", A, cluster_ip="10.96.0.11", outer=(VIP,), source_ranges=ranges
        )

    network = KEY + bytes([192, 0, 2, 0])
    carry_out(plan_for(observed, taking("192.0.2.0/24")), observed)
    assert held(observed) == {GUARDED: {KEY}, "ranges-24": {network}}
    carry_out(plan_for(observed, taking("192.0.2.0/24", "10.0.0.0/8")), observed)
    carry_out(plan_for(observed, taking("192.0.2.0/24")), observed)
    assert held(observed) == {GUARDED: {KEY}, "ranges-24": {network}}

    assert steps(plan_for(observed, ranged(outer=(NODE_PORT,)))) == []
    carry_out(plan_for(observed, ranged(outer=(NODE_PORT,))), observed)
    assert held(observed) == {GUARDED: {KEY}, "ranges-24": {network}}
    carry_out(plan_for(observed, gone=["default/other"]), observed)
    assert held(observed) == {}


@pytest.mark.parametrize("ranges", [("192.0.2.0/24",), ()])
def test_ranges_taken_while_no_daemon_ran_go_with_the_first_plan_for_the_address(
    ranges: tuple[str, ...],
) -> None:
    before = believing(ranged("192.0.2.0/24", "10.0.0.0/8", allows_own_vips=True))
    observed = Observed(before.tables)

    planned = plan_for(observed, ranged(*ranges))
    carry_out(planned, observed)

    gone = {"ranges-8": 1, "ranges-32": 1}
    assert steps(planned)[-1] == (gone if ranges else gone | {GUARDED: 1, "ranges-24": 1})
    network = KEY + bytes([192, 0, 2, 0])
    assert held(observed) == ({GUARDED: {KEY}, "ranges-24": {network}} if ranges else {})
    assert not plan_for(observed, ranged(*ranges))


def test_ranges_that_did_not_change_while_no_daemon_ran_are_not_written() -> None:
    before = believing(ranged("192.0.2.0/24", "10.0.0.0/8", allows_own_vips=True))

    planned = plan_for(
        Observed(before.tables), ranged("192.0.2.0/24", "10.0.0.0/8", allows_own_vips=True)
    )

    assert steps(planned) == []


# --- at every step of any change


_CIDRS = ("192.0.2.0/24", "192.0.0.0/8", "192.0.2.7/32", "10.1.0.0/16", "10.0.0.0/8")
_SOURCES = ("192.0.2.7", "192.0.2.9", "192.9.9.9", "10.1.9.9", "10.9.9.9", "8.8.8.8")
_owners = st.tuples(
    st.sampled_from(["web", "other", ""]),
    st.lists(st.sampled_from(_CIDRS), max_size=3, unique=True).map(tuple),
)


def owned_by(owner: str, ranges: tuple[str, ...]) -> list[DesiredPort]:
    """Two services of which one or neither has the VIP."""
    return [
        make_desired(
            f"default/{name}",
            A,
            cluster_ip=ip,
            outer=(VIP,) if name == owner else (),
            source_ranges=ranges if name == owner else (),
        )
        for name, ip in (("web", "10.96.0.10"), ("other", "10.96.0.11"))
    ]


def let_in(observed: Observed) -> set[str]:
    """Which of some sources would be served at the VIP."""
    found = held(observed)
    if KEY not in observed.tables["IPv4"].elements["externals"]:
        return set()
    ranges = [
        ipaddress.ip_network((key[-4:], LENGTHS["IPv4"][name]))
        for name, keys in found.items()
        if name != GUARDED
        for key in keys
    ]
    return {
        source
        for source in _SOURCES
        if GUARDED not in found or any(ipaddress.ip_address(source) in each for each in ranges)
    }


@given(states=st.lists(_owners, min_size=2, max_size=5), is_restarted=st.booleans())
def test_who_may_come_in_before_and_after_may_throughout_and_nobody_who_may_not(
    states: list[tuple[str, tuple[str, ...]]], is_restarted: bool
) -> None:
    observed = believing(*owned_by(*states[0]))
    for state in states[1:]:
        before = let_in(observed)
        if is_restarted:
            observed = Observed(observed.tables)
        planned = plan_for(observed, *owned_by(*state))
        seen = []
        for transaction in planned.transactions:
            observed.fold(transaction)
            seen.append(let_in(observed))
        observed.occupy(planned)
        if is_restarted:
            carry_out(prune(whole(desired_state(*owned_by(*state))), observed, LAYOUT), observed)

        after = let_in(observed)
        owner, ranges = state
        networks = [ipaddress.ip_network(each) for each in ranges or ("0.0.0.0/0",)]
        assert after == {
            source
            for source in _SOURCES
            if owner and any(ipaddress.ip_address(source) in each for each in networks)
        }
        assert all(before & after <= each <= before | after for each in seen)
