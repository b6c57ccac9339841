"""Messages about routes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.netlink import codec, fib
from proxy.netlink.codec import Malformed
from proxy.netlink.fib import Route

_cidrs = st.one_of(
    st.builds(
        lambda a, n: str(ipaddress.ip_network((a, n), strict=False)),
        st.ip_addresses(v=4),
        st.integers(1, 32),
    ),
    # an IPv4-mapped range is one of IPv4 as this project writes addresses
    st.builds(
        lambda a, n: str(ipaddress.ip_network((a | 1 << 127, n), strict=False)),
        st.integers(0, (1 << 127) - 1),
        st.integers(1, 128),
    ),
)
routes = st.builds(Route, st.sampled_from(["local", "blackhole"]), _cidrs, st.integers(4, 255))


@given(routes)
def test_what_is_packed_is_parsed(route: Route) -> None:
    assert fib.parse_route(fib.new_route(route).payload) == route
    assert fib.parse_route(fib.del_route(route).payload) == route


def test_a_local_route_is_packed_as_ip_route_does() -> None:
    # strace -e trace=sendmsg ip route append local 10.96.0.1/32 dev lo table local proto 115
    request = fib.new_route(Route("local", "10.96.0.1/32", 115))

    assert request.kind == 24
    assert request.flags == codec.NLM_F_CREATE | codec.NLM_F_APPEND
    assert request.payload == (
        b"\x02\x20\0\0\xff\x73\xfe\x02\0\0\0\0"
        b"\x08\0\x01\0\x0a\x60\0\x01"
        b"\x08\0\x0f\0\xff\0\0\0"
        b"\x08\0\x04\0\x01\0\0\0"
    )


def test_ipv6_makes_a_route_only_where_there_is_none() -> None:
    request = fib.new_route(Route("local", "fd00::1/128", 115))

    assert request.flags == codec.NLM_F_CREATE | codec.NLM_F_EXCL
    # and beside those of others, with a metric that others do not have
    assert request.payload.endswith(b"\x08\0\x06\0\0\x08\0\0")


def test_routes_of_other_kinds_are_left_out() -> None:
    unicast = b"\x02\x18\0\0\xfe\x02\0\x01\0\0\0\0" + codec.attr(1, b"\x0a\0\0\0")
    default = b"\x02\x00\0\0\xfe\x02\0\x06\0\0\0\0"
    bridged = b"\x07\x20\0\0\xff\x02\0\x02\0\0\0\0" + codec.attr(1, b"\x0a\0\0\0")

    assert [fib.parse_route(each) for each in (unicast, default, bridged)] == [None] * 3


def test_a_message_that_is_cut_off_is_malformed() -> None:
    with pytest.raises(Malformed):
        fib.parse_route(b"\x02\x20")


def test_a_dump_asks_for_one_family() -> None:
    assert fib.list_routes("IPv6").payload[0] == 10
    assert fib.list_routes("IPv4").payload == b"\x02" + bytes(11)
