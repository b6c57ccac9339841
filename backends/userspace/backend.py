"""The userspace backend: wires engine, kernel, planner and verifier to the protocol. Shell.

What a plan changes in this process is done between two events, so no connection sees half of it. `verify` and what looks
use a door of their own, in a thread.
"""

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from backends.userspace import probe as probing
from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.held import look_at, look_at_rest
from backends.userspace.kernel import Ears, Kernel, News
from backends.userspace.model import SERVED, Place, UserspacePlan
from backends.userspace.plan import plan, prune
from backends.userspace.settings import ForwarderSettings, forwarder_settings
from backends.userspace.sockets import describe
from backends.userspace.verify import concerns, verify
from proxy.backend import Applied, Drift, Figure, Held, Retired
from proxy.config.settings import Settings
from proxy.desired import Desired
from proxy.listeners import Listeners
from proxy.localhost import ADDRESSES
from proxy.model import FAMILIES, Family, PortKey
from proxy.threads import to_thread

RETRY_S: Final = 30.0
"""When a port that could not be had at localhost is tried again, if nothing else happens before."""
TAKEN_RETRY_S: Final = 1.0
"""When one that is taken elsewhere is, in an upgrade: the process before may have it, which ends soon."""
UPGRADE_S: Final = 300.0
"""How long that process may run after it was asked for its sockets. Then nothing is tried so often any more: a program of somebody
else that is restarted is to have its port again."""
AT_ONCE: Final = 200
"""Sockets opened or closed before others have their turn."""
Failed = dict[PortKey, str]

log = logging.getLogger(__name__)


