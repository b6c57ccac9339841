"""The IPVS data plane: the protocol of proxy/backend.py wired to layout, plan and kernel. Shell."""

import asyncio
import contextlib
import errno
import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from msgspec import structs

from backends.ipvs import deadlines, kernel, node_settings, probing
from backends.ipvs.belief import DRAIN_S, Observed
from backends.ipvs.cleaning import clean_up
from backends.ipvs.draining import LOOK_S, Draining
from backends.ipvs.held import Look
from backends.ipvs.kernel import Doors, News
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.leaving import Leaving, LeavingDoors
from backends.ipvs.model import DEVICE, AddressStep, IpvsStep, Step
from backends.ipvs.plan import plan
from backends.ipvs.planned import IpvsPlan
from backends.ipvs.prune import prune
from backends.ipvs.sides import SideName, Sides
from backends.ipvs.verify import concerns, verify
from backends.ipvs.xt_side import Tools
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.nft_owned import RefusedElements
from backends.kernel.nft_transaction import Transaction
from backends.kernel.sockets import Sockets
from proxy.backend import Applied, Drift, Figure, Held, Retired
from proxy.config.settings import Settings
from proxy.conntrack_table import ConntrackTable
from proxy.desired import Desired
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, IPV6, PortKey
from proxy.threads import to_thread

log = logging.getLogger(__name__)

INLINE_OBJECTS: Final = 2000
"""Larger steps are sent from a thread: they would hold the event loop for more than some milliseconds."""

Failed = dict[PortKey, str]


