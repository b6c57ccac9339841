"""From belief and desire to operations. Pure.

What a ServicePort should have is worked out first and compared with belief; what differs becomes an operation. A frontend that
moves from one service to another keeps its socket: who comes takes it over, who goes finds that it is no longer its own.
A frontend at an address of the node comes before a NodePort with its port, which is served there again when that goes.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Final

from backends.userspace.belief import Observed
from backends.userspace.model import Listening, NodePart, Place, Serving, UserspacePlan
from backends.userspace.render import listeners, node_addresses, render
from proxy.desired import Desired
from proxy.desired_node import DesiredNode, family_of
from proxy.model import FAMILIES, Family, PortKey

RETRIED_AT_ONCE: Final = 200
"""How many of those who could not listen are tried again with one plan: in turn, since who still cannot comes last."""

_NOTHING = Serving(frontends=())


def plan(
    desired: Desired,
    observed: Observed,
    changed: Collection[PortKey],
    families: Collection[Family] = FAMILIES,
    at_localhost: Collection[Family] = (),
) -> UserspacePlan:
    """Return what brings the ServicePorts in `changed`, and the node's own part, from belief to desire.

    `families` are those that this host has; the backend has said so of the other. Where NodePorts listen follows from the node: when that changes, all that have any are planned.
    `at_localhost` are the families of which they listen there, too. Who could not is tried again with a plan for no keys, not with those
    of others.
    """
    was_settled = observed.node is not None and observed.node.is_settled
    node = _node_part(desired.node, observed, families, at_localhost, is_settled=was_settled)
    keys: Iterable[PortKey] = changed or islice(
        dict.fromkeys(observed.refused.values()), RETRIED_AT_ONCE
    )
    if _node_ports_move(observed.node, node):
        keys = dict.fromkeys([*changed, *observed.node_ports])
    draft = _Draft(observed, node or observed.node)
    for key in keys:
        port = desired.ports.get(key) if key.family in families else None
        draft.put(key, render(port) if port is not None else None)
    return draft.finish(node)


def prune(
    desired: Desired,
    observed: Observed,
    families: Collection[Family] = FAMILIES,
    at_localhost: Collection[Family] = (),
) -> UserspacePlan:
    """Return what removes everything of ours that `desired` does not ask for: a full walk."""
    node = _node_part(desired.node, observed, families, at_localhost, is_settled=True)
    draft = _Draft(observed, node or observed.node)
    for key in observed.serving.keys() | observed.places.keys():
        if key not in desired.ports:
            draft.put(key, None)
    for address in observed.routes:
        if address not in observed.holders:
            draft.release(address)
    return draft.finish(node)


class _Draft:
    """What is to be different from belief."""

    def __init__(self, observed: Observed, node: NodePart | None) -> None:
        self._observed = observed
        self._refused: dict[PortKey, list[Place]] = {}
        for place, owner in observed.refused.items():
            self._refused.setdefault(owner, []).append(place)
        self._node_addresses: Mapping[Family, tuple[str, ...]] = (
            node.node_addresses if node is not None else {}
        )
        self._serving: dict[PortKey, Serving | None] = {}
        self._listening: dict[Place, Listening] = {}
        self._left: dict[Place, PortKey] = {}
        self._asked: dict[str, PortKey] = {}
        self._released: dict[str, set[PortKey]] = {}

    def put(self, key: PortKey, serving: Serving | None) -> None:
        """Have a ServicePort served so, or no longer."""
        observed = self._observed
        old = observed.serving.get(key)
        if serving != old:
            self._serving[key] = serving
        before, after = old or _NOTHING, serving or _NOTHING
        for address in after.addresses:
            if address not in observed.routes:
                self._asked.setdefault(address, key)
        for address in before.addresses:
            if address not in after.addresses:
                self._released.setdefault(address, set()).add(key)
        wanted = {
            place: listening
            for place, listening in listeners(key, after, self._node_addresses.get(key.family, ()))
            if after.names(place) or not self._is_named_by_another(place, key)
        }
        for place, listening in wanted.items():
            if observed.listening.get(place) != listening:
                self._listening[place] = listening
        for place in (*observed.places.get(key, ()), *self._refused.get(key, ())):
            if place not in wanted:
                self._left[place] = key

    def release(self, address: str) -> None:
        """Have an address made local no longer, which nobody needs."""
        self._released.setdefault(address, set())

    def finish(self, node: NodePart | None) -> UserspacePlan:
        """Return the plan this amounts to."""
        self._bequeath()
        observed = self._observed
        was, needed = frozenset(observed.black_holes), self._needed()
        holes = node.black_holes if node is not None else was
        unheld = [
            (address, next(iter(keys), None))
            for address, keys in self._released.items()
            if address in observed.routes
            and address not in needed
            and not observed.holders.get(address, {}).keys() - keys
        ]
        return UserspacePlan(
            routes=(*self._asked.items(), *[(cidr, None) for cidr in sorted(holes - was)]),
            serving=tuple([(key, s) for key, s in self._serving.items() if s is not None]),
            listening=tuple(self._listening.items()),
            closing=tuple(
                [(place, key) for place, key in self._left.items() if place not in self._listening]
            ),
            forgotten=tuple([key for key, serving in self._serving.items() if serving is None]),
            unrouted=(*unheld, *[(cidr, None) for cidr in sorted(was - holes)]),
            node=node,
        )

    def _is_named_by_another(self, place: Place, key: PortKey) -> bool:
        """Whether somebody else listens at a place, and not by a NodePort."""
        held = self._listening.get(place)
        if held is None and place not in self._left:
            held = self._observed.listening.get(place)
        if held is None or held.owner == key:
            return False
        holder = self._now(held.owner)
        return holder is not None and holder.names(place)

    def _bequeath(self) -> None:
        """Have NodePorts served at those of the node's addresses of which others have left the port."""
        observed = self._observed
        free = [place for place, owner in self._left.items() if self._is_free(place, owner)]
        if not free:
            return
        changed: dict[int, list[PortKey]] = {}
        for key, serving in self._serving.items():
            for port in serving.node_ports if serving is not None else ():
                changed.setdefault(port, []).append(key)
        for place in free:
            for key in (*observed.by_node_port.get(place.port, ()), *changed.get(place.port, ())):
                served = listeners(key, self._now(key) or _NOTHING, [place.address])
                self._listening.update({at: each for at, each in served if at == place})

    def _is_free(self, place: Place, owner: PortKey) -> bool:
        """Whether a frontend that was named has left a place where NodePorts are, and nobody else comes there."""
        if place in self._listening:
            return False
        was = self._observed.serving.get(owner)
        is_the_nodes = place.address in self._node_addresses.get(place.family, ())
        return is_the_nodes and was is not None and was.names(place)

    def _now(self, key: PortKey) -> Serving | None:
        """Return how a ServicePort is to be served, as far as that is known."""
        return self._serving[key] if key in self._serving else self._observed.serving.get(key)

    def _needed(self) -> set[str]:
        return {
            address
            for serving in self._serving.values()
            if serving is not None
            for address in serving.addresses
        }


def _node_part(
    node: DesiredNode,
    observed: Observed,
    families: Collection[Family],
    at_localhost: Collection[Family],
    *,
    is_settled: bool,
) -> NodePart | None:
    """Return what of the node is to be served, None if that is as it was.

    Addresses that no service has lead nowhere only once all services are there; what an earlier process saw to stays.
    """
    old = observed.node
    if (
        old is not None
        and old.described is node
        and old.host is observed.host
        and old.is_settled == is_settled
    ):
        return None
    cidrs = [cidr for cidr in node.service_cidrs if family_of(cidr) in families]
    new = NodePart(
        node,
        observed.host,
        is_settled,
        node_addresses(node, observed.host, at_localhost),
        frozenset(cidrs if is_settled else observed.black_holes),
    )
    return new if new != old else None


def _node_ports_move(old: NodePart | None, new: NodePart | None) -> bool:
    return new is not None and (old is None or old.node_addresses != new.node_addresses)
