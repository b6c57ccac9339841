"""Names of chains that are made on demand, and what each says. Pure.

Chains that pick an endpoint are shared by all ServicePorts: `pick-tcp-8`, and `external-tcp-8`, which has packets
masqueraded first; `-nodeport` for NodePorts, `-local` for lists of endpoints on this node. `split-tcp-2-of-8` tells
clients here, who may go to each of up to 8 endpoints, from those outside, who may go to the up to 2 on this node. Those
for session affinity end in the time a client is remembered: `pick-tcp-8-affinity-10800`, and `remember-tcp-10800` to
which they lead.
"""

import functools
import re
from typing import Final, Literal, NamedTuple

from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_transaction import Form
from backends.nftables.model import AFFINITY_CLIENTS, Kind
from proxy.model import Protocol

Act = Literal["pick", "external", "split", "remember"]
_PROTOCOL: Final = "-(tcp|udp|sctp)-"
_NUMBER: Final = "([1-9][0-9]{0,6})"
_PICKING: Final = re.compile(
    rf"(pick|external|split)(-nodeport)?(-local)?{_PROTOCOL}"
    rf"(?:{_NUMBER}-of-)?{_NUMBER}(?:-affinity-{_NUMBER})?"
)
_REMEMBERING: Final = re.compile(rf"remember(-local)?{_PROTOCOL}{_NUMBER}")
# Session affinity and source ranges once had chains and sets for each ServicePort, and whom policy Local does not concern
# chains of their own: such a table is taken over and cleaned.
_FORMER_RANGES: Final = re.compile(r"ranges-[0-9a-f]{16}-[0-9a-f]{8}")
_FORMER: Final = re.compile(
    r"firewall-[0-9a-f]{16}|"
    rf"shortcut(?:-nodeport)?{_PROTOCOL}{_NUMBER}(?:-affinity-{_NUMBER})?|"
    r"affinity(?:-external|-shortcut|(?:-known|-choose|-chosen)?(?:-local)?|-slots|-endpoints(?:-local)?)-[0-9a-f]{16}"
)


class Picking(NamedTuple):
    """What the name of a chain that picks says.

    `timeout_s` is how long session affinity lasts, 0 without; then `remember` chains, which have no capacity, are what a
    number that is found or drawn is handed to. `here` is the capacity of the other list of a `split`.
    """

    act: Act
    is_node_port: bool
    is_local: bool
    protocol: Protocol
    capacity: int
    timeout_s: int = 0
    here: int = 0

    @property
    def name(self) -> str:
        node_port = "-nodeport" if self.is_node_port else ""
        local = "-local" if self.is_local else ""
        protocol = self.protocol.lower()
        if self.act == "remember":
            return f"remember{local}-{protocol}-{self.timeout_s}"
        affinity = f"-affinity-{self.timeout_s}" if self.timeout_s else ""
        here = f"{self.here}-of-" if self.here else ""
        return f"{self.act}{node_port}{local}-{protocol}-{here}{self.capacity}{affinity}"


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
    timeout_s: int = 0,
    here: int = 0,
) -> str:
    """Return the name of the chain that picks among up to `capacity` endpoints."""
    return Picking(act, kind == "node-port", is_local, protocol, capacity, timeout_s, here).name


def is_picking(name: str, protocol: Protocol | None = None) -> bool:
    """Whether this is the name of a chain that picks an endpoint, perhaps for one protocol only."""
    picking = _parse(name)
    return picking is not None and protocol in (None, picking.protocol)


def parse_picking(name: str) -> Picking:
    """Return what the name of a chain that picks says. Raises ValueError for any other."""
    picking = _parse(name)
    if picking is None:
        raise ValueError(f"no chain that picks an endpoint: {name}")
    return picking


def timeout_of(name: str) -> int:
    """Return how long the session affinity lasts for which a chain is there, in seconds; 0 if it is for none."""
    picking = _parse(name)
    return picking.timeout_s if picking is not None else 0


@functools.lru_cache(maxsize=4096)
def _parse(name: str) -> Picking | None:
    found = _REMEMBERING.fullmatch(name)
    if found is not None:
        return Picking("remember", False, bool(found[1]), _protocol(found[2]), 0, int(found[3]))
    found = _PICKING.fullmatch(name)
    if found is None:
        return None
    here, capacity, timeout_s = [int(number or 0) for number in found.group(5, 6, 7)]
    if any(number != capacity_for(number) for number in (here or 1, capacity)):
        return None
    act: Act = found[1]  # type: ignore[assignment] # the pattern allows only these
    is_node_port, is_local, protocol = bool(found[2]), bool(found[3]), _protocol(found[4])
    if bool(here) != (act == "split") or (is_local and act != "pick"):
        return None
    return Picking(act, is_node_port, is_local, protocol, capacity, timeout_s, here)


def _protocol(word: str) -> Protocol:
    return word.upper()  # type: ignore[return-value] # the patterns allow only these


def is_former_chain(name: str) -> bool:
    """Whether an earlier layout had chains of that name."""
    return _FORMER.fullmatch(name) is not None


def form_of(set_name: str) -> Form:
    """Return what the keys of a set's elements are."""
    if set_name == AFFINITY_CLIENTS:
        return Form.FILLED
    if set_name == SERVICE_CIDRS or _FORMER_RANGES.fullmatch(set_name) is not None:
        return Form.BOUNDS
    return Form.PLAIN
