"""In which order elements are written, so that every live frontend is answered throughout (proxy.backend, L5). Pure.

A packet reads one element after the other, and a commit may fall between two reads, but a later read never sees an older
state. So

- within a pool nothing needs an order, because what is missing is drawn again (see `picking`);
- what a verdict leads to comes in the same transaction or an earlier one, and goes in a later one;
- what a packet looks up later than the verdict of a frontend that stays is left for a while (`belief.Leaving`): the
  slots of a list that is not used any more, and what has a packet masqueraded after its endpoint was chosen;
- what stops a packet before the verdict comes one transaction before all that it must not reach, endpoints too (an address
  may go over to another ServicePort), and goes one after;
- what lets a source in, and what lets it in no longer, go the same way: all of the new before any of the old goes.

One more thing about a packet that is under way while a transaction takes effect: it sees the elements after it, but
the rules of before it, so that a chain of that transaction is empty to it. So new chains are laid in a transaction of
their own, before anything leads there, and so are the rules that ask a new set of ranges.

Most plans need no more than one transaction.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backends.kernel.nft_table import ChainSpec, TableFacts
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.kernel.nft_values import Values, differences
from backends.nftables.belief import Leaving, Place
from backends.nftables.model import GUARDED, SOURCES, Keys
from backends.nftables.names import form_of
from backends.nftables.ranges import LENGTHS
from proxy.model import Family


class Going(NamedTuple):
    """Elements that should not exist any more and may not go at once, by set."""

    late: dict[Place, set[bytes]]
    """They go once the verdicts that led to them have gone."""
    leaving: dict[Place, set[bytes]]
    """They stay for a while: the verdict that led to them leads elsewhere now."""


class Step:
    """Elements of one transaction."""

    def __init__(self) -> None:
        self.deletes: list[Batch] = []
        self.adds: list[Batch] = []

    def note(
        self, family: Family, set_name: str, gone: Sequence[Element], new: Sequence[Element]
    ) -> None:
        if gone:
            self.deletes.append(Batch(family, set_name, tuple(gone)))
        if new:
            self.adds.append(Batch(family, set_name, tuple(new)))

    def __bool__(self) -> bool:
        return bool(self.deletes or self.adds)

    def merge(self, other: "Step") -> None:
        self.deletes += other.deletes
        self.adds += other.adds


def in_order(
    sets: Mapping[Place, Values],
    facts: Mapping[Family, TableFacts],
    going: Going,
) -> tuple[Step, Step, Step, list[Keys]]:
    """Compare wanted values with belief, and return what to write first, then, and last, and what to leave for a while.

    In a table that is just being made all comes at once: nobody is served by it yet, or everybody was until it was unmade.
    """
    first, middle, last = Step(), Step(), Step()
    left: list[Keys] = []
    is_limiting = False
    for (family, set_name), values in sets.items():
        believed = facts[family].elements.get(set_name, {})
        gone, new = differences(values, believed, form_of(set_name))
        waiting = going.late.get((family, set_name), ())
        leaving = going.leaving.get((family, set_name), ())
        ended = {element.key for element in gone} - {element.key for element in new}
        is_served = facts[family].is_present
        step = middle if is_served else first
        if set_name == GUARDED or set_name in LENGTHS[family]:
            step, waiting = first, ended
            is_limiting = is_limiting or (is_served and bool(new))
        if ended and leaving:
            left.append((family, set_name, ended.intersection(leaving)))
            gone = [e for e in gone if e.key not in ended or e.key not in leaving]
        if ended and waiting:
            last.note(
                family, set_name, [e for e in gone if e.key in ended and e.key in waiting], []
            )
            gone = [e for e in gone if e.key not in ended or e.key not in waiting]
        step.note(family, set_name, gone, new)
    if not (is_limiting and middle.adds):
        first.merge(middle)
        middle = Step()
    return first, middle, last, left


def laid_first(whole: Transaction, facts: Mapping[Family, TableFacts]) -> list[Transaction]:
    """Part a transaction into what nothing leads to yet and all the rest."""
    chains: tuple[list[tuple[Family, ChainSpec]], list[tuple[Family, ChainSpec]]] = [], []
    for family, spec in whole.chains:
        is_there = spec.name in facts[family].chains and spec.name != SOURCES
        chains[is_there].append((family, spec))
    return [
        Transaction(sets=whole.sets, chains=tuple(chains[False])),
        whole._replace(sets=(), chains=tuple(chains[True])),
    ]


def swept(due: Leaving, facts: Mapping[Family, TableFacts]) -> list[Transaction]:
    """Return what removes all that was left for packets that are no longer on their way."""
    batches = []
    for (family, name), keys in due.elements.items():
        believed = facts[family].elements.get(name, {})
        elements = [Element(key, believed[key], None) for key in sorted(keys) if key in believed]
        if elements:
            batches.append(Batch(family, name, tuple(elements)))
    emptied = [(family, ChainSpec(name, None, ())) for family, name in due.chains]
    return [
        Transaction(chains=tuple(emptied), deletes=tuple(batches)),
        Transaction(gone_chains=tuple(due.chains)),
    ]
