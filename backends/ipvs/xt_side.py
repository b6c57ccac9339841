"""The side rules in chains of iptables and sets of ipset: the side for kernels without nftables. Shell.

Rules are written when there is none yet, or somebody has changed them; all else is members of sets, over netlink, each by itself. What
nftables would do at once is done in an order in which no frontend is lost: what is added comes before what goes, and what lets a
packet through before what stops it.

The kernel counts no generations here. What changes when somebody writes to a table, and how many members our sets have, takes their
place: a member that somebody changes in place is left to the periodic comparison.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from backends.ipvs.layout import Layout
from backends.ipvs.xt_layout import CHAINS, TABLES, XtLayout
from backends.ipvs.xt_members import ip_set
from backends.ipvs.xt_probing import probe
from backends.ipvs.xt_sets import XtSets
from backends.ipvs.xt_tables import Known, read_chains, remove_chains, write_chains
from backends.ipvs.xt_writes import Counts, Message, additions, counted, removals
from backends.kernel import ipset_messages, xtables_flavour
from backends.kernel.ipset import Ipset
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_numbers import TableNumbers
from backends.kernel.xtables_text import Flavour
from proxy.errors import Unsupported
from proxy.model import Family

log = logging.getLogger(__name__)

_INLINE_MESSAGES: Final = 1000


class Numbers(Protocol):
    """What `TableNumbers` tells."""

    def look(self) -> object: ...

    def close(self) -> None: ...


class Tools(NamedTuple):
    """How this host is reached. All of them may block."""

    find: Callable[[Sequence[Family]], Choice] = lambda families: xtables_flavour.find(
        families, CHAINS, is_loud=False
    )
    open_ipset: Callable[[], Ipset] = Ipset
    open_numbers: Callable[[Flavour, Iterable[Family]], Numbers] = lambda flavour, families: (
        TableNumbers(flavour, families, TABLES)
    )
    probe: Callable[[Choice, Layout], None] = probe


class _Seen(NamedTuple):
    """What changes with our tables, and each of our sets with the number of its members."""

    tables: object
    sets: Counts


class XtSide:
    """Chains of one flavour, which is chosen at the first use, and sets."""

    objects = "chains, rules and sets of iptables"
    layout_of = XtLayout

    def __init__(
        self, families: Sequence[Family], tools: Tools, known: Known | None = None
    ) -> None:
        """`known` is shared by those that are at work on the same tables."""
        self._families = tuple(families)
        self._tools = tools
        self._known = known or Known()
        self._sets = XtSets(tools.open_ipset())
        self._found: Choice | None = None
        self._numbers: Numbers | None = None
        self._seen: _Seen | None = None
        self._generation = 0

    @property
    def words(self) -> str:
        flavour = f" ({self._found.flavour})" if self._found is not None else ""
        return f"iptables{flavour} and ipset"

    @property
    def _choice(self) -> Choice:
        if self._found is None:
            self._found = self._tools.find(self._families)
        return self._found

    def generation(self) -> int:
        found = self._look()
        if found != self._seen:
            self._seen = found
            self._generation += 1
        return self._generation

    def _look(self) -> _Seen:
        if self._numbers is None and self._door(self._families[0]) is not None:
            self._numbers = self._tools.open_numbers(self._choice.flavour, self._families)
        seen = self._numbers.look() if self._numbers is not None else None
        return _Seen(seen, self._sets.counts())

    def is_slow(self, step: Transaction) -> bool:
        return bool(step.chains or step.rebuild or step.size > _INLINE_MESSAGES)

    # --- writing

    def commit(self, step: Transaction) -> None:
        expected = self._expected(step)
        sets = self._sets
        surplus = {
            family: sets.make_way(family, partial(self._remove_rules, family))
            for family in step.rebuild
        }
        sets.carry_out([Message(ipset_messages.create(ip_set(f, s.name))) for f, s in step.sets])
        sets.carry_out(additions(step))
        sets.carry_out(removals(step, sets.members, sets.has))
        for family in dict.fromkeys([family for family, _ in step.chains]):
            chains = [spec for of, spec in step.chains if of == family]
            door = self._choice.tables[family]
            write_chains(door, chains, self._known, is_all=family in step.rebuild)
        for names in surplus.values():
            sets.destroy_unasked(names)
        self._seen = expected or self._look()
        self._generation += 1

    def _expected(self, step: Transaction) -> _Seen | None:
        """Return what will be seen after a commit; None where that is not known beforehand."""
        if self._seen is None:
            return None
        after = counted(step, self._seen.sets)
        return None if after is None else self._seen._replace(sets=after)

    def _remove_rules(self, family: Family) -> None:
        remove_chains([self._choice.tables[family], *self._choice.left.values()], self._known)

    # --- reading

    def read_tables(self, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
        generation = self.generation()
        tables: dict[Family, TableFacts] = {}
        for family in families:
            facts = tables[family] = self.read_structure(family)
            facts.elements |= self._sets.elements(family, facts.sets)
        return tables, generation

    def read_structure(self, family: Family) -> TableFacts:
        facts = TableFacts()
        facts.sets |= self._sets.shapes(family)
        door = self._door(family)
        if door is not None:
            facts.chains |= read_chains(door, self._known)
        facts.is_present = bool(facts.sets or facts.chains)
        return facts

    def _door(self, family: Family) -> Xtables | None:
        """Return the door to the tables; none without programs, and then nobody can have written rules."""
        try:
            return self._choice.tables[family]
        except Unsupported:
            return None

    def read_elements(
        self, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        return self._sets.read_elements(family, name, keys)

    # --- trying, and removing

    def try_out(self, layout: Layout) -> None:
        if self._choice.is_proven:
            return
        self._tools.probe(self._choice, layout)

    def is_there(self) -> bool:
        return self._sets.are_there()

    def sweep(self) -> int:
        count = remove_chains(self._choice.left.values(), self._known)
        if count:
            log.info("moved from the other flavour: %d rules of ours removed there", count)
        self._found = self._choice._replace(left={})
        return count

    def delete(self) -> int:
        """Rules go first, then the sets they ask."""
        count = 0
        if self._door(self._families[0]) is not None:
            count += remove_chains(self._choice.tables.values(), self._known)
            count += remove_chains(self._choice.left.values(), self._known)
        if not self.is_there():
            return count
        names = [state.set.name for state in self._sets.states()]
        self._sets.destroy(names)
        return count + len(names)

    def close(self) -> None:
        self._sets.close()
        if self._numbers is not None:
            self._numbers.close()
