"""The whole null backend: its kernel is a dict."""

from collections.abc import Collection, Mapping

from proxy.backend import Applied, Drift
from proxy.desired import DesiredPort
from proxy.model import PortKey


class NullObserved:
    """What would be programmed."""

    is_rebuild_due = False

    def __init__(self) -> None:
        self.ports: dict[PortKey, DesiredPort] = {}


class NullPlan:
    """Ports to remember, and (None) to forget."""

    def __init__(self, changes: dict[PortKey, DesiredPort | None]) -> None:
        self.changes = changes

    def __bool__(self) -> bool:
        return bool(self.changes)

    def describe(self) -> list[str]:
        return [
            f"{'forget' if port is None else 'remember'} {key}"
            for key, port in self.changes.items()
        ]


class NullBackend:
    """Keeps every law by doing nothing at all."""

    name = "null"

    async def probe(self) -> None:
        """Nothing is needed."""

    async def observe(self) -> NullObserved:
        return NullObserved()

    def plan(
        self,
        desired: Mapping[PortKey, DesiredPort],
        observed: NullObserved,
        changed: Collection[PortKey],
    ) -> NullPlan:
        return NullPlan(
            {
                key: desired.get(key)
                for key in changed
                if desired.get(key) != observed.ports.get(key)
            }
        )

    def prune(self, desired: Mapping[PortKey, DesiredPort], observed: NullObserved) -> NullPlan:
        return NullPlan(dict.fromkeys(observed.ports.keys() - desired.keys()))

    async def apply(self, plan: NullPlan, observed: NullObserved) -> Applied:
        for key, port in plan.changes.items():
            if port is None:
                del observed.ports[key]
            else:
                observed.ports[key] = port
        return Applied(operations=len(plan.changes), transactions=1)

    async def verify(self, _observed: NullObserved) -> list[Drift]:
        return []

    def has_foreign_change(self, _observed: NullObserved) -> bool:
        return False

    async def cleanup(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""
