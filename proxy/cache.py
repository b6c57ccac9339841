"""What the cluster looks like from here: services, and their EndpointSlices merged per service. Pure.

Takes events from a source and keeps the latest state together with the names of what changed since the
consumer last asked. No deltas are queued: a change that is followed by its opposite, or seen twice, costs
one look at the latest state. Slices are indexed by their own identity, so one whose service label changes
moves from service to service in one step.

What an event costs depends on the slices of its own service only. A change of the own Node's zone is the
one event that concerns every service.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping

from proxy.changes import Change, Changes, Times, Trigger
from proxy.model import (
    Cause,
    Endpoint,
    EndpointSlice,
    Family,
    NodeInfo,
    Rejected,
    Service,
    ServiceCidrs,
    ServiceName,
    SlicePort,
    Value,
)
from proxy.sources.events import KINDS, Delete, Event, Object, ObjectKind, Problems, Synced, Upsert


class Merged(Value, frozen=True, kw_only=True):
    """The endpoints of one service port over all slices, sorted bytewise by address.

    `shadowed` are duplicates that lost: the same address and port stated by another slice.
    """

    endpoints: tuple[Endpoint, ...]
    shadowed: tuple[Endpoint, ...] = ()


class Cache:
    """The latest state of all objects a proxy needs, and the set of services that changed.

    `slice_events` and `service_events` count what was heard, whether or not it changed anything. `service_cidrs` are
    the ranges of cluster IPs, as far as a source knows any. Triggers from before `started_s` (unix seconds) are
    forgotten: they tell how long a slice has existed, not how long it took.
    """

    def __init__(self, node: NodeInfo, started_s: float = 0.0) -> None:
        self.slice_events = 0
        self.service_events = 0
        self.node = node
        self.services: dict[ServiceName, Service] = {}
        self.service_cidrs: tuple[str, ...] = ()
        self._service_cidrs: dict[str, ServiceCidrs] = {}
        self.problems: dict[str, tuple[Rejected, ...]] = {}
        self._slices: dict[tuple[str, str], EndpointSlice] = {}
        self._slices_of: dict[ServiceName, dict[str, EndpointSlice]] = {}
        self._unlisted: set[ObjectKind] = set(KINDS)
        self._changes = Changes()
        self._started_s = started_s

    @property
    def unlisted(self) -> frozenset[ObjectKind]:
        """Kinds whose initial list is not complete. Nothing may reach the kernel before this is empty."""
        return frozenset(self._unlisted)

    @property
    def revision(self) -> int:
        """Grows with every change of a service."""
        return self._changes.total

    @property
    def has_changes(self) -> bool:
        return bool(self._changes)

    @property
    def changes(self) -> Changes:
        """What changed since changes were taken last."""
        return self._changes

    def take_changes(self) -> dict[ServiceName, Change]:
        """Return what changed since the last call, oldest first, and forget it."""
        return self._changes.take()

    def slices(self, name: ServiceName) -> list[EndpointSlice]:
        """Return the slices of a service in bytewise name order, the order in which they are merged."""
        of_service = self._slices_of.get(name, {})
        if len(of_service) < 2:  # as usual
            return list(of_service.values())
        return [of_service[slice_name] for slice_name in sorted(of_service)]

    def endpoints(self, name: ServiceName) -> Mapping[tuple[Family, SlicePort], Merged]:
        """Merge the slices of a service."""
        return merge(self.slices(name))

    def slice_sizes(self) -> Iterator[int]:
        """Yield how many endpoints each slice states, over all its ports. A full walk."""
        for each in self._slices.values():
            if len(each.ports) == 1:  # as usual
                yield len(each.ports[0][1])
            else:
                yield sum([len(endpoints) for _, endpoints in each.ports])

    def slices_per_service(self) -> Iterator[int]:
        """Yield how many slices each service has that has any. A full walk."""
        return map(len, self._slices_of.values())

    def apply(
        self, events: Iterable[Event], received_s: float, decoded_s: float | None = None
    ) -> None:
        """Take events in.

        `received_s` is when they were read from their source and `decoded_s` when that had understood them (monotonic
        seconds); without the latter, it took no time.
        """
        times = Times(received_s, received_s if decoded_s is None else decoded_s)
        for event in events:
            match event:
                case Upsert(object=new):
                    self._put(new, times)
                case Delete():
                    self._remove(event, times)
                case Synced(kind=kind):
                    self._unlisted.discard(kind)
                case Problems(object=subject, rejected=rejected):
                    if rejected:
                        self.problems[subject] = rejected
                    else:
                        self.problems.pop(subject, None)

    def _put(self, new: Object, times: Times) -> None:
        match new:
            case EndpointSlice():
                self.slice_events += 1
                self._put_slice(new, times)
            case Service():
                self.service_events += 1
                self._put_service(new, times)
            case NodeInfo():
                self._put_node(new, times)
            case ServiceCidrs():
                self._service_cidrs[new.name] = new
                self._list_service_cidrs()

    def _remove(self, event: Delete, times: Times) -> None:
        """Forget an object. A deleted Node keeps its last known state, as in kube-proxy."""
        if event.kind == "EndpointSlice":
            self.slice_events += 1
            self._remove_slice(event.namespace, event.name, times)
        elif event.kind == "ServiceCIDR":
            self._service_cidrs.pop(event.name, None)
            self._list_service_cidrs()
        elif event.kind == "Service":
            self.service_events += 1
            name = ServiceName(event.namespace, event.name)
            gone = self.services.pop(name, None)
            if gone is not None and gone.ports:
                cause = _cause("Service", event.namespace, event.name)
                self._changes.mark(name, cause, times, _families(gone))

    def _list_service_cidrs(self) -> None:
        """List all ranges anew, sorted; whoever depends on them compares (a cluster has one or two)."""
        self.service_cidrs = tuple(
            sorted({cidr for each in self._service_cidrs.values() for cidr in each.cidrs})
        )

    def _put_service(self, service: Service, times: Times) -> None:
        old = self.services.get(service.name)
        self.services[service.name] = service
        is_same = old is not None and old.ports == service.ports and old.created == service.created
        if not is_same and (service.ports or (old is not None and old.ports)):
            cause = _cause("Service", *service.name, service.resource_version)
            self._changes.mark(service.name, cause, times, _families(service) | _families(old))

    def _put_slice(self, new: EndpointSlice, times: Times) -> None:
        identity = (new.namespace, new.name)
        old = self._slices.get(identity)
        self._slices[identity] = new
        cause = _cause("EndpointSlice", new.namespace, new.name, new.resource_version)
        if old is not None and old.service is not None and old.service != new.service:
            self._detach(old)
            self._changes.slices += 1
            self._changes.mark(old.service, cause, times, (old.family,))
        if new.service is None:
            return
        self._slices_of.setdefault(new.service, {})[new.name] = new
        is_same = (
            old is not None
            and old.service == new.service
            and old.family == new.family
            and old.ports == new.ports
        )
        if not is_same:
            self._changes.slices += 1
            self._changes.mark(new.service, cause, times, (new.family,), self._trigger(new))

    def _trigger(self, new: EndpointSlice) -> Trigger | None:
        at_s = new.triggered_s
        return None if at_s is None or at_s <= self._started_s else Trigger(new.family, at_s)

    def _remove_slice(self, namespace: str, name: str, times: Times) -> None:
        """Forget a slice. Its trigger is that of its last update, and says nothing about its end."""
        gone = self._slices.pop((namespace, name), None)
        if gone is not None and gone.service is not None:
            self._detach(gone)
            self._changes.slices += 1
            cause = _cause("EndpointSlice", namespace, name)
            self._changes.mark(gone.service, cause, times, (gone.family,))

    def _detach(self, endpoint_slice: EndpointSlice) -> None:
        if endpoint_slice.service is None:
            return
        of_service = self._slices_of[endpoint_slice.service]
        del of_service[endpoint_slice.name]
        if not of_service:
            del self._slices_of[endpoint_slice.service]

    def _put_node(self, node: NodeInfo, times: Times) -> None:
        old, self.node = self.node, node
        if old.zone == node.zone:
            return
        cause = _cause("Node", "", node.name, node.resource_version)
        for name, service in self.services.items():
            if service.ports:
                self._changes.mark(name, cause, times, _families(service))


def _families(service: Service | None) -> set[Family]:
    return {port.key.family for port in service.ports} if service is not None else set()


def _cause(kind: ObjectKind, namespace: str, name: str, resource_version: str = "") -> Cause:
    return Cause(kind=kind, namespace=namespace, name=name, resource_version=resource_version)


def merge(slices: Iterable[EndpointSlice]) -> Mapping[tuple[Family, SlicePort], Merged]:
    """Merge slices of one service, given in bytewise name order.

    One address and port stated twice for a service port is one endpoint. A statement that is not
    terminating replaces an earlier one wholesale, a terminating one only fills a gap: a pod IP that is
    used again must not inherit the conditions of its former owner.
    """
    stated: dict[tuple[Family, SlicePort], list[Endpoint]] = {}
    for endpoint_slice in slices:
        for slice_port, endpoints in endpoint_slice.ports:
            stated.setdefault((endpoint_slice.family, slice_port), []).extend(endpoints)
    return {key: _merge_port(endpoints) for key, endpoints in stated.items() if endpoints}


_address_of = operator.attrgetter("address")


def _merge_port(stated: list[Endpoint]) -> Merged:
    """Merge all statements about one service port, in the order in which slices and endpoints come."""
    if len({endpoint.address for endpoint in stated}) == len(stated):  # as usual
        return Merged(endpoints=tuple(sorted(stated, key=_address_of)))
    by_address: dict[str, Endpoint] = {}
    shadowed: list[Endpoint] = []
    for endpoint in stated:
        earlier = by_address.setdefault(endpoint.address, endpoint)
        if earlier is endpoint:
            continue
        if endpoint.terminating:
            shadowed.append(endpoint)
        else:
            shadowed.append(earlier)
            by_address[endpoint.address] = endpoint
    endpoints = tuple([by_address[address] for address in sorted(by_address)])
    return Merged(endpoints=endpoints, shadowed=tuple(shadowed))
