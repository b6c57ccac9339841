"""The side rules in nftables, as one of two sides."""

import pytest

from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.nft_side import OURS, NftSide
from backends.kernel.nft import Nft
from backends.kernel.nft_transaction import Transaction
from proxy.errors import Unsupported
from proxy.model import FAMILIES
from tests.fakes.netfilter import NetfilterKernel

LAYOUT = Layout(IpvsSettings(families=FAMILIES))
TABLES = Transaction(tables=FAMILIES)


def test_it_is_there_once_written_and_gone_once_deleted() -> None:
    with NetfilterKernel().entered():
        side = NftSide(Nft())
        assert not side.is_there()
        before = side.generation()

        side.commit(TABLES)
        assert side.is_there()
        assert side.generation() == before + 1
        assert side.read_structure("IPv4").is_present
        assert side.sweep() == 0
        assert side.delete() == len(FAMILIES)
        assert not side.is_there()
        assert OURS.read_tables(side.nft, FAMILIES)[0]["IPv6"].is_present is False


def test_a_kernel_without_nftables_is_told_from_one_that_fails() -> None:
    with NetfilterKernel(has_nft=False).entered():
        side = NftSide(Nft())

        assert not side.is_there()
        with pytest.raises(Unsupported, match="nftables"):
            side.try_out(LAYOUT)
