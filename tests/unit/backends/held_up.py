"""What becomes of a packet that is held up between rules that ask for source ranges. Shared by the tests of all such rules."""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Asking(NamedTuple):
    """A rule that asks nothing but whether a packet is in a set, or is in none; and what it does then."""

    name: str
    is_inverted: bool
    verdict: str


def outcomes(rules: Sequence[Asking], sets: Collection[str]) -> set[str]:
    """Return what can become of a packet that is in these sets while its frontend has ranges, and in none while it has not.

    The limit goes and comes back with its ranges, at any two moments between the rules; at the end of the chain it returns.
    """
    assert set(sets) <= {rule.name for rule in rules}
    moments = range(len(rules) + 1)
    return {
        _verdict(rules, sets, goes, comes)
        for goes in moments
        for comes in moments
        if goes <= comes
    }


def _verdict(rules: Sequence[Asking], sets: Collection[str], goes: int, comes: int) -> str:
    for number, rule in enumerate(rules):
        is_limited = not goes <= number < comes
        is_there = is_limited and rule.name in sets
        if is_there != rule.is_inverted:
            return rule.verdict
    return "return"
