"""Session affinity: what a ServicePort needs for it, and the numbers of its endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_expressions import (
    AnyExpression,
    Dynset,
    Lookup,
    Nat,
    Numgen,
    Verdict,
    parse_expressions,
)
from backends.kernel.nft_numbers import VerdictCode
from backends.nftables.affinity import (
    Affinity,
    affinity_chains,
    affinity_of,
    affinity_sets,
    number_endpoints,
    pack_number,
)
from proxy.desired import Frontend
from proxy.model import FAMILIES, Family
from tests.desired_strategies import addresses, make_desired
from tests.model_builders import make_endpoint, make_key
from tests.unit.backends.nftables.planning import LAYOUT

NODE_PORT = Frontend("NodePort", None, 30080)


def needed(
    *, external_local: bool = False, internal_local: bool = False, outer: bool = True
) -> Affinity | None:
    here = make_endpoint("10.1.9.9:80", is_local=True)
    return affinity_of(
        make_desired(
            "default/web",
            *addresses(1, 4),
            here,
            outer=(NODE_PORT,) if outer else (),
            external_local=external_local,
            internal_local=internal_local,
            affinity_timeout_s=5,
        )
    )


def content(affinity: Affinity) -> dict[str, list[tuple[AnyExpression, ...]]]:
    return {
        chain.name: [parse_expressions(rule.expressions) for rule in chain.rules]
        for chain in affinity_chains(affinity, LAYOUT.marking("IPv4"))
    }


def test_without_a_timeout_there_is_none() -> None:
    assert affinity_of(make_desired("default/web", "10.1.0.1:80")) is None
    assert affinity_of(make_desired(cluster_ip=None, affinity_timeout_s=5)) is None


@pytest.mark.parametrize(
    ("external_local", "internal_local", "cluster", "local", "is_external", "has_shortcut"),
    [
        (False, False, 8, None, True, False),
        (True, False, 8, 1, False, True),
        (True, True, 8, 1, False, True),
        (False, True, 8, 1, True, False),
    ],
)
def test_the_policies_say_which_lists_and_entries_there_are(
    external_local: bool,
    internal_local: bool,
    cluster: int,
    local: int | None,
    is_external: bool,
    has_shortcut: bool,
) -> None:
    found = needed(external_local=external_local, internal_local=internal_local)

    assert found is not None
    assert (found.cluster, found.local) == (cluster, local)
    assert (found.is_external, found.has_shortcut) == (is_external, has_shortcut)
    assert tuple(content(found)) == found.chain_names
    assert tuple([spec.name for spec in affinity_sets(found)]) == found.set_names


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_come_before_those_that_refer_to_them_and_look_up_sets_that_are_made(
    family: Family,
) -> None:
    key = make_key("default/web", family=family)
    affinity = Affinity(key, 5, 4, 2, is_external=True, has_shortcut=True, has_node_port=True)
    sets = {spec.name for spec in (*affinity_sets(affinity), *LAYOUT.sets("IPv4"))}
    made = {"refuse"}
    for chain in affinity_chains(affinity, LAYOUT.marking("IPv4")):
        for rule in chain.rules:
            for e in parse_expressions(rule.expressions):
                if isinstance(e, Verdict) and e.chain:
                    assert e.chain in made, chain.name
                if isinstance(e, Lookup | Dynset):
                    assert e.set_name in sets
        made.add(chain.name)
        assert chain.owner == key


def test_who_is_remembered_is_noted_again_and_led_there_or_forgotten() -> None:
    affinity = needed()
    assert affinity is not None
    noted, translated, forgotten, onward = content(affinity)[f"affinity-known-{affinity.id}"]

    assert isinstance(noted[-1], Dynset)
    assert noted[-1].timeout_ms == 5000
    assert isinstance(translated[-1], Nat)
    assert isinstance(forgotten[-1], Dynset)
    assert onward == (Verdict(VerdictCode.GOTO, f"affinity-choose-{affinity.id}"),)


def test_nobody_leaves_untranslated() -> None:
    affinity = needed(external_local=True)
    assert affinity is not None
    for name, chain in content(affinity).items():
        (last,) = chain[-1]
        assert isinstance(last, Verdict)
        assert last.code in (VerdictCode.DROP, VerdictCode.GOTO), name


def test_local_lists_have_slots_and_endpoints_of_their_own_and_the_same_clients() -> None:
    affinity = needed(external_local=True)
    assert affinity is not None
    chains = content(affinity)
    local = [rule for name, chain in chains.items() if "-local-" in name for rule in chain]

    assert {e.offset for rule in local for e in rule if isinstance(e, Numgen)} == {65536}
    looked_up = {e.set_name for rule in local for e in rule if isinstance(e, Lookup)}
    assert affinity.endpoints(is_local=True) in looked_up
    assert affinity.endpoints(is_local=False) not in looked_up
    assert affinity.clients in looked_up


# --- numbers

names = st.lists(st.integers(0, 30).map(lambda n: bytes([n])), unique=True, max_size=12)


@given(st.lists(names, min_size=1, max_size=6))
def test_an_endpoint_keeps_its_number_and_no_two_share_one(history: list[list[bytes]]) -> None:
    believed: dict[bytes, bytes] = {}
    next_id = 0
    for wanted in history:
        before = {endpoint: number for number, endpoint in believed.items()}
        numbers, next_id = number_endpoints(wanted, [believed], next_id)

        assert list(numbers) == wanted
        assert len(set(numbers.values())) == len(wanted)
        assert all(numbers[e] == before[e] for e in wanted if e in before)
        fresh = [numbers[e] for e in wanted if e not in before]
        assert not set(fresh) & believed.keys()
        believed = {number: endpoint for endpoint, number in numbers.items()}


def test_a_number_that_became_free_is_given_again_last() -> None:
    one, next_id = number_endpoints([b"a"], [{}], 0)
    two, _ = number_endpoints([b"b"], [{}], next_id)

    assert one[b"a"] == pack_number(16)
    assert two[b"b"] == pack_number(32)


def test_a_number_that_became_free_waits_for_all_others_also_beside_the_highest_one() -> None:
    there, next_id, given = {pack_number(65520): b"stays"}, 0, []
    for endpoint in (b"a", b"b", b"c"):
        numbers, next_id = number_endpoints([b"stays", endpoint], [there], next_id)
        there = {number: each for each, number in numbers.items()}
        given.append(numbers[endpoint])

    assert given == [pack_number(16), pack_number(32), pack_number(48)]


def test_numbers_stay_below_those_that_name_classes_of_queueing_as_long_as_they_last() -> None:
    used = {pack_number(65520): b"last", pack_number(16): b"first"}

    numbers, _ = number_endpoints([b"last", b"first", b"new"], [used], 65536)

    assert numbers[b"new"] == pack_number(32)


def test_what_somebody_else_put_there_is_no_number() -> None:
    numbers, _ = number_endpoints([b"a"], [{pack_number(17): b"a", b"": b"a"}], 0)

    assert numbers[b"a"] == pack_number(16)
