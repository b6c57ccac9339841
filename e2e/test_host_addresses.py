"""The addresses of a host, followed while they come and go."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from backends.kernel.links import AddressNews
from e2e.namespace import Namespace
from proxy import host_addresses
from proxy.netlink.route import InterfaceAddress

LIMIT_S = 25.0
# one end of it is enough
LINK = (
    "link add here type veth peer name there",
    "link set here addrgenmode none",
    "link set here up",
)
LOOPBACK = frozenset({"127.0.0.1", "::1"})

Heard = asyncio.Queue[frozenset[str]]


def follow(host: Namespace, life: Callable[[Heard], Coroutine[Any, Any, None]]) -> None:
    """Watch the addresses of a host for as long as `life` takes."""

    async def main() -> None:
        heard = Heard()
        watching = asyncio.create_task(host_addresses.watch(heard.put_nowait))
        try:
            async with asyncio.timeout(4 * LIMIT_S):
                await life(heard)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    with host.entered():
        asyncio.run(main())


async def until(heard: Heard, addresses: frozenset[str]) -> None:
    """Wait until these are heard, and are the last that was."""
    async with asyncio.timeout(LIMIT_S):
        while await heard.get() != addresses or not heard.empty():
            pass


def test_addresses_are_told_at_once_and_when_they_come_and_go() -> None:
    async def life(heard: Heard) -> None:
        assert await heard.get() == LOOPBACK

        host.ip(*LINK)
        host.ip("address add 192.0.2.1/24 dev here", "address add 2001:db8::1/64 dev here nodad")
        await until(heard, LOOPBACK | {"192.0.2.1", "2001:db8::1"})

        host.ip("address add 192.0.2.2/32 dev here", "address delete 192.0.2.1/24 dev here")
        await until(heard, LOOPBACK | {"192.0.2.2", "2001:db8::1"})

        host.ip("link delete here")
        await until(heard, LOOPBACK)

    with Namespace("host") as host:
        follow(host, life)


def test_of_a_point_to_point_link_the_own_end_counts() -> None:
    async def life(heard: Heard) -> None:
        assert await heard.get() == LOOPBACK | {"192.0.2.1", "2001:db8::1"}

    with Namespace("host") as host:
        host.ip(*LINK)
        host.ip("address add 192.0.2.1 peer 198.51.100.1 dev here")
        host.ip("address add 2001:db8::1 peer 2001:db8::2 dev here nodad")
        follow(host, life)


def test_what_does_not_change_the_addresses_is_not_told() -> None:
    async def life(heard: Heard) -> None:
        assert await heard.get() == LOOPBACK
        host.ip(*LINK)
        # the same address on a second link: announced, and no news
        host.ip("address add 127.0.0.1/32 dev here")
        host.ip("address add 192.0.2.1/24 dev here")

        assert await heard.get() == LOOPBACK | {"192.0.2.1"}
        assert heard.empty()

    with Namespace("host") as host:
        follow(host, life)


def test_a_storm_of_announcements_is_followed_to_its_end() -> None:
    """More than a socket's buffer holds: some are lost."""
    many = [f"10.{number >> 8}.{number & 255}.1" for number in range(1, 3000)]

    async def life(heard: Heard) -> None:
        assert await heard.get() == LOOPBACK
        host.ip(*LINK)
        host.ip(*(f"address add {each}/32 dev here" for each in many))
        await until(heard, LOOPBACK | set(many))

        host.ip("address flush dev here")
        await until(heard, LOOPBACK)

    with Namespace("host") as host:
        follow(host, life)


def test_an_address_is_told_when_it_is_known_that_nobody_else_has_it() -> None:
    async def life(heard: Heard) -> None:
        assert await heard.get() == LOOPBACK
        host.ip(*LINK, "link set there addrgenmode none", "link set there up")
        host.ip("address add 2001:db8::1/64 dev here")

        await until(heard, LOOPBACK | {"2001:db8::1"})
        with socket.socket(socket.AF_INET6) as listening:
            listening.bind(("2001:db8::1", 30080))

    with Namespace("host") as host:
        host.write_settings([("ipv6/conf/default/accept_dad", "1")])
        follow(host, life)


def test_what_the_kernel_announces_names_interface_and_address() -> None:
    with Namespace("links") as host:
        host.ip(*LINK)
        with host.entered(), contextlib.closing(AddressNews()) as news:
            assert news.take() == {}
            host.ip("address add 192.0.2.1/32 dev here", "address add 192.0.2.2/32 dev here")
            host.ip("address add 2001:db8::1/128 dev here nodad")
            host.ip("address delete 192.0.2.2/32 dev here")
            come = news.take()
            host.ip("link delete here")
            gone = news.take()

    assert come is not None
    (index,) = {each.ifindex for each in come}
    assert come == {
        InterfaceAddress(index, "192.0.2.1", 32): True,
        InterfaceAddress(index, "192.0.2.2", 32): False,
        InterfaceAddress(index, "2001:db8::1", 128): True,
    }
    # with the interface its addresses go
    assert gone == {
        InterfaceAddress(index, "192.0.2.1", 32): False,
        InterfaceAddress(index, "2001:db8::1", 128): False,
    }
