"""What the ipvs backend has in the kernel, as plain values: virtual servers, addresses, and elements of its tables. Pure.

Everything of ours bears one name: the dummy device whose addresses are cluster IPs and VIPs, and one nftables table in each
family. A virtual server is ours if its address is on that device, or its firewall mark in our range (see `backends.kernel.ipvs_marks`).
Not compared with the kernel: connection counts, what persistence remembers, rule handles, weights of what drains.
"""

from typing import Final, Literal, NamedTuple

from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.links import OWN_DEVICE
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_transaction import Form, Transaction
from proxy.model import PortKey, Protocol, Value

DEVICE: Final = OWN_DEVICE
TABLE: Final = "sliceproxy-ipvs"
PROBE_TABLE: Final = "sliceproxy-ipvs-probe"
BOUND: Final = "bound"
ELSEWHERE: Final = "elsewhere"
SERVICES: Final = "services"
EXTERNALS: Final = "externals"
SHORTCUTS: Final = "shortcuts"
DROPPED: Final = "dropped"
REFUSED: Final = "refused"
GUARDED: Final = "guarded"
ALLOWED: Final = "allowed"
NODEPORTS: Final = "nodeports"
NODEPORT_SHORTCUTS: Final = "nodeport-shortcuts"
NODEPORTS_DROPPED: Final = "nodeports-dropped"
NODEPORTS_REFUSED: Final = "nodeports-refused"
HAIRPIN: Final = "hairpin"
HEALTH_PORTS: Final = "health-ports"
"""Protocol and port of health check node ports, which load balancers ask for at their VIP too."""

_FORMS: Final = {ALLOWED: Form.RANGES, SERVICE_CIDRS: Form.BOUNDS}

Kind = Literal["address", "node-port"]


class Places(NamedTuple):
    """The sets in which a frontend may have an element; `externals` and `shortcuts` are maps to firewall marks."""

    services: str
    externals: str
    shortcuts: str
    dropped: str
    refused: str
    guarded: str

    @property
    def all(self) -> tuple[str, ...]:
        return tuple([name for name in self if name])


PLACES: Final[dict[Kind, Places]] = {
    "address": Places(SERVICES, EXTERNALS, SHORTCUTS, DROPPED, REFUSED, GUARDED),
    "node-port": Places(
        "", NODEPORTS, NODEPORT_SHORTCUTS, NODEPORTS_DROPPED, NODEPORTS_REFUSED, ""
    ),
}
MARKING: Final = (EXTERNALS, SHORTCUTS, NODEPORTS, NODEPORT_SHORTCUTS)

Place = tuple[str, int]
"""Address and port of a destination."""
SharedMember = tuple[str, bytes]
"""A member of a set that several ServicePorts may need: the set's name and the key."""


class AddressStep(NamedTuple):
    """Addresses to be put on our device, or to be taken from it, each with its owner."""

    bind: tuple[tuple[str, PortKey | None], ...] = ()
    unbind: tuple[tuple[str, PortKey | None], ...] = ()
    is_device_missing: bool = False

    @property
    def size(self) -> int:
        return len(self.bind) + len(self.unbind) + self.is_device_missing


Verb = Literal[
    "add server", "set server", "del server",
    "add destination", "set destination", "del destination",
]  # fmt: skip


class Operation(NamedTuple):
    """One message to IPVS, and for whom. `is_draining`: the destination gets weight 0 and goes when it is idle."""

    verb: Verb
    server: ServerId
    spec: VirtualServer | Destination | None
    owner: PortKey | None
    is_draining: bool = False


class IpvsStep(NamedTuple):
    """Messages to IPVS, each by itself."""

    operations: tuple[Operation, ...]

    @property
    def size(self) -> int:
        return len(self.operations)

    @property
    def is_waiting(self) -> bool:
        """Whether the kernel may wait for all its processors: for each virtual server whose scheduler changes, it does."""
        return any(each.verb == "set server" for each in self.operations)


Step = Transaction | AddressStep | IpvsStep


class WantedServer(NamedTuple):
    """A virtual server with its destinations, in the order in which they are added."""

    server: VirtualServer
    destinations: dict[Place, Destination]


class Frontend(NamedTuple):
    """One frontend as it is rendered: its key in our sets, and the virtual server there would be at its address.

    A frontend of the kind "node-port" has none. `allowed` are the sources that may come in, as keys of that set.
    """

    kind: Kind
    key: bytes
    server: ServerId | None
    allowed: frozenset[bytes] = frozenset()


class Rendered(Value, frozen=True, kw_only=True):
    """What a ServicePort occupies: frontends, the number in its firewall marks, and set members it shares with others."""

    frontends: tuple[Frontend, ...] = ()
    number: int | None = None
    marked: tuple[ServerId, ...] = ()
    """All virtual servers that its number can stand for, whether or not they are there."""
    shared: frozenset[SharedMember] = frozenset()

    def joined(self, other: "Rendered") -> "Rendered":
        """Return what is occupied while one is being turned into the other."""
        return Rendered(
            frontends=tuple(dict.fromkeys([*self.frontends, *other.frontends])),
            number=self.number if other.number is None else other.number,
            marked=tuple(dict.fromkeys([*self.marked, *other.marked])),
            shared=self.shared | other.shared,
        )


def form_of(set_name: str) -> Form:
    """Return what the keys of a set's elements are."""
    return _FORMS.get(set_name, Form.PLAIN)


def has_drains(protocol: Protocol) -> bool:
    """Whether connections of a protocol may end by themselves: UDP has none, and of SCTP nobody sees the end."""
    return protocol == "TCP"
