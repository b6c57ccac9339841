"""Rules for the `hostPort`s of a pod, in the words in which the CNI plugin `portmap` has them.

They translate what is for a port of this host, on whichever of its addresses.
"""

from collections.abc import Mapping
from typing import Final

from e2e.client import PROTOCOLS
from e2e.topology import FAMILIES, Family, Host, Node

NEEDS: Final[Mapping[str, str]] = {
    "nft": "nftables",
    "iptables-nft": "iptables-nft",
    "iptables-legacy": "iptables-legacy",
}
"""Program → the capability that it takes."""
_PROTOCOLS: Final = tuple([each for each in PROTOCOLS if each != "sctp"])


def load(node: Node, pod: Host, program: str, *ports: int) -> None:
    """Have these ports of the node, TCP and UDP, lead to the same ones of a pod."""
    for family in FAMILIES:
        to = [
            (protocol, port, _place(pod, family, port))
            for protocol in _PROTOCOLS
            for port in ports
        ]
        if program == "nft":
            node.namespace.run(["nft", "-f", "-"], stdin=_nft(family, to))
        else:
            command = program if family == "IPv4" else program.replace("ip", "ip6", 1)
            restore = [f"{command}-restore", "--noflush"]
            node.namespace.run(restore, stdin=_iptables(to))


def _place(pod: Host, family: Family, port: int) -> str:
    address = pod.addresses.of(family)
    return f"{address}:{port}" if family == "IPv4" else f"[{address}]:{port}"


def _nft(family: Family, to: list[tuple[str, int, str]]) -> str:
    rules = "\n".join([f"{protocol} dport {port} dnat to {place}" for protocol, port, place in to])
    return f"""
        table {"ip" if family == "IPv4" else "ip6"} cni_hostport {{
            chain hostports {{
                {rules}
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                jump hostports
            }}
            chain output {{
                type nat hook output priority -100;
                fib daddr type local jump hostports
            }}
        }}
    """


def _iptables(to: list[tuple[str, int, str]]) -> str:
    entries = "\n".join(
        [
            f"-A CNI-HOSTPORT-DNAT -p {p} -m multiport --dports {port} -j CNI-DN-pod"
            for p, port, _ in to
        ]
    )
    rules = "\n".join(
        [
            f"-A CNI-DN-pod -p {p} --dport {port} -j DNAT --to-destination {at}"
            for p, port, at in to
        ]
    )
    return (
        "*nat\n:CNI-HOSTPORT-DNAT -\n:CNI-DN-pod -\n"
        "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n"
        "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n"
        f"{entries}\n{rules}\nCOMMIT\n"
    )
