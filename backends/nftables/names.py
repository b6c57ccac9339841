"""Names of chains and sets that are made on demand, and what each says. Pure.

Chains that pick an endpoint are shared by all ServicePorts: `pick-tcp-8`, with marks set before `external-tcp-8` and
`shortcut-tcp-8`; `-nodeport` for NodePorts, `-local` for lists of endpoints on this node. Chains and sets of a single
ServicePort end in its identity, 16 hexadecimal digits.
"""

import functools
import hashlib
import re
from typing import Final, Literal, NamedTuple

from backends.nftables.model import SERVICE_CIDRS, Kind
from proxy.model import PortKey, Protocol

Act = Literal["pick", "external", "shortcut"]
_PICKING: Final = re.compile(
    r"(?:pick(?:-nodeport)?(?:-local)?|(?:external|shortcut)(?:-nodeport)?)-(tcp|udp|sctp)-([1-9][0-9]{0,6})"
)
_PARTS: Final = re.compile(
    r"(pick|external|shortcut)(-nodeport)?(-local)?-(tcp|udp|sctp)-([0-9]+)"
)
_PRIVATE_CHAIN: Final = re.compile(
    r"(?:firewall|affinity(?:-external|-shortcut|(?:-known|-choose|-chosen)?(?:-local)?))-[0-9a-f]{16}"
)
_PRIVATE_SET: Final = re.compile(
    r"(?:ranges-[0-9a-f]{16}-[0-9a-f]{8}|affinity(?:-slots|-endpoints(?:-local)?)?-[0-9a-f]{16})"
)
_CLIENTS: Final = re.compile(r"affinity-[0-9a-f]{16}")


class Picking(NamedTuple):
    """What the name of a chain that picks says."""

    act: Act
    is_node_port: bool
    is_local: bool
    protocol: Protocol
    capacity: int

    @property
    def name(self) -> str:
        node_port = "-nodeport" if self.is_node_port else ""
        local = "-local" if self.is_local else ""
        return f"{self.act}{node_port}{local}-{self.protocol.lower()}-{self.capacity}"


def capacity_for(endpoints: int) -> int:
    """Return the smallest power of two that holds so many endpoints."""
    return 1 << max(endpoints - 1, 0).bit_length()


@functools.cache
def picking_chain(
    protocol: Protocol,
    capacity: int,
    kind: Kind = "cluster-ip",
    *,
    act: Act = "pick",
    is_local: bool = False,
) -> str:
    """Return the name of the chain that picks among up to `capacity` endpoints."""
    return Picking(act, kind == "node-port", is_local, protocol, capacity).name


def is_picking(name: str, protocol: Protocol | None = None) -> bool:
    """Whether this is the name of a chain that picks an endpoint, perhaps for one protocol only."""
    match = _PICKING.fullmatch(name)
    return (
        match is not None
        and (protocol is None or match[1] == protocol.lower())
        and capacity_for(int(match[2])) == int(match[2])
    )


@functools.lru_cache(maxsize=1024)
def parse_picking(name: str) -> Picking:
    """Return what the name of a chain that picks says. Raises ValueError for any other."""
    match = _PARTS.fullmatch(name)
    if match is None or not is_picking(name):
        raise ValueError(f"no chain that picks an endpoint: {name}")
    act: Act = match[1]  # type: ignore[assignment] # the pattern allows only these
    protocol: Protocol = match[4].upper()  # type: ignore[assignment] # likewise
    return Picking(act, bool(match[2]), bool(match[3]), protocol, int(match[5]))


@functools.lru_cache(maxsize=4096)
def identity(key: PortKey) -> str:
    """Return what ends the names of everything that is there for one ServicePort alone; the same in both families."""
    return hashlib.blake2b("/".join(key.name).encode(), digest_size=8).hexdigest()


def is_private_chain(name: str) -> bool:
    """Whether chains of that name belong to a single ServicePort."""
    return _PRIVATE_CHAIN.fullmatch(name) is not None


def is_private_set(name: str) -> bool:
    """Whether sets of that name belong to a single ServicePort."""
    return _PRIVATE_SET.fullmatch(name) is not None


def holds_clients(set_name: str) -> bool:
    """Whether packets put elements into that set: nobody compares them."""
    return set_name.startswith("affinity-") and _CLIENTS.fullmatch(set_name) is not None


def holds_intervals(set_name: str) -> bool:
    """Whether the elements of that set are ranges.

    Each is two elements: where it begins, and (unless it ends with the last address) where the next thing begins.
    Wherever elements are told apart by their keys, one byte follows the address: 1 for such an end.
    """
    return set_name == SERVICE_CIDRS or set_name.startswith("ranges-")
