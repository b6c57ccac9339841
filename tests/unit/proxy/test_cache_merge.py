"""Merging the slices of a service: which statement about an endpoint counts, and what is kept apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache import Merged, merge
from proxy.model import Endpoint, Family, SlicePort
from tests.model_builders import make_endpoint, make_slice

A, B = "10.1.0.1:80", "10.1.0.2:80"
HTTP: tuple[Family, SlicePort] = ("IPv4", SlicePort("", "TCP"))


def merged(*slices: tuple[str, list[Endpoint]]) -> Merged:
    return merge([make_slice(name, *endpoints) for name, endpoints in slices])[HTTP]


def test_endpoints_of_all_slices_are_merged() -> None:
    found = merged(("s-1", [make_endpoint(B)]), ("s-2", [make_endpoint(A)]))

    assert [(e.address, e.slice) for e in found.endpoints] == [(A, "s-2"), (B, "s-1")]
    assert found.shadowed == ()


@pytest.mark.parametrize(
    ("first_terminates", "second_terminates", "winner"),
    [
        pytest.param(False, False, "s-2", id="the later of two live ones"),
        pytest.param(False, True, "s-1", id="a terminating one only fills a gap"),
        pytest.param(True, False, "s-2", id="a live one replaces a terminating one"),
        pytest.param(True, True, "s-1", id="the earlier of two terminating ones"),
    ],
)
def test_of_duplicates_the_winner_is_taken_wholesale(
    first_terminates: bool, second_terminates: bool, winner: str
) -> None:
    """Conditions are never combined: an address that is used again owes nothing to its former owner."""
    first = make_endpoint(
        A,
        slice_name="s-1",
        ready=False,
        terminating=first_terminates,
        is_local=True,
        zone_hints=["z1"],
    )
    second = make_endpoint(A, slice_name="s-2", serving=False, terminating=second_terminates)

    found = merged(("s-1", [first]), ("s-2", [second]))

    won, lost = (first, second) if winner == "s-1" else (second, first)
    assert found == Merged(endpoints=(won,), shadowed=(lost,))


def test_duplicates_within_one_slice_are_decided_in_list_order() -> None:
    live = make_endpoint(A, slice_name="s-1", ready=False)
    later = make_endpoint(A, slice_name="s-1", is_local=True)

    assert merged(("s-1", [live, later])) == Merged(endpoints=(later,), shadowed=(live,))


def test_one_address_with_two_ports_is_two_endpoints() -> None:
    """Named target ports resolve differently from pod to pod while a rollout is under way."""
    found = merge(
        [
            make_slice("s-1", make_endpoint("10.1.0.1:8080")),
            make_slice("s-2", make_endpoint("10.1.0.1:9090")),
        ]
    )[HTTP]

    assert [e.address for e in found.endpoints] == ["10.1.0.1:8080", "10.1.0.1:9090"]


def test_port_name_protocol_and_family_keep_endpoints_apart() -> None:
    found = merge(
        [
            make_slice("s-1", make_endpoint("10.1.0.1:53"), port_name="dns", protocol="UDP"),
            make_slice("s-2", make_endpoint("10.1.0.1:53"), port_name="dns", protocol="TCP"),
            make_slice("s-3", make_endpoint("10.1.0.1:53"), port_name="", protocol="TCP"),
            make_slice("s-4", make_endpoint("[fd00::1]:53"), port_name="dns", protocol="TCP"),
        ]
    )

    assert {key: [e.slice for e in value.endpoints] for key, value in found.items()} == {
        ("IPv4", SlicePort("dns", "UDP")): ["s-1"],
        ("IPv4", SlicePort("dns", "TCP")): ["s-2"],
        ("IPv4", SlicePort("", "TCP")): ["s-3"],
        ("IPv6", SlicePort("dns", "TCP")): ["s-4"],
    }


def test_endpoints_are_sorted_bytewise() -> None:
    addresses = ["10.0.1.1:80", "10.0.1.10:80", "2.2.2.2:22", "2.2.2.22:22", "10.0.1.1:8"]

    found = merged(("s-1", [make_endpoint(address) for address in addresses]))

    assert [e.address for e in found.endpoints] == [
        "10.0.1.10:80",
        "10.0.1.1:8",
        "10.0.1.1:80",
        "2.2.2.22:22",
        "2.2.2.2:22",
    ]


def test_a_port_without_endpoints_is_absent() -> None:
    assert merge([make_slice("s-1")]) == {}


statements = st.builds(
    make_endpoint,
    st.sampled_from([f"10.1.0.{number}:80" for number in range(6)]),
    ready=st.booleans(),
    terminating=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(statements, max_size=4), min_size=1, max_size=4))
def test_the_last_live_statement_counts_or_else_the_first(slices: list[list[Endpoint]]) -> None:
    named = [make_slice(f"s-{number}", *stated) for number, stated in enumerate(slices)]

    found = merge(named).get(HTTP, Merged(endpoints=()))

    stated: dict[str, list[Endpoint]] = {}
    for endpoint_slice in named:
        for endpoint in endpoint_slice.ports[0][1]:
            stated.setdefault(endpoint.address, []).append(endpoint)
    winners = [
        ([e for e in stated[address] if not e.terminating] or stated[address][:1])[-1]
        for address in sorted(stated)
    ]
    assert list(found.endpoints) == winners
    assert sorted(map(repr, (*found.endpoints, *found.shadowed))) == sorted(
        repr(e) for same in stated.values() for e in same
    )
