"""In which order elements are written, so that every live frontend is answered throughout (proxy.backend, L5). Pure.

A packet reads one element after the other, and a commit may fall between two reads, but a later read never sees an older
state. So

- within a pool nothing needs an order, because what is missing is drawn again (see `picking`);
- what a verdict leads to comes in the same transaction or an earlier one, and goes in a later one;
- what a packet looks up later than the verdict of a frontend that stays is left for a while (`belief.Leaving`): the
  slots of a list that is not used any more, and what has a packet masqueraded after its endpoint was chosen;
- what diverts or stops a packet before the verdict comes one transaction before it, and goes one after.

Two more things about a packet that is under way while a transaction takes effect: it sees the elements after it, but
the rules of before it, so that a chain of that transaction is empty to it; and a set of intervals is looked up, for an
instant, as it was (on 6.18, 1 of 20,000 new flows lost while source ranges were replaced 40 times a second). So new
chains and new sets of intervals are laid in a transaction of their own, before anything leads there.

Most plans need no more than one transaction.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from backends.kernel.nft_numbers import SetFlag
from backends.kernel.nft_table import ChainSpec, TableFacts
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.kernel.nft_values import Values, differences
from backends.nftables.belief import Leaving, Place
from backends.nftables.model import DIVERTING, EXTERNAL_IPS, PLACES, Keys
from backends.nftables.names import form_of
from proxy.model import Family

T = TypeVar("T")


_OUTER: Final = frozenset([PLACES["external-ip"].verdicts, PLACES["node-port"].verdicts])
_LAST_IN: Final = _OUTER | {EXTERNAL_IPS}


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
    """Compare wanted values with belief, and return what to write first, then, and last, and what to leave for a while."""
    first, middle, last = Step(), Step(), Step()
    left: list[Keys] = []
    is_diverting = False
    for (family, set_name), values in sets.items():
        believed = facts[family].elements.get(set_name, {})
        gone, new = differences(values, believed, form_of(set_name))
        if set_name in _LAST_IN:
            middle.note(family, set_name, gone, new)
            continue
        waiting = going.late.get((family, set_name), ())
        leaving = going.leaving.get((family, set_name), ())
        ended = {element.key for element in gone} - {element.key for element in new}
        if set_name in DIVERTING:
            waiting = ended
            is_diverting = is_diverting or bool(new)
        if ended and leaving:
            left.append((family, set_name, ended.intersection(leaving)))
            gone = [e for e in gone if e.key not in ended or e.key not in leaving]
        if ended and waiting:
            last.note(
                family, set_name, [e for e in gone if e.key in ended and e.key in waiting], []
            )
            gone = [e for e in gone if e.key not in ended or e.key not in waiting]
        first.note(family, set_name, gone, new)
    if not (is_diverting and middle.adds):
        first.merge(middle)
        middle = Step()
    return first, middle, last, left


def laid_first(whole: Transaction, facts: Mapping[Family, TableFacts]) -> list[Transaction]:
    """Part a transaction into what nothing leads to yet and all the rest."""
    intervals = {
        (family, spec.name) for family, spec in whole.sets if spec.facts.flags & SetFlag.INTERVAL
    }
    old, new = _parted(whole.chains, lambda each: each[1].name not in facts[each[0]].chains)
    adds, ready = _parted(whole.adds, lambda batch: (batch.family, batch.set) in intervals)
    return [
        Transaction(sets=whole.sets, chains=new, adds=ready),
        whole._replace(sets=(), chains=old, adds=adds),
    ]


def _parted(
    items: Iterable[T], belongs: Callable[[T], bool]
) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Return the items for which that is not so, and those for which it is."""
    parts: tuple[list[T], list[T]] = [], []
    for item in items:
        parts[belongs(item)].append(item)
    return tuple(parts[0]), tuple(parts[1])


def swept(due: Leaving, facts: Mapping[Family, TableFacts]) -> list[Transaction]:
    """Return what removes all that was left for packets that are no longer on their way."""
    batches = []
    for (family, name), keys in due.elements.items():
        believed = facts[family].elements.get(name, {})
        elements = [Element(key, believed[key], None) for key in sorted(keys) if key in believed]
        if elements and (family, name) not in due.sets:
            batches.append(Batch(family, name, tuple(elements)))
    emptied = [(family, ChainSpec(name, None, ())) for family, name in due.chains]
    return [
        Transaction(chains=tuple(emptied), deletes=tuple(batches), gone_sets=tuple(due.sets)),
        Transaction(gone_chains=tuple(due.chains)),
    ]
