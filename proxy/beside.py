"""Two backends as one: the second listens at localhost, which the rules of the first cannot serve. Shell.

The first is the mode; whatever is asked of the mode is about it. The second is told of NodePorts at localhost only, which the first
leaves alone. Nothing else is ever served by two. That the second is out of reach costs localhost and nothing else: it is left out
until a verification finds that it can be had again.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import structs

from proxy.backend import (
    Applied,
    Backend,
    Draining,
    Drift,
    Figure,
    Held,
    Observed,
    Plan,
    Preparing,
    Retired,
)
from proxy.desired import Desired
from proxy.errors import KernelError, Unsupported
from proxy.localhost import Localhost
from proxy.model import Family, PortKey

LABEL: Final = "localhost"
"""What the second says is told by."""

log = logging.getLogger(__name__)


class BesideObserved:
    """What both believe; the second nothing while it is out of reach."""

    def __init__(self, first: Observed, second: Observed | None) -> None:
        self.first = first
        self.second = second
        self.served: set[PortKey] = set()
        """Whom the second was told to serve: it is not asked about others with each change."""

    def serve(self, keys: Mapping[PortKey, bool]) -> None:
        """Take in whom the second was told of, and whether it is to serve them."""
        for key, is_wanted in keys.items():
            (self.served.add if is_wanted else self.served.discard)(key)

    @property
    def is_rebuild_due(self) -> bool:
        return any(each.is_rebuild_due for each in (self.first, self.second) if each is not None)

    @property
    def worth_a_commit(self) -> int:
        return max(each.worth_a_commit for each in (self.first, self.second) if each is not None)


class BesidePlan:
    """What both are to do. `keys` are those whom the second is told of, and whether it is to serve them."""

    def __init__(
        self, first: Plan, second: Plan | None, keys: Mapping[PortKey, bool] | None = None
    ) -> None:
        self.first = first
        self.second = second
        self.keys = keys or {}

    def __bool__(self) -> bool:
        return bool(self.first) or bool(self.second)

    def describe(self) -> list[str]:
        return [line for each in (self.first, self.second) if each for line in each.describe()]


class Beside:
    """A backend, and one beside it for localhost."""

    def __init__(
        self, first: Backend[Any, Any], second: Backend[Any, Any], localhost: Localhost
    ) -> None:
        self.localhost = localhost
        self._first = first
        self._second = second
        self._trouble = ""

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def at_localhost(self) -> tuple[Family, ...]:
        return self.localhost.families

    async def probe(self) -> None:
        """Ask the first: it is no reason to have another mode that the second will not do."""
        await self._first.probe()

    async def prepare(self) -> None:
        if isinstance(self._first, Preparing):
            await self._first.prepare()

    async def observe(self) -> BesideObserved:
        return BesideObserved(await self._first.observe(), await self._observe_second())

    async def _observe_second(self) -> Observed | None:
        try:
            found: Observed = await self._second.observe()
        except (KernelError, Unsupported) as error:
            self._note(str(error))
            return None
        self._note("")
        return found

    def _note(self, trouble: str) -> None:
        """Remember why the second is out of reach, or that it is not, and say it once."""
        if trouble and trouble != self._trouble:
            log.error("NodePorts at localhost cannot be served for now: %s", trouble)
        self._trouble = trouble

    def plan(
        self, desired: Desired, observed: BesideObserved, changed: Collection[PortKey]
    ) -> BesidePlan:
        first = self._first.plan(desired, observed.first, changed)
        if observed.second is None:
            return BesidePlan(first, None)
        part = self.localhost.of(desired)
        wanted = {key: key in part.ports for key in changed}
        keys = {key: is_in for key, is_in in wanted.items() if is_in or key in observed.served}
        if changed and not keys:
            return BesidePlan(first, None)
        return BesidePlan(first, self._second.plan(part, observed.second, list(keys)), keys)

    def prune(self, desired: Desired, observed: BesideObserved) -> BesidePlan:
        return BesidePlan(
            self._first.prune(desired, observed.first),
            None
            if observed.second is None
            else self._second.prune(self.localhost.of(desired), observed.second),
        )

    async def apply(self, plan: BesidePlan, observed: BesideObserved) -> Applied:
        first = await self._first.apply(plan.first, observed.first)
        second = Applied()
        if plan.second is not None and observed.second is not None:
            try:
                second = await self._second.apply(plan.second, observed.second)
            except KernelError as error:
                self._note(str(error))
                observed.second = None
            else:
                observed.serve(plan.keys)
        return _both(first, second)

    def assume(self, plan: BesidePlan, observed: BesideObserved) -> Applied:
        first, second = self._first.assume(plan.first, observed.first), Applied()
        if plan.second is not None and observed.second is not None:
            second = self._second.assume(plan.second, observed.second)
            observed.serve(plan.keys)
        return _both(first, second)

    async def verify(self, observed: BesideObserved) -> list[Drift]:
        drifts = await self._first.verify(observed.first)
        if observed.second is None:
            if await self._observe_second() is None:
                return drifts
            return [*drifts, Drift(key=None, what="NodePorts at localhost were not served")]
        try:
            return [*drifts, *await self._second.verify(observed.second)]
        except KernelError as error:
            self._note(str(error))
            observed.second = None
            return drifts

    async def read_back(
        self, desired: Desired, observed: BesideObserved, keys: Collection[PortKey] | None
    ) -> AsyncIterator[Held]:
        beside: dict[PortKey | None, Held] = {}
        if observed.second is not None:
            part = self.localhost.of(desired)
            async for held in self._second.read_back(part, observed.second, keys):
                if held.lines or held.differences:
                    beside[held.key] = held
        elif keys is None:
            beside[None] = Held(key=None, differences=(f"not served: {self._trouble}",))
        async for held in self._first.read_back(desired, observed.first, keys):
            yield self._together(held, beside.pop(held.key, None))
        for held in beside.values():
            yield self._together(Held(key=held.key), held)

    def _together(self, first: Held, second: Held | None) -> Held:
        if second is None:
            return first
        return Held(
            key=first.key,
            lines=(*first.lines, *[f"{LABEL}: {line}" for line in second.lines]),
            differences=(
                *first.differences,
                *[f"{LABEL}: {each}" for each in second.differences],
            ),
        )

    def has_foreign_change(self, observed: BesideObserved) -> bool:
        return self._first.has_foreign_change(observed.first) or (
            observed.second is not None and self._second.has_foreign_change(observed.second)
        )

    def figures(self) -> tuple[Figure, ...]:
        served = {"": float(not self._trouble)}
        return (
            *self._first.figures(),
            Figure(
                name=f"{LABEL}_served",
                text="Whether NodePorts at localhost can be served.",
                values=served,
            ),
            *[
                structs.replace(each, name=f"{LABEL}_{each.name}")
                for each in self._second.figures()
            ],
        )

    async def drain(self, deadline_s: float) -> int:
        """Let what depends on this process come to an end: see `Draining`."""
        if isinstance(self._second, Draining):
            return await self._second.drain(deadline_s)
        return 0

    async def retire(self) -> Retired:
        return await self._first.retire()

    async def cleanup(self) -> int:
        return await self._first.cleanup() + await self._second.cleanup()

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(self._first.close)
            closing.callback(self._second.close)


def _both(first: Applied, second: Applied) -> Applied:
    """Return what became of a plan of both: what is written is what the mode writes."""
    again = [each.again_s for each in (first, second) if each.again_s is not None]
    return Applied(
        operations=first.operations,
        transactions=first.transactions,
        failed={**second.failed, **first.failed},
        again_s=min(again, default=None),
        regained=first.regained,
    )


@runtime_checkable
class AtLocalhost(Protocol):
    """A backend that has NodePorts served at localhost by a listener: its own, or one beside it."""

    @property
    def at_localhost(self) -> tuple[Family, ...]:
        """The families of which they are."""
        ...


def at_localhost(backend: Backend[Any, Any]) -> tuple[Family, ...]:
    """Return the families of which a listener serves NodePorts at localhost."""
    return backend.at_localhost if isinstance(backend, AtLocalhost) else ()
