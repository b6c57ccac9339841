"""Socket filters: what a small interpreter of classic BPF makes of packets, as the kernel's would."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.userspace.filters import Instruction, pack, program
from backends.userspace.here import Here
from backends.userspace.model import EVERYBODY, NOBODY, Admission
from proxy.model import Family

_NET = 2**32 - 0x100000
_INTERFACE = 2**32 - 0x1000 + 8


def lets_in(instructions: list[Instruction], source: str, interface: int = 2) -> bool:
    """Run a program on a packet from that address. Raises IndexError where it runs past its end."""
    packed = ipaddress.ip_address(source).packed
    header = bytes(12 if len(packed) == 4 else 8) + packed
    accumulator = at = 0
    while True:
        code, if_true, if_false, number = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = (
                interface
                if number == _INTERFACE
                else struct.unpack_from(">I", header, number - _NET)[0]
            )
        elif code == 0x54:
            accumulator &= number
        elif code == 0x15:
            at += if_true if accumulator == number else if_false
        elif code == 0x05:
            at += number
        else:
            assert code == 0x06
            return number > 0


def test_who_lets_everybody_in_needs_no_program() -> None:
    assert program("IPv4", EVERYBODY, Here()) == []


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_who_lets_nobody_in_drops_everything(family: Family) -> None:
    source = "192.0.2.1" if family == "IPv4" else "2001:db8::1"

    assert not lets_in(program(family, NOBODY, Here()), source)
    assert not lets_in(program(family, NOBODY, Here()), source, interface=1)


_v4 = st.ip_addresses(v=4).map(str)
# beyond IPv4-mapped addresses, which are IPv4 as this project writes them
_v6 = st.integers(1 << 127, (1 << 128) - 1).map(lambda number: str(ipaddress.IPv6Address(number)))


def _cidrs(addresses: st.SearchStrategy[str], width: int) -> st.SearchStrategy[list[str]]:
    one = st.builds(
        lambda a, n: str(ipaddress.ip_network(f"{a}/{n}", strict=False)),
        addresses,
        st.integers(1, width),
    )
    return st.lists(one, min_size=1, max_size=5)


@given(st.data(), st.sampled_from(["IPv4", "IPv6"]))
def test_sources_in_one_of_the_ranges_come_in_and_no_others(
    data: st.DataObject, family: Family
) -> None:
    addresses, width = (_v4, 32) if family == "IPv4" else (_v6, 128)
    cidrs = data.draw(_cidrs(addresses, width))
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    edge = data.draw(st.sampled_from(networks))
    source = data.draw(
        st.one_of(
            addresses,
            st.just(str(edge.network_address)),
            st.just(str(edge.broadcast_address)),
        )
    )

    found = lets_in(program(family, Admission(tuple(cidrs)), Here()), source)

    assert found == any(ipaddress.ip_address(source) in network for network in networks)


@pytest.mark.parametrize(
    ("source", "interface", "expected"),
    [
        ("203.0.113.9", 2, False),
        ("203.0.113.9", 1, True),
        ("10.244.1.1", 2, True),
    ],
    ids=["from outside", "the node itself", "a pod here"],
)
def test_where_only_this_node_is_served_others_are_dropped(
    source: str, interface: int, expected: bool
) -> None:
    made = program("IPv4", Admission(only_here=True), Here(ranges=("fd00::/8", "10.244.0.0/16")))

    assert lets_in(made, source, interface) is expected


@pytest.mark.parametrize(
    ("source", "interface", "expected"),
    [
        ("192.0.2.1", 2, False),
        ("192.0.2.1", 1, True),
        ("10.244.1.1", 2, False),
        ("10.244.200.1", 2, True),
    ],
)
def test_ranges_hold_for_whoever_is_here_too(source: str, interface: int, expected: bool) -> None:
    admission = Admission(("192.0.2.0/24", "10.244.128.0/17"), only_here=True)

    assert (
        lets_in(program("IPv4", admission, Here(ranges=("10.244.0.0/16",))), source, interface)
        is expected
    )


@pytest.mark.parametrize(("interface", "expected"), [(1, True), (7, True), (9, True), (8, False)])
def test_pods_that_are_told_by_their_interface_come_in(interface: int, expected: bool) -> None:
    made = program("IPv6", Admission(only_here=True), Here(interfaces=frozenset([7, 9])))

    assert lets_in(made, "2001:db8::1", interface) is expected


def test_the_node_comes_in_from_any_address_if_it_is_in_a_range() -> None:
    made = program("IPv4", Admission(("192.0.2.0/24",), takes_node=True), Here())

    assert lets_in(made, "203.0.113.9", interface=1)
    assert lets_in(made, "192.0.2.1", interface=2)
    assert not lets_in(made, "203.0.113.9", interface=2)


def test_ranges_of_the_other_family_let_nobody_in() -> None:
    assert not lets_in(program("IPv4", Admission(("fd00::/8",)), Here()), "10.0.0.1")


def test_jumps_reach_over_a_thousand_ranges() -> None:
    cidrs = tuple([f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)])

    made = program("IPv4", Admission(cidrs), Here())

    assert lets_in(made, "10.0.0.1")
    assert lets_in(made, "10.3.231.1")
    assert not lets_in(made, "10.3.232.1")


def test_instructions_are_packed_as_the_kernel_has_them() -> None:
    # tcpdump -ddd prints the same numbers for "ret #0"
    assert pack([(0x06, 0, 0, 0), (0x15, 1, 2, 3)]) == (
        b"\x06\0\0\0\0\0\0\0" + b"\x15\0\x01\x02\x03\0\0\0"
    )
