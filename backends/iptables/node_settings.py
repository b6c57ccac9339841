"""What of this node's own settings shapes the rules, and the one the rules need. Shell."""

import ipaddress
import logging
from pathlib import Path
from typing import Final

from proxy import sysctls
from proxy.config.settings import Settings
from proxy.desired_node import PRIMARY

ROUTE_LOCALNET: Final = "proc/sys/net/ipv4/conf/all/route_localnet"
_LOOPBACK: Final = ipaddress.IPv4Network("127.0.0.0/8")

log = logging.getLogger(__name__)


def serves_localhost(settings: Settings) -> bool:
    """Whether NodePorts are to be had at 127.0.0.0/8: unless that is switched off, or they are at other addresses only."""
    if not settings.localhost_node_ports:
        return False
    if PRIMARY in settings.node_port_addresses:
        return False
    ranges = [each for each in settings.node_port_addresses if ":" not in each]
    return not ranges or any(_LOOPBACK.overlaps(ipaddress.IPv4Network(each)) for each in ranges)


def drops_invalid(settings: Settings, root: Path = Path("/")) -> bool:
    """Whether packets that connection tracking cannot make sense of are dropped: it may have been told not to mind."""
    is_liberal = sysctls.read(sysctls.TCP_BE_LIBERAL, root)
    return not (settings.conntrack.tcp_be_liberal or is_liberal)


def route_localhost(root: Path = Path("/")) -> None:
    """Have the kernel route what comes from 127.0.0.0/8 as our rules translate it; say if it cannot be written.

    Neighbours could then send packets to these addresses, so the rule that drops such packets comes first.
    """
    for refused in sysctls.enforce({ROUTE_LOCALNET: 1}, root):
        log.error("NodePorts are not to be had at 127.0.0.1: %s; write it yourself", refused)
