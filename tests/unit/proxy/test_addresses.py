"""Addresses are read leniently and printed canonically."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import (
    Address,
    Cidr,
    bounds_of,
    join_host_port,
    pack_canonical_ipv4,
    pack_ip,
    parse_cidr,
    parse_ip,
)
from proxy.model import Family


@given(st.ip_addresses())
def test_every_address_is_packed_and_printed_as_the_standard_library_does(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    family: Family = "IPv4" if address.version == 4 else "IPv6"

    expected = Address(str(address), address.packed, family)
    assert parse_ip(str(address)) == expected
    assert parse_ip(address.exploded.upper()) == expected


@given(st.text(alphabet="0123456789abcdefF:./%+_ ", max_size=45))
def test_what_the_standard_library_refuses_is_refused_but_for_leading_zeros(text: str) -> None:
    try:
        expected = str(ipaddress.ip_address(text)) if "%" not in text else None
    except ValueError:
        expected = None
    parsed = parse_ip(text)

    if parsed is None:
        assert expected is None
    elif expected is None:
        without_zeros = parsed.text
        assert ipaddress.ip_address(without_zeros).packed == parsed.packed


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.000.001", "10.0.0.1"),
        ("0000000000000010.0.0.1", "10.0.0.1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:0102:0304", "1.2.3.4"),
        ("::ffff:010.0.0.01", "10.0.0.1"),
        ("::1.2.3.4", "::102:304"),
        ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
        ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"),
        ("FD00:0010:0000:0000:0000:0000:0000:00AB", "fd00:10::ab"),
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
        ("1:0:0:2:3:0:0:4", "1::2:3:0:0:4"),
        ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("::", "::"),
        ("00001::", "1::"),
    ],
)
def test_sloppy_addresses_have_one_canonical_text(text: str, canonical: str) -> None:
    parsed = parse_ip(text)

    assert parsed is not None
    assert parsed.text == canonical
    assert parsed.packed == ipaddress.ip_address(canonical).packed


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 10.0.0.1",
        "10.0.0.1\n",
        "10.0.0",
        "10.0.0.1.2",
        "10.0.0.256",
        "10.0.0.-1",
        "+10.0.0.1",
        "1_0.0.0.1",
        "0x10.0.0.1",
        "10.0.0.1:80",
        "\uff11.2.3.4",  # a digit, but no ASCII digit
        "9" * 5000 + ".0.0.1",
        ":",
        ":::",
        "1::2::3",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7::8",
        "12345::",
        "::g",
        "::+1",
        "::1_0",
        "fe80::1%eth0",
        "[::1]",
        "1.2.3.4::",
        "::1.2.3",
        "1:2:3:4:5:6:7:1.2.3.4",
        "None",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    assert parse_ip(text) is None
    assert pack_canonical_ipv4(text) is None


@given(st.ip_addresses(v=4))
def test_the_fast_path_agrees_with_the_slow_one(address: ipaddress.IPv4Address) -> None:
    assert pack_canonical_ipv4(str(address)) == address.packed


@pytest.mark.parametrize("text", ["10.0.0.01", "::ffff:10.0.0.1", "::1"])
def test_the_fast_path_leaves_every_other_spelling_alone(text: str) -> None:
    assert pack_canonical_ipv4(text) is None


@given(st.ip_addresses(), st.data())
def test_host_bits_of_a_cidr_are_cleared(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject
) -> None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network((address, length), strict=False)

    family: Family = "IPv4" if address.version == 4 else "IPv6"
    assert parse_cidr(f"{address}/{length}") == Cidr(str(network), family, length)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.000/025", Cidr("203.0.113.0/25", "IPv4", 25)),
        ("1.2.3.4/28", Cidr("1.2.3.0/28", "IPv4", 28)),
        ("1.2.3.4/0", Cidr("0.0.0.0/0", "IPv4", 0)),
        ("::ffff:10.1.2.3/104", Cidr("10.0.0.0/8", "IPv4", 8)),
        ("::ffff:0:0/96", Cidr("0.0.0.0/0", "IPv4", 0)),
        ("::ffff:10.0.0.0/90", Cidr("::ffc0:0:0/90", "IPv6", 90)),
        ("FD00::1/64", Cidr("fd00::/64", "IPv6", 64)),
        ("10.0.0.1/32", Cidr("10.0.0.1/32", "IPv4", 32)),
    ],
)
def test_sloppy_cidrs_have_one_canonical_text(text: str, expected: Cidr) -> None:
    assert parse_cidr(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/8",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/8 ",
        "10.0.0.0/8/8",
        "10.0.0.0/\uff18",
        "fd00::/129",
        "fd00::/" + "1" * 5000,
        "example.com/8",
    ],
)
def test_anything_else_is_no_cidr(text: str) -> None:
    assert parse_cidr(text) is None


def test_ipv6_stands_in_brackets_before_a_port() -> None:
    assert join_host_port("10.0.0.1", 80) == "10.0.0.1:80"
    assert join_host_port("fd00::1", 80) == "[fd00::1]:80"


@given(st.ip_addresses())
def test_a_canonical_address_is_packed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    canonical = parse_ip(str(address))
    assert canonical is not None

    assert pack_ip(canonical.text) == canonical.packed


def test_what_is_no_address_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match=r"not an address: 10\.0\.0"):
        pack_ip("10.0.0")


@given(st.ip_addresses(), st.integers(0, 32))
def test_a_range_goes_from_its_first_address_to_the_one_beyond_its_last(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    network = ipaddress.ip_network((address, length), strict=False)

    start, end = bounds_of(str(network))

    assert (start, end - 1) == (int(network.network_address), int(network.broadcast_address))
