"""Which of the kernel's two engines the rules go to: the one that others on this host use. Shell around a pure choice.

Rules of both engines decide about each packet, and the programs of neither see the other's, so a host should have one of
them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from backends.iptables.model import CHAINS
from backends.kernel import xtables
from backends.kernel.xtables import Incompatible, Programs, Xtables
from backends.kernel.xtables_text import Chain, Flavour
from proxy.errors import Unsupported
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
        return only, "the other one is not installed"
    legacy, nft = sights[Flavour.LEGACY], sights[Flavour.NFT]
    if legacy.has_hints != nft.has_hints:
        return (Flavour.LEGACY if legacy.has_hints else Flavour.NFT), "kubelet uses it"
    if legacy.rules != nft.rules:
        more = Flavour.LEGACY if legacy.rules > nft.rules else Flavour.NFT
        return more, "most rules of others are there"
    return usual or Flavour.NFT, "it is the usual one of this host"


def find(
    families: Sequence[Family], open_tables: OpenTables = Xtables, *, is_loud: bool = True
) -> Choice:
    """Look at all there is and choose. Takes a while where there are many rules. Raises Unsupported, KernelError."""
    doors = _doors(families, open_tables)
    sights = {flavour: look(each.values()) for flavour, each in doors.items()}
    flavour, reason = choose(sights, xtables.usual_flavour(families[0]))
    others = [each for each in sights if each is not flavour and sights[each].has_ours]
    if is_loud:
        log.info("iptables flavour %s: %s", flavour, reason)
    left = {family: door for other in others for family, door in doors[other].items()}
    return Choice(flavour, doors[flavour], left, sights[flavour].has_ours)


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


def look(doors: Iterable[Xtables]) -> Sight:
    """Return what there is in the tables of one flavour that its programs can list. Raises KernelError."""
    sight = Sight()
    for door in doors:
        for table in _TABLES:
            try:
                chains = door.save(table)
            except Incompatible as error:
                log.warning("%s", error)
                continue
            sight = _seen(sight, chains, has_hints=table == "mangle")
    return sight


def _seen(sight: Sight, chains: Mapping[str, Chain], *, has_hints: bool) -> Sight:
    foreign = [
        rule
        for name, chain in chains.items()
        if not name.startswith(CHAINS)
        for rule in chain.rules
        if CHAINS not in rule  # our jumps stand in chains of others
    ]
    return Sight(
        sight.has_hints or (has_hints and not _HINTS.isdisjoint(chains)),
        sight.rules + len(foreign),
        sight.has_ours or any(name.startswith(CHAINS) for name in chains),
    )