class IpvsBackend:
    """Programs virtual servers, addresses on our own device, and our own nftables tables, in-process over netlink."""

    name = "ipvs"

    def __init__(
        self,
        layout: Layout,
        *,
        open_nft: Callable[[], Nft] = Nft,
        open_ipvs: Callable[[], Ipvs] = Ipvs,
        open_links: Callable[[], Links] = Links,
        open_flows: Callable[[], ConntrackTable] = ConntrackTable,
        open_sockets: Callable[[], Sockets] = Sockets,
        tools: Tools = Tools(),  # noqa: B008 - it is a value
        side: SideName | None = None,
        prepare: Callable[[Ipvs], None] = lambda _: None,
        has_ipv6: Callable[[], bool] = lambda: True,
        deadlines_file: Path | None = None,
        drain_s: float = DRAIN_S,
        now_s: Callable[[], float] = deadlines.now_s,
    ) -> None:
        """`side`: which side rules are written, where that is not left to the probe."""
        self._sides = Sides(open_nft, tools, side)
        self.layout = self._sides.layout(layout)
        self._open = open_ipvs, open_links
        self._pruning: IpvsPlan | None = None
        self._has_left = False
        self._open_flows = open_flows
        self._open_sockets = open_sockets
        self._leaving: Leaving | None = None
        self._prepare = prepare
        self._has_ipv6 = has_ipv6
        self._deadlines_file = deadlines_file
        self._drain_s = drain_s
        self._now_s = now_s
        self._saved_s = -math.inf
        self._last: Observed | None = None
        self._draining = Draining()
        self._opened: list[Doors] = []
        self._news: News | None = None
        # A step in a thread and the second look of a verification must not mix.
        self._lock = asyncio.Lock()
        self._background_lock = asyncio.Lock()  # one thread at a time may use the doors

    @classmethod
    def from_settings(cls, settings: Settings) -> "IpvsBackend":
        layout = Layout(
            IpvsSettings(
                families=FAMILIES,
                scheduler=settings.ipvs.scheduler,
                masquerade_mark=settings.masquerade_mark,
                masquerade_all=settings.masquerade_all,
                local_mode=settings.detect_local_mode,
                cluster_cidrs=settings.cluster_cidrs,
                interface=settings.bridge_interface
                if settings.detect_local_mode == "BridgeInterface"
                else settings.interface_name_prefix,
                exclude_cidrs=settings.ipvs.exclude_cidrs,
                offset=node_settings.offset(settings.node_name),
            )
        )
        return cls(
            layout,
            prepare=lambda ipvs: node_settings.enforce(settings.ipvs, ipvs),
            has_ipv6=node_settings.has_ipv6,
            deadlines_file=Path(settings.state_dir) / deadlines.FILE,
            drain_s=settings.ipvs.drain_timeout_s,
        )

    @property
    def _doors(self) -> Doors:
        return self._door(0)

    @property
    def _background(self) -> Doors:
        return self._door(1)

    def _door(self, number: int) -> Doors:
        """Open both at the first use, in the network namespace of that moment. Raises Unsupported without IPVS."""
        if not self._opened:
            open_ipvs, open_links = self._open
            opened = [
                Doors(self._sides.open(self.layout), open_ipvs(), open_links()) for _ in range(2)
            ]
            self._news = News(opened[0].links)
            self._opened = opened
        return self._opened[number]

    async def probe(self) -> None:
        if not self._has_ipv6():
            log.warning(
                "this host has no IPv6, or has it switched off: IPv6 services are not served"
            )
            self.layout = self.layout.without(IPV6)
        await to_thread(self._sides.choose, self.layout)
        self.layout = self._sides.layout(self.layout)
        probing.probe(self._doors, self.layout)

    async def prepare(self) -> None:
        self._prepare(self._doors.ipvs)

    async def observe(self) -> Observed:
        doors = self._doors
        self._save_last()
        async with self._lock:
            observed = await to_thread(kernel.read_everything, doors, self.layout)
            observed.left = await to_thread(self._sides.read_left, self.layout)
        self._has_left = bool(observed.left)
        if self._deadlines_file is not None:
            observed.deadlines = deadlines.load(self._deadlines_file)
        return observed

    def plan(self, desired: Desired, observed: Observed, changed: Collection[PortKey]) -> IpvsPlan:
        return plan(desired, observed, changed, self.layout)

    def prune(self, desired: Desired, observed: Observed) -> IpvsPlan:
        self._pruning = prune(desired, observed, self.layout)
        return self._pruning

    async def apply(self, plan: IpvsPlan, observed: Observed) -> Applied:
        try:
            applied = await self._apply(plan, observed)
        finally:
            self._draining.places = observed.draining
            self._save(observed, is_due=plan.reaps)
        if not observed.draining:
            return applied
        again_s = self._draining.again_s if plan.reaps else LOOK_S
        return structs.replace(applied, again_s=again_s)

    def _save(self, observed: Observed, *, is_due: bool) -> None:
        """Keep until when what drains may do so: at once, but of many changes the rest at the look that follows."""
        now_s = self._now_s()
        self._last = observed
        is_due = is_due or abs(now_s - self._saved_s) >= LOOK_S
        if self._deadlines_file is not None and observed.is_drain_news and is_due:
            deadlines.save(self._deadlines_file, observed.all_deadlines)
            observed.is_drain_news, self._saved_s = False, now_s

    def _save_last(self) -> None:
        """Keep what was left for the next look: there may be none."""
        if self._last is not None:
            self._save(self._last, is_due=True)

    async def _apply(self, plan: IpvsPlan, observed: Observed) -> Applied:
        operations, transactions = 0, 0
        async with self._lock:
            for number, step in enumerate(plan.steps):
                failed = await self._take(step, observed)
                transactions += 1
                # of a refused transaction nothing was done, of messages to IPVS perhaps some
                is_begun = not failed or not isinstance(step, Transaction)
                if number == 0 and is_begun and (failed or len(plan.steps) > 1):
                    observed.begin(plan)
                if failed:
                    return Applied(operations=operations, transactions=transactions, failed=failed)
                operations += step.size
            now_s = self._now_s()
            for server, place in plan.drains:
                observed.drain(server, place, now_s + self._drain_s)
            observed.occupy(plan)
            if plan.reaps:
                operations += await self._draining.reap(self._doors.ipvs, observed, now_s)
            if plan is self._pruning:
                await self._leave_others(observed)
        return Applied(operations=operations, transactions=transactions)

    def assume(self, plan: IpvsPlan, observed: Observed) -> Applied:
        until_s = self._now_s() + self._drain_s
        for step in plan.steps:
            observed.fold(step, until_s)
        for server, place in plan.drains:
            observed.drain(server, place, until_s)
        observed.occupy(plan)
        operations = sum([step.size for step in plan.steps])
        return Applied(operations=operations, transactions=len(plan.steps))

    async def _leave_others(self, observed: Observed) -> None:
        """Remove other side rules, once everything is in those that we write; what cannot go now, after the next pruning."""
        try:
            if self._has_left:
                count = await to_thread(self._sides.delete_left, self.layout)
                log.info("%d objects of other side rules removed", count)
            await to_thread(self._doors.side.sweep)
        except KernelError as error:
            log.warning("side rules of an earlier process are left for now: %s", error)
            return
        observed.left, self._has_left = [], False

    async def _take(self, step: Step, observed: Observed) -> Failed:
        """Take one step and fold it in; return the ServicePorts that the kernel would not have, and why."""
        if isinstance(step, Transaction):
            return await self._commit(step, observed)
        if isinstance(step, IpvsStep):
            return await self._carry_out(step, observed)
        return self._bind(step, observed)

    async def _commit(self, step: Transaction, observed: Observed) -> Failed:
        side = self._doors.side
        try:
            if side.is_slow(step):
                await to_thread(side.commit, step)
            else:
                side.commit(step)
        except RefusedElements as refused:
            owners = refused.owners or step.owners
            if not owners:
                raise  # nobody's elements: what is believed of them is wrong
            for batch in (*step.deletes, *step.adds):
                keys = {element.key for element in batch.elements}
                actual = side.read_elements(batch.family, batch.set, keys)
                observed.correct_elements(batch.family, batch.set, keys, actual)
            return dict.fromkeys(owners, str(refused))
        observed.fold_nft(step)
        return {}

    async def _carry_out(self, step: IpvsStep, observed: Observed) -> Failed:
        """Each message stands for itself: belief of the virtual servers of refused ones is read back."""
        ipvs, operations = self._doors.ipvs, step.operations
        if step.size <= INLINE_OBJECTS and not step.is_waiting:
            refusals = kernel.carry_out(ipvs, operations)
        else:
            refusals = await to_thread(kernel.carry_out, ipvs, operations)
        until_s = self._now_s() + self._drain_s
        doubtful: dict[ServerId, None] = {operations[number].server: None for number in refusals}
        for number, operation in enumerate(operations):
            # of the others the kernel is asked, which does not know since when something drains
            is_news = operation.is_draining and number not in refusals
            if is_news or operation.server not in doubtful:
                observed.fold_operation(operation, until_s)
        failed: Failed = {}
        for number, refusal in refusals.items():
            owner = operations[number].owner
            if owner is None:
                raise KernelError("IPVS", refusal.errno, str(refusal))
            failed.setdefault(owner, str(refusal))
        for server in doubtful:
            found, destinations = kernel.read_server(ipvs, server)
            observed.correct_server(server, found, [each for each, _ in destinations])
        return failed

    def _bind(self, step: AddressStep, observed: Observed) -> Failed:
        links = self._doors.links
        if observed.device is None:
            observed.device = links.ensure_dummy(DEVICE)
        refused = links.bind(observed.device, [address for address, _ in step.bind])
        refused += links.unbind(observed.device, [address for address, _ in step.unbind])
        observed.fold_addresses(step, {each.address for each in refused})
        owners = dict([*step.bind, *step.unbind])
        failed: Failed = {}
        for each in refused:
            owner = owners[each.address]
            if each.errno == errno.ENODEV or owner is None:
                observed.device = None
                raise KernelError(f"addresses of {DEVICE}", each.errno, str(each))
            failed[owner] = str(each)
        return failed

    async def verify(self, observed: Observed) -> list[Drift]:
        async with self._background_lock:
            return await verify(self._doors, self._background, self._lock, observed, self.layout)

    async def read_back(
        self,
        desired: Desired,
        observed: Observed,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        look = Look(self._doors, self._lock, observed, self.layout, self._now_s())
        if keys is None:
            async with self._background_lock:
                await look.read_everything(self._background)
            believed = list(observed.rendered)
            wanted: Iterable[PortKey] = itertools.chain(
                believed, (key for key in list(desired.ports) if key not in observed.rendered)
            )
        else:
            wanted = keys
        for key in wanted:
            yield await look.at_port(desired.ports.get(key), key)
            await asyncio.sleep(0)
        if keys is None:
            yield await look.at_strangers()

    def has_foreign_change(self, observed: Observed) -> bool:
        """Tell whether the ruleset or addresses have changed. Of virtual servers only a comparison tells."""
        if self._lock.locked():  # a thread is using the socket, and belief is about to change
            return False
        if self._doors.side.generation() != observed.generation:
            return True
        news = self._news.take() if self._news is not None else {}
        return news is None or concerns(news, observed)

    def figures(self) -> tuple[Figure, ...]:
        return self._draining.figures()

    async def retire(self) -> Retired:
        """Take one step on the way out: see `leaving`."""
        open_ipvs, open_links = self._open
        file = self._deadlines_file
        leaving = self._leaving = self._leaving or Leaving(self.layout, file, self._drain_s)
        with open_links() as links, contextlib.ExitStack() as stack:
            flows = stack.enter_context(contextlib.closing(self._open_flows()))
            sockets = stack.enter_context(self._open_sockets())
            sides = await to_thread(lambda: list(self._sides.found(self.layout, stack)))
            if not await to_thread(leaving.begin, sides, links, flows):
                return Retired()
            try:
                ipvs = stack.enter_context(open_ipvs())
            except Unsupported:
                ipvs = None
            doors = LeavingDoors(sides, ipvs, links, flows, sockets)
            return await to_thread(leaving.go_on, doors, self._now_s())

    async def cleanup(self) -> int:
        """Remove everything of ours: see `cleaning`."""
        async with self._lock:
            return await to_thread(clean_up, self.layout, self._sides, *self._open)

    def close(self) -> None:
        self._save_last()
        for doors in self._opened:
            doors.close()
        if self._news is not None:
            self._news.close()
        self._opened, self._news = [], None
