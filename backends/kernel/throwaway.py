"""A network namespace that nobody else sees, for trying things out. Shell; holds no policy."""

import ctypes
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from proxy.errors import KernelError

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
# os.unshare() is there from Python 3.12 on
_libc: Final = ctypes.CDLL(None, use_errno=True)


def in_throwaway_namespace(call: Callable[[], T]) -> T:
    """Return what a call returns or raises, made in an empty network namespace that ends with it.

    The call has a thread of its own, which is in that namespace, and so are sockets it opens and programs it starts.
    Blocks meanwhile. Raises KernelError, with EPERM where the process may make no namespaces (CAP_SYS_ADMIN).
    """

    def work() -> T:
        _unshare()
        return call()

    with ThreadPoolExecutor(1, "throw-away namespace") as thread:
        return thread.submit(work).result()


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno() or errno.EIO
        raise KernelError("make a network namespace", number, os.strerror(number))
