"""Routes and addresses as facts, and the kernel's refusals."""

from collections.abc import Iterator

import pytest

from backends.ipvs.model import DEVICE
from backends.kernel.links import Links
from backends.userspace.kernel import Ears, Facts, Kernel, News, address_of
from backends.userspace.model import ROUTE_PROTOCOL
from proxy.errors import KernelError
from proxy.netlink.fib import Route
from tests.fakes import netlink
from tests.fakes.routes import RoutesKernel
from tests.model_builders import make_key

KEY = make_key("default/web")
LOCAL = Route("local", "10.96.0.1/32", ROUTE_PROTOCOL)


@pytest.fixture
def fake() -> Iterator[RoutesKernel]:
    kernel = RoutesKernel()
    kernel.add("eth0", "", "192.0.2.1", "fe80::1")
    with kernel.entered():
        yield kernel


def test_what_is_made_is_read(fake: RoutesKernel) -> None:
    with Kernel() as kernel:
        assert kernel.add([("10.96.0.1", KEY), ("fd00::1", KEY), ("10.96.0.0/16", None)]) == {}
        fake.put(Route("local", "10.98.0.0/16", ROUTE_PROTOCOL))

        assert kernel.read() == Facts(
            frozenset(["10.96.0.1", "fd00::1"]),
            frozenset(["10.96.0.0/16"]),
            frozenset(["192.0.2.1"]),
        )
        assert kernel.remove([("fd00::1", KEY), ("10.96.0.0/16", None)]) == {}
        assert kernel.read().routes == {"10.96.0.1"}
        assert kernel.remove_all() == 2
        assert kernel.remove_all() == 0


def test_a_refusal_is_its_owners(fake: RoutesKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_change", lambda _, __: 1)
    with Kernel() as kernel:
        refused = kernel.add([("10.96.0.1", KEY)])
        with pytest.raises(KernelError, match="blackhole"):
            kernel.add([("10.96.0.0/16", None)])

    assert refused == {KEY: "local 10.96.0.1/32: Operation not permitted"}


def test_removing_all_tells_what_stays(
    fake: RoutesKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(LOCAL)
    monkeypatch.setattr(fake, "_change", lambda _, __: 1)

    with Kernel() as kernel, pytest.raises(KernelError, match="not permitted"):
        kernel.remove_all()


def test_news_are_about_our_routes_and_addresses_that_say_where_they_are(
    fake: RoutesKernel,
) -> None:
    with Ears() as ears:
        fake.put(LOCAL)
        fake.add("eth1", "", "192.0.2.2", "fe80::2")

        assert ears.take() == News({LOCAL: True}, {"192.0.2.2": True})
        for end in fake._listening:
            end.queue.append(netlink.LOST)
        assert ears.take() is None


def test_addresses_of_services_are_not_this_hosts(fake: RoutesKernel) -> None:
    kube_proxys = fake.add("kube-ipvs0", "dummy", "10.96.0.2")
    with Kernel() as kernel, Ears() as ears, Links() as links:
        links.bind(links.ensure_dummy(DEVICE), ["10.96.0.1"])
        assert kernel.read().host == {"192.0.2.1"}
        assert ears.take() == News({}, {})

        links.remove_dummy(DEVICE)
        links.unbind(kube_proxys, ["10.96.0.2"])
        fake.add("eth1", "", "192.0.2.2")
        assert ears.take() == News({}, {"192.0.2.2": True})


def test_only_a_route_to_one_address_makes_that_address_local() -> None:
    assert address_of(LOCAL) == "10.96.0.1"
    assert address_of(LOCAL._replace(cidr="10.96.0.0/16")) is None
    assert address_of(LOCAL._replace(kind="blackhole")) is None
