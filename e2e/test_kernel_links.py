"""Our dummy device and its addresses on a real kernel, and the fake beside it."""

import errno
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.kernel import links
from backends.kernel.links import Links
from e2e.namespace import Namespace
from proxy.errors import KernelError
from tests.fakes.links import LinksKernel

pytestmark = pytest.mark.requires("dummy")

NAME = "ours0"
FAMILIES = {"-4": "10.96.0.1", "-6": "2001:db8::1"}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("links") as made:
        made.ip("link set lo up")
        yield made


@pytest.fixture
def door(namespace: Namespace) -> Iterator[Links]:
    with namespace.entered():
        made = Links()
    with made:
        yield made


def on(door: Links, index: int) -> list[str]:
    """The addresses on an interface."""
    return sorted(each.address for each in door.addresses() if each.ifindex == index)


def test_the_device_is_a_dummy_that_is_up_and_has_no_addresses_of_its_own_making(
    namespace: Namespace, door: Links
) -> None:
    index = door.ensure_dummy(NAME)

    shown = namespace.run(["ip", "-d", "link", "show", NAME])
    assert f"{index}: {NAME}: <BROADCAST,NOARP,UP" in shown
    assert "dummy" in shown
    assert f"alias {links.ALIAS}" in shown
    assert on(door, index) == []


def test_a_device_that_is_half_made_is_completed(namespace: Namespace, door: Links) -> None:
    index = door.ensure_dummy(NAME)
    namespace.ip(f"link set {NAME} down alias nothing addrgenmode eui64")

    assert door.ensure_dummy(NAME) == index

    link = door.find(NAME)
    assert link is not None
    assert (link.is_up, link.alias) == (True, links.ALIAS)
    assert on(door, index) == []


def test_somebody_elses_device_of_the_name_is_left_alone(
    namespace: Namespace, door: Links
) -> None:
    namespace.ip(f"link add {NAME} type dummy", f"address add 10.96.0.1/32 dev {NAME}")
    before = door.find(NAME)

    with pytest.raises(KernelError) as caught:
        door.ensure_dummy(NAME)
    door.remove_dummy(NAME)

    assert caught.value.errno == errno.EEXIST
    assert door.find(NAME) == before


def test_the_device_goes_with_its_addresses(door: Links) -> None:
    index = door.ensure_dummy(NAME)
    door.bind(index, FAMILIES.values())

    door.remove_dummy(NAME)
    door.remove_dummy(NAME)

    assert door.find(NAME) is None
    assert on(door, index) == []


@pytest.mark.parametrize("option", FAMILIES)
def test_an_address_is_local_at_once_and_no_route_leads_to_the_device(
    namespace: Namespace, door: Links, option: str
) -> None:
    address = FAMILIES[option]
    index = door.ensure_dummy(NAME)

    assert door.bind(index, [address]) == []

    assert namespace.run(["ip", option, "route", "get", address]).startswith(f"local {address}")
    shown = namespace.run(["ip", option, "address", "show", "dev", NAME])
    assert "tentative" not in shown
    assert "noprefixroute" in shown
    assert namespace.run(["ip", option, "route", "show", "table", "main", "dev", NAME]) == ""


@pytest.mark.parametrize("option", FAMILIES)
def test_an_address_that_is_elsewhere_too_stays_there(
    namespace: Namespace, door: Links, option: str
) -> None:
    address = FAMILIES[option]
    namespace.ip(
        "link add eth0 type veth peer name eth1",
        "link set eth0 addrgenmode none up",
        f"address add {address}/{24 if option == '-4' else 64} dev eth0",
    )
    theirs = door.find("eth0")
    assert theirs is not None
    index = door.ensure_dummy(NAME)

    assert door.bind(index, [address]) == []
    assert on(door, index) == on(door, theirs.ifindex) == [address]
    assert door.unbind(index, [address]) == []

    assert on(door, theirs.ifindex) == [address]
    assert namespace.run(["ip", option, "route", "get", address]).startswith(f"local {address}")


def test_thousands_of_addresses_come_and_go(door: Links) -> None:
    index = door.ensure_dummy(NAME)
    addresses = [f"10.96.{n // 250}.{n % 250}" for n in range(1500)]
    addresses += [f"2001:db8::{n:x}" for n in range(1, 1500)]

    assert door.bind(index, addresses) == []
    assert on(door, index) == sorted(addresses)

    assert door.unbind(index, addresses) == []
    assert on(door, index) == []


# --- the fake beside the kernel

ADDRESSES = ("10.96.0.1", "10.96.0.2", "127.0.0.1", "2001:db8::1", "2001:db8::2", "::", "ff02::1")
changes = st.lists(
    st.tuples(
        st.sampled_from(["bind", "unbind", "ensure", "remove"]),
        st.lists(st.sampled_from(ADDRESSES), max_size=5),
    ),
    max_size=10,
)


def carry_out(door: Links, changes: list[tuple[str, list[str]]]) -> list[object]:
    """What came of each change, and the addresses that are there in the end."""
    index = door.ensure_dummy(NAME)
    outcomes: list[object] = []
    for what, addresses in changes:
        if what == "ensure":
            index = door.ensure_dummy(NAME)
        elif what == "remove":
            door.remove_dummy(NAME)
        else:
            change = door.bind if what == "bind" else door.unbind
            refused = change(index, addresses)
            outcomes.append([(each.address, each.errno) for each in refused])
    return [*outcomes, on(door, index), door.find(NAME) is not None]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes)
def test_the_fake_refuses_and_keeps_what_the_kernel_does(
    door: Links, changes: list[tuple[str, list[str]]]
) -> None:
    door.remove_dummy(NAME)
    with LinksKernel().entered(), Links() as imitation:
        assert carry_out(imitation, changes) == carry_out(door, changes)


def test_both_tell_the_same_of_a_device_and_its_addresses(door: Links) -> None:
    with LinksKernel().entered(), Links() as imitation:
        found = []
        for each in (door, imitation):
            index = each.ensure_dummy(NAME)
            each.bind(index, FAMILIES.values())
            link = each.find(NAME)
            assert link is not None
            ours = [a for a in each.addresses() if a.ifindex == index]
            found.append(
                (
                    link._replace(ifindex=0),
                    sorted((a.address, a.prefix_length, a.flags & links.FLAGS) for a in ours),
                )
            )
        assert found[0] == found[1]
