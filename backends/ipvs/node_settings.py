"""The kernel's settings that IPVS needs, whether this node has IPv6, and where on this node the destinations of new virtual servers begin. Shell.

conntrack: what IPVS translates is tracked, so that it can be masqueraded. expire_nodest_conn: a connection whose destination
was removed ends with its next packet, and UDP goes on elsewhere. expire_quiescent_template: with weight 0 a destination loses the
clients bound to it. conn_reuse_mode: before Linux 5.9 a client that uses a port again within the time a closed connection
is remembered waited a second (f719e3754ee2); 0 sends it where it was before.
"""

import hashlib
import logging
import platform
import re
from pathlib import Path
from typing import Final

from backends.ipvs.model import DEVICE
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Timeouts
from proxy import sysctls
from proxy.config.settings import IpvsSettings
from proxy.errors import Unsupported

_VS: Final = "proc/sys/net/ipv4/vs/"
_CONNTRACK: Final = _VS + "conntrack"
_WANTED: Final = {
    _CONNTRACK: 1,
    _VS + "expire_nodest_conn": 1,
    _VS + "expire_quiescent_template": 1,
    "proc/sys/net/ipv4/ip_forward": 1,
}
_STRICT_ARP: Final = {
    "proc/sys/net/ipv4/conf/all/arp_ignore": 1,
    "proc/sys/net/ipv4/conf/all/arp_announce": 2,
}
_MOST_OFFSETS: Final = 1 << 16

log = logging.getLogger(__name__)


def has_ipv6(root: Path = Path("/")) -> bool:
    """Whether our device can have addresses of IPv6: the kernel may lack it, or `disable_ipv6` switch it off.

    A device that is not there yet begins with the default, to which the kernel copies what is set for all.
    """
    if not (root / "proc/net/if_inet6").exists():
        return False
    files = [root / f"proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in (DEVICE, "default")]
    return next((each.read_text().strip() == "0" for each in files if each.exists()), True)


def wanted_settings(*, strict_arp: bool, release: str) -> dict[str, int]:
    """Return the settings for a kernel of that release, by file. Pure."""
    wanted = dict(_WANTED)
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is not None and (4, 1) <= (int(version[1]), int(version[2])) < (5, 9):
        wanted[_VS + "conn_reuse_mode"] = 0
    return wanted | _STRICT_ARP if strict_arp else wanted


def enforce(settings: IpvsSettings, ipvs: Ipvs, root: Path = Path("/")) -> None:
    """Write the kernel's settings and the configured timeouts; log what cannot be written, which most can do without.

    Raises Unsupported if masquerading would not work.
    """
    wanted = wanted_settings(strict_arp=settings.strict_arp, release=platform.release())
    for refused in sysctls.enforce(wanted, root):
        if refused.write.file == _CONNTRACK:
            way_out = "write it yourself, or run this program with --init-only and the right"
            raise Unsupported("masquerading in mode ipvs", f"{refused}; {way_out}")
        log.error("%s", refused)
    seconds = (settings.tcp_timeout_s, settings.tcp_fin_timeout_s, settings.udp_timeout_s)
    timeouts = Timeouts(*[round(each) for each in seconds])
    if any(timeouts):
        for refusal in ipvs.carry_out([ipvs_messages.set_timeouts(timeouts)]):
            log.error("%s", refusal)


def offset(node_name: str) -> int:
    """Return a number of this node, the same after every start. Pure."""
    digest = hashlib.blake2b(node_name.encode(), digest_size=2).digest()
    return int.from_bytes(digest) % _MOST_OFFSETS
