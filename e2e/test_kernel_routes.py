"""The door to routes on the real kernel, and that the fake of tests/fakes/routes.py behaves as it does."""

import random
import socket
from collections.abc import Iterator

import pytest

from backends.kernel.routes import RouteNews, Routes
from e2e.namespace import Namespace
from proxy.netlink.fib import Route
from tests.effort import examples
from tests.fakes.routes import RoutesKernel

OURS, OTHERS = 115, 99
LOCAL = ("10.96.0.1/32", "10.96.0.2/32", "fd00:10:96::1/128")
NOWHERE = ("10.96.0.0/16", "fd00:10:96::/112")
WORLD = [
    route
    for protocol in (OURS, OTHERS)
    for route in (
        *[Route("local", cidr, protocol) for cidr in LOCAL],
        *[Route("blackhole", cidr, protocol) for cidr in NOWHERE],
    )
    # of IPv6 the kernel takes no second route to the same range with the same metric
    if protocol == OURS or ":" not in route.cidr
]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("routes") as made:
        yield made


def test_fake_and_kernel_do_the_same(namespace: Namespace) -> None:
    rng, fake = random.Random(7), RoutesKernel()
    doors: dict[int, tuple[Routes, Routes]] = {}
    with fake.entered():
        fakes = {protocol: Routes(protocol) for protocol in (OURS, OTHERS)}
        heard = RouteNews(OURS)
    with namespace.entered():
        doors = {protocol: (Routes(protocol), fakes[protocol]) for protocol in fakes}
        news = RouteNews(OURS)
    for _ in range(examples(200)):
        some = rng.sample(WORLD, rng.randint(1, 4))
        protocol = rng.choice([OURS, OTHERS])
        own = [route for route in some if route.protocol == protocol]
        for door in doors[protocol]:
            assert door.add(own) == []
        if rng.random() < 0.5:
            for door in doors[protocol]:
                assert door.remove(own[:1]) == []
        real, pretended = doors[protocol]
        assert real.read() == pretended.read()
        assert news.take() == heard.take()
    for pair in doors.values():
        for door in pair:
            door.close()
    news.close()
    heard.close()


def test_an_address_made_local_refuses_and_one_that_leads_nowhere_is_silent(
    namespace: Namespace,
) -> None:
    with namespace.entered(), Routes(OURS) as routes:
        assert routes.add([each for each in WORLD if each.protocol == OURS]) == []
        for address in ("10.96.0.1", "fd00:10:96::1"):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, 80), timeout=1)
        with pytest.raises(OSError, match="Invalid argument"):
            socket.create_connection(("10.96.0.9", 80), timeout=1)


def test_our_route_stands_beside_an_address_of_this_host(namespace: Namespace) -> None:
    namespace.ip("address add 10.96.0.1/32 dev lo", "address add fd00:10:96::1/128 dev lo nodad")
    with namespace.entered(), Routes(OURS) as routes:
        ours = [route for route in WORLD if route.kind == "local" and route.protocol == OURS]
        assert routes.add(ours) == []
        assert routes.read() == set(ours)
        namespace.ip(
            "address delete 10.96.0.1/32 dev lo", "address delete fd00:10:96::1/128 dev lo"
        )
        assert routes.read() == set(ours)
        assert routes.remove(ours) == []
        assert routes.read() == set()


def test_our_route_stands_beside_one_of_somebody_else(namespace: Namespace) -> None:
    others = ("10.96.0.1/32", "fd00:10:96::1/128")
    for cidr in others:
        namespace.ip(f"route add local {cidr} dev lo table local proto {OTHERS}")
    ours = [Route("local", cidr, OURS) for cidr in others]
    with namespace.entered(), Routes(OURS) as routes, Routes(OTHERS) as theirs:
        assert routes.add(ours) == []
        assert routes.add(ours) == []
        assert routes.read() == set(ours)
        assert routes.remove(ours) == []
        assert (routes.read(), len(theirs.read())) == (set(), 2)
