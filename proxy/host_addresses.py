"""The addresses on this host's interfaces, now and whenever they change. Shell.

NodePorts listen on them. The kernel announces changes over rtnetlink; an announcement only says that it is time to read
them all anew, so nothing depends on every one being heard, nor on their order. Where pods come and go by the second,
they are read at most every PAUSE_S.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final

from proxy.addresses import parse_ip
from proxy.errors import KernelError
from proxy.netlink import codec
from proxy.netlink.codec import Request
from proxy.netlink.socket import DumpInterrupted, NetlinkSocket
from proxy.threads import to_thread

PAUSE_S: Final = 0.2
"""How long nothing is read after something was, so that many announcements cost one reading."""
ANYWAY_S: Final = 60.0
"""How often they are read although nothing was heard."""
RETRY_S: Final = 1.0
_ATTEMPTS: Final = 5

_NETLINK_ROUTE: Final = 0
_GROUPS: Final = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_RTM_GETADDR: Final = 22
_IFADDRMSG: Final = struct.Struct("=BBBBi")
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_FAMILIES: Final = (2, 10)  # AF_INET, AF_INET6; MCTP and Phonet answer as well
_IFA_F_OPTIMISTIC: Final = 0x04
_IFA_F_TENTATIVE: Final = 0x40
_ANNOUNCEMENT: Final = 1 << 16

log = logging.getLogger(__name__)


async def watch(on_change: Callable[[frozenset[str]], None]) -> None:
    """Call with all addresses (canonical text) at once, and again whenever they are others, until cancelled.

    Those of loopback and link-local ones are among them. They are those of the network namespace that the calling thread
    is in. Raises KernelError when the kernel has no ear for this.
    """
    with NetlinkSocket(_NETLINK_ROUTE) as door, _announcements() as heard:
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(heard.fileno(), _drain, heard, news)
        try:
            await _follow(door, news, on_change)
        finally:
            loop.remove_reader(heard.fileno())


async def _follow(
    door: NetlinkSocket, news: asyncio.Event, on_change: Callable[[frozenset[str]], None]
) -> None:
    known: frozenset[str] | None = None
    while True:
        news.clear()
        try:
            found = await to_thread(read, door)
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


def read(door: NetlinkSocket) -> frozenset[str]:
    """Return the addresses there are. Raises KernelError.

    Not yet those of which it is still found out whether somebody else has them: until then nobody can listen there,
    and when it is known that is announced.
    """
    request = Request(_RTM_GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, 0))
    for attempt in range(1, _ATTEMPTS + 1):
        with contextlib.suppress(DumpInterrupted):
            pieces = door.dump(request, is_strict=attempt < _ATTEMPTS)
            return frozenset(
                [_address(each) for piece in pieces for each in piece if _is_usable(each)]
            )
    raise AssertionError("the last attempt is not strict")


def _is_usable(payload: memoryview) -> bool:
    family, _, flags, _, _ = _IFADDRMSG.unpack_from(payload)
    return family in _FAMILIES and (
        flags & (_IFA_F_TENTATIVE | _IFA_F_OPTIMISTIC) != _IFA_F_TENTATIVE
    )


def _address(payload: memoryview) -> str:
    attributes = codec.parse_attrs(payload, _IFADDRMSG.size)
    # of a point-to-point link, IFA_ADDRESS is the other end
    text = str(ipaddress.ip_address(bytes(attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS])))
    canonical = parse_ip(text)
    return text if canonical is None else canonical.text


def _announcements() -> socket.socket:
    try:
        heard = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE
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
