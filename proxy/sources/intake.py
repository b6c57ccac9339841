"""Decoded objects into events: the last step that all sources share.

Pure. `read` converts one object and decides whose business it is (of Nodes only the own one); an `Intake` turns
readings into events and remembers which objects have problems, so that these are taken back when they are gone.
"""

from typing import Final, NamedTuple

from proxy.model import EndpointSlice, Rejected, Service
from proxy.sources import convert, wire
from proxy.sources.decode import Decoded
from proxy.sources.events import (
    CLUSTER_KINDS,
    KINDS,
    OPTIONAL_KINDS,
    Delete,
    Event,
    Object,
    ObjectKind,
    Problems,
    Upsert,
)

_KIND: Final[dict[str, ObjectKind]] = {kind: kind for kind in (*KINDS, *OPTIONAL_KINDS)}


class ObjectKey(NamedTuple):
    """Identity of an object of any kind."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        name = self.name or "(unnamed)"
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"


class Reading(NamedTuple):
    """What one object of the input came to. `value` is None if it is not ours or nothing of it can be used."""

    key: ObjectKey
    value: Object | None
    rejected: tuple[Rejected, ...]


def read(decoded: Decoded, node_name: str, default_namespace: str = "") -> Reading:
    """Convert one object. A namespaced object that names no namespace is taken to be in `default_namespace`."""
    obj = decoded.object
    value: Object | None
    match obj:
        case wire.Service():
            value, rejected = convert.convert_service(obj, default_namespace)
        case wire.EndpointSlice():
            value, rejected = convert.convert_slice(obj, node_name, default_namespace)
        case wire.Node():
            value, rejected = convert.convert_node(obj, node_name)
        case wire.ServiceCIDR():
            value, rejected = convert.convert_service_cidr(obj)
        case None:
            value, rejected = None, ()
    if decoded.kind == "Node":
        is_own = bool(node_name) and decoded.name == node_name
        key = ObjectKey("Node", "", decoded.name)
        return Reading(key, value, decoded.rejected + rejected if is_own else ())
    if decoded.kind in CLUSTER_KINDS:
        return Reading(
            ObjectKey(decoded.kind, "", decoded.name), value, decoded.rejected + rejected
        )
    namespace = decoded.namespace or (default_namespace if decoded.kind in _KIND else "")
    key = ObjectKey(decoded.kind, namespace, decoded.name)
    return Reading(key, value, decoded.rejected + rejected)


class Intake:
    """Turns readings into events."""

    def __init__(self) -> None:
        self._troubled: set[ObjectKey] = set()

    def apply(self, reading: Reading) -> list[Event]:
        """Return the events of an object that came or changed."""
        key, value, rejected = reading
        events: list[Event] = [Upsert(value)] if value is not None else self._gone(key)
        if rejected:
            self._troubled.add(key)
            uid = value.uid if isinstance(value, Service | EndpointSlice) else ""
            events.append(Problems(str(key), rejected, uid))
        elif key in self._troubled:
            events.append(self._relieve(key))
        return events

    def forget(self, key: ObjectKey) -> list[Event]:
        """Return the events of an object that went."""
        events = self._gone(key)
        if key in self._troubled:
            events.append(self._relieve(key))
        return events

    def _gone(self, key: ObjectKey) -> list[Event]:
        kind = _KIND.get(key.kind)
        # A node on which a proxy still runs has not moved: like kube-proxy, keep what was last known of it.
        if kind is None or kind == "Node" or not key.name:
            return []
        if not key.namespace and kind not in CLUSTER_KINDS:
            return []
        return [Delete(kind, key.namespace, key.name)]

    def _relieve(self, key: ObjectKey) -> Problems:
        self._troubled.discard(key)
        return Problems(str(key), ())
