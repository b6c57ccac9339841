"""On the way out: everything of ours goes, rules first, then the sets they ask. Shell.

Connections go on: connection tracking translates them. Rules of others keep their place and counters. Where one of them leads
to a chain of ours, that chain stays, empty: the kernel does not let it go. What cannot be read is removed by name.
"""

import logging
from collections.abc import Iterable, Mapping

from backends.iptables import kernel
from backends.iptables.adopt import read_chains, read_jumps
from backends.iptables.layout import JUMPS
from backends.iptables.model import SETS, TABLES, Table, TableStep
from backends.iptables.restoring import Restoring
from backends.iptables.writer import RULES_AT_ONCE
from backends.kernel.ipset import Ipset
from backends.kernel.netfilter import NOT_THERE
from backends.kernel.xtables import Incompatible, Refused, Xtables
from backends.kernel.xtables_text import Chain as SavedChain
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import Family
from proxy.threads import to_thread

log = logging.getLogger(__name__)


async def remove_rules(doors: Iterable[Xtables], restoring: Restoring) -> int:
    """Remove our rules and chains; return how many chains and jumps. Raises KernelError."""
    removed = 0
    for door in doors:
        for table in TABLES:
            try:
                saved = await to_thread(door.save, table)
            except Incompatible:
                removed += await to_thread(_remove_jumps, door, table)
                saved = await to_thread(kernel.outline, door, table)
            step = leave(door.programs.family, table, saved)
            is_nft = door.programs.version.flavour is Flavour.NFT
            for part in step.parts(RULES_AT_ONCE) if is_nft else [step]:
                done = await _carry_out(part, door, restoring)
                removed += len(done.removes) + len(done.gone_jumps)
        await to_thread(door.close)
    return removed


def _remove_jumps(door: Xtables, table: Table) -> int:
    """Remove our rules in built-in chains without the programs, which cannot look past a rule that they cannot read."""
    return sum([door.remove_commented(table, j.chain, j.mark) for j in JUMPS[table]])


async def _carry_out(step: TableStep, door: Xtables, restoring: Restoring) -> TableStep:
    """Carry a step out, but for chains that have to stay; return what was done."""
    while step.size:
        lines = [line.text for line in step.lines()]
        try:
            await restoring.restore(door, step.table, lines)
            break
        except Refused as refused:
            less = step.keeping(refused.refusals[0].index)
            if less is None:
                raise
            log.warning("stays, empty, since rules of others lead there: %s", refused)
            step = less
    return step


def leave(family: Family, table: Table, saved: Mapping[str, SavedChain]) -> TableStep:
    """Return what removes all of ours from a table. Pure."""
    return TableStep(
        family,
        table,
        gone_jumps=tuple(read_jumps(saved)),
        removes=tuple(read_chains(saved)),
    )


def remove_sets(ipset: Ipset) -> int:
    """Remove our sets of all families; return how many. Raises Unsupported, KernelError where a rule still asks one."""
    ours = own_sets(ipset)
    for refusal in ipset.destroy(ours):
        raise KernelError("remove sets", refusal.errno, str(refusal))
    return len(ours)


def own_sets(ipset: Ipset) -> list[str]:
    """Return the names of our sets, of all families. Raises Unsupported where the kernel has no sets, KernelError."""
    prefixes = tuple(SETS.values())
    try:
        states = ipset.list_sets()
    except KernelError as error:
        if error.errno in NOT_THERE:
            raise Unsupported("ipset", error.message) from error
        raise
    return [state.set.name for state in states if state.set.name.startswith(prefixes)]
