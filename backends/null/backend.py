"""The whole null backend: its kernel is a dict."""

from collections.abc import AsyncIterator, Collection, Mapping

from proxy.backend import Applied, Drift, Figure, Held, Retired
from proxy.desired import Desired, DesiredPort
from proxy.model import PortKey


class NullObserved:
    """What would be programmed."""

    is_rebuild_due = False
    worth_a_commit = 0

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
        desired: Desired,
        observed: NullObserved,
        changed: Collection[PortKey],
    ) -> NullPlan:
        return NullPlan(
            {
                key: desired.ports.get(key)
                for key in changed
                if desired.ports.get(key) != observed.ports.get(key)
            }
        )

    def prune(self, desired: Desired, observed: NullObserved) -> NullPlan:
        return NullPlan(dict.fromkeys(observed.ports.keys() - desired.ports.keys()))

    async def apply(self, plan: NullPlan, observed: NullObserved) -> Applied:
        return self.assume(plan, observed)

    def assume(self, plan: NullPlan, observed: NullObserved) -> Applied:
        for key, port in plan.changes.items():
            if port is None:
                del observed.ports[key]
            else:
                observed.ports[key] = port
        return Applied(operations=len(plan.changes), transactions=1)

    async def verify(self, _observed: NullObserved) -> list[Drift]:
        return []

    async def read_back(
        self,
        desired: Desired,
        observed: NullObserved,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        programmed = self._programmed(observed)
        for key in dict.fromkeys([*programmed, *observed.ports]) if keys is None else keys:
            held, believed = programmed.get(key), observed.ports.get(key)
            yield Held(
                key=key,
                lines=_words(held),
                differences=() if held == believed else (f"believed: {_words(believed)}",),
            )
        if keys is None:
            yield Held(key=None, lines=(f"{len(programmed)} service ports",))

    def _programmed(self, observed: NullObserved) -> Mapping[PortKey, DesiredPort]:
        return observed.ports

    def has_foreign_change(self, _observed: NullObserved) -> bool:
        return False

    def figures(self) -> tuple[Figure, ...]:
        return ()

    async def retire(self) -> Retired:
        return Retired()

    async def cleanup(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""


def _words(port: DesiredPort | None) -> tuple[str, ...]:
    """Return a line for each frontend: a cluster IP, and where connections to it go."""
    if port is None:
        return ()
    nowhere = "dropped" if port.is_any_usable else "refused"
    return tuple(
        [
            f"{frontend.kind} {frontend.address or 'any node address'} port {frontend.port}: "
            + (", ".join([endpoint.address for endpoint in port.pool(frontend)]) or nowhere)
            for frontend in port.frontends
        ]
    )
