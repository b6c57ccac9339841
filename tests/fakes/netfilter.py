"""Netfilter of one network namespace: nf_tables and ipset behind one kind of socket, as in the kernel; perhaps without the former."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.netlink import codec, socket
from proxy.netlink.codec import Message
from tests.fakes.ipset import IpsetKernel
from tests.fakes.netlink import FakeKernel, Reply, reply
from tests.fakes.nft import NftKernel

_IPSET = 6


class NetfilterKernel:
    """Both, `nft` only if the kernel has nftables."""

    def __init__(self, *, has_nft: bool = True) -> None:
        self.nft, self.ipset = NftKernel(), IpsetKernel()
        self.has_nft = has_nft

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets of netfilter opened in the `with` block are sockets to this kernel, and stay so."""
        others = socket._open

        def opened(protocol: int) -> object:
            return self._open() if protocol == codec.NETLINK_NETFILTER else others(protocol)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "_open", opened)
            yield

    def _open(self) -> FakeKernel:
        endpoint = FakeKernel()
        endpoint.answer = self._answer
        return endpoint

    def _answer(self, sent: list[Message]) -> list[Reply]:
        if sent[0].kind >> 8 == _IPSET:
            return self.ipset._answer(sent)
        if self.has_nft:
            return self.nft._answer(sent)
        return [reply(message.seq, errno.EINVAL) for message in sent]
