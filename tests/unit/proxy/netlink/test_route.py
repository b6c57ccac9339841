import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import unpack_ip
from proxy.netlink import route
from proxy.netlink.codec import Malformed, Request
from proxy.netlink.route import InterfaceAddress, Link

MAC = b"\x02slice"

VIP = InterfaceAddress(7, "10.96.0.1", 32, route.IFA_F_NODAD | route.IFA_F_NOPREFIXROUTE)
VIP6 = InterfaceAddress(7, "2001:db8::1", 128, route.IFA_F_NOPREFIXROUTE)


# Written down from <linux/rtnetlink.h>, <linux/if_link.h> and <linux/if_addr.h>, for a little-endian machine.
@pytest.mark.parametrize(
    ("request_", "kind", "flags", "payload"),
    [
        pytest.param(
            route.new_link("ours0", "dummy", MAC),
            16,
            0x600,
            "00000000 00000000 00000000 00000000"
            "0a000300 6f7572733000 0000 0a000100 02736c696365 0000"
            "10001280 0a000100 64756d6d7900 0000",
            id="new link",
        ),
        pytest.param(
            route.describe_link(7, "x"),
            19,
            0,
            "00000000 07000000 00000000 00000000"
            "06001400 7800 0000 10001a80 0c000a80 05000800 01 000000",
            id="alias, and no IPv6 addresses by itself",
        ),
        pytest.param(
            route.set_link_up(7),
            19,
            0,
            "00000000 07000000 01000000 01000000",
            id="up",
        ),
        pytest.param(
            route.del_link(7), 17, 0, "00000000 07000000 00000000 00000000", id="delete link"
        ),
        pytest.param(
            route.get_link("ours0"),
            18,
            0,
            "00000000 00000000 00000000 00000000 0a000300 6f7572733000 0000",
            id="get link",
        ),
        pytest.param(
            route.new_address(VIP),
            20,
            0x500,
            "02200000 07000000 08000200 0a600001 08000100 0a600001 08000800 02020000",
            id="new address",
        ),
        pytest.param(
            route.new_address(VIP6),
            20,
            0x500,
            "0a800000 07000000 14000200 20010db8000000000000000000000001"
            "14000100 20010db8000000000000000000000001 08000800 00020000",
            id="new IPv6 address",
        ),
        pytest.param(
            route.del_address(VIP),
            21,
            0,
            "02200000 07000000 08000200 0a600001 08000100 0a600001",
            id="delete address",
        ),
        pytest.param(route.list_addresses(), 22, 0, "00000000 00000000", id="list addresses"),
    ],
)
def test_requests_are_as_the_header_files_say(
    request_: Request, kind: int, flags: int, payload: str
) -> None:
    assert (request_.kind, request_.flags) == (kind, flags)
    assert request_.payload.hex(" ", 4) == bytes.fromhex(payload).hex(" ", 4)


packed = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@given(st.integers(1, 2**31 - 1), packed, st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_an_address_comes_back_as_it_was_packed(
    index: int, address: bytes, length: int, flags: int
) -> None:
    each = InterfaceAddress(index, unpack_ip(address).text, length, flags)

    assert route.parse_address(route.new_address(each).payload) == each


def test_what_is_no_address_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="web is no address"):
        route.new_address(InterfaceAddress(1, "web", 32))


def test_of_a_point_to_point_link_the_own_end_is_told() -> None:
    payload = "02200000 03000000 08000100 c0000202 08000200 c0000201 08000800 80000000"

    found = route.parse_address(bytes.fromhex(payload))

    assert found == InterfaceAddress(3, "192.0.2.1", 32, 0x80)


def test_an_ipv6_address_stands_in_one_attribute_and_may_have_eight_flags_only() -> None:
    payload = "0a404000 03000000 14000100 fe800000000000000000000000000001"

    found = route.parse_address(bytes.fromhex(payload))

    assert found == InterfaceAddress(3, "fe80::1", 64, route.IFA_F_TENTATIVE)


def test_addresses_of_other_protocols_are_passed_over() -> None:
    assert route.parse_address(bytes.fromhex("2d000000 01000000 05000200 08 000000")) is None


def test_an_interface_is_told_with_what_says_whose_it_is() -> None:
    payload = (
        "00000100 07000000 c3000000 00000000"
        "0a000300 6f7572733000 0000 0a000100 02736c696365 0000 06001400 7800 0000"
        "10001280 0a000100 64756d6d7900 0000"
    )

    assert route.parse_link(bytes.fromhex(payload)) == Link(7, "ours0", "dummy", MAC, "x", True)


def test_an_interface_may_be_down_and_of_no_kind() -> None:
    payload = "00000403 01000000 08000000 00000000 07000300 6c6f00 00 0a000100 000000000000 0000"

    assert route.parse_link(bytes.fromhex(payload)) == Link(1, "lo", "", bytes(6), "", False)


@given(st.binary(max_size=60))
def test_any_bytes_are_either_read_or_malformed(payload: bytes) -> None:
    for parse in (route.parse_address, route.parse_link):
        with contextlib.suppress(Malformed):
            parse(payload)


@pytest.mark.parametrize(
    "payload", ["02200000 03000000", "02200000 03000000 07000200 c00002 00", "022000"]
)
def test_an_address_that_is_none_is_malformed(payload: str) -> None:
    with pytest.raises(Malformed):
        route.parse_address(bytes.fromhex(payload))
