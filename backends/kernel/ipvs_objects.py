"""Virtual servers and their destinations as values, in the kernel's words. Pure.

<linux/ip_vs.h> says "service" for a virtual server; here that word is Kubernetes'.
"""

from enum import IntEnum, IntFlag
from typing import NamedTuple

from proxy.addresses import join_host_port
from proxy.model import Family, Protocol


class ServerFlag(IntFlag):
    """IP_VS_SVC_F_*. The scheduler's own flags mean what the scheduler says: to sh and mh, "fallback" and "port"."""

    PERSISTENT = 0x1
    ONE_PACKET = 0x4
    SCHEDULER_1 = 0x8
    SCHEDULER_2 = 0x10
    SCHEDULER_3 = 0x20


class Forwarding(IntEnum):
    """IP_VS_CONN_F_*: how packets get to a destination."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    DIRECT = 3


class ServerId(NamedTuple):
    """By what the kernel knows a virtual server: protocol, address and port, or else a firewall mark.

    `address` is in canonical text. A server without a protocol takes the packets of its family that bear the mark.
    """

    family: Family
    protocol: Protocol | None
    address: str
    port: int
    mark: int = 0

    def __str__(self) -> str:
        if self.protocol is None:
            return f"mark {self.mark:#x} ({self.family})"
        return f"{self.protocol} {join_host_port(self.address, self.port)}"


def marked(family: Family, mark: int) -> ServerId:
    """Return the identity of the virtual server of a firewall mark, which is not 0."""
    return ServerId(family, None, "", 0, mark)


class VirtualServer(NamedTuple):
    """A virtual server.

    Persistence, if its flag is set: a client keeps its destination until `timeout_s` after its last connection.
    Clients whose addresses differ in nothing but the last `host_bits` count as one; -1 is a netmask that is no prefix,
    which only other programs make. `engine` looks at more than the client's address; usually there is none.
    """

    id: ServerId
    scheduler: str
    flags: int = 0
    timeout_s: int = 0
    host_bits: int = 0
    engine: str = ""


class Destination(NamedTuple):
    """A destination of a virtual server.

    With weight 0 it gets no new connections, but those of clients that are bound to it by persistence unless the
    kernel is told otherwise (expire_quiescent_template). With `upper_threshold` connections it gets no more until
    they are fewer than `lower_threshold`; 0 is no limit. Weight and thresholds are below 2**31.
    """

    address: str
    port: int
    weight: int = 1
    forwarding: int = Forwarding.MASQUERADE
    upper_threshold: int = 0
    lower_threshold: int = 0

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)


class Load(NamedTuple):
    """The connections that the kernel counts for a destination.

    Active are TCP's established ones and SCTP's, all others are inactive. `persistent` are clients bound to it.
    """

    active: int
    inactive: int
    persistent: int


class Timeouts(NamedTuple):
    """After how many silent seconds a connection is forgotten."""

    tcp_s: int
    tcp_fin_s: int
    udp_s: int


class Info(NamedTuple):
    """IPVS's version, (1, 2, 1) for many years, and how many buckets its table of connections has."""

    version: tuple[int, int, int]
    table_size: int
