"""What this kernel and this machine can do, found out by doing it.

A test that needs more than every Linux has says so: `@pytest.mark.requires("sctp")`. To add a capability, write a probe
that returns nothing if it works and the reason in the operator's words if it does not, and list it in CAPABILITIES.

Continuous integration must have what a stock Debian or Ubuntu has (`is_stock`), or what E2E_REQUIRED lists: a name that
is missing there fails the tests that need it. Elsewhere they are skipped, with the reason.
"""

import functools
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.kernel.ipvs import Ipvs
from e2e.client import PROTOCOLS
from e2e.namespace import Namespace, TopologyError
from proxy.errors import ProxyError

# in front of a command: what it mounts, or mounts otherwise, nobody else sees
UNSHARE = ("unshare", "--mount", "--propagation", "private")


@dataclass(frozen=True)
class Capability:
    """Something a test can need. `probe` returns why it is missing, or an empty string."""

    title: str
    probe: Callable[[], str]
    is_stock: bool


def missing(name: str) -> str:
    """Why the capability of that name is not there, as `title: reason`; empty if it is there. Probed once."""
    reason = _probe(name)
    return f"{CAPABILITIES[name].title}: {reason}" if reason else ""


@functools.cache
def _probe(name: str) -> str:
    return CAPABILITIES[name].probe()


def required(environment: Mapping[str, str]) -> frozenset[str]:
    """The capabilities that may not be missing here: E2E_REQUIRED, else in CI (CI=true) the stock ones, else none.

    Raises ValueError for a name that is not a capability.
    """
    listed = environment.get("E2E_REQUIRED")
    if listed is None:
        is_ci = environment.get("CI", "").lower() in ("true", "1")
        return frozenset(name for name, each in CAPABILITIES.items() if is_ci and each.is_stock)
    names = frozenset(name.strip() for name in listed.split(",") if name.strip())
    if unknown := names - CAPABILITIES.keys():
        known = ", ".join(sorted(CAPABILITIES))
        raise ValueError(f"E2E_REQUIRED: unknown {', '.join(sorted(unknown))}; known are {known}")
    return names


def _namespaces() -> str:
    if os.geteuid() != 0:
        return "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    if not shutil.which("ip"):
        return "the command ip is not installed"
    return _works_in_a_namespace()


def _sctp() -> str:
    try:
        socket.socket(socket.AF_INET, *PROTOCOLS["sctp"]).close()
    except OSError as error:
        return f"this kernel has no SCTP ({error.strerror})"
    return ""


def _nftables() -> str:
    rules = """
        table inet probe {
            map services { type ipv4_addr . inet_proto . inet_service : verdict; }
            chain nat { type nat hook prerouting priority dstnat; ip daddr . ip protocol . th dport vmap @services; }
        }
    """
    return _works_in_a_namespace(["nft", "-f", "-"], rules)


def _iptables() -> str:
    rules = "*nat\n-A PREROUTING -p tcp --dport 9 -j DNAT --to-destination 192.0.2.1\nCOMMIT\n"
    return _works_in_a_namespace(["iptables-restore"], rules)


def _ipvs() -> str:
    try:
        with Namespace("probe") as namespace, namespace.entered():
            Ipvs().close()
    except (TopologyError, ProxyError) as error:
        return str(error).splitlines()[0]
    return ""


def _dummy() -> str:
    return _works_in_a_namespace(["ip", "link", "add", "probe", "type", "dummy"])


def _capsh() -> str:
    if not shutil.which("capsh"):
        return "the command capsh is not installed (Debian has it in libcap2-bin)"
    return _works_in_a_namespace(
        [*UNSHARE, "capsh", "--drop=cap_sys_admin", "--shell=/bin/true", "--"]
    )


def _kubectl() -> str:
    # Debian has it in kubernetes-client, Ubuntu has no package
    return "" if shutil.which("kubectl") else "the command kubectl is not installed"


def _promtool() -> str:
    return (
        ""
        if shutil.which("promtool")
        else "the command promtool is not installed (Debian has it in prometheus)"
    )


def _works_in_a_namespace(argv: list[str] | None = None, stdin: str = "") -> str:
    if argv and not shutil.which(argv[0]):
        return f"the command {argv[0]} is not installed"
    try:
        with Namespace("probe") as namespace:
            if argv:
                namespace.run(argv, stdin=stdin)
    except TopologyError as error:
        return str(error).splitlines()[0]
    return ""


CAPABILITIES: Mapping[str, Capability] = {
    "namespaces": Capability("network namespaces", _namespaces, is_stock=True),
    "nftables": Capability("nftables NAT", _nftables, is_stock=True),
    "iptables": Capability("iptables NAT", _iptables, is_stock=True),
    "ipvs": Capability("IPVS", _ipvs, is_stock=False),
    "dummy": Capability("dummy devices", _dummy, is_stock=False),
    "capsh": Capability("programs with fewer rights", _capsh, is_stock=True),
    "sctp": Capability("SCTP sockets", _sctp, is_stock=False),
    "kubectl": Capability("kubectl", _kubectl, is_stock=False),
    "promtool": Capability("promtool", _promtool, is_stock=False),
}
