"""What legacy tables look like from outside: which there are, how many rules they have. Shell.

Reading a legacy table copies all of it. To notice that somebody else has changed one, its number of entries and its size
are enough, which the kernel tells at once however large it is.
"""

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from proxy.closing import Closing
from proxy.errors import KernelError
from proxy.model import IPV4, IPV6, Family

_PROC: Final = Path("/proc/thread-self/net")
_TABLES: Final[dict[Family, str]] = {IPV4: "ip_tables_names", IPV6: "ip6_tables_names"}
_SOCKETS: Final[dict[Family, int]] = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LEVELS: Final[dict[Family, int]] = {IPV4: socket.SOL_IP, IPV6: socket.IPPROTO_IPV6}
_GET_INFO: Final = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
# struct ipt_getinfo: name, valid hooks, where each of five chains begins and ends, entries, bytes
_INFO: Final = struct.Struct("=32s11I2I")
# Python's own getsockopt() gives the kernel nothing to read, and the table's name is to be read.
_libc: Final = ctypes.CDLL(None, use_errno=True)


class TableInfo(NamedTuple):
    """How many entries a table has (rules, and two or so for each chain), and how many bytes they take."""

    entries: int
    size: int


def table_names(family: Family) -> list[str]:
    """Return the tables there are in the network namespace of the calling thread. Raises KernelError.

    To ask the kernel, or a program, for one that is not there makes it, and then every packet goes through it.
    """
    names = _PROC / _TABLES[family]
    try:
        return names.read_text().split()
    except FileNotFoundError:  # the kernel has no legacy tables, or has not loaded them
        return []
    except OSError as error:
        raise KernelError(f"read {names}", error.errno or 0, error.strerror or "") from error


class LegacyTables(Closing):
    """Questions about the tables of one family, in the network namespace of the thread that makes this object."""

    def __init__(self, family: Family) -> None:
        self._family: Family = family
        try:
            self._socket = socket.socket(_SOCKETS[family], socket.SOCK_DGRAM)
        except OSError as error:
            raise KernelError("open a socket", error.errno or 0, error.strerror or "") from error

    def close(self) -> None:
        self._socket.close()

    def info(self, table: str) -> TableInfo | None:
        """Return how large a table is, None if the kernel has no such table. Makes it if it can: see `table_names`."""
        buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *bytes(13)), _INFO.size)
        length = ctypes.c_uint32(_INFO.size)
        failed = _libc.getsockopt(
            self._socket.fileno(), _LEVELS[self._family], _GET_INFO, buffer, ctypes.byref(length)
        )
        if failed:
            number = ctypes.get_errno()
            if number in {errno.ENOENT, errno.ENOPROTOOPT}:
                return None
            raise KernelError(f"ask for table {table}", number, os.strerror(number))
        *_, entries, size = _INFO.unpack(buffer.raw)
        return TableInfo(entries, size)
