"""Elements are members of sets of ipset, and members elements, whatever somebody else has added."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.ipvs.layout import fixed_sets
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    EXTERNALS,
    HAIRPIN,
    HEALTH_PORTS,
    MARKING,
    NODEPORTS,
    NODEPORTS_DROPPED,
    SERVICES,
)
from backends.ipvs.xt_members import elements_of, ip_set, leaving, members_of, members_of_bounds
from backends.kernel.ipset_objects import NAME_LENGTH, Member
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_phrases import word
from backends.kernel.nft_ranges import interval_keys, merged_ranges
from proxy.model import FAMILIES, Family

HTTP = bytes([6, 0, 0, 0, 0, 80, 0, 0])
TEN = bytes([10, 0, 0, 1])
families = st.sampled_from(FAMILIES)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@st.composite
def cidrs(draw: st.DrawFn, family: Family) -> list[str]:
    width = 32 if family == "IPv4" else 128
    bits = st.integers(0, 2**width - 1)
    found = []
    for _ in range(draw(st.integers(0, 5))):
        length = draw(st.integers(0, width))
        host = ipaddress.ip_address(draw(bits).to_bytes(width // 8))
        found.append(str(ipaddress.ip_network(f"{host}/{length}", strict=False)))
    return [each for each in found if not each.startswith("::")] if width == 128 else found


def test_every_set_has_a_name_that_ipset_takes_and_maps_have_marks() -> None:
    for family in FAMILIES:
        for spec in fixed_sets(family):
            made = ip_set(family, spec.name)
            assert len(made.name) <= NAME_LENGTH
            assert made.family == family
            assert made.has_marks == (spec.name in MARKING)
            assert not made.name.startswith("sliceproxy")  # all of these are mode iptables'


@pytest.mark.parametrize(
    ("name", "key", "data", "expected"),
    [
        (BOUND, TEN, None, ["10.0.0.1"]),
        (SERVICES, TEN + HTTP, None, ["10.0.0.1,tcp:80"]),
        (EXTERNALS, TEN + HTTP, word(7), ["10.0.0.1,tcp:80 skbmark 0x7"]),
        (NODEPORTS, HTTP, word(7), ["0.0.0.0/1,tcp:80 skbmark 0x7", "128.0.0.0/1,tcp:80 skbmark 0x7"]),
        (HEALTH_PORTS, HTTP, None, ["0.0.0.0/1,tcp:80", "128.0.0.0/1,tcp:80"]),
        (HAIRPIN, TEN + TEN, None, ["10.0.0.1/32,10.0.0.1/32"]),
        (
            ALLOWED,
            bytes([192, 0, 2, 0]) + TEN + HTTP + bytes([192, 0, 2, 5]) + TEN + HTTP,
            None,
            ["10.0.0.1,tcp:80,192.0.2.0/30", "10.0.0.1,tcp:80,192.0.2.4/31"],
        ),
    ],
)  # fmt: skip
def test_an_element_is_these_members_and_they_are_that_element(
    name: str, key: bytes, data: bytes | None, expected: list[str]
) -> None:
    members = members_of("IPv4", name, key, data)

    assert list(map(str, members)) == expected
    assert elements_of("IPv4", name, members) == {key: data}


@given(st.data(), families)
def test_ranges_of_sources_are_prefixes_and_prefixes_ranges(
    data: st.DataObject, family: Family
) -> None:
    to = packed("10.0.0.1" if family == "IPv4" else "2001:db8::1") + HTTP
    ranges = merged_ranges(family, data.draw(cidrs(family)))
    keys = [first + to + last + to for first, last in ranges]
    members = [member for key in keys for member in members_of(family, ALLOWED, key, None)]

    # two that touch are one range, as they are for whoever renders them
    assert elements_of(family, ALLOWED, members) == dict.fromkeys(keys)
    assert not any(member.other.endswith("/0") for member in members)
    assert set(leaving(family, keys, members)) == set(members)
    assert leaving(family, [], members) == []


@given(st.data(), families)
def test_bounds_are_prefixes_and_prefixes_bounds(data: st.DataObject, family: Family) -> None:
    keys = interval_keys(family, data.draw(cidrs(family)))
    members = members_of_bounds(family, keys)

    assert elements_of(family, SERVICE_CIDRS, members) == dict.fromkeys(keys)
    assert not any(member.address.endswith("/0") for member in members)


def test_what_somebody_added_within_a_range_that_goes_goes_with_it() -> None:
    to = TEN + HTTP
    key = bytes([192, 0, 2, 0]) + to + bytes([192, 0, 2, 255]) + to
    within = Member("10.0.0.1", 6, 80, "192.0.2.64/26")
    others = [
        Member("10.0.0.1", 6, 80, "192.0.0.0/16"),
        Member("10.0.0.2", 6, 80, "192.0.2.64/26"),
        Member("10.0.0.1", 17, 80, "192.0.2.64/26"),
    ]

    assert leaving("IPv4", [key], [within, *others]) == [within]


def test_half_a_node_port_or_one_with_two_marks_is_none_that_is_wanted() -> None:
    both = members_of("IPv4", NODEPORTS, HTTP, word(7))
    plain = members_of("IPv4", NODEPORTS_DROPPED, HTTP, None)

    for damaged in (both[:1], [both[0], both[1]._replace(mark=8)], [both[0]._replace(mark=None)]):
        assert elements_of("IPv4", NODEPORTS, damaged)[HTTP] not in (None, word(7))
    assert elements_of("IPv4", NODEPORTS_DROPPED, plain[1:])[HTTP] is not None


@pytest.mark.parametrize("mark", [None, 0xFF_0000_00FF])
def test_a_member_without_a_whole_mark_is_none_that_is_wanted(mark: int | None) -> None:
    [member] = members_of("IPv4", EXTERNALS, TEN + HTTP, None)

    found = elements_of("IPv4", EXTERNALS, [member._replace(mark=mark)])

    assert found == {TEN + HTTP: bytes(4)}


@pytest.mark.parametrize(
    ("name", "member"),
    [
        (NODEPORTS_DROPPED, Member("192.0.2.0/24", 6, 80)),
        (HAIRPIN, Member("10.0.0.0/24", other="10.0.0.1/32")),
    ],
)
def test_what_no_element_of_ours_can_be_is_found_and_can_be_removed(
    name: str, member: Member
) -> None:
    [(key, data)] = elements_of("IPv4", name, [member]).items()

    assert members_of("IPv4", name, key, data) == [member]


def test_an_ipv4_address_in_ipv6_stays_one_of_ipv6() -> None:
    [key] = elements_of("IPv6", BOUND, [Member("::ffff:10.0.0.1")])

    assert members_of("IPv6", BOUND, key, None) == [Member("::ffff:10.0.0.1")]
