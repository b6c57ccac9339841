"""Carries out the steps of a plan, and tells whom what the kernel refuses belongs to. Shell.

`iptables-restore` takes a commit as a whole or not at all, and does not always say because of what. Where it names a line, the
line says whose it is. Where it does not, the chains of half of the ServicePorts are tried, then half of those that were
refused: what is written so is in nobody's way, since chains come before the rules that lead to them.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from backends.iptables.adopt import read_chains, read_jumps
from backends.iptables.belief import Observed
from backends.iptables.canary import Canary, Stamp
from backends.iptables.kernel import Doors
from backends.iptables.model import CANARY, ChainWrite, SetStep, Step, TableStep, empty_chain
from backends.iptables.restoring import Restoring
from backends.iptables.sets import fixed_sets
from backends.kernel.ipset import NOTICED_S, Refusal
from backends.kernel.xtables import Incompatible, Refused
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError
from proxy.model import PortKey
from proxy.threads import to_thread

log = logging.getLogger(__name__)

INLINE: Final = 200
"""A step with more objects is seen to in a thread: it would hold the event loop for more than some milliseconds."""
RULES_AT_ONCE: Final = 2000
"""How many rules a call of the nft flavour has: its time grows with the square of them. Legacy copies its table each time."""
_LOOK_S: Final = 0.02

T = TypeVar("T")
Failed = dict[PortKey, str]


class Writer:
    """Writes to the sets, and to the tables of one flavour. `folds` counts what was folded into belief."""

    def __init__(
        self, flavour: Flavour, doors: Doors, canary: Canary, restoring: Restoring
    ) -> None:
        self._flavour = flavour
        self._doors = doors
        self._canary = canary
        self._restoring = restoring
        self.folds = 0

    async def take(self, step: Step, observed: Observed, stamp: Stamp) -> Failed:
        """Take one step and fold in what was confirmed; return the ServicePorts whose part was refused, and why.

        `stamp` is kept up with it. Raises KernelError where nobody's part was refused, the lock was not to be had, or the
        outcome is unknown.
        """
        if isinstance(step, SetStep):
            return await self._take_sets(step, observed)
        written: list[str] = []
        for part in step.parts(RULES_AT_ONCE) if self._flavour is Flavour.NFT else [step]:
            failed = await self._commit(part, observed, stamp)
            if failed:
                if step.table == "nat":
                    observed.doubt(step.family, written)
                return failed
            written += [write.chain.name for write in part.writes]
        return {}

    async def _take_sets(self, step: SetStep, observed: Observed) -> Failed:
        """Take a step; if sets go that are to be made anew, wait until the kernel has noticed that no rule asks them any more."""
        refusals, left = await self._carry_out(step, observed), step
        waited_s, fixed = 0.0, fixed_sets(step.family)
        while waited_s < NOTICED_S:
            again = [left.changes[refusal.index] for refusal in refusals]
            if not any(each.verb == "destroy" and each.name in fixed for each in again):
                break
            await asyncio.sleep(_LOOK_S)
            waited_s += _LOOK_S
            left = step._replace(changes=tuple(again))
            refusals = await self._carry_out(left, observed)
        return _blamed(left, refusals)

    async def _carry_out(self, step: SetStep, observed: Observed) -> list[Refusal]:
        """Each message stands for itself."""
        ipset = self._doors.ipset
        refusals = await _soon(step, lambda: ipset.carry_out(step.requests()))
        await _soon(step, lambda: observed.fold(step, {refusal.index for refusal in refusals}))
        self.folds += 1
        return refusals

    async def _commit(self, step: TableStep, observed: Observed, stamp: Stamp) -> Failed:
        refused = await self._try(step, observed, stamp)
        if refused is None:
            return {}
        less = step.keeping(refused.refusals[0].index)
        if less is not None:
            log.warning("stays, empty, since rules of others lead there: %s", refused)
            return await self._commit(less, observed, stamp)
        if not step.keys:
            raise refused
        first = refused.refusals[0]
        owner = step.lines()[first.index].owner if first.index is not None else None
        if owner is not None:
            failed = {owner: first.text}
        else:
            nothing = ChainWrite(empty_chain(CANARY))
            if await self._try(TableStep(step.family, step.table, (nothing,)), observed, stamp):
                raise refused  # whatever it is that is refused, it is nobody's
            failed = await self._isolate(step, str(refused), observed, stamp)
        await self._look_back(step, failed, observed, stamp)
        return failed

    async def _isolate(
        self, step: TableStep, why: str, observed: Observed, stamp: Stamp
    ) -> Failed:
        """Find one whose own chains are refused; if there is none, all are."""
        suspects = list(dict.fromkeys([w.owner for w in step.writes if w.owner is not None]))
        while suspects:
            half = suspects[: max(len(suspects) // 2, 1)]
            refused = await self._try(_only(step, half), observed, stamp)
            if refused is not None and len(half) == 1:
                return {half[0]: str(refused)}
            suspects = suspects[len(half) :] if refused is None else half
        return dict.fromkeys(step.keys, why)

    async def _look_back(
        self, step: TableStep, failed: Failed, observed: Observed, stamp: Stamp
    ) -> None:
        """Read what there is of the chains that were refused, and remove what leads to them.

        From some of the built-in chains nothing may be translated, so whoever leads there is in the way.
        """
        try:
            saved = await to_thread(self._doors.tables[step.family].save, step.table)
        except (
            Incompatible
        ):  # then nothing that is ours was changed, and of the rest nothing is known
            return
        there = read_chains(saved)
        own = [write.chain.name for write in step.writes if write.owner in failed]
        for name in own:
            observed.correct_chain(step.family, step.table, name, there.get(name))
        known = observed.facts[step.family].jumps[step.table]
        strange = [
            jump
            for jump in read_jumps(saved)
            if (jump.chain, jump.mark) not in known and not set(own).isdisjoint(jump.rule.split())
        ]
        for jump in strange:
            log.warning("in the way, removed: -A %s %s", jump.chain, jump.rule)
            way = TableStep(step.family, step.table, gone_jumps=(jump,))
            refused = await self._try(way, observed, stamp)
            if refused is not None:
                raise refused

    async def _try(self, step: TableStep, observed: Observed, stamp: Stamp) -> Refused | None:
        """Commit a step and fold it in, or return why it was refused."""
        lines = await _soon(step, lambda: [line.text for line in step.lines()])
        if lines:
            try:
                await self._restoring.restore(self._doors.tables[step.family], step.table, lines)
            except Refused as refused:
                return refused
            grown = entries_grown(step, observed)
            self._canary.written(stamp, step.family, step.table, grown)
        await _soon(step, lambda: observed.fold(step))
        self.folds += 1
        return None


def entries_grown(step: TableStep, observed: Observed) -> int:
    """Return by how many entries a legacy table grows: a rule is one, and each chain has two more. Pure."""
    chains = observed.facts[step.family].chains[step.table]
    before = [*[write.chain.name for write in step.writes], *step.removes]
    after = sum([len(write.chain.rules) + 2 for write in step.writes])
    gone = sum([chains[name].rules + 2 for name in before if name in chains])
    return after - gone + len(step.jumps) - len(step.gone_jumps)


async def _soon(step: Step, work: Callable[[], T]) -> T:
    """Do what takes time in proportion to a step. Nothing but what is waiting for it changes belief meanwhile."""
    return work() if step.size <= INLINE else await to_thread(work)


def _only(step: TableStep, owners: Collection[PortKey]) -> TableStep:
    """Return the part of a step that writes the own chains of some."""
    writes = tuple([write for write in step.writes if write.owner in owners])
    return TableStep(step.family, step.table, writes, keys=tuple(owners))


def _blamed(step: SetStep, refusals: Sequence[Refusal]) -> Failed:
    """Return the ServicePorts whose messages were refused. Raises KernelError for one that is nobody's."""
    failed: Failed = {}
    for refusal in refusals:
        if step.changes[refusal.index].verb == "destroy":
            # a rule of somebody else's asks it, or one of ours did a moment ago: it goes with a later sweep
            log.debug("left for now: %s", refusal)
            continue
        owner = step.changes[refusal.index].owner
        owners = step.keys if owner is None else (owner,)
        if not owners:
            raise KernelError("ipset", refusal.errno, str(refusal))
        for each in owners:
            failed.setdefault(each, str(refusal))
    return failed
