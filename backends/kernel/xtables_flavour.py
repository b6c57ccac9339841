"""Which of the kernel's two engines rules of iptables go to: the one that others on this host use. Shell around a pure choice.

Rules of both engines decide about each packet, and the programs of neither see the other's, so a host should have one of
them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from backends.kernel import xtables
from backends.kernel.xtables import Incompatible, Programs, Xtables
from backends.kernel.xtables_text import Chain, Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import Family

log = logging.getLogger(__name__)

_HINTS: Final = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"})
"""Chains that kubelet makes in table mangle, so that others can tell which engine it uses."""
_TABLES: Final = ("mangle", "nat", "filter")

OpenTables = Callable[[Programs], Xtables]


class Sight(NamedTuple):
    """What there is in one engine, in all families: kubelet's chains, how many rules of others, and whether any chain is ours."""

    has_hints: bool = False
    rules: int = 0
    has_ours: bool = False


class Choice(NamedTuple):
    """The flavour to write to, and the doors to each family; in `left` those of the other one if it has something of ours.

    `is_proven`: the one to write to has something of ours as well, so this kernel has accepted it.
    """

    flavour: Flavour
    tables: Mapping[Family, Xtables]
    left: Mapping[Family, Xtables]
    is_proven: bool = False


def choose(sights: Mapping[Flavour, Sight], usual: Flavour | None) -> tuple[Flavour, str]:
    """Return kubelet's flavour; without kubelet the one with more rules, then that of plain `iptables`; and why. Pure."""
    if len(sights) == 1:
        (only,) = sights
        return only, "the other one is not to be had"
    legacy, nft = sights[Flavour.LEGACY], sights[Flavour.NFT]
    if legacy.has_hints != nft.has_hints:
        return (Flavour.LEGACY if legacy.has_hints else Flavour.NFT), "kubelet uses it"
    if legacy.rules != nft.rules:
        more = Flavour.LEGACY if legacy.rules > nft.rules else Flavour.NFT
        return more, "most rules of others are there"
    return usual or Flavour.NFT, "it is the usual one of this host"


def find(
    families: Sequence[Family],
    ours: str,
    open_tables: OpenTables = Xtables,
    *,
    is_loud: bool = True,
) -> Choice:
    """Look at all there is and choose; our chains begin with `ours`. Takes a while where there are many rules.

    An engine that cannot be read is not to be had: the programs for nftables may be there without it. Raises Unsupported,
    KernelError.
    """
    doors = _doors(families, open_tables)
    sights: dict[Flavour, Sight] = {}
    failure: KernelError | None = None
    for flavour, each in doors.items():
        try:
            sights[flavour] = look(each.values(), ours)
        except KernelError as error:
            log.info("iptables flavour %s is not to be had: %s", flavour, error)
            failure = error
    if failure is not None and not sights:
        if xtables.lacks_net_raw():
            why = f"{xtables.NEEDS_NET_RAW} ({failure.message})"
            raise KernelError(failure.request, failure.errno, why)
        raise failure
    chosen, reason = choose(sights, xtables.usual_flavour(families[0]))
    others = [each for each in sights if each is not chosen and sights[each].has_ours]
    if is_loud:
        log.info("iptables flavour %s: %s", chosen, reason)
    left = {family: door for other in others for family, door in doors[other].items()}
    return Choice(chosen, doors[chosen], left, sights[chosen].has_ours)


def _doors(
    families: Sequence[Family], open_tables: OpenTables
) -> dict[Flavour, dict[Family, Xtables]]:
    """Return the flavours that are installed for all families."""
    programs = {family: xtables.find_programs(family) for family in families}
    doors = {
        flavour: {family: open_tables(programs[family][flavour]) for family in families}
        for flavour in Flavour
        if all(flavour in programs[family] for family in families)
    }
    if not doors:
        missing = [family for family in families if not programs[family]] or families
        raise Unsupported("the iptables programs", f"not installed for {', '.join(missing)}")
    return doors


def look(doors: Iterable[Xtables], ours: str) -> Sight:
    """Return what there is in the tables of one flavour; of a table that its programs cannot list, the chains. Raises KernelError."""
    sight = Sight()
    for door in doors:
        for table in _TABLES:
            try:
                chains = door.save(table)
            except Incompatible as error:
                log.warning("%s", error)
                chains = dict.fromkeys(door.chain_names(table), Chain(None, ()))
            sight = _seen(sight, chains, ours, has_hints=table == "mangle")
    return sight


def _seen(sight: Sight, chains: Mapping[str, Chain], ours: str, *, has_hints: bool) -> Sight:
    foreign = [
        rule
        for name, chain in chains.items()
        if not name.startswith(ours)
        for rule in chain.rules
        if ours not in rule  # our jumps stand in chains of others
    ]
    return Sight(
        sight.has_hints or (has_hints and not _HINTS.isdisjoint(chains)),
        sight.rules + len(foreign),
        sight.has_ours or any(name.startswith(ours) for name in chains),
    )
