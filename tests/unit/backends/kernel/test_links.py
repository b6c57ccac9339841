"""The door to interfaces. That the kernel understands what it sends is tested in e2e/test_kernel_links.py."""

import contextlib
import errno
from collections.abc import Iterator

import pytest

from backends.kernel import links
from backends.kernel.ipvs import Ipvs
from backends.kernel.links import AddressNews, LinkNews, Links, Unbound
from proxy.errors import KernelError
from proxy.netlink import codec, route, socket
from proxy.netlink.route import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, InterfaceAddress
from tests.fakes.ipvs import IpvsKernel
from tests.fakes.links import LinksKernel
from tests.fakes.netlink import LOST, FakeKernel, done, piece, reply, text

NAME = "ours0"


@pytest.fixture
def kernel() -> LinksKernel:
    return LinksKernel()


@pytest.fixture
def door(kernel: LinksKernel) -> Iterator[Links]:
    with kernel.entered():
        made = Links()
    with made:
        yield made


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    fake = FakeKernel()
    monkeypatch.setattr(socket, "_open", lambda protocol: fake)
    monkeypatch.setattr(socket, "_DEADLINE_S", 0.01)
    yield fake
    fake.close()


# --- the device


def test_our_device_is_a_dummy_that_is_up_and_says_whose_it_is(door: Links) -> None:
    index = door.ensure_dummy(NAME)

    link = door.find(NAME)
    assert link is not None
    assert (link.ifindex, link.kind, link.alias, link.is_up) == (index, "dummy", links.ALIAS, True)
    assert links.is_ours(link)


def test_a_device_that_is_there_stays_and_is_set_up_as_it_should_be(
    kernel: LinksKernel, door: Links
) -> None:
    index = door.ensure_dummy(NAME)
    door.bind(index, ["10.96.0.1"])
    kernel.links[index] = kernel.links[index]._replace(is_up=False, alias="")

    assert door.ensure_dummy(NAME) == index

    assert kernel.links[index].is_up
    assert kernel.links[index].alias == links.ALIAS
    assert len(door.addresses()) == 1


@pytest.mark.parametrize("kind", ["dummy", "veth", ""])
def test_somebody_elses_interface_of_the_name_is_left_alone(
    kernel: LinksKernel, door: Links, kind: str
) -> None:
    index = kernel.add(NAME, kind, "10.96.0.1")
    before = kernel.links[index]

    with pytest.raises(KernelError, match="is not ours") as caught:
        door.ensure_dummy(NAME)
    door.remove_dummy(NAME)

    assert caught.value.errno == errno.EEXIST
    assert kernel.links[index] == before
    assert [each.address for each in door.addresses()] == ["10.96.0.1"]


def test_an_interface_of_another_kind_with_our_hardware_address_is_not_ours(
    kernel: LinksKernel, door: Links
) -> None:
    index = door.ensure_dummy(NAME)
    kernel.links[index] = kernel.links[index]._replace(kind="macvlan")

    with pytest.raises(KernelError, match="is not ours"):
        door.ensure_dummy(NAME)


def test_our_device_is_removed_with_its_addresses_and_again_without_an_error(
    kernel: LinksKernel, door: Links
) -> None:
    kernel.add("eth0", "", "192.0.2.1")
    index = door.ensure_dummy(NAME)
    door.bind(index, ["10.96.0.1"])

    door.remove_dummy(NAME)
    door.remove_dummy(NAME)

    assert door.find(NAME) is None
    assert [each.address for each in door.addresses()] == ["192.0.2.1"]


def test_a_kernel_without_dummy_devices_says_so() -> None:
    kernel = LinksKernel(kinds=())
    with kernel.entered(), Links() as door, pytest.raises(KernelError) as caught:
        door.ensure_dummy(NAME)

    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT])
def test_an_interface_that_cannot_be_asked_for_is_not_taken_for_missing(
    endpoint: FakeKernel, number: int
) -> None:
    endpoint.answer = lambda sent: [reply(sent[0].seq, number, text("no"))]

    with Links() as door, pytest.raises(KernelError, match="find interface ours0: no"):
        door.find(NAME)


# --- addresses


def test_addresses_of_other_protocols_than_ip_are_passed_over(endpoint: FakeKernel) -> None:
    loopback = bytes.fromhex("02088000 01000000 08000100 7f000001 08000200 7f000001")
    mctp = bytes.fromhex("2d000000 01000000 05000200 08 000000")
    endpoint.answer = lambda sent: [piece(sent[0].seq, mctp, loopback), done(sent[0].seq)]

    with Links() as door:
        assert door.addresses() == [InterfaceAddress(1, "127.0.0.1", 8, 0x80)]


def test_addresses_of_both_families_are_put_on_with_all_their_bits(door: Links) -> None:
    index = door.ensure_dummy(NAME)

    assert door.bind(index, ["10.96.0.1", "2001:db8::1"]) == []

    assert door.addresses() == [
        InterfaceAddress(index, "10.96.0.1", 32, IFA_F_NOPREFIXROUTE),
        InterfaceAddress(index, "2001:db8::1", 128, IFA_F_NOPREFIXROUTE | IFA_F_NODAD),
    ]


