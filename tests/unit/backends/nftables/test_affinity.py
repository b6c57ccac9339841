"""Session affinity: which lists a ServicePort uses, and the numbers by which clients find their endpoint again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kernel.nft_phrases import read_word, word
from backends.nftables.affinity import (
    FIRST_SERVICE,
    LAST_ENDPOINT,
    LAST_SERVICE,
    affinity_of,
    next_service,
    number_endpoints,
    pack_endpoint,
    pack_service,
    parse_endpoint,
    parse_service,
)
from proxy.desired import Frontend
from tests.desired_strategies import addresses, make_desired
from tests.model_builders import make_endpoint

NODE_PORT = Frontend("NodePort", None, 30080)
SERVICE = 0x1234


def test_without_a_timeout_there_is_none() -> None:
    assert affinity_of(make_desired("default/web", "10.1.0.1:80")) is None
    assert affinity_of(make_desired(cluster_ip=None, affinity_timeout_s=5)) is None


@pytest.mark.parametrize(
    ("external_local", "internal_local", "is_outer", "uses_cluster", "uses_local"),
    [
        (False, False, True, True, False),
        (True, False, True, True, True),
        (True, True, True, True, True),
        (False, True, True, True, True),
        (True, False, False, True, False),
        (False, True, False, False, True),
    ],
)
def test_the_policies_say_which_lists_there_are(
    external_local: bool,
    internal_local: bool,
    is_outer: bool,
    uses_cluster: bool,
    uses_local: bool,
) -> None:
    port = make_desired(
        "default/web",
        *addresses(1, 4),
        make_endpoint("10.1.9.9:80", is_local=True),
        outer=(NODE_PORT,) if is_outer else (),
        external_local=external_local,
        internal_local=internal_local,
        affinity_timeout_s=5,
    )

    assert affinity_of(port) == (5, uses_cluster, uses_local)


# --- numbers of ServicePorts


@given(st.integers(FIRST_SERVICE, LAST_SERVICE))
def test_a_service_number_is_the_upper_half_of_a_priority(service: int) -> None:
    assert read_word(pack_service(service)) == service << 16
    assert parse_service(pack_service(service)) == service


@pytest.mark.parametrize(
    "word",
    [
        word((FIRST_SERVICE - 1) << 16),
        word((LAST_SERVICE + 1) << 16),
        word(FIRST_SERVICE << 16 | 1),
        b"\0\0\0",
        "drop",
        None,
    ],
)
def test_what_somebody_else_put_there_is_no_service_number(word: bytes | str | None) -> None:
    assert parse_service(word) is None


def test_the_first_service_number_follows_the_last() -> None:
    assert next_service(FIRST_SERVICE) == FIRST_SERVICE + 1
    assert next_service(LAST_SERVICE) == FIRST_SERVICE


# --- numbers of endpoints

names = st.lists(st.integers(0, 30).map(lambda n: bytes([n])), unique=True, max_size=12)


@given(st.integers(1, LAST_ENDPOINT))
def test_an_endpoint_number_is_found_again_in_its_packed_form(number: int) -> None:
    packed = pack_endpoint(SERVICE, number)

    assert read_word(packed) >> 16 == SERVICE
    assert parse_endpoint(SERVICE, packed) == number
    assert parse_endpoint(SERVICE + 1, packed) is None


def test_endpoint_numbers_look_like_best_effort_as_long_as_they_last() -> None:
    words = [read_word(pack_endpoint(SERVICE, n)) for n in range(1, LAST_ENDPOINT + 1)]

    assert all(word % 16 == 0 for word in words[:4095])
    assert len(set(words)) == LAST_ENDPOINT
    assert all(word & 0xFFFF for word in words)  # else it would be the ServicePort's own


@given(st.lists(names, min_size=1, max_size=6))
def test_an_endpoint_keeps_its_number_and_no_two_share_one(history: list[list[bytes]]) -> None:
    known: dict[bytes, bytes] = {}
    first = 1
    for wanted in history:
        numbers, first = number_endpoints(SERVICE, wanted, known, [], first)

        assert set(numbers) == set(wanted)
        assert len(set(numbers.values())) == len(wanted)
        assert all(numbers[e] == known[e] for e in wanted if e in known)
        fresh = [numbers[e] for e in wanted if e not in known]
        assert not set(fresh) & set(known.values())
        known = numbers


def test_a_number_that_became_free_is_given_again_last() -> None:
    one, following = number_endpoints(SERVICE, [b"a"], {}, [], LAST_ENDPOINT)
    two, _ = number_endpoints(SERVICE, [b"b"], {}, [], following)

    assert one[b"a"] == pack_endpoint(SERVICE, LAST_ENDPOINT)
    assert two[b"b"] == pack_endpoint(SERVICE, 1)


def test_a_number_that_still_means_something_is_not_given() -> None:
    taken: list[set[bytes]] = [{pack_endpoint(SERVICE, 1)}, {pack_endpoint(SERVICE, 2)}]

    numbers, following = number_endpoints(SERVICE, [b"a"], {}, taken, 1)

    assert (numbers, following) == ({b"a": pack_endpoint(SERVICE, 3)}, 4)


def test_of_two_endpoints_that_somebody_gave_one_number_one_gets_another() -> None:
    number = pack_endpoint(SERVICE, 1)

    numbers, _ = number_endpoints(SERVICE, [b"a", b"b"], {b"a": number, b"b": number}, [], 1)

    assert sorted(numbers.values()) == [number, pack_endpoint(SERVICE, 2)]


def test_endpoints_beyond_the_last_number_are_left_out() -> None:
    wanted = [number.to_bytes(3) for number in range(LAST_ENDPOINT + 2)]

    numbers, _ = number_endpoints(SERVICE, wanted, {}, [], 7)

    assert len(set(numbers.values())) == LAST_ENDPOINT
    assert list(numbers) == wanted[:LAST_ENDPOINT]
