"""The addresses on this host's interfaces, now and whenever they change. Shell.

NodePorts listen on them. The kernel announces changes over rtnetlink; an announcement only says that it is time to read
them all anew, so nothing depends on every one being heard, nor on their order. Where pods come and go by the second,
they are read at most every PAUSE_S.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from proxy.errors import KernelError
from proxy.netlink import codec, route
from proxy.netlink.route import InterfaceAddress
from proxy.netlink.socket import Ack, NetlinkSocket
from proxy.threads import to_thread

PAUSE_S: Final = 0.2
"""How long nothing is read after something was, so that many announcements cost one reading."""
ANYWAY_S: Final = 60.0
"""How often they are read although nothing was heard."""
RETRY_S: Final = 1.0

_GROUPS: Final = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_ANNOUNCEMENT: Final = 1 << 16

log = logging.getLogger(__name__)


async def watch(on_change: Callable[[frozenset[str]], None], without: str = "") -> None:
    """Call with all addresses (canonical text) at once, and again whenever they are others, until cancelled.

    Those of loopback and link-local ones are among them, but not those of the interface named `without`. They are those of the network namespace that the calling thread
    is in. Raises KernelError when the kernel has no ear for this.
    """
    with NetlinkSocket(codec.NETLINK_ROUTE) as door, _announcements() as heard:
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(heard.fileno(), _drain, heard, news)
        try:
            await _follow(lambda: read(door, without), news, on_change)
        finally:
            loop.remove_reader(heard.fileno())


async def _follow(
    read_all: Callable[[], frozenset[str]],
    news: asyncio.Event,
    on_change: Callable[[frozenset[str]], None],
) -> None:
    known: frozenset[str] | None = None
    while True:
        news.clear()
        try:
            found = await to_thread(read_all)
        except KernelError as error:
            log.error("this host's addresses could not be read, trying again: %s", error)
            await asyncio.sleep(RETRY_S)
            continue
        if found != known:
            known = found
            on_change(found)
        await asyncio.sleep(PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANYWAY_S):
                await news.wait()


def read_now(without: str = "") -> frozenset[str]:
    """Return the addresses there are at this moment: see `read`."""
    with NetlinkSocket(codec.NETLINK_ROUTE) as door:
        return read(door, without)


def read(door: NetlinkSocket, without: str = "") -> frozenset[str]:
    """Return the addresses there are, but those of the interface named `without`. Raises KernelError.

    Not yet those of which it is still found out whether somebody else has them: until then nobody can listen there,
    and when it is known that is announced.
    """
    left_out = _ifindex(door, without) if without else None
    found = map(route.parse_address, door.dump_whole(route.list_addresses()))
    return frozenset(
        [each.address for each in found if each and each.ifindex != left_out and _is_usable(each)]
    )


def _is_usable(each: InterfaceAddress) -> bool:
    undecided = route.IFA_F_TENTATIVE | route.IFA_F_OPTIMISTIC
    return each.flags & undecided != route.IFA_F_TENTATIVE


def _ifindex(door: NetlinkSocket, name: str) -> int | None:
    (reply,) = door.ask([route.get_link(name)])
    if not isinstance(reply, Ack):
        return route.parse_link(reply.payload).ifindex
    if reply.errno == errno.ENODEV:
        return None
    raise KernelError(f"find interface {name}", reply.errno, os.strerror(reply.errno))


def _announcements() -> socket.socket:
    try:
        heard = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, codec.NETLINK_ROUTE
        )
    except OSError as error:
        raise KernelError("open a netlink socket", error.errno or 0, str(error)) from error
    try:
        heard.bind((0, _GROUPS))
    except OSError as error:
        heard.close()
        raise KernelError("hear of addresses", error.errno or 0, str(error)) from error
    return heard


def _drain(heard: socket.socket, news: asyncio.Event) -> None:
    """Throw announcements away: that there are some is all they say. Lost ones (ENOBUFS) say the same."""
    news.set()
    with contextlib.suppress(BlockingIOError):
        while True:
            try:
                heard.recv(_ANNOUNCEMENT)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
