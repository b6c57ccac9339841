"""In which order steps are taken, so that every live frontend is answered throughout (proxy.backend, L5). Pure.

Ports of an address that is put on our device are refused before it is there; it is on the device before there is a virtual
server at it, which is how ours are told from others'; packets are let through to IPVS when the virtual server has its
destinations; and back in reverse. What diverts or stops a packet before its frontend is looked up (short cuts, source
ranges) comes before that, and goes after it.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from backends.ipvs.draft import Draft
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    ELSEWHERE,
    GUARDED,
    HAIRPIN,
    HEALTH_PORTS,
    NODEPORT_SHORTCUTS,
    SHORTCUTS,
    AddressStep,
    IpvsStep,
    Step,
    form_of,
)
from backends.kernel.nft_node import NODEPORT_IPS
from backends.kernel.nft_table import ChainSpec, SetSpec, TableFacts
from backends.kernel.nft_transaction import Batch, Transaction
from backends.kernel.nft_values import Values, differences
from proxy.model import IPV4, Family

_FIRST: Final = frozenset(
    [BOUND, ELSEWHERE, NODEPORT_IPS, HAIRPIN, HEALTH_PORTS, ALLOWED, GUARDED]
)
_DIVERTING: Final = frozenset([SHORTCUTS, NODEPORT_SHORTCUTS])
_STOPPING: Final = frozenset([GUARDED, ALLOWED])


class _Writes:
    """Elements of one transaction."""

    def __init__(self) -> None:
        self.deletes: list[Batch] = []
        self.adds: list[Batch] = []

    def __bool__(self) -> bool:
        return bool(self.deletes or self.adds)

    def merge(self, other: "_Writes") -> None:
        self.deletes += other.deletes
        self.adds += other.adds
        other.deletes, other.adds = [], []


class _Stages(NamedTuple):
    """Elements by when they are written: see `in_order`."""

    first: _Writes
    diverting: _Writes
    frontends: _Writes
    diverted: _Writes
    last: _Writes


def in_order(draft: Draft) -> tuple[Step, ...]:
    """Compare what is wanted with what is believed; return what to do first, then, and last."""
    draft.compare_servers()
    stages = _sort(draft.sets, draft.facts)
    observed = draft.observed
    bind = [(a, o) for a, (yes, o) in draft.addresses.items() if yes and a not in observed.bound]
    gone = [(a, o) for a, (yes, o) in draft.addresses.items() if not yes and a in observed.bound]
    structure = _structure(draft)
    is_device_missing = observed.device is None
    binding = AddressStep(tuple(bind), (), is_device_missing)
    making, ending = IpvsStep(tuple(draft.make)), IpvsStep(tuple(draft.end))
    unbinding = AddressStep((), tuple(gone))
    first, diverting, frontends, diverted, last = stages
    if draft.rebuild:  # one transaction, so that there is no moment without rules
        for stage in (diverting, frontends, diverted, last):
            first.merge(stage)
        steps: list[Step] = [binding, making, _nft(structure, first), ending, unbinding]
        return tuple([step for step in steps if step.size])
    if not (diverting and frontends.adds):
        frontends.merge(diverting)
    if not (making.size or binding.size) and not (first.adds and (frontends or diverting)):
        _merge_down(first, diverting or frontends)
    if not (ending.size or unbinding.size):
        _merge_down(last, diverted or frontends)
    has_nft_between = bool(diverting or frontends or diverted)
    if not has_nft_between:
        making = IpvsStep((*making.operations, *ending.operations))
        ending = IpvsStep(())
    steps = [
        _nft(structure, first), binding, making, _nft(_Fixed(), diverting), _nft(_Fixed(), frontends),
        _nft(_Fixed(), diverted), ending, unbinding, _nft(_Fixed(), last),
    ]  # fmt: skip
    return tuple([step for step in steps if step.size])


def _merge_down(one: _Writes, other: _Writes) -> None:
    if one and other:
        other.merge(one)


class _Fixed(NamedTuple):
    """What the fixed part of our tables lacks."""

    rebuild: tuple[Family, ...] = ()
    tables: tuple[Family, ...] = ()
    sets: tuple[tuple[Family, SetSpec], ...] = ()
    chains: tuple[tuple[Family, ChainSpec], ...] = ()


def _structure(draft: Draft) -> _Fixed:
    tables: list[Family] = []
    sets: list[tuple[Family, SetSpec]] = []
    chains: list[tuple[Family, ChainSpec]] = []
    layout = draft.layout
    for family in layout.families:
        facts = draft.facts[family]
        is_whole = (
            facts.is_present
            and facts.sets == layout.set_facts[family]
            and facts.chains == layout.chain_facts[family]
        )
        if is_whole:
            continue
        if not facts.is_present:
            tables.append(family)
        sets += [(family, spec) for spec in layout.sets(family) if spec.name not in facts.sets]
        chains += [
            (family, spec)
            for spec in layout.chains(family)
            if facts.chains.get(spec.name) != spec.facts
        ]
    return _Fixed(draft.rebuild, tuple(tables), tuple(sets), tuple(chains))


def _nft(fixed: _Fixed, writes: _Writes) -> Transaction:
    return Transaction(*fixed, tuple(writes.deletes), tuple(writes.adds))


def _sort(
    sets: Mapping[tuple[Family, str], Values], facts: Mapping[Family, TableFacts]
) -> _Stages:
    stages = _Stages(_Writes(), _Writes(), _Writes(), _Writes(), _Writes())
    for (family, name), values in sets.items():
        gone, new = differences(values, facts[family].elements.get(name, {}), form_of(name))
        if name in _DIVERTING:
            coming, going = stages.diverting, stages.diverted
        elif name in _STOPPING:
            coming, going = stages.first, stages.diverted
        elif name in _FIRST:
            coming, going = stages.first, stages.last
        else:
            coming, going = stages.frontends, stages.frontends
        part = _to(family) if name == ALLOWED else slice(None)
        added = {element.key[part] for element in new}
        replaced = tuple([e for e in gone if coming is going or e.key[part] in added])
        removed = tuple([e for e in gone if coming is not going and e.key[part] not in added])
        if replaced:
            coming.deletes.append(Batch(family, name, replaced))
        if new:
            coming.adds.append(Batch(family, name, tuple(new)))
        if removed:
            going.deletes.append(Batch(family, name, removed))
    return stages


def _to(family: Family) -> slice:
    """Return where in a key of ALLOWED the frontend stands: ranges for one may overlap with those they replace."""
    width = 4 if family == IPV4 else 16
    return slice(width, 2 * width + 8)
