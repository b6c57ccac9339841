"""How traffic of pods on this node is told from other traffic (detectLocalMode), in the words of `iptables`. Pure.

`nft_pods` says the same in nftables.
"""

import ipaddress
from collections.abc import Iterable

from proxy.config.settings import LocalMode
from proxy.model import Family


def pod_words(
    mode: LocalMode, cidrs: Iterable[str], interface: str, family: Family
) -> tuple[str, str] | None:
    """Return what matches traffic of local pods, and what matches all other; None where nothing tells it.

    In OUTPUT there is no interface a packet came from, so by interface the node itself is no pod.
    """
    words = None
    match mode:
        case "BridgeInterface":
            words = f"-i {interface}"
        case "InterfaceNamePrefix":
            words = f"-i {interface}+"
        case "ClusterCIDR" | "NodeCIDR":
            own = [c for c in cidrs if f"IPv{ipaddress.ip_network(c).version}" == family]
            words = f"-s {own[0]}" if own else None
    return None if words is None else (words, f"! {words}")
