"""Removing all that is ours, in an order that leaves nobody to the wrong place."""

import asyncio
import errno
from collections.abc import Sequence

import pytest

from backends.ipvs.backend import IpvsBackend
from backends.ipvs.layout import closed
from backends.ipvs.model import DEVICE, TABLE
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from proxy.errors import KernelError
from tests.unit.backends.ipvs.driving import API, LAYOUT, WEB, Kernel, Process, nft_of


def test_cleanup_removes_all_that_is_ours_and_nothing_else(kernel: Kernel) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB, API))
    foreign = VirtualServer(ServerId("IPv4", "TCP", "192.0.2.200", 80), "rr")
    doors = process.backend._doors
    doors.ipvs.carry_out(
        [
            ipvs_messages.new_server(foreign),
            ipvs_messages.new_destination(foreign.id, Destination("192.0.2.9", 80)),
        ]
    )

    removed = asyncio.run(IpvsBackend(LAYOUT).cleanup())

    assert removed == 2 + 1 + 2  # virtual servers, the device, tables
    assert doors.ipvs.list_servers() == [foreign]
    assert doors.links.find(DEVICE) is None
    assert nft_of(doors).list_tables(NFPROTO_IPV4) == []
    assert asyncio.run(IpvsBackend(LAYOUT).cleanup()) == 0


def test_without_ipvs_the_rest_is_cleaned_up_all_the_same(kernel: Kernel) -> None:
    asyncio.run(Process(kernel).adopt(WEB))
    kernel.ipvs.has_module = False

    assert asyncio.run(IpvsBackend(LAYOUT).cleanup()) == 1 + 2


def test_what_is_bound_is_refused_before_its_virtual_servers_go(kernel: Kernel) -> None:
    asyncio.run(Process(kernel).adopt(WEB))
    rules: list[list[str]] = []

    class Watching(Ipvs):
        def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
            with Nft() as nft:
                listed = nft.list_rules(NFPROTO_IPV4, TABLE, "dispatch")
            rules.append([each.comment for each in listed])
            return super().carry_out(messages)

    asyncio.run(IpvsBackend(LAYOUT, open_ipvs=Watching).cleanup())

    assert rules == [list(closed().facts.comments)]


class Stubborn(Ipvs):
    def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
        return [Refusal(0, errno.EPERM, "not permitted")] if messages else []


def test_addresses_stay_where_a_virtual_server_would_not_go(kernel: Kernel) -> None:
    """They are what the next attempt knows it by."""
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))

    with pytest.raises(KernelError, match="not permitted"):
        asyncio.run(IpvsBackend(LAYOUT, open_ipvs=Stubborn).cleanup())

    assert process.backend._doors.links.find(DEVICE) is not None
