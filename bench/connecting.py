"""How long `connect()` of TCP takes, from a pod to random services: pod ── node ── one host with all endpoints. Shell.

The node is a namespace whose rules are measured. One process is on both ends, so no other has to be scheduled for the
handshake: what is measured is the way of three packets through the kernel, of which the first is translated. Connections
are accepted and reset at once, so that the tables do not fill.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final

from bench import workload
from e2e.namespace import Namespace
from e2e.topology import Veth

_POD: Final = "10.255.255.2"
_NODE: Final = "10.255.255.1"
_SERVER: Final = "10.255.254.2"
_ENDPOINTS: Final = ("10.128.0.0/10", "10.192.0.0/11")
"""What endpoints of the workload have addresses in: the lower part of the pods' range, in which our own are above it."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Linger for no time at all."""
AT_ONCE: Final = 64
_PATIENCE_S: Final = 3.0


class Path:
    """A pod and a server beside a node; both are there as long as the `with` block that `path` opens."""

    def __init__(self, pod: Namespace, listener: socket.socket) -> None:
        self._pod = pod
        self._listener = listener

    def connect_us(self, addresses: Sequence[str], port: int) -> list[float]:
        """Connect to one address after the other; return how long each took (microseconds). Raises OSError."""
        took: list[float] = []
        with self._pod.entered():
            for first in range(0, len(addresses), AT_ONCE):
                part = addresses[first : first + AT_ONCE]
                took += [self._connect_us(address, port) for address in part]
                for _ in part:
                    _reset(self._listener.accept()[0])
        return took

    def _connect_us(self, address: str, port: int) -> float:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(_PATIENCE_S)
            begun_ns = time.perf_counter_ns()
            client.connect((address, port))
            took_ns = time.perf_counter_ns() - begun_ns
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return took_ns / 1e3


@contextlib.contextmanager
def path(node: Namespace) -> Iterator[Path]:
    """Yield a pod behind the node, and a server that answers for every endpoint there may be."""
    with (
        Namespace("bench-pod") as pod,
        Namespace("bench-far") as far,
        Veth(node, "to-pod", pod, "to-node"),
        Veth(node, "to-far", far, "to-node"),
    ):
        node.write_settings([("ipv4/ip_forward", "1")])
        node.ip(
            f"address add {_NODE}/32 dev to-pod",
            f"route add {_POD}/32 dev to-pod src {_NODE}",
            f"route add {_SERVER}/32 dev to-far src {_NODE}",
            *[
                f"route add {each} via {_SERVER} dev to-far onlink src {_NODE}"
                for each in _ENDPOINTS
            ],
        )
        for namespace, address in ((pod, _POD), (far, _SERVER)):
            namespace.ip(
                f"address add {address}/32 dev to-node",
                f"route add {_NODE}/32 dev to-node src {address}",
                f"route add default via {_NODE} dev to-node onlink src {address}",
            )
        far.ip(*[f"route add local {each} dev lo" for each in _ENDPOINTS])
        with far.entered():
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            listener.bind(("0.0.0.0", workload.TARGET_PORT))
            listener.listen(4 * AT_ONCE)
            listener.settimeout(_PATIENCE_S)
            yield Path(pod, listener)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