class UserspaceBackend:
    """Forwards in this process; the laws it keeps are in proxy/backend.py."""

    name = "userspace"

    def __init__(
        self,
        settings: ForwarderSettings,
        listeners: Listeners | None = None,
        *,
        open_kernel: Callable[[], Kernel] = Kernel,
        open_ears: Callable[[], Ears] = Ears,
        make_engine: Callable[[ForwarderSettings, Listeners | None], Engine] = Engine,
    ) -> None:
        self._settings = settings
        self._passed = listeners or Listeners()
        self._open = open_kernel, open_ears
        self._engine = make_engine(settings, listeners)
        self._kernels: list[Kernel] = []
        self._ears: Ears | None = None
        self._families: tuple[Family, ...] = FAMILIES
        self._lock = asyncio.Lock()
        self._background_lock = asyncio.Lock()
        self._is_foreign = False
        self._told: set[PortKey] = set()

    @classmethod
    def from_settings(
        cls, settings: Settings, listeners: Listeners | None = None
    ) -> "UserspaceBackend":
        """Make the backend for these settings. `listeners` has what the process before has passed on."""
        return cls(forwarder_settings(settings), listeners)

    def _kernel(self, number: int) -> Kernel:
        """Return one of two doors: that of plans, and that of what looks in the background."""
        if not self._kernels:
            open_kernel, open_ears = self._open
            self._kernels = [open_kernel(), open_kernel()]
            self._ears = open_ears()
        return self._kernels[number]

    @property
    def at_localhost(self) -> tuple[Family, ...]:
        """The families of which NodePorts are at localhost, too."""
        return tuple([each for each in self._settings.localhost if each in self._families])

    async def probe(self) -> None:
        self._families = probing.probe(self._kernel(0))
        log.info("this process may open %d files", probing.raise_file_limit())

    async def observe(self) -> Observed:
        async with self._lock:
            facts = await to_thread(self._kernel(0).read)
            observed = Observed(
                routes=facts.routes, black_holes=facts.black_holes, host=facts.host
            )
            for key, serving in self._engine.serving().items():
                observed.serve(key, serving)
            for place, listening in self._engine.listening().items():
                observed.listen(place, listening)
            return observed

    def plan(
        self, desired: Desired, observed: Observed, changed: Collection[PortKey]
    ) -> UserspacePlan:
        return plan(desired, observed, changed, self._families, self.at_localhost)

    def prune(self, desired: Desired, observed: Observed) -> UserspacePlan:
        return prune(desired, observed, self._families, self.at_localhost)

    async def apply(self, plan: UserspacePlan, observed: Observed) -> Applied:
        failed: Failed = {}
        if not plan:
            return Applied()
        async with self._lock:
            has_moved = self._hear(observed)
            if plan.routes:
                failed = self._route(plan, observed)
            if plan.node is not None:
                observed.node = plan.node
                self._tell_here(observed)
            self._serve(plan, observed)
            regained = await self._listen(plan, observed, failed)
            await self._close(plan, observed)
            if plan.unrouted:
                failed |= self._unroute(plan, observed)
        return Applied(
            operations=plan.size,
            transactions=1,
            failed=failed,
            again_s=0.0 if has_moved else self._retry_s(observed),
            regained=tuple(regained.difference(observed.refused.values(), failed)),
        )

    def _retry_s(self, observed: Observed) -> float | None:
        if not observed.refused:
            return None
        return RETRY_S if all(map(self._is_at_localhost, observed.refused)) else TAKEN_RETRY_S

    def _is_upgrade(self) -> bool:
        """Whether the process before may still run."""
        return time.monotonic() < self._passed.met_s + UPGRADE_S

    def _is_at_localhost(self, place: Place) -> bool:
        return place.family in self.at_localhost and place.address == ADDRESSES[place.family]

    def assume(self, plan: UserspacePlan, observed: Observed) -> Applied:
        observed.fold(plan)
        return Applied(operations=plan.size, transactions=1 if plan else 0)

    def _hear(self, observed: Observed) -> bool:
        """Take in what was announced of this host's addresses; return whether they are others: NodePorts have to follow."""
        if self._ears is None:
            return False
        news = self._ears.take()
        if news is None or concerns(news._replace(addresses={}), observed):
            self._is_foreign = True
            return False
        return self._believe(news, observed)

    def _believe(self, news: News, observed: Observed) -> bool:
        """Take in what was announced of this host's addresses; return whether they are others."""
        gone = {address for address, is_there in news.addresses.items() if not is_there}
        host = observed.host.union(news.addresses) - gone
        if host == observed.host:
            return False
        observed.host = host
        self._tell_here(observed)
        return True

    def _tell_here(self, observed: Observed) -> None:
        """Have the engine know who is on this node, as far as that is known."""
        if observed.node is not None:
            pods = self._settings.detector.ranges(observed.node.described)
            self._engine.set_here(observed.host, pods)

    def _route(self, plan: UserspacePlan, observed: Observed) -> Failed:
        failed = self._kernel(0).add(plan.routes)
        for text, owner in plan.routes:
            if owner is None:
                observed.black_holes[text] = None
            elif owner not in failed:
                observed.routes[text] = None
        if failed:  # of several addresses of one owner perhaps only one was refused
            self._reread(observed)
        return failed

    def _unroute(self, plan: UserspacePlan, observed: Observed) -> Failed:
        failed = self._kernel(0).remove(plan.unrouted)
        for text, _ in plan.unrouted:
            (observed.black_holes if "/" in text else observed.routes).pop(text, None)
        if failed:
            self._reread(observed)
        return failed

    def _reread(self, observed: Observed) -> None:
        observed.routes = dict.fromkeys(self._kernel(0).read().routes)

    def _serve(self, plan: UserspacePlan, observed: Observed) -> None:
        for key, serving in plan.serving:
            self._engine.serve(key, serving)
            observed.serve(key, serving)
            if key.name.protocol not in SERVED and key not in self._told:
                self._told.add(key)
                log.warning("%s is not served: mode userspace forwards TCP and UDP", key)

    async def _listen(
        self, plan: UserspacePlan, observed: Observed, failed: Failed
    ) -> set[PortKey]:
        """Open listeners; return who listens where they could not before."""
        regained: set[PortKey] = set()
        for number, (place, listening) in enumerate(plan.listening, start=1):
            try:
                self._engine.listen(place, listening)
            except OSError as error:
                if self._engine.has(place):
                    self._engine.stop(place)
                self._refuse(place, listening.owner, error, observed, failed)
            else:
                if place in observed.refused:
                    regained.add(listening.owner)
                    if self._is_at_localhost(place):
                        log.info("%s is served at localhost now", listening.owner)
                observed.listen(place, listening)
            if not number % AT_ONCE:
                await asyncio.sleep(0)
        return regained

    def _refuse(
        self, place: Place, owner: PortKey, error: OSError, observed: Observed, failed: Failed
    ) -> None:
        """Believe that nobody listens somewhere. At localhost that is none of the mode, as it is none of others."""
        why, was_refused = describe(place, error), place in observed.refused
        observed.listen(place, None)
        is_at_localhost = self._is_at_localhost(place)
        if not is_at_localhost:
            failed[owner] = why
        if is_at_localhost or (error.errno == errno.EADDRINUSE and self._is_upgrade()):
            observed.refused[place] = owner
        if is_at_localhost and not was_refused:
            log.error("%s is not served at localhost, trying again: %s", owner, why)

    async def _close(self, plan: UserspacePlan, observed: Observed) -> None:
        for number, (place, _) in enumerate(plan.closing, start=1):
            if self._engine.has(place):
                self._engine.stop(place)
            observed.listen(place, None)
            if not number % AT_ONCE:
                await asyncio.sleep(0)
        for key in plan.forgotten:
            self._engine.forget(key)
            observed.serve(key, None)
            self._told.discard(key)

    async def verify(self, observed: Observed) -> list[Drift]:
        async with self._background_lock:
            before = observed.host
            drifts = await verify(self._kernel(1), self._engine, observed, self._lock)
            if observed.host != before:
                self._tell_here(observed)
            return drifts

    async def read_back(
        self,
        desired: Desired,
        observed: Observed,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        facts = None
        if keys is None:
            async with self._background_lock:
                facts = await to_thread(self._kernel(1).read)
        for key in list(observed.serving) if keys is None else keys:
            yield look_at(key, self._engine, observed, facts)
            await asyncio.sleep(0)
        if facts is not None:
            yield look_at_rest(observed, facts)

    def has_foreign_change(self, observed: Observed) -> bool:
        """Tell whether our routes or this host's addresses are others. Of listeners only a comparison tells."""
        if self._lock.locked() or self._ears is None:  # belief is about to change
            return False
        was_foreign, self._is_foreign = self._is_foreign, False
        news = self._ears.take()
        if was_foreign or news is None or concerns(news, observed):
            return True
        self._believe(news, observed)
        return False

    def figures(self) -> tuple[Figure, ...]:
        totals = self._engine.totals()

        def figure(name: str, text: str, label: str = "", **values: str) -> Figure:
            found = {shown: float(totals.get(counted, 0)) for shown, counted in values.items()}
            return Figure(name=name, text=text, values=found, label=label)

        return (
            figure("open", "Connections and flows there are.", "protocol", tcp="connections", udp="flows"),
            figure("accepted_total", "Connections and flows that clients have begun.", **{"": "accepted"}),
            figure(
                "bytes_total", "Bytes forwarded, by who said them; of connections when they end.",
                "from", client="received", endpoint="sent",
            ),
            figure("connect_failures_total", "Attempts at endpoints that did not accept.", **{"": "failures"}),
            figure("refused_total", "Connections for which no endpoint was left.", **{"": "refused"}),
            figure("rests_total", "Times at which nobody was accepted for lack of files or memory.", **{"": "rests"}),
        )  # fmt: skip

    async def retire(self) -> Retired:
        """Give addresses up: whoever serves now needs no local ones, and nobody listens there any more."""
        removed = await self.cleanup()
        return Retired(removed=(f"{removed} routes",) if removed else ())

    async def drain(self, deadline_s: float) -> int:
        """Accept nobody any more and wait until connections have ended, at most so long; return how many have not.

        For a process that was told to stop; another one may have taken the listeners over by then.
        """
        return await self._engine.drain(deadline_s)

    async def cleanup(self) -> int:
        async with self._lock:
            open_kernel, _ = self._open
            with open_kernel() as kernel:
                return await to_thread(kernel.remove_all)

    def close(self) -> None:
        """End what is forwarded. Addresses stay local, so that the next process has them."""
        self._engine.close()
        for kernel in self._kernels:
            kernel.close()
        if self._ears is not None:
            self._ears.close()
        self._kernels, self._ears = [], None
