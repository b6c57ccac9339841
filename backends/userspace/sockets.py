"""The door to listening sockets: opened, taken over from the process before, and told whom to let in. Shell; holds no policy."""

import contextlib
import ctypes
import errno
import functools
import os
import socket
import struct
from typing import Final

from backends.userspace import filters
from backends.userspace.here import Here
from backends.userspace.model import NOBODY, Admission, Place
from proxy.listeners import Listeners, bind_freely, listener_key
from proxy.model import IPV6, Family

BACKLOG: Final = 4096
"""Connections that wait to be accepted; the kernel takes no more than net.core.somaxconn."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_PKTINFO: Final = {"IPv4": (socket.IPPROTO_IP, 8), "IPv6": (socket.IPPROTO_IPV6, 49)}
_FAMILIES: Final = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}
_TYPES: Final = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_PROGRAM: Final = struct.Struct("@HP")  # struct sock_fprog


class Sockets:
    """Opens the listening sockets of this process. `listeners` has those that the process before has passed on."""

    def __init__(
        self, listeners: Listeners | None = None, *, needs_interface: bool = False
    ) -> None:
        """`needs_interface`: whoever arrives is told apart by the interface."""
        self._listeners = listeners or Listeners()
        self._needs_interface = needs_interface

    def open(self, place: Place, admission: Admission, here: Here) -> socket.socket:
        """Return a socket that listens there and does not block. Raises OSError."""
        key = listener_key(place.protocol, place.address, place.port)
        with contextlib.ExitStack() as unless_opened:
            passed = self._listeners.take(key)
            if passed is not None:
                unless_opened.callback(self._listeners.drop, key)
            if passed is not None and not is_alive(passed):
                passed.close()
                passed = None
            listener = unless_opened.enter_context(
                passed or socket.socket(_FAMILIES[place.family], _TYPES[place.protocol])
            )
            if passed is None:
                self._prepare(listener, place)
            self._tell_interface(listener, place)
            admit(listener, place, admission, here)
            if passed is None:
                listener.bind((place.address, place.port))
                if place.protocol == "TCP":
                    listener.listen(BACKLOG)
            unless_opened.pop_all()
        self._listeners.keep(key, listener)
        return listener

    def leave(self, place: Place) -> None:
        """Note that a socket is about to be closed: the next process shall not have it."""
        self._listeners.drop(listener_key(place.protocol, place.address, place.port))

    def _prepare(self, listener: socket.socket, place: Place) -> None:
        listener.setblocking(False)
        # The route that makes the address local may be gone for a moment, and IPv6 takes no notice of it at all.
        bind_freely(listener)
        if place.family == IPV6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if place.protocol == "TCP":
            # so that connections of an earlier process, which still linger, are not in the way
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is accepted inherits these: small answers go at once, and clients that vanish are noticed some day.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _tell_interface(self, listener: socket.socket, place: Place) -> None:
        level, option = _PKTINFO[place.family]
        listener.setsockopt(level, option, self._needs_interface)


def admit(listener: socket.socket, place: Place, admission: Admission, here: Here) -> None:
    """Have a socket be shown the packets of those who are to be let in, and no others. Raises OSError.

    With EMSGSIZE when there are too many ranges or interfaces; nobody is let in then.
    """
    program = _program(place.family, admission, here)
    if len(program) > filters.MOST * filters.WIDTH:
        _attach(listener, _program(place.family, NOBODY, here))
        raise OSError(
            errno.EMSGSIZE, "too many source ranges, or interfaces of pods, for a socket filter"
        )
    if program:
        _attach(listener, program)
        return
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


@functools.lru_cache(maxsize=8)
def _program(family: Family, admission: Admission, here: Here) -> bytes:
    """Many listeners have the same one, and it may be long."""
    return filters.pack(filters.program(family, admission, here))


def _attach(listener: socket.socket, program: bytes) -> None:
    packed = ctypes.create_string_buffer(program)
    described = _PROGRAM.pack(len(program) // filters.WIDTH, ctypes.addressof(packed))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def is_alive(listener: socket.socket) -> bool:
    """Whether a socket listens still: somebody may have ended it (ss --kill)."""
    try:
        if listener.type == socket.SOCK_STREAM:
            return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        return bool(listener.getsockname()[1])
    except OSError:
        return False


def describe(place: Place, error: OSError) -> str:
    """Return why nobody can listen there, in words."""
    reason = error.strerror or os.strerror(error.errno or 0)
    if error.errno == errno.EADDRINUSE:
        reason = "another program listens at this port, on this address or on all"
    return f"listen at {place}: {reason}"
