"""How sets are declared."""

import pytest

from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_numbers import SetFlag
from backends.kernel.nft_transaction import Form
from backends.nftables.model import AFFINITY_CLIENTS, PLACES, VERDICTS
from backends.nftables.names import form_of
from backends.nftables.sets import shared_sets
from proxy.model import FAMILIES, Family

both_families = pytest.mark.parametrize("family", FAMILIES)


@both_families
def test_every_place_of_a_frontend_is_a_set_that_is_there(family: Family) -> None:
    made = {spec.name: spec.facts for spec in shared_sets(family)}

    for places in PLACES.values():
        assert {places.refused, places.affinity, *places.slots.values()} <= made.keys()
    verdict_maps = {name for name, facts in made.items() if facts.data_type == 0xFFFFFF00}
    assert verdict_maps == set(VERDICTS)


@both_families
def test_only_what_holds_ranges_is_an_interval_set(family: Family) -> None:
    with_ranges = {s.name for s in shared_sets(family) if s.facts.flags & SetFlag.INTERVAL}

    assert with_ranges == {SERVICE_CIDRS}
    assert all(
        (form_of(s.name) is Form.BOUNDS) == (s.name in with_ranges) for s in shared_sets(family)
    )


@both_families
def test_only_packets_fill_the_map_of_clients_and_no_other(family: Family) -> None:
    filled = {s.name for s in shared_sets(family) if s.facts.flags & SetFlag.EVAL}

    assert filled == {AFFINITY_CLIENTS}
    assert all((form_of(s.name) is Form.FILLED) == (s.name in filled) for s in shared_sets(family))
