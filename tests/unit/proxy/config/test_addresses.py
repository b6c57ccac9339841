"""Addresses in settings are read leniently, returned canonically and refused with the form that is allowed."""

import pytest

from proxy.config import addresses
from proxy.config.addresses import HostPort


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("010.0.0.01", "10.0.0.1"),
        ("FD00:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_an_ip_address_becomes_canonical(text: str, canonical: str) -> None:
    assert addresses.parse_ip(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "10.0.0.1:80", "fe80::1%eth0", "[::1]", "localhost"]
)
def test_what_is_no_ip_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an IP address"):
        addresses.parse_ip(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.1.2.3/16", "10.1.0.0/16"),
        (" 10.0.0.0/8 ", "10.0.0.0/8"),
        ("203.0.113.000/025", "203.0.113.0/25"),
        ("FD00:10:244::1/56", "fd00:10:244::/56"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_a_range_becomes_canonical(text: str, canonical: str) -> None:
    assert addresses.parse_cidr(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "/8", "10.0.0.0/8/8", "primary"],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a CIDR such as 10\.244\.0\.0/16"):
        addresses.parse_cidr(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:10256", HostPort("0.0.0.0", 10256)),
        ("[::]:10256", HostPort("::", 10256)),
        ("[fd00:0::1]:1", HostPort("fd00::1", 1)),
        ("10.0.0.1:65535", HostPort("10.0.0.1", 65535)),
    ],
)
def test_a_server_address_is_split(text: str, expected: HostPort) -> None:
    assert addresses.parse_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("10.0.0.1", "must be IP:port"),
        ("::1", "must be IP:port"),
        ("::1:80", "must be IP:port"),
        ("[10.0.0.1]:80", "must be IP:port"),
        ("", "must be IP:port"),
        ("10.0.0.1:0", "must be 1 to 65535"),
        ("10.0.0.1:65536", "must be 1 to 65535"),
        ("10.0.0.1:http", "must be 1 to 65535"),
        ("10.0.0.1:+80", "must be 1 to 65535"),
        ("10.0.0.1:", "must be 1 to 65535"),
        ("localhost:80", "must be an IP address"),
        (":80", "must be an IP address"),
    ],
)
def test_what_is_no_server_address_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        addresses.parse_host_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::", "[::]:80"),
        ("10.0.0.1:90", "10.0.0.1:90"),
        ("[::1]:90", "[::1]:90"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_port_is_appended_to_a_bare_address_only(text: str, expected: str) -> None:
    assert addresses.append_port(text, 80) == expected


def test_a_server_address_is_written_with_brackets_around_ipv6() -> None:
    assert str(HostPort("::1", 80)) == "[::1]:80"
    assert str(HostPort("10.0.0.1", 80)) == "10.0.0.1:80"


def test_the_family_follows_the_text() -> None:
    assert addresses.family_of("10.0.0.0/8") == "IPv4"
    assert addresses.family_of("fd00::/8") == "IPv6"
