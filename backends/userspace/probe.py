"""Tries what the forwarder needs: routes that make an address local, and a socket there that drops what it is told to. Shell.

In the namespace of the process, at addresses that are nobody's (RFC 5737, RFC 6666), since those who may make routes may not
be allowed to make namespaces.
"""

import errno
import logging
import os
import resource
from contextlib import suppress

from backends.userspace.here import Here
from backends.userspace.kernel import Kernel
from backends.userspace.model import NOBODY, Place
from backends.userspace.sockets import Sockets
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, Family, PortKey, ServicePortName

ADDRESSES: dict[Family, str] = {"IPv4": "192.0.2.254", "IPv6": "100::5:1ce"}
FILES: int = 1 << 20
"""Files that this process would like to be able to open; each connection takes two."""

log = logging.getLogger(__name__)


def probe(kernel: Kernel) -> tuple[Family, ...]:
    """Return the families that can be served. Raises Unsupported, naming what is missing for IPv4."""
    served: list[Family] = []
    for family in FAMILIES:
        try:
            _try(kernel, family)
        except Unsupported as error:
            if family == "IPv4":
                raise
            log.warning("IPv6 services are not served: %s", error)
        else:
            served.append(family)
    return tuple(served)


def _try(kernel: Kernel, family: Family) -> None:
    address = ADDRESSES[family]
    owner = PortKey(ServicePortName("", "", "", "TCP"), family)
    route = [(address, owner)]
    try:
        refused = kernel.add(route)
    except KernelError as error:
        raise Unsupported("routes that make an address local", error.message) from error
    if refused:
        raise Unsupported("routes that make an address local", refused[owner])
    port = (
        1 + os.getpid() % 1023
    )  # below 1024; another process that tries at the same time takes another one
    try:
        Sockets().open(Place(family, "TCP", address, port), NOBODY, Here()).close()
    except PermissionError as error:
        reason = f"{error.strerror}; it takes the capability NET_BIND_SERVICE"
        raise Unsupported("listening at ports below 1024", reason) from error
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or errno.EIO)
        raise Unsupported("listening at an address made local, with a filter", reason) from error
    finally:
        with suppress(KernelError):
            kernel.remove(route)


def raise_file_limit() -> int:
    """Let this process open as many files as it may; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, FILES), hard):
        if soft >= most:
            break
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, max(hard, most)))
            return most
    return soft
