"""A backend whose kernel is a dictionary that can refuse, be out of reach, be changed by others, and take its time."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from backends.null.backend import NullBackend, NullObserved, NullPlan
from proxy.backend import Applied, Drift
from proxy.desired import Desired, DesiredPort
from proxy.desired_node import DesiredNode
from proxy.errors import KernelError
from proxy.model import PortKey

_MOST_CALLS: Final = 5000


class RunawayError(BaseException):
    """The caller does not stop calling. No `except Exception` may hide that."""


class FakeBackend(NullBackend):
    """Plans as the null backend does; `kernel` is what has really been programmed."""

    name = "fake"

    def __init__(self) -> None:
        self.kernel: dict[PortKey, DesiredPort] = {}
        self.refused: dict[PortKey, str] = {}
        """What the kernel will not have, and why."""
        self.has_blame = True
        """Whether the kernel says what it refused; otherwise a batch is refused as a whole."""
        self.most_blamed: int | None = None
        """How many of those it refuses the kernel names, having carried out nothing; None for all of them, and the rest is
        carried out."""
        self.failure: Exception | None = None
        """Raised by whatever touches the kernel."""
        self.apply_s = 0.0
        self.verify_s = 0.0
        self.is_rebuild_due = False
        self.observed_at: list[float] = []
        self.applied: list[list[PortKey]] = []
        """The keys of every batch handed to the kernel, empty ones left out."""
        self.verified_at: list[float] = []
        self.told: list[DesiredNode] = []
        """The node of every plan for no ServicePort."""
        self.again_s: float | None = None
        """Asked for by the next batch."""
        self.regained: tuple[PortKey, ...] = ()
        """Brought to what is desired by the next batch, whomever that is for."""
        self._generation = 0
        self._seen_generation = 0
        self._calls = 0

    def tamper(self, key: PortKey) -> None:
        """Remove what was programmed, as somebody else would."""
        del self.kernel[key]
        self._generation += 1

    async def observe(self) -> NullObserved:
        self.observed_at.append(self._touch())
        observed = NullObserved()
        observed.is_rebuild_due = self.is_rebuild_due
        observed.ports = dict(self.kernel)
        return observed

    def plan(
        self, desired: Desired, observed: NullObserved, changed: Collection[PortKey]
    ) -> NullPlan:
        if not changed:
            self.told.append(desired.node)
        return super().plan(desired, observed, changed)

    async def apply(self, plan: NullPlan, observed: NullObserved) -> Applied:
        if not plan:
            return Applied()
        self._touch()
        if self.apply_s:
            await asyncio.sleep(self.apply_s)
        self.applied.append(list(plan.changes))
        failed = {key: self.refused[key] for key in plan.changes if key in self.refused}
        if failed and not self.has_blame:
            failed = dict.fromkeys(plan.changes, "refused")
        if failed and self.most_blamed is not None:
            return Applied(failed=dict(list(failed.items())[: self.most_blamed]), transactions=1)
        for key in plan.changes.keys() - failed.keys():
            _set(self.kernel, key, plan.changes[key])
            _set(observed.ports, key, plan.changes[key])
        observed.is_rebuild_due = self.is_rebuild_due = False
        again_s, self.again_s = self.again_s, None
        regained, self.regained = self.regained, ()
        return Applied(
            operations=len(plan.changes) - len(failed),
            transactions=1,
            failed=failed,
            again_s=again_s,
            regained=regained,
        )

    async def verify(self, observed: NullObserved) -> list[Drift]:
        self.verified_at.append(self._touch())
        self._seen_generation = self._generation
        differing = [
            key
            for key in self.kernel.keys() | observed.ports.keys()
            if self.kernel.get(key) != observed.ports.get(key)
        ]
        observed.ports = dict(self.kernel)
        await asyncio.sleep(self.verify_s)
        return [Drift(key=key, what="pool differs") for key in differing]

    def has_foreign_change(self, observed: NullObserved) -> bool:
        return self._generation != self._seen_generation

    def _programmed(self, observed: NullObserved) -> Mapping[PortKey, DesiredPort]:
        self._touch()
        return self.kernel

    def _touch(self) -> float:
        """Return the time, if the kernel can be reached."""
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise RunawayError
        if self.failure is not None:
            raise self.failure
        return asyncio.get_running_loop().time()


def unreachable() -> KernelError:
    """Return what is raised when the kernel does not answer."""
    return KernelError("dump", 105, "No buffer space available")


def _set(ports: dict[PortKey, DesiredPort], key: PortKey, port: DesiredPort | None) -> None:
    if port is None:
        ports.pop(key, None)
    else:
        ports[key] = port
