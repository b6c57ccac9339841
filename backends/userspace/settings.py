"""What of the settings the forwarder depends on. Pure."""

import hashlib

from backends.userspace.here import Detector
from proxy import localhost
from proxy.config.settings import Settings
from proxy.model import Family, Value


class ForwarderSettings(Value, frozen=True, kw_only=True):
    """How connections are forwarded. Durations in seconds, limits in numbers.

    `connect_s`: how long one endpoint may take to accept before another is tried, `attempts` of them at most.
    `avoid_s`: how long one that did not accept comes last. `idle_s` and `half_closed_s`: how long a connection may be
    silent, and one of which one side has ended; 0 for ever. `drain_s`: how long a connection may go on whose endpoint is
    not wanted any more. `udp_s`: how long a client is remembered after its last datagram or answer, `flows` of them at most, and no more
    than a share of the files that the process may open.
    `sends_proxy_header`: tell endpoints the client's address (PROXY protocol, version 2).
    `offset`: with which endpoint turns begin, so that not every node begins with the same.
    `localhost`: the families of which NodePorts are at localhost, too.
    """

    is_least: bool = False
    detector: Detector = Detector()
    connect_s: float = 2.0
    attempts: int = 4
    avoid_s: float = 5.0
    idle_s: float = 86_400.0
    half_closed_s: float = 3_600.0
    drain_s: float = 25.0
    udp_s: float = 120.0
    flows: int = 8_192
    sends_proxy_header: bool = False
    offset: int = 0
    localhost: tuple[Family, ...] = ()


def forwarder_settings(settings: Settings) -> ForwarderSettings:
    """Return what follows from the settings of the daemon. How long a half-closed connection lasts is the kernel's word too."""
    own, mode = settings.userspace, settings.detect_local_mode
    return ForwarderSettings(
        is_least=own.scheduler == "lc",
        detector=Detector(
            mode=mode,
            cidrs=settings.cluster_cidrs,
            interface=(
                settings.bridge_interface
                if mode == "BridgeInterface"
                else settings.interface_name_prefix
            ),
        ),
        connect_s=own.connect_timeout_s,
        idle_s=own.tcp_idle_timeout_s,
        half_closed_s=settings.conntrack.tcp_close_wait_timeout_s,
        drain_s=own.drain_timeout_s,
        udp_s=own.udp_idle_timeout_s,
        sends_proxy_header=own.uses_proxy_protocol,
        offset=int.from_bytes(
            hashlib.blake2b(settings.node_name.encode(), digest_size=2).digest()
        ),
        localhost=localhost.families(settings.node_port_addresses)
        if settings.localhost_node_ports
        else (),
    )
