"""On the way out: everything of ours goes, rules first, then the sets they ask. Shell.

Connections go on: connection tracking translates them. Rules of others keep their place and counters. Where one of them leads
to a chain of ours, that chain stays, empty: the kernel does not let it go.
"""

import errno
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from backends.iptables.adopt import read_chains, read_jumps
from backends.iptables.model import (
    CHAINS,
    SETS,
    TABLES,
    Chain,
    ChainState,
    ChainWrite,
    Table,
    TableStep,
)
from backends.iptables.restoring import Restoring
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.xtables import Incompatible, Xtables
from backends.kernel.xtables_text import Chain as SavedChain
from backends.kernel.xtables_text import split_rule
from proxy.errors import KernelError, Unsupported
from proxy.model import Family
from proxy.threads import to_thread

log = logging.getLogger(__name__)

_NO_IPSET: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""What a question for sets is answered with where the kernel has none, or not even netfilter's netlink."""


async def remove_rules(doors: Iterable[Xtables], restoring: Restoring) -> int:
    """Remove our rules and chains; return how many chains and jumps. Raises KernelError."""
    removed = 0
    for door in doors:
        for table in TABLES:
            try:
                saved = await to_thread(door.save, table)
            except Incompatible as error:
                log.warning("left as it is: %s", error)
                continue
            step = leave(door.programs.family, table, saved)
            if step.size:
                lines = [line.text for line in step.lines()]
                await restoring.restore(door, table, lines)
                removed += len(step.removes) + len(step.gone_jumps)
    return removed


def leave(family: Family, table: Table, saved: Mapping[str, SavedChain]) -> TableStep:
    """Return what removes all of ours from a table. Pure."""
    chains = read_chains(saved)
    held = sorted({target for target in _foreign_targets(saved) if target in chains})
    for name in held:
        log.warning(
            "%s: chain %s of %s stays, empty: rules of others lead there", family, name, table
        )
    return TableStep(
        family,
        table,
        writes=tuple([ChainWrite(Chain(name, (), ChainState("", 0))) for name in held]),
        gone_jumps=tuple(read_jumps(saved)),
        removes=tuple([name for name in chains if name not in held]),
    )


def _foreign_targets(saved: Mapping[str, SavedChain]) -> Iterable[str]:
    """Yield where rules of others lead in chains of their own; those in built-in chains that lead to us are ours."""
    for name, chain in saved.items():
        if chain.policy is None and not name.startswith(CHAINS):
            for rule in chain.rules:
                if CHAINS in rule:
                    yield from split_rule(rule)


def remove_sets(ipset: Ipset) -> int:
    """Remove our sets of all families; return how many. Raises Unsupported, KernelError where a rule still asks one."""
    ours = own_sets(ipset)
    for refusal in ipset.carry_out([ipset_messages.destroy(name) for name in ours]):
        raise KernelError("remove sets", refusal.errno, str(refusal))
    return len(ours)


def own_sets(ipset: Ipset) -> list[str]:
    """Return the names of our sets, of all families. Raises Unsupported where the kernel has no sets, KernelError."""
    prefixes = tuple(SETS.values())
    try:
        states = ipset.list_sets()
    except KernelError as error:
        if error.errno in _NO_IPSET:
            raise Unsupported("ipset", error.message) from error
        raise
    return [state.set.name for state in states if state.set.name.startswith(prefixes)]
