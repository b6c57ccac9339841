"""The IPVS data plane: the protocol of proxy/backend.py wired to layout, plan and kernel. Shell."""

import asyncio
import errno
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from msgspec import structs

from backends.ipvs import deadlines, kernel, node_settings, probing
from backends.ipvs.belief import DRAIN_S, Observed
from backends.ipvs.draining import reap
from backends.ipvs.held import Look
from backends.ipvs.kernel import Doors
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import DEVICE, AddressStep, IpvsPlan, IpvsStep, NftStep, Step
from backends.ipvs.plan import plan
from backends.ipvs.prune import prune
from backends.ipvs.verify import verify
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from proxy.backend import Applied, Drift, Held
from proxy.config.settings import Settings
from proxy.desired import Desired
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, IPV4, PortKey

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""When what has begun to drain is looked at for the first time."""
LOOK_AGAIN_S: Final = 5.0
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
        prepare: Callable[[Ipvs], None] = lambda _: None,
        deadlines_file: Path | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.layout = layout
        self._open = open_nft, open_ipvs, open_links
        self._prepare = prepare
        self._deadlines_file = deadlines_file
        self._now_s = now_s
        self._opened: list[Doors] = []
        # A step in a thread and the second look of a verification must not mix.
        self._lock = asyncio.Lock()
        self._background_lock = asyncio.Lock()  # one thread at a time may use the doors

    @classmethod
    def from_settings(cls, settings: Settings) -> "IpvsBackend":
        has_ipv6 = Path("/proc/net/if_inet6").exists()
        if not has_ipv6:
            log.warning("this host has no IPv6: IPv6 cluster IPs are not served")
        layout = Layout(
            IpvsSettings(
                families=FAMILIES if has_ipv6 else (IPV4,),
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
            deadlines_file=deadlines.FILE,
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
            open_nft, open_ipvs, open_links = self._open
            self._opened = [Doors(open_nft(), open_ipvs(), open_links()) for _ in range(2)]
        return self._opened[number]

    async def probe(self) -> None:
        probing.probe(self._doors, self.layout)
        self._prepare(self._doors.ipvs)

    async def observe(self) -> Observed:
        doors = self._doors
        async with self._lock:
            observed = await asyncio.to_thread(kernel.read_everything, doors, self.layout)
        if self._deadlines_file is not None:
            observed.deadlines = deadlines.load(self._deadlines_file)
        return observed

    def plan(self, desired: Desired, observed: Observed, changed: Collection[PortKey]) -> IpvsPlan:
        return plan(desired, observed, changed, self.layout)

    def prune(self, desired: Desired, observed: Observed) -> IpvsPlan:
        return prune(desired, observed, self.layout)

    async def apply(self, plan: IpvsPlan, observed: Observed) -> Applied:
        before = {server: dict(places) for server, places in observed.draining.items()}
        try:
            applied = await self._apply(plan, observed)
        finally:
            if observed.draining != before:
                log.info("%d destinations drain", sum(map(len, observed.draining.values())))
                if self._deadlines_file is not None:
                    deadlines.save(self._deadlines_file, observed.all_deadlines)
        if not observed.draining:
            return applied
        is_more = observed.draining.keys() - before or len(plan.rendered)
        return structs.replace(applied, again_s=LOOK_S if is_more else LOOK_AGAIN_S)

    async def _apply(self, plan: IpvsPlan, observed: Observed) -> Applied:
        operations, transactions = 0, 0
        async with self._lock:
            for number, step in enumerate(plan.steps):
                failed = await self._take(step, observed)
                transactions += 1
                # of a refused transaction nothing was done, of messages to IPVS perhaps some
                is_begun = not failed or not isinstance(step, NftStep)
                if number == 0 and is_begun and (failed or len(plan.steps) > 1):
                    observed.begin(plan)
                if failed:
                    return Applied(operations=operations, transactions=transactions, failed=failed)
                operations += step.size
            now_s = self._now_s()
            for server, place in plan.drains:
                observed.drain(server, place, now_s + DRAIN_S)
            observed.occupy(plan)
            if plan.reaps:
                operations += reap(self._doors.ipvs, observed, now_s)
        return Applied(operations=operations, transactions=transactions)

    async def _take(self, step: Step, observed: Observed) -> Failed:
        """Take one step and fold it in; return the ServicePorts that the kernel would not have, and why."""
        if isinstance(step, NftStep):
            return await self._commit(step, observed)
        if isinstance(step, IpvsStep):
            return await self._carry_out(step, observed)
        return self._bind(step, observed)

    async def _commit(self, step: NftStep, observed: Observed) -> Failed:
        nft = self._doors.nft
        try:
            if step.size <= INLINE_OBJECTS:
                kernel.commit(nft, step)
            else:
                await asyncio.to_thread(kernel.commit, nft, step)
        except kernel.RefusedElements as refused:
            owners = refused.owners or _owners(step)
            if not owners:
                raise  # nobody's elements: what is believed of them is wrong
            for batch in (*step.deletes, *step.adds):
                keys = {e.key for e in batch.elements if e.owner in owners}
                if keys:
                    actual = kernel.read_elements(nft, batch.family, batch.set, keys)
                    observed.correct_elements(batch.family, batch.set, keys, actual)
            return dict.fromkeys(owners, str(refused))
        observed.fold_nft(step)
        return {}

    async def _carry_out(self, step: IpvsStep, observed: Observed) -> Failed:
        """Each message stands for itself: belief of the virtual servers of refused ones is read back."""
        ipvs, operations = self._doors.ipvs, step.operations
        if step.size <= INLINE_OBJECTS:
            refusals = kernel.carry_out(ipvs, operations)
        else:
            refusals = await asyncio.to_thread(kernel.carry_out, ipvs, operations)
        now_s = self._now_s()
        doubtful: dict[ServerId, None] = {operations[number].server: None for number in refusals}
        for operation in operations:
            if operation.server not in doubtful:
                observed.fold_operation(operation, now_s)
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
        look = Look(self._doors, self._lock, observed, self.layout)
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
        """Tell whether the ruleset has changed. Of virtual servers and addresses only a comparison tells."""
        if self._lock.locked():  # a thread is using the socket, and belief is about to change
            return False
        return self._doors.nft.generation() != observed.generation

    async def cleanup(self) -> int:
        """Remove virtual servers first, while the addresses on our device still say which are ours."""
        async with self._lock:
            open_nft, open_ipvs, open_links = self._open
            with open_nft() as nft, open_links() as links:
                addresses = kernel.read_addresses(links)
                tables, _ = kernel.read_tables(nft, self.layout.families)
                marks = kernel.marks_in(tables)
                removed = self._remove_servers(open_ipvs, addresses.bound, marks)
                if links.find(DEVICE) is not None:
                    links.remove_dummy(DEVICE)
                    removed += addresses.device is not None
                return removed + kernel.delete_tables(nft)

    def _remove_servers(
        self, open_ipvs: Callable[[], Ipvs], bound: Collection[str], marks: Collection[int]
    ) -> int:
        try:
            ipvs = open_ipvs()
        except Unsupported:
            return 0  # then there are none
        with ipvs:
            ours = [
                ipvs_messages.del_server(server.id)
                for server in ipvs.list_servers()
                if kernel.is_our_server(server.id, self.layout, bound, marks)
            ]
            refused = [each for each in ipvs.carry_out(ours) if each.errno != errno.ESRCH]
            for refusal in refused:
                raise KernelError("remove virtual servers", refusal.errno, str(refusal))
        return len(ours)

    def close(self) -> None:
        for doors in self._opened:
            doors.close()
        self._opened = []


def _owners(step: NftStep) -> set[PortKey]:
    batches = (*step.deletes, *step.adds)
    return {e.owner for batch in batches for e in batch.elements if e.owner is not None}
