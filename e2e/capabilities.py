"""What this kernel and this machine can do, found out by doing it.

A test that needs more than every Linux has says so: `@pytest.mark.requires("sctp")`. To add a capability, write a probe
that returns nothing if it works and the reason in the operator's words if it does not, and list it in CAPABILITIES.

Continuous integration must have what a stock Debian or Ubuntu has (`is_stock`), or what E2E_REQUIRED lists: a name that
is missing there fails the tests that need it. Elsewhere they are skipped, with the reason.
"""

import functools
import importlib.util
import os
import shutil
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from e2e.client import PROTOCOLS
from e2e.namespace import Namespace, TopologyError
from proxy.errors import KernelError
from proxy.netlink import codec
from proxy.netlink.socket import Ack, NetlinkSocket

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


def _set_sizes() -> str:
    made = "add table ip probe; add set ip probe addresses { type ipv4_addr; size 1; }"
    grown = "add set ip probe addresses { type ipv4_addr; size 2; }"
    filled = "add element ip probe addresses { 192.0.2.1, 192.0.2.2 }"
    try:
        with Namespace("probe") as namespace:
            for step in (
                made,
                grown,
                filled,
            ):  # each for itself: the size is another after the transaction
                namespace.run(["nft", step])
    except TopologyError:
        # seen on Linux 6.1, which accepts the second size and keeps the first
        return "a set keeps the size that it was made with"
    return ""


def _iptables(program: str = "iptables") -> str:
    rules = "*nat\n-A PREROUTING -p tcp --dport 9 -j DNAT --to-destination 192.0.2.1\nCOMMIT\n"
    return _works_in_a_namespace([f"{program}-restore"], rules)


def _python_iptables() -> str:
    # built from source, where there is a C compiler
    return "" if importlib.util.find_spec("iptc") else "python-iptables is not installed"


def _ipset() -> str:
    return _works_in_a_namespace(["ipset", "create", "probe", "hash:ip,port"])


def _local_routes() -> str:
    return _works_in_a_namespace(["ip", "route", "add", "local", "192.0.2.1", "dev", "lo"])


def _dummy() -> str:
    return _works_in_a_namespace(["ip", "link", "add", "probe", "type", "dummy"])


def _ipvs() -> str:
    """A virtual server is made over generic netlink; not by what is under test, or its faults would skip its tests."""
    if os.geteuid() != 0:
        return "needs root (CAP_NET_ADMIN)"
    try:
        with (
            Namespace("probe") as namespace,
            namespace.entered(),
            NetlinkSocket(codec.NETLINK_GENERIC) as netlink,
        ):
            return _refusal_of_a_virtual_server(netlink)
    except (TopologyError, KernelError) as error:
        return str(error).splitlines()[0]


def _refusal_of_a_virtual_server(netlink: NetlinkSocket) -> str:
    # asking for the family loads the module, where there is one
    by_name = codec.attr_string(2, "IPVS")  # CTRL_ATTR_FAMILY_NAME
    (family,) = netlink.ask([_generic(16, 3, 2, by_name)])  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
    if isinstance(family, Ack):
        return f"this kernel has no IPVS ({os.strerror(family.errno)})"
    number = codec.read_u16(codec.parse_attrs(family.payload, 4)[1])  # CTRL_ATTR_FAMILY_ID
    server = codec.nested(
        1,  # IPVS_CMD_ATTR_SERVICE, and in it IPVS_SVC_ATTR_…
        codec.attr_u16(1, socket.AF_INET),
        codec.attr_u16(2, socket.IPPROTO_TCP),
        codec.attr(3, socket.inet_aton("192.0.2.1").ljust(16, b"\0")),
        codec.attr(4, struct.pack(">H", 80)),
        codec.attr_string(6, "rr"),
        codec.attr(7, struct.pack("=II", 0, 0xFFFFFFFF)),
        codec.attr_u32(8, 0),
        codec.attr_be32(9, 0xFFFFFFFF),
    )
    refused = netlink.transact([_generic(number, 1, 1, server)])  # IPVS_CMD_NEW_SERVICE
    return f"no virtual server can be made ({os.strerror(refused[0].errno)})" if refused else ""


def _generic(kind: int, command: int, version: int, attributes: bytes) -> codec.Request:
    payload = struct.pack("=BBH", command, version, 0) + attributes
    return codec.Request(kind, codec.NLM_F_ACK, payload)


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
    "set sizes": Capability("nftables sets that grow", _set_sizes, is_stock=False),
    "iptables": Capability("iptables NAT", _iptables, is_stock=True),
    "iptables-legacy": Capability(
        "legacy iptables NAT", functools.partial(_iptables, "iptables-legacy"), is_stock=True
    ),
    "iptables-nft": Capability(
        "iptables-nft NAT", functools.partial(_iptables, "iptables-nft"), is_stock=True
    ),
    "python-iptables": Capability("python-iptables", _python_iptables, is_stock=False),
    "ipset": Capability("ipset", _ipset, is_stock=True),
    "ipvs": Capability("IPVS", _ipvs, is_stock=False),
    "userspace": Capability("routes that make addresses local", _local_routes, is_stock=True),
    "dummy": Capability("dummy devices", _dummy, is_stock=False),
    "capsh": Capability("programs with fewer rights", _capsh, is_stock=True),
    "sctp": Capability("SCTP sockets", _sctp, is_stock=False),
    "kubectl": Capability("kubectl", _kubectl, is_stock=False),
    "promtool": Capability("promtool", _promtool, is_stock=False),
}
