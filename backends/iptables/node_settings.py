"""What of this node's own settings shapes the rules, and the one the rules need. Shell."""

import logging
from pathlib import Path
from typing import Final

from proxy import sysctls

ROUTE_LOCALNET: Final = "proc/sys/net/ipv4/conf/all/route_localnet"

log = logging.getLogger(__name__)


def is_liberal(root: Path = Path("/")) -> bool:
    """Whether connection tracking has been told not to mind TCP packets outside the window."""
    return bool(sysctls.read(sysctls.TCP_BE_LIBERAL, root))


def route_localhost(root: Path = Path("/")) -> None:
    """Have the kernel route what comes from 127.0.0.0/8 as our rules translate it; say if it cannot be written.

    Neighbours could then send packets to these addresses, so the rule that drops such packets comes first.
    """
    for refused in sysctls.enforce({ROUTE_LOCALNET: 1}, root):
        log.error("NodePorts are not to be had at 127.0.0.1: %s; write it yourself", refused)
