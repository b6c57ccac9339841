"""What the userspace backend has: services with endpoints, listeners, and routes that make their addresses local. Pure.

A frontend is a place where this process listens. An address of a Service is made local by a route of ours (AnyIP), so that the
kernel refuses connections to its other ports; where nobody is to be let in, a listener lets nothing in.
Not compared with the kernel: connections, what session affinity remembers, counters.
"""

from typing import Final, Literal, NamedTuple

from proxy.addresses import join_host_port
from proxy.desired import Frontend
from proxy.desired_node import DesiredNode
from proxy.model import Family, PortKey, Protocol, Value

ROUTE_PROTOCOL: Final = 115
"""What our routes are told by; below 128 are those that no routing daemon has (/etc/iproute2/rt_protos)."""
SERVED: Final[frozenset[Protocol]] = frozenset(["TCP", "UDP"])

Role = Literal["internal", "external"]


class Target(NamedTuple):
    """Where an endpoint listens."""

    ip: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.ip, self.port)


class Place(NamedTuple):
    """Where we listen."""

    family: Family
    protocol: Protocol
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol} {join_host_port(self.address, self.port)}"


class Admission(NamedTuple):
    """Whose packets a listener is shown at all. `ranges` are canonical, None for everybody; `only_here`: from pods here and the node.

    `takes_node`: the node itself is in one of the ranges, whatever address it asks from.
    """

    ranges: tuple[str, ...] | None = None
    only_here: bool = False
    takes_node: bool = False


EVERYBODY: Final = Admission()
NOBODY: Final = Admission(())


class Listening(NamedTuple):
    """Whose listener it is, which of its pools is behind it, and whom it lets in."""

    owner: PortKey
    role: Role
    admission: Admission = EVERYBODY


class Serving(Value, frozen=True, kw_only=True):
    """How one ServicePort is served. `outside` is the pool for the world outside, `here` the one for pods here and the node.

    They are two where `is_split`, with external policy Local.
    """

    frontends: tuple[Frontend, ...]
    internal: tuple[Target, ...] = ()
    outside: tuple[Target, ...] = ()
    here: tuple[Target, ...] = ()
    is_split: bool = False
    is_any_usable: bool = False
    ranges: tuple[str, ...] = ()
    allows_own_vips: bool = False
    affinity_s: int | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that have to be local, each once."""
        return tuple(dict.fromkeys([f.address for f in self.frontends if f.address is not None]))

    @property
    def node_ports(self) -> tuple[int, ...]:
        """The numbers of its NodePorts, each once."""
        return tuple(dict.fromkeys([f.port for f in self.frontends if f.address is None]))

    def names(self, place: Place) -> bool:
        """Whether a frontend is at this very address, and not on whatever addresses the node has."""
        return any(
            (each.address, each.port) == (place.address, place.port) for each in self.frontends
        )


class NodePart(Value, frozen=True):
    """What of the node is served: where NodePorts listen, and ranges in which unknown addresses lead nowhere.

    `described` and `host` are what that follows from, `is_settled` whether all services were there before.
    """

    described: DesiredNode
    host: frozenset[str]
    is_settled: bool
    node_addresses: dict[Family, tuple[str, ...]]
    black_holes: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        listed = [address for addresses in self.node_addresses.values() for address in addresses]
        return f"NodePorts at {', '.join(listed) or 'no address'}"


class UserspacePlan:
    """Operations in the order in which they are carried out: what is new comes before what goes."""

    def __init__(
        self,
        *,
        routes: tuple[tuple[str, PortKey | None], ...] = (),
        serving: tuple[tuple[PortKey, Serving], ...] = (),
        listening: tuple[tuple[Place, Listening], ...] = (),
        closing: tuple[tuple[Place, PortKey], ...] = (),
        forgotten: tuple[PortKey, ...] = (),
        unrouted: tuple[tuple[str, PortKey | None], ...] = (),
        node: NodePart | None = None,
    ) -> None:
        self.routes = routes
        self.serving = serving
        self.listening = listening
        self.closing = closing
        self.forgotten = forgotten
        self.unrouted = unrouted
        self.node = node

    def __bool__(self) -> bool:
        return self.size > 0

    @property
    def size(self) -> int:
        """How many operations there are."""
        parts = (
            self.routes, self.serving, self.listening, self.closing, self.forgotten, self.unrouted,
        )  # fmt: skip
        return sum(map(len, parts)) + (self.node is not None)

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        return [
            *[f"{_made(text)}{_whose(owner)}" for text, owner in self.routes],
            *[f"{_served(key, serving)}{_whose(key)}" for key, serving in self.serving],
            *[f"listen at {place}{_whose(at.owner)}" for place, at in self.listening],
            *[f"close {place}{_whose(owner)}" for place, owner in self.closing],
            *[f"forget{_whose(key)}" for key in self.forgotten],
            *[f"give up {address}{_whose(owner)}" for address, owner in self.unrouted],
            *([self.node.words] if self.node is not None else []),
        ]


def _served(key: PortKey, serving: Serving) -> str:
    if key.name.protocol not in SERVED:
        return "leave out, since only TCP and UDP are forwarded"
    return f"serve {_words(serving)}"


def _words(serving: Serving) -> str:
    pools = {"inside": serving.internal, "outside": serving.outside, "here": serving.here}
    return "; ".join(
        [f"{name}: {', '.join(map(str, pool))}" for name, pool in pools.items() if pool]
    )


def _whose(owner: PortKey | None) -> str:
    return f"  # {owner}" if owner is not None else ""


def _made(text: str) -> str:
    return f"let {text} lead nowhere" if "/" in text else f"make {text} local"
