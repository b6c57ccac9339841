"""What we believe is served here, and which ServicePort needs which address. Pure.

Belief changes when a socket was opened or closed, and when the kernel has confirmed a route.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

from backends.userspace.model import Listening, NodePart, Place, Serving, UserspacePlan
from proxy.model import PortKey

_Of = TypeVar("_Of")
_Member = TypeVar("_Member")


class Observed:
    """`routes` are the addresses that a route of ours makes local, `black_holes` ranges in which unknown addresses lead nowhere.

    `places` says for each ServicePort where it listens, `holders` for each address who needs it, `node_ports` who has any,
    `by_node_port` who has which.
    `host` are the addresses of this host's interfaces, as of the last reading of everything. `refused` is where somebody was
    to listen and could not, and is tried again soon, with whose that is.
    """

    is_rebuild_due: Final = False
    worth_a_commit: Final = 0

    def __init__(
        self,
        *,
        routes: Iterable[str] = (),
        black_holes: Iterable[str] = (),
        host: frozenset[str] = frozenset(),
    ) -> None:
        self.routes: dict[str, None] = dict.fromkeys(routes)
        self.black_holes: dict[str, None] = dict.fromkeys(black_holes)
        self.host = host
        self.serving: dict[PortKey, Serving] = {}
        self.listening: dict[Place, Listening] = {}
        self.places: dict[PortKey, dict[Place, None]] = {}
        self.holders: dict[str, dict[PortKey, None]] = {}
        self.node_ports: dict[PortKey, None] = {}
        self.by_node_port: dict[int, dict[PortKey, None]] = {}
        self.refused: dict[Place, PortKey] = {}
        self.node: NodePart | None = None

    def fold(self, plan: UserspacePlan) -> None:
        """Take in a plan of which everything was done."""
        for text, owner in plan.routes:
            (self.black_holes if owner is None else self.routes)[text] = None
        if plan.node is not None:
            self.node = plan.node
        for key, serving in plan.serving:
            self.serve(key, serving)
        for place, listening in plan.listening:
            self.listen(place, listening)
        for place, _ in plan.closing:
            self.listen(place, None)
        for key in plan.forgotten:
            self.serve(key, None)
        for text, _ in plan.unrouted:
            (self.black_holes if "/" in text else self.routes).pop(text, None)

    def serve(self, key: PortKey, serving: Serving | None) -> None:
        """Take in how a ServicePort is served; None: not any more."""
        old = self.serving.pop(key, None)
        if old is not None:
            for address in old.addresses:
                _remove(self.holders, address, key)
            for port in old.node_ports:
                _remove(self.by_node_port, port, key)
            self.node_ports.pop(key, None)
        if serving is not None:
            self.serving[key] = serving
            for address in serving.addresses:
                self.holders.setdefault(address, {})[key] = None
            for port in serving.node_ports:
                self.by_node_port.setdefault(port, {})[key] = None
                self.node_ports[key] = None

    def listen(self, place: Place, listening: Listening | None) -> None:
        """Take in who listens somewhere; None: nobody does."""
        self.refused.pop(place, None)
        old = self.listening.pop(place, None)
        if old is not None:
            _remove(self.places, old.owner, place)
        if listening is not None:
            self.listening[place] = listening
            self.places.setdefault(listening.owner, {})[place] = None


def _remove(groups: dict[_Of, dict[_Member, None]], of: _Of, member: _Member) -> None:
    """Take a member out of its group, and the group out when it is empty."""
    members = groups[of]
    del members[member]
    if not members:
        del groups[of]
