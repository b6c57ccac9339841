"""What the doors to parts of netfilter have in common: their two sockets. Shell; holds no policy."""

import errno
from typing import Final

from proxy.closing import Closing
from proxy.errors import KernelError
from proxy.netlink import codec
from proxy.netlink.socket import NetlinkSocket

NOT_THERE: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""Error numbers with which a kernel answers that lacks the part of netfilter that is asked for, or its netlink."""


class Netfilter(Closing):
    """Netfilter in the network namespace of the thread that makes this object.

    Two sockets, open until `close`: one for changes and single questions, one for lists, so that a long list can be
    read in pieces while changes go on. Not for use by two threads at the same time. Raises KernelError.
    """

    def __init__(self) -> None:
        self._commands = NetlinkSocket(codec.NETLINK_NETFILTER)
        try:
            self._dumps = NetlinkSocket(codec.NETLINK_NETFILTER)
        except KernelError:
            self._commands.close()
            raise

    def close(self) -> None:
        self._commands.close()
        self._dumps.close()
