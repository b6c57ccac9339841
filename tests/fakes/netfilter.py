"""Netfilter of one network namespace: nf_tables and ipset behind one kind of socket, as in the kernel; perhaps without the former."""

import errno

from proxy.netlink import codec
from proxy.netlink.codec import Message
from tests.fakes.ipset import IpsetKernel
from tests.fakes.netlink import Reply, Subsystem, reply
from tests.fakes.nft import NftKernel

_IPSET = 6


class NetfilterKernel(Subsystem):
    """Both, `nft` only if the kernel has nftables."""

    protocol = codec.NETLINK_NETFILTER

    def __init__(self, *, has_nft: bool = True) -> None:
        self.nft, self.ipset = NftKernel(), IpsetKernel()
        self.has_nft = has_nft

    def _answer(self, sent: list[Message]) -> list[Reply]:
        if sent[0].kind >> 8 == _IPSET:
            return self.ipset._answer(sent)
        if self.has_nft:
            return self.nft._answer(sent)
        return [reply(message.seq, errno.EINVAL) for message in sent]
