"""What is tried before the forwarder is used."""

import resource

import pytest

from backends.userspace import probe as probing
from backends.userspace.kernel import Kernel
from backends.userspace.model import Place
from backends.userspace.probe import probe, raise_file_limit
from backends.userspace.sockets import Sockets
from proxy.errors import KernelError, Unsupported
from tests.fakes.routes import RoutesKernel


def test_both_families_can_be_served_and_nothing_is_left_behind() -> None:
    fake = RoutesKernel()
    with fake.entered(), Kernel() as kernel:
        assert probe(kernel) == ("IPv4", "IPv6")
    assert not fake.routes


def test_without_the_right_to_make_routes_nothing_can(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = RoutesKernel()
    monkeypatch.setattr(fake, "_change", lambda _, __: 1)
    with (
        fake.entered(),
        Kernel() as kernel,
        pytest.raises(Unsupported, match=r"address local: .*not permitted"),
    ):
        probe(kernel)


def test_without_the_right_to_listen_where_services_are_it_will_not_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: list[Place] = []

    def refuse(_: Sockets, place: Place, *__: object) -> object:
        places.append(place)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Sockets, "open", refuse)
    fake = RoutesKernel()
    with fake.entered(), Kernel() as kernel, pytest.raises(Unsupported, match="NET_BIND_SERVICE"):
        probe(kernel)
    assert 0 < places[0].port < 1024
    assert not fake.routes


def test_a_kernel_that_is_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KernelError("routes", 110, "no reply")

    fake = RoutesKernel()
    with fake.entered(), Kernel() as kernel:
        monkeypatch.setattr(kernel, "add", fail)
        with pytest.raises(Unsupported, match="no reply"):
            probe(kernel)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_without_sockets_only_ipv6_can_be_done_without(
    family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Sockets.open

    def refuse(sockets: Sockets, place: object, *rest: object) -> object:
        if getattr(place, "family", "") == family:
            raise OSError(97, "Address family not supported by protocol")
        return real(sockets, place, *rest)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(Sockets, "open", refuse)
    fake = RoutesKernel()
    with fake.entered(), Kernel() as kernel:
        if family == "IPv4":
            with pytest.raises(Unsupported, match="listening at an address"):
                probe(kernel)
        else:
            assert probe(kernel) == ("IPv4",)
            assert "IPv6 services are not served" in caplog.text
    assert not fake.routes


def test_as_many_files_may_be_opened_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    monkeypatch.setattr(probing, "FILES", 0)
    try:
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raise_file_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
