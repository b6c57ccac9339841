"""Which interfaces are those of pods here, and that changes are followed."""

import errno

import pytest

from backends.kernel.links import LinkNews
from backends.userspace.here import Detector
from backends.userspace.interfaces import PodInterfaces
from tests.fakes.links import LinksKernel

PREFIX = Detector(mode="InterfaceNamePrefix", interface="veth")


class News(LinkNews):
    """Announcements that a test makes."""

    def __init__(self) -> None:
        self.told: dict[int, str] | None = {}
        self.is_closed = False

    def take(self) -> dict[int, str] | None:
        told, self.told = self.told, {}
        return told

    def close(self) -> None:
        self.is_closed = True


def test_those_of_pods_are_told_by_name_and_followed() -> None:
    news = News()
    found = PodInterfaces(
        PREFIX, open_news=lambda: news, listed=lambda: [(1, "lo"), (2, "veth2"), (3, "eth0")]
    )
    assert found.numbers == {2}
    assert not found.look()

    news.told = {4: "veth4", 5: "eth1"}
    assert found.look()
    assert found.numbers == {2, 4}

    news.told = {2: "", 4: "renamed", 5: ""}
    assert found.look()
    assert found.numbers == set()
    found.close()
    assert news.is_closed


def test_what_was_lost_is_read_anew_as_soon_as_that_can_be() -> None:
    news, listed = News(), [(1, "lo"), (2, "veth2")]
    is_out_of_files = False

    def listing() -> list[tuple[int, str]]:
        if is_out_of_files:
            raise OSError(errno.EMFILE, "Too many open files")
        return listed

    found = PodInterfaces(PREFIX, open_news=lambda: news, listed=listing)
    listed[1] = (7, "veth7")
    assert not found.look()

    news.told, is_out_of_files = None, True
    assert not found.look()
    assert found.numbers == {2}
    is_out_of_files = False
    assert found.look()
    assert found.numbers == {7}
    listed.clear()
    assert not found.look()


def test_a_list_that_cannot_be_read_leaves_nothing_open() -> None:
    news = News()

    def listed() -> list[tuple[int, str]]:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many"):
        PodInterfaces(PREFIX, open_news=lambda: news, listed=listed)

    assert news.is_closed


def test_the_kernel_announces_them() -> None:
    kernel = LinksKernel()
    with kernel.entered():
        found = PodInterfaces(PREFIX, listed=list)
        index = kernel.add("veth9")

        assert found.look()
        assert found.numbers == {index}
        found.close()
