"""The modes: who may name which, and which sections of KubeProxyConfiguration each of them reads."""

from typing import Final

from proxy.config.kubeproxy import IPVS, IPTables, KubeProxyConfiguration, NFTables

KUBE_PROXY_MODES: Final = ("nftables", "ipvs", "iptables")
LADDER: Final = (*KUBE_PROXY_MODES, "userspace")
"""What may come to run where no mode is named, the best first."""
OWN_MODES: Final = ("userspace", "null")
MODES: Final = ("", *KUBE_PROXY_MODES, *OWN_MODES)
"""Every mode; the empty one means the best this host supports."""


def problem(mode: str, *, is_from_file: bool) -> str:
    """Return why a mode is not allowed in KubeProxyConfiguration (or as a flag), or the empty text.

    The file cannot name the modes that are only ours, because kube-proxy must still accept it.
    """
    if mode == "kernelspace":
        return "kernelspace is for Windows; this program runs on Linux only"
    if mode in OWN_MODES and is_from_file:
        return (
            f"kube-proxy does not know {mode}; name it in the file of --sliceproxy-config, "
            "or use the flag --proxy-mode without --config"
        )
    if mode not in MODES:
        allowed = KUBE_PROXY_MODES if is_from_file else MODES[1:]
        return f"must be {', '.join(allowed)} or empty (the best this host supports), got {mode!r}"
    return ""


def periods(config: KubeProxyConfiguration, mode: str) -> tuple[str, IPTables | IPVS | NFTables]:
    """Return the section whose periods are read, with its name. Modes kube-proxy does not have read that of nftables."""
    if mode == "iptables":
        return mode, config.iptables
    if mode == "ipvs":
        return mode, config.ipvs
    return "nftables", config.nftables


def masquerade(config: KubeProxyConfiguration, mode: str) -> tuple[str, IPTables | NFTables]:
    """Return the section whose masqueradeAll and masqueradeBit are read: ipvs has none of its own and reads that of iptables."""
    if mode in {"iptables", "ipvs"}:
        return "iptables", config.iptables
    return "nftables", config.nftables


def paths(config: KubeProxyConfiguration, mode: str) -> dict[str, str]:
    """Return where the fields that sections of several modes have are read in a mode: `masqueradeAll` → `nftables.masqueradeAll`."""
    masquerading, timing = masquerade(config, mode)[0], periods(config, mode)[0]
    return {
        "masqueradeAll": f"{masquerading}.masqueradeAll",
        "masqueradeBit": f"{masquerading}.masqueradeBit",
        "syncPeriod": f"{timing}.syncPeriod",
        "minSyncPeriod": f"{timing}.minSyncPeriod",
    }
