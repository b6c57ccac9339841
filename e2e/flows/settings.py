"""The proxy settings a scenario may name, as the daemon's arguments. Each is one daemon on the same ground."""

from collections.abc import Mapping
from typing import Final

from e2e.topology import CLUSTER_CIDRS

_DETECTOR: Final = ("--cluster-cidr", ",".join(CLUSTER_CIDRS))
_ALL_ADDRESSES: Final = ("--nodeport-addresses", "0.0.0.0/0,::/0")
_MASQUERADE_ALL: Final = ("--masquerade-all",)

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (*_DETECTOR, *_ALL_ADDRESSES),
    "no detector": _ALL_ADDRESSES,
    "masquerade all": (*_DETECTOR, *_ALL_ADDRESSES, *_MASQUERADE_ALL),
    "masquerade all, no detector": (*_ALL_ADDRESSES, *_MASQUERADE_ALL),
    "IPv4 detector": ("--cluster-cidr", CLUSTER_CIDRS[0], *_ALL_ADDRESSES),
    "NodeCIDR": ("--detect-local-mode", "NodeCIDR", *_ALL_ADDRESSES),
    "BridgeInterface": (
        *("--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "to-d"),
        *_ALL_ADDRESSES,
    ),
    # to-r is the beginning of to-remote and to-router
    "InterfaceNamePrefix": (
        *("--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "to-r"),
        *_ALL_ADDRESSES,
    ),
    "primary node ports": (*_DETECTOR, "--nodeport-addresses", "primary"),
    "IPv4 node ports": (*_DETECTOR, "--nodeport-addresses", "172.18.1.0/24"),
    "no external IPs": (
        *(*_DETECTOR, *_ALL_ADDRESSES),
        *("--feature-gates", "AllowServiceExternalIPs=false"),
    ),
    "another mark": (),
}
"""By name: `default` has a local detector for both families and serves node ports on all addresses."""

SETTINGS_OF_MODES: Final[Mapping[str, tuple[str, ...]]] = {
    "iptables": ("--iptables-min-sync-period", "1ms", "--iptables-localhost-nodeports=false"),
}
"""What every daemon of a mode is told besides. One that waits a second before each change only takes longer to judge; and by
default this mode alone serves NodePorts on loopback, which is for a test of its own."""

CONFIGURATIONS: Final[Mapping[str, Mapping[str, object]]] = {
    "another mark": {
        "clusterCIDR": ",".join(CLUSTER_CIDRS),
        "nodePortAddresses": ["0.0.0.0/0", "::/0"],
        "iptables": {"masqueradeBit": 20, "minSyncPeriod": "1ms", "localhostNodePorts": False},
        "nftables": {"masqueradeBit": 20},
    },
}
"""What no flag says: these settings are a KubeProxyConfiguration, in parts."""