def test_addresses_may_be_put_on_twice_and_taken_off_twice(door: Links) -> None:
    index = door.ensure_dummy(NAME)
    both = ["10.96.0.1", "2001:db8::1"]

    assert door.bind(index, both) == []
    assert door.bind(index, both) == []
    assert len(door.addresses()) == 2

    assert door.unbind(index, both) == []
    assert door.unbind(index, both) == []
    assert door.addresses() == []


def test_one_address_refused_keeps_no_other_from_being_put_on(door: Links) -> None:
    index = door.ensure_dummy(NAME)

    refused = door.bind(index, ["10.96.0.1", "ff02::1", "10.96.0.2"])

    (each,) = refused
    assert each == Unbound("ff02::1", errno.EADDRNOTAVAIL, "Cannot assign requested address")
    assert str(each) == "ff02::1: Cannot assign requested address"
    assert [address.address for address in door.addresses()] == ["10.96.0.1", "10.96.0.2"]


def test_a_device_that_has_gone_is_a_refusal(kernel: LinksKernel, door: Links) -> None:
    index = door.ensure_dummy(NAME)
    del kernel.links[index]

    for change in (door.bind, door.unbind):
        assert [each.errno for each in change(index, ["10.96.0.1"])] == [errno.ENODEV]


def test_a_lost_refusal_is_an_error(endpoint: FakeKernel) -> None:
    endpoint.answer = lambda sent: [reply(sent[0].seq, errno.EINVAL), LOST]

    with Links() as door, pytest.raises(KernelError) as caught:
        door.bind(7, ["10.96.0.1", "10.96.0.2"])

    assert caught.value.errno == errno.ENOBUFS


def test_no_addresses_are_no_send(endpoint: FakeKernel) -> None:
    with Links() as door:
        assert door.bind(7, []) == []
        assert door.unbind(7, []) == []

    assert endpoint.sent == []


# --- what is announced


def test_addresses_that_came_or_went_since_the_last_question_are_told_as_they_are_at_last(
    kernel: LinksKernel, door: Links
) -> None:
    index = door.ensure_dummy(NAME)
    door.bind(index, ["10.96.0.1"])
    with kernel.entered(), contextlib.closing(AddressNews()) as news:
        assert news.take() == {}

        door.bind(index, ["10.96.0.2", "2001:db8::1"])
        door.unbind(index, ["10.96.0.1", "10.96.0.2"])
        door.bind(index, ["10.96.0.2"])

        assert news.take() == {
            InterfaceAddress(index, "10.96.0.1", 32): False,
            InterfaceAddress(index, "10.96.0.2", 32): True,
            InterfaceAddress(index, "2001:db8::1", 128): True,
        }
        assert news.take() == {}

        door.remove_dummy(NAME)
        assert news.take() == {
            InterfaceAddress(index, "10.96.0.2", 32): False,
            InterfaceAddress(index, "2001:db8::1", 128): False,
        }


def test_interfaces_that_came_or_went_since_the_last_question_are_told_by_name(
    kernel: LinksKernel, door: Links
) -> None:
    with kernel.entered(), contextlib.closing(LinkNews()) as news:
        assert news.take() == {}

        index, other = door.ensure_dummy(NAME), kernel.add("veth7")
        assert news.take() == {index: NAME, other: "veth7"}

        door.remove_dummy(NAME)
        assert news.take() == {index: ""}


def test_a_port_that_leaves_its_bridge_has_not_gone(endpoint: FakeKernel) -> None:
    news = LinkNews()
    head = bytes([7, 0, 0, 0]) + (3).to_bytes(4, "little") + bytes(8)
    endpoint.queue = [codec.message(route.RTM_DELLINK, 0, 0, head)]

    assert news.take() == {}


@pytest.mark.parametrize("kind", [AddressNews, LinkNews])
def test_lost_announcements_are_told_as_lost(
    endpoint: FakeKernel, kind: type[AddressNews | LinkNews]
) -> None:
    news = kind()
    endpoint.queue = [LOST, b""]

    assert news.take() is None
    assert news.take() == {}


@pytest.mark.parametrize("kind", [AddressNews, LinkNews])
def test_a_kernel_that_announces_nothing_is_an_error(
    endpoint: FakeKernel, kind: type[AddressNews | LinkNews]
) -> None:
    endpoint.refusal = PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.raises(KernelError, match="announces"):
        kind()

    assert endpoint.is_closed


def test_fakes_of_several_protocols_stand_beside_each_other() -> None:
    with LinksKernel().entered(), IpvsKernel().entered(), Links() as door, Ipvs() as ipvs:
        assert door.ensure_dummy(NAME)
        assert ipvs.info().version == (1, 2, 1)
