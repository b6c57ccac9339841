"""How traffic of pods on this node is told from other traffic (detectLocalMode), as a match of rules. Pure.

In the output hook the input interface has no name, and the node's own address is in no range of pods: traffic of the
node itself is not a pod's.
"""

import ipaddress
from collections.abc import Sequence

from backends.kernel import nft_phrases
from backends.kernel.nft_phrases import Phrase
from proxy.config.settings import LocalMode
from proxy.model import Family, Value


class Detector(Value, frozen=True, kw_only=True):
    """`cidrs` are read in the two modes that are about addresses, at most one of each family; `interface` in the others.

    A family without a range has no detection: nothing counts as coming from a pod, and nothing as coming from elsewhere.
    """

    mode: LocalMode = "ClusterCIDR"
    cidrs: tuple[str, ...] = ()
    interface: str = ""

    def is_pod(self, family: Family) -> Phrase | None:
        """Return what matches traffic of local pods, None without detection."""
        return self._match(family, is_inverted=False)

    def is_no_pod(self, family: Family) -> Phrase | None:
        """Return what matches all other traffic, None without detection."""
        return self._match(family, is_inverted=True)

    def _match(self, family: Family, *, is_inverted: bool) -> Phrase | None:
        if self.mode == "BridgeInterface":
            return nft_phrases.interface(self.interface, is_inverted=is_inverted)
        if self.mode == "InterfaceNamePrefix":
            return nft_phrases.interface_prefix(self.interface, is_inverted=is_inverted)
        for network in _networks(self.cidrs, family):
            base, mask = network.network_address.packed, network.netmask.packed
            return nft_phrases.source_in_network(family, base, mask, is_inverted=is_inverted)
        return None


def _networks(
    cidrs: Sequence[str], family: Family
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    return [network for network in networks if f"IPv{network.version}" == family]
