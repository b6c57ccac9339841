"""The door to routes, on a fake; on the kernel it is e2e/test_kernel_routes.py."""

from collections.abc import Iterator

import pytest

from backends.kernel.routes import RouteNews, Routes
from proxy.errors import KernelError
from proxy.netlink.fib import Route
from tests.fakes import netlink
from tests.fakes.routes import RoutesKernel

OURS, OTHERS = 115, 99
V4, V6 = Route("local", "10.96.0.1/32", OURS), Route("local", "fd00::1/128", OURS)
HOLE = Route("blackhole", "10.96.0.0/16", OURS)


@pytest.fixture
def kernel() -> RoutesKernel:
    return RoutesKernel()


@pytest.fixture
def routes(kernel: RoutesKernel) -> Iterator[Routes]:
    with kernel.entered(), Routes(OURS) as made:
        yield made


def test_routes_are_made_read_and_removed(kernel: RoutesKernel, routes: Routes) -> None:
    assert routes.add([V4, V6, HOLE]) == []
    assert routes.read() == {V4, V6, HOLE} == kernel.routes.keys()
    assert routes.remove([V4, HOLE]) == []
    assert routes.read() == {V6}


def test_those_of_others_are_not_seen(kernel: RoutesKernel, routes: Routes) -> None:
    kernel.put(V4._replace(protocol=OTHERS))

    assert routes.read() == set()
    assert routes.add([V4]) == []
    assert routes.remove([V4]) == []
    assert list(kernel.routes) == [V4._replace(protocol=OTHERS)]


def test_what_is_so_already_is_no_error(routes: Routes) -> None:
    routes.add([V4])

    assert routes.add([V4, V6]) == []
    assert routes.remove([HOLE, V4]) == []
    assert routes.read() == {V6}


def test_what_the_kernel_would_not_have_is_told(
    kernel: RoutesKernel, routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_change", lambda _, route: 1 if route == V6 else 0)

    (refused,) = routes.add([V4, V6])

    assert (refused.route, refused.errno) == (V6, 1)
    assert str(refused) == "local fd00::1/128: Operation not permitted"


def test_nothing_to_do_is_not_asked_of_the_kernel(kernel: RoutesKernel, routes: Routes) -> None:
    assert routes.add([]) == routes.remove([]) == []
    assert [end.sent for end in kernel._listening] == [[]]


def test_what_comes_and_goes_is_announced_as_it_was_at_last(kernel: RoutesKernel) -> None:
    with kernel.entered(), RouteNews(OURS) as news:
        kernel.put(V4)
        kernel.put(V6)
        kernel.take(V4)
        kernel.put(HOLE._replace(protocol=OTHERS))

        assert news.take() == {V4: False, V6: True}
        assert news.take() == {}


def test_lost_announcements_are_told(kernel: RoutesKernel) -> None:
    with kernel.entered(), RouteNews(OURS) as news:
        kernel._listening[-1].queue.append(netlink.LOST)

        assert news.take() is None


def test_who_cannot_be_heard_leaves_nothing_open(
    kernel: RoutesKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def opened() -> netlink.FakeKernel:
        made.append(netlink.FakeKernel())
        made[-1].refusal = OSError(1, "Operation not permitted")
        return made[-1]

    monkeypatch.setattr(kernel, "_open", opened)
    with kernel.entered(), pytest.raises(KernelError):
        RouteNews(OURS)

    assert made[0].is_closed
