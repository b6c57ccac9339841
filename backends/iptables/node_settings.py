"""What of this node shapes the rules, and the one setting the rules need. Shell."""

import hashlib
import logging
from pathlib import Path
from typing import Final

from proxy import sysctls

ROUTE_LOCALNET: Final = "proc/sys/net/ipv4/conf/all/route_localnet"
_OWN: Final = (
    "etc/machine-id",
    "sys/class/dmi/id/product_uuid",
    "proc/sys/kernel/random/boot_id",
)
"""What no two nodes have in common, and stays as long as rules do. In a container the first may be missing."""

log = logging.getLogger(__name__)


def is_liberal(root: Path = Path("/")) -> bool:
    """Whether connection tracking has been told not to mind TCP packets outside the window."""
    return bool(sysctls.read(sysctls.TCP_BE_LIBERAL, root))


def secret(root: Path = Path("/")) -> str:
    """Return what only this node has, as 64 hexadecimal digits; the same as long as it runs, without being stored."""
    found = hashlib.blake2b(digest_size=32)
    for name in _OWN:
        try:
            found.update((root / name).read_bytes())
        except OSError:  # it need not be there
            found.update(b"-")
    return found.hexdigest()


def route_localhost(root: Path = Path("/")) -> None:
    """Have the kernel route what comes from 127.0.0.0/8 as our rules translate it; say if it cannot be written.

    Neighbours could then send packets to these addresses, so the rule that drops such packets comes first.
    """
    for refused in sysctls.enforce({ROUTE_LOCALNET: 1}, root):
        log.error("NodePorts are not to be had at 127.0.0.1: %s; write it yourself", refused)
