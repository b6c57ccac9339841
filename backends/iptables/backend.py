"""The iptables data plane: the protocol of proxy/backend.py wired to layout, plan and kernel. Shell."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from msgspec import structs

from backends.iptables import kernel, node_settings
from backends.iptables.belief import Observed
from backends.iptables.canary import Canary, Stamp, open_canary
from backends.iptables.held import Look
from backends.iptables.kernel import Doors
from backends.iptables.late import LatePlan
from backends.iptables.layout import Layout, shaped_by
from backends.iptables.leaving import own_sets, remove_rules, remove_sets
from backends.iptables.model import CHAINS, IptablesPlan
from backends.iptables.plan import plan
from backends.iptables.probe import probe
from backends.iptables.prune import prune
from backends.iptables.restoring import Restoring
from backends.iptables.verify import verify
from backends.iptables.writer import Writer
from backends.kernel import xtables_flavour
from backends.kernel.ipset import Ipset
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.backend import Applied, Drift, Figure, Held, Retired
from proxy.config.settings import Settings
from proxy.desired import Desired
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, IPV4, Family, PortKey
from proxy.threads import to_thread

log = logging.getLogger(__name__)

T = TypeVar("T")

SWEEP_S: Final = 1.0
"""How long what is not needed any more stays for packets that may be on their way to it, at least."""

PLANNED_AT_ONCE: Final = 50
"""More ServicePorts than these are planned in a thread."""


class Tools(NamedTuple):
    """How this host is reached. All of them may block; they are called in threads."""

    find: Callable[[Sequence[Family]], Choice] = lambda families: xtables_flavour.find(
        families, CHAINS
    )
    open_ipset: Callable[[], Ipset] = Ipset
    open_canary: Callable[[Flavour, Iterable[Family]], Canary] = open_canary
    probe: Callable[[Choice], None] = lambda choice: probe(choice.tables)
    route_localhost: Callable[[], None] = node_settings.route_localhost


class _Opened(NamedTuple):
    """What is used as long as the process lives, in the flavour that was chosen."""

    choice: Choice
    doors: Doors
    background: Doors
    canary: Canary
    writer: Writer

    def close(self) -> None:
        self.doors.ipset.close()
        self.background.ipset.close()
        self.canary.close()
        for door in self.doors.tables.values():
            door.close()


class IptablesBackend:
    """Programs chains of our own by the programs of one flavour of iptables, and sets over netlink."""

    name = "iptables"

    def __init__(self, layout: Layout, tools: Tools = Tools()) -> None:  # noqa: B008 - it is a value
        self.layout = layout
        self._tools = tools
        self._restoring = Restoring()
        self._opened: _Opened | None = None
        self._left: dict[Family, Xtables] = {}
        self._stamps: WeakKeyDictionary[Observed, Stamp] = WeakKeyDictionary()
        self._pruning: LatePlan | None = None
        self._is_localhost_due = layout.settings.serves_localhost
        # What a plan writes and the last look of a verification must not mix.
        self._lock = asyncio.Lock()
        self._background_lock = asyncio.Lock()  # one thread at a time may use a socket

    @classmethod
    def from_settings(cls, settings: Settings) -> "IptablesBackend":
        has_ipv6 = Path("/proc/net/if_inet6").exists()
        if not has_ipv6:
            log.warning("this host has no IPv6: IPv6 cluster IPs are not served")
        shape = shaped_by(settings, FAMILIES if has_ipv6 else (IPV4,))
        shape = structs.replace(shape, secret=node_settings.secret())
        if node_settings.is_liberal():
            shape = structs.replace(shape, drops_invalid=False)
        return cls(Layout(shape))

    async def _ready(self) -> _Opened:
        """Choose the flavour and open what is needed, at the first use."""
        if self._opened is None:
            self._opened = await to_thread(self._open)
            self._left = dict(self._opened.choice.left)
        return self._opened

    def _open(self) -> _Opened:
        families, tools = self.layout.families, self._tools
        choice = tools.find(families)
        first, second = (Doors(tools.open_ipset(), choice.tables) for _ in range(2))
        canary = tools.open_canary(choice.flavour, families)
        writer = Writer(choice.flavour, first, canary, self._restoring)
        return _Opened(choice, first, second, canary, writer)

    async def probe(self) -> None:
        choice = (await self._ready()).choice
        if not choice.is_proven:
            await to_thread(self._tools.probe, choice)

    async def observe(self) -> Observed:
        opened = await self._ready()
        async with self._lock:
            stamp = opened.canary.look()
            observed = await to_thread(kernel.observe, opened.doors)
        self._stamps[observed] = stamp
        return observed

    def plan(
        self, desired: Desired, observed: Observed, changed: Collection[PortKey]
    ) -> IptablesPlan | LatePlan:
        if len(changed) <= PLANNED_AT_ONCE:
            return plan(desired, observed, changed, self.layout)
        return LatePlan(lambda: plan(desired, observed, changed, self.layout))

    def prune(self, desired: Desired, observed: Observed) -> LatePlan:
        self._pruning = LatePlan(lambda: prune(desired, observed, self.layout))
        return self._pruning

    async def apply(self, plan: IptablesPlan | LatePlan, observed: Observed) -> Applied:
        operations, writer, stamp = 0, (await self._ready()).writer, self._stamps[observed]
        is_pruning = plan is self._pruning
        async with self._lock:
            if isinstance(plan, LatePlan):
                plan = await to_thread(plan.make)
            if self._left and any(observed.misshapen.values()):
                await self._leave_other_flavour()  # its rules ask the set that has to go
            for number, step in enumerate(plan.steps):
                folds, is_done = writer.folds, False
                try:
                    failed = await writer.take(step, observed, stamp)
                    is_done = not failed and len(plan.steps) == 1
                finally:  # also if the lock was not to be had in the middle of it
                    if number == 0 and writer.folds > folds and not is_done:
                        observed.begin(plan)
                if failed and plan.is_for_nobody:
                    raise KernelError(
                        "tell pods from others anew", 0, "; ".join(sorted(set(failed.values())))
                    )
                if failed:
                    return Applied(
                        operations=operations,
                        transactions=number + 1,
                        failed=plan.refused | failed,
                    )
                operations += step.size
            observed.occupy(plan)
            if self._is_localhost_due:  # the rule that guards these addresses is there
                self._is_localhost_due = False
                self._tools.route_localhost()
            if is_pruning and self._left:
                await self._leave_other_flavour()
        return _applied(plan, observed)

    def assume(self, plan: IptablesPlan | LatePlan, observed: Observed) -> Applied:
        if isinstance(plan, LatePlan):
            plan = plan.make()
        for step in plan.steps:
            observed.fold(step)
        observed.occupy(plan)
        return _applied(plan, observed)

    async def _leave_other_flavour(self) -> None:
        """Remove what is left in the flavour we do not use, once everything is in the one we do."""
        count = await remove_rules(self._left.values(), self._restoring)
        log.info("moved from the other flavour: %d chains and rules of ours removed there", count)
        self._left = {}

    async def verify(self, observed: Observed) -> list[Drift]:
        opened = await self._ready()
        async with self._background_lock:
            return await verify(
                opened.doors,
                opened.background,
                opened.canary,
                self._lock,
                observed,
                self._stamps[observed],
            )

    async def read_back(
        self,
        desired: Desired,
        observed: Observed,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        opened, look = await self._ready(), Look(observed, keys)
        async with self._background_lock:
            await look.read(opened.background, self._lock)
        wanted: Iterable[PortKey] = keys or ()
        if keys is None:  # in no order: sorting ten thousand would hold the event loop
            believed = list(observed.rendered)
            wanted = itertools.chain(
                believed, (key for key in list(desired.ports) if key not in observed.rendered)
            )
        for key in wanted:
            yield look.at_port(key)
            await asyncio.sleep(0)
        if keys is None:
            yield look.at_strangers()

    def has_foreign_change(self, observed: Observed) -> bool:
        """Tell whether tables have changed, or the number of members of a set."""
        if self._opened is None or self._lock.locked():  # belief is about to change
            return False
        if self._opened.canary.look() != self._stamps[observed]:
            return True
        ipset = self._opened.doors.ipset
        for facts in observed.facts.values():
            for name, made in facts.sets.items():
                # whether sets of session affinity are there, rules that name them tell
                if made.timeout_s is None:
                    state = ipset.find_set(name)
                    count = len(facts.members.get(name, ()))
                    if state is None or (state.set.kind, state.members) != (made.kind, count):
                        return True
        return False

    def figures(self) -> tuple[Figure, ...]:
        return self._restoring.figures()

    async def retire(self) -> Retired:
        """Remove everything of ours, in both flavours. Connections go on: connection tracking translates them.

        Sets are the last to go, and our rules cannot be without them: where there are none, no table is read.
        """
        if not await to_thread(self._with_ipset, own_sets):
            return Retired()
        count = await self.cleanup()
        return Retired(removed=(f"{count} iptables chains, rules and sets",) if count else ())

    async def cleanup(self) -> int:
        async with self._lock:
            try:
                choice = await to_thread(self._tools.find, self.layout.families)
                doors = [*choice.tables.values(), *choice.left.values()]
                removed = await remove_rules(doors, self._restoring)
            except Unsupported:  # no programs: nobody can have written rules
                removed = 0
            try:
                return removed + await to_thread(self._with_ipset, remove_sets)
            except Unsupported:
                return removed

    def _with_ipset(self, use: Callable[[Ipset], T]) -> T:
        with self._tools.open_ipset() as ipset:
            return use(ipset)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _applied(plan: IptablesPlan, observed: Observed) -> Applied:
    """Return what became of a plan of which nothing was refused by the kernel."""
    return Applied(
        operations=sum([step.size for step in plan.steps]),
        transactions=len(plan.steps),
        failed=plan.refused,
        again_s=SWEEP_S if observed.is_sweep_due else None,
    )
