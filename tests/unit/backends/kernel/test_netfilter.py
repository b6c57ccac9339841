"""The two sockets of a door to netfilter."""

import errno

import pytest

from backends.kernel.netfilter import Netfilter
from proxy.errors import KernelError
from proxy.netlink import socket
from tests.fakes.netlink import FakeKernel


def test_closing_closes_both_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [FakeKernel(), FakeKernel()]
    left = ends.copy()
    monkeypatch.setattr(socket, "_open", lambda protocol: left.pop())

    with Netfilter():
        assert not any(end.is_closed for end in ends)

    assert all(end.is_closed for end in ends)


def test_a_second_socket_that_cannot_be_opened_leaves_no_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = FakeKernel()
    ends: list[FakeKernel] = [first]

    def opened(protocol: int) -> FakeKernel:
        if not ends:
            raise KernelError("open a netlink socket", errno.EMFILE, "Too many open files")
        return ends.pop()

    monkeypatch.setattr(socket, "_open", opened)

    with pytest.raises(KernelError):
        Netfilter()

    assert first.is_closed
