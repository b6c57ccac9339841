"""All services in one list with their counts and states: looked through in small steps, and remembered. Pure.

A step looks at one service and costs a microsecond or two if nothing about it has changed since the last look;
otherwise it is counted anew. Whoever drives the steps decides when others may run in between. Nothing is noted when
something changes, so what nobody looks at costs nothing.
"""

import heapq
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from proxy.backlog import Quarantined
from proxy.cache import Cache
from proxy.desired import DesiredPort
from proxy.model import READY, EndpointSlice, PortKey, Service, ServiceName
from proxy.server.states import STATES, Counts, Finding, State, findings, worst

T = TypeVar("T")
_PIECE: Final = 1000


class Row(NamedTuple):
    """A service in the list, and what the row was made from."""

    name: ServiceName
    state: State
    counts: Counts
    service: Service
    slices: list[EndpointSlice]
    ports: list[DesiredPort | None]
    is_refused: bool

    def has_address(self, address: str) -> bool:
        """Whether this is the address of a frontend or of an endpoint."""
        for port in self.service.ports:
            if port.cluster_ip == address or address in (
                *port.external_ips,
                *port.load_balancer_vips,
            ):
                return True
        for endpoint_slice in self.slices:
            for _, endpoints in endpoint_slice.ports:
                if address in [e.ip for e in endpoints]:
                    return True
        return False


class Overview:
    """The rows, sorted bytewise by namespace and name. Between two steps anything may have changed.

    `version` returns something that differs whenever anything may have changed.
    """

    def __init__(
        self,
        cache: Cache,
        ports: Mapping[PortKey, DesiredPort],
        quarantine: Mapping[PortKey, Quarantined],
        version: Callable[[], object],
    ) -> None:
        self._cache = cache
        self._ports = ports
        self._quarantine = quarantine
        self._version = version
        self._seen: object = None
        self._known: dict[ServiceName, Row] = {}
        self.rows: list[Row] = []
        self.states: dict[State, int] = dict.fromkeys(STATES, 0)

    def refresh(self) -> Iterator[None]:
        """Bring the rows up to date, one step for each service; no step if nothing can have changed."""
        version = self._version()
        if version == self._seen:
            return
        known: dict[ServiceName, Row] = {}
        states = dict.fromkeys(STATES, 0)
        for name in [row.name for row in self.rows]:
            row = self._look(name)
            if row is not None:
                known[name] = row
                states[row.state] += 1
            yield
        if len(known) == len(self._cache.services):
            self.rows = list(known.values())
        else:
            for name in [name for name in self._cache.services if name not in known]:
                row = self._look(name)
                if row is not None:
                    known[name] = row
                    states[row.state] += 1
                yield
            rows: list[Row] = []
            for row in in_order(list(known.values()), operator.attrgetter("name")):
                if row is not None:
                    rows.append(row)
                yield
            self.rows = rows
        self._known, self.states, self._seen = known, states, version

    def forget(self) -> None:
        """Let go of all rows: they hold on to the objects they were made from, also to those that are gone."""
        self.rows, self._known, self._seen = [], {}, None

    def findings(self, row: Row) -> list[Finding]:
        """Return everything there is to say about a service."""
        return findings(row.service, row.ports, self._quarantine, row.counts)

    def _look(self, name: ServiceName) -> Row | None:
        """Return the row of a service, the same as before if nothing about it has changed."""
        service = self._cache.services.get(name)
        if service is None:
            return None
        slices = self._cache.slices(name)
        ports = [self._ports.get(port.key) for port in service.ports]
        is_refused = bool(self._quarantine) and any(
            port.key in self._quarantine for port in service.ports
        )
        known = self._known.get(name)
        if (
            known is not None
            and known.service is service
            and known.is_refused == is_refused
            and known.slices == slices
            and known.ports == ports
        ):
            return known
        counts = count(slices, ports)
        if (
            ports
            and not is_refused
            and counts.ready == counts.endpoints
            and all(map(_is_plain, ports))
        ):
            state: State = "ok"  # as nearly always; findings say the same, but slower
        else:
            state = worst(findings(service, ports, self._quarantine, counts))
        return Row(name, state, counts, service, slices, ports, is_refused)


def _is_plain(port: DesiredPort | None) -> bool:
    """Whether every frontend of a port leads to endpoints, by a look at a few fields."""
    return bool(
        port is not None
        and port.cluster
        and not port.internal_local
        and not port.external_local
        and not port.lost
    )


def count(slices: Sequence[EndpointSlice], ports: Sequence[DesiredPort | None]) -> Counts:
    """Count endpoints by distinct address: several ports of one pod are one endpoint."""
    if len(slices) == len(ports) == 1 and len(slices[0].ports) == 1 and ports[0] is not None:
        # as most are: if all that is stated was selected, none is there twice, and one is as ready as the others
        endpoints, pool, total = slices[0].ports[0][1], ports[0].cluster, len(ports[0].reachable)
        if pool and len(pool) == len(endpoints) == total and pool[0].flags & READY:
            return Counts(total, total, total)
    stated = [endpoints for each in slices for _, endpoints in each.ports]
    every = {e.ip for endpoints in stated for e in endpoints}
    unready = {e.ip for endpoints in stated for e in endpoints if not e.flags & READY}
    if unready:
        ready = {e.ip for endpoints in stated for e in endpoints if e.flags & READY}
    else:
        ready = every
    used = {e.ip for port in ports if port is not None for e in port.reachable}
    return Counts(len(every), len(ready), len(used))


def in_order(items: Sequence[T], key: Callable[[T], Any]) -> Iterator[T | None]:
    """Yield items in order; and None now and then before the first, so that sorting can be left for a moment."""
    pieces: list[list[T]] = []
    for start in range(0, len(items), _PIECE):
        pieces.append(sorted(items[start : start + _PIECE], key=key))
        yield None
    yield from heapq.merge(*pieces, key=key)
