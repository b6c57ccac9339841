"""The nftables data plane: the protocol of proxy/backend.py wired to layout, plan and kernel. Shell."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from backends.kernel.netfilter import NOT_THERE
from backends.kernel.nft import Nft
from backends.kernel.nft_owned import RefusedElements
from backends.kernel.nft_transaction import Transaction
from backends.nftables.belief import Observed
from backends.nftables.held import Look
from backends.nftables.kernel import OURS
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.plan import plan
from backends.nftables.planned import NftPlan
from backends.nftables.probe import probe
from backends.nftables.prune import judge, prune
from backends.nftables.verify import verify
from proxy.backend import Applied, Drift, Figure, Held, Retired
from proxy.config.settings import Settings
from proxy.desired import Desired
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, IPV4, PortKey
from proxy.threads import to_thread

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
"""How long what is not needed any more stays for packets that may be on their way to it, at least."""
INLINE_OBJECTS: Final = 2000
"""Larger transactions are sent from a thread: they would hold the event loop for more than some milliseconds."""


class NftablesBackend:
    """Programs our own nftables tables, one in each family, in-process over netlink."""

    name = "nftables"

    def __init__(self, layout: Layout, open_nft: Callable[[], Nft] = Nft) -> None:
        self.layout = layout
        self._nft = open_nft()
        self._background = open_nft()
        # A transaction in a thread and the second look of a verification must not mix.
        self._lock = asyncio.Lock()
        self._background_lock = asyncio.Lock()  # one thread at a time may use a socket

    @classmethod
    def from_settings(cls, settings: Settings) -> "NftablesBackend":
        has_ipv6 = Path("/proc/net/if_inet6").exists()
        if not has_ipv6:
            log.warning("this host has no IPv6: IPv6 cluster IPs are not served")
        return cls(
            Layout(
                NftSettings(
                    families=FAMILIES if has_ipv6 else (IPV4,),
                    masquerade_mark=settings.masquerade_mark,
                    masquerade_all=settings.masquerade_all,
                    local_mode=settings.detect_local_mode,
                    cluster_cidrs=settings.cluster_cidrs,
                    interface=settings.bridge_interface
                    if settings.detect_local_mode == "BridgeInterface"
                    else settings.interface_name_prefix,
                )
            )
        )

    async def probe(self) -> None:
        probe(self._nft, self.layout)

    async def observe(self) -> Observed:
        async with self._lock:
            tables, generation = await to_thread(OURS.read_tables, self._nft, self.layout.families)
        for family, facts in tables.items():
            judge(facts, self.layout, family)
        return Observed(tables, generation)

    def plan(self, desired: Desired, observed: Observed, changed: Collection[PortKey]) -> NftPlan:
        return plan(desired, observed, changed, self.layout)

    def prune(self, desired: Desired, observed: Observed) -> NftPlan:
        return prune(desired, observed, self.layout)

    async def apply(self, plan: NftPlan, observed: Observed) -> Applied:
        operations, has_begun = 0, False
        async with self._lock:
            for number, transaction in enumerate(plan.transactions):
                size = transaction.size
                try:
                    if size <= INLINE_OBJECTS:
                        OURS.commit(self._nft, transaction)
                    else:
                        await to_thread(OURS.commit, self._nft, transaction)
                except RefusedElements as refused:
                    owners = refused.owners or transaction.owners
                    if not owners:
                        raise  # nobody's elements: what is believed of them is wrong
                    self._read_back(transaction, owners, observed)
                    return Applied(
                        operations=operations,
                        transactions=number + 1,
                        failed=dict.fromkeys(owners, str(refused)),
                    )
                operations += size
                observed.fold(transaction)
                is_last = number + 1 == len(plan.transactions)
                # sets and chains alone are nobody's: should the elements be refused, all is as before
                if not (has_begun or is_last) and (transaction.deletes or transaction.adds):
                    observed.begin(plan)
                    has_begun = True
            observed.occupy(plan)
        return _applied(plan, observed)

    def assume(self, plan: NftPlan, observed: Observed) -> Applied:
        for transaction in plan.transactions:
            observed.fold(transaction)
        observed.occupy(plan)
        return _applied(plan, observed)

    def _read_back(
        self, transaction: Transaction, owners: Collection[PortKey], observed: Observed
    ) -> None:
        """Correct belief about the elements of some ServicePorts from the kernel (L4)."""
        for batch in (*transaction.deletes, *transaction.adds):
            keys = {e.key for e in batch.elements if e.owner in owners}
            if keys:
                actual = OURS.read_elements(self._nft, batch.family, batch.set, keys)
                observed.correct(batch.family, batch.set, keys, actual)

    async def verify(self, observed: Observed) -> list[Drift]:
        async with self._background_lock:
            return await verify(self._nft, self._background, self._lock, observed)

    async def read_back(
        self,
        desired: Desired,
        observed: Observed,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        look = Look(self._nft, self._lock, observed)
        if keys is None:
            async with self._background_lock:
                await look.list_everything(self._background)
        if keys is None:  # in no order: sorting ten thousand would hold the event loop
            believed = list(observed.rendered)
            wanted: Iterable[PortKey] = itertools.chain(
                believed, (key for key in list(desired.ports) if key not in observed.rendered)
            )
        else:
            wanted = keys
        async for held in look.at_ports(desired.ports, wanted):
            yield held
        if keys is None:
            yield await look.at_strangers()

    def has_foreign_change(self, observed: Observed) -> bool:
        if self._lock.locked():  # a thread is using the socket, and belief is about to change
            return False
        return self._nft.generation() != observed.generation

    def figures(self) -> tuple[Figure, ...]:
        return ()

    async def retire(self) -> Retired:
        """Remove our tables in one transaction. Connections go on: connection tracking translates them."""
        try:
            count = await self.cleanup()
        except KernelError as error:
            if error.errno in NOT_THERE:
                raise Unsupported("nftables", error.message) from error
            raise
        return Retired(removed=(f"{count} nftables tables",) if count else ())

    async def cleanup(self) -> int:
        async with self._lock:
            return OURS.delete_tables(self._nft)

    def close(self) -> None:
        self._nft.close()
        self._background.close()


def _applied(plan: NftPlan, observed: Observed) -> Applied:
    """Return what became of a plan of which nothing was refused by the kernel."""
    return Applied(
        operations=sum([each.size for each in plan.transactions]),
        transactions=len(plan.transactions),
        failed=plan.refused,
        again_s=SWEEP_S if observed.is_sweep_due else None,
    )
