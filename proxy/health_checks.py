"""Which Services are to be health checked at this node, and how many endpoints each has here. Pure.

Only a Service of type LoadBalancer with externalTrafficPolicy Local has a health check node port: its load balancer
asks every node whether it is worth sending anything there. `convert` has decided that already. Kept up to date by
`desired` with what a round takes on; `server.health_check_node_ports` answers with it once the round has ended well.

Each family counts its own endpoints, and only families in which the Service is served have an answer, as with the two
proxies that kube-proxy runs.
"""

from collections.abc import Mapping

from proxy.cache import Merged
from proxy.model import LOCAL, READY, Family, Service, ServiceName, SlicePort, Value

_COUNTED = READY | LOCAL


class HealthCheck(Value, frozen=True, kw_only=True):
    """The health check node port of a Service, and for each family the number of ready endpoints on this node."""

    service: ServiceName
    port: int
    local: Mapping[Family, int]
    uid: str = ""


class HealthChecks:
    """All of them by Service, and the names of those that changed since somebody asked."""

    def __init__(self) -> None:
        self.wanted: dict[ServiceName, HealthCheck] = {}
        self._changed: set[ServiceName] = set()

    def __eq__(self, other: object) -> bool:
        """Two that want the same are equal, whatever was asked of them."""
        return isinstance(other, HealthChecks) and self.wanted == other.wanted

    __hash__ = None  # type: ignore[assignment] # it changes

    def update(
        self,
        name: ServiceName,
        service: Service | None,
        merged: Mapping[tuple[Family, SlicePort], Merged],
    ) -> None:
        """Take in what a Service and its endpoints are now."""
        new = _health_check(service, merged) if service is not None else None
        if new == self.wanted.get(name):
            return
        self._changed.add(name)
        if new is None:
            del self.wanted[name]
        else:
            self.wanted[name] = new

    def take_changed(self) -> set[ServiceName]:
        """Return the names of the Services of which something changed since the last call, and forget them."""
        changed, self._changed = self._changed, set()
        return changed


def _health_check(
    service: Service, merged: Mapping[tuple[Family, SlicePort], Merged]
) -> HealthCheck | None:
    number = next((p.health_check_node_port for p in service.ports), 0)  # the same on all of them
    if not number:
        return None
    here: dict[Family, set[str]] = {port.key.family: set() for port in service.ports}
    for (family, _), endpoints in merged.items():
        if family in here:
            here[family].update(
                [e.ip for e in endpoints.endpoints if e.flags & _COUNTED == _COUNTED]
            )
    counts = {family: len(addresses) for family, addresses in here.items()}
    return HealthCheck(service=service.name, port=number, local=counts, uid=service.uid)
