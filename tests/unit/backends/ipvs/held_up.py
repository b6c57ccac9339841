"""What becomes of a packet that is held up between rules that ask for source ranges. Shared by the tests of both side rules."""

from collections.abc import Sequence
from typing import NamedTuple

from backends.ipvs.model import ALLOWED, GUARDED


class Asking(NamedTuple):
    """A rule that asks nothing but whether a packet is in a set, or is in none; and what it does then."""

    name: str
    is_inverted: bool
    verdict: str


def outcomes(rules: Sequence[Asking]) -> set[str]:
    """Return what can become of a packet that is in a range while its frontend has any.

    The limit goes and comes back with its ranges, at any two moments between the rules; at the end of the chain it returns.
    """
    moments = range(len(rules) + 1)
    return {_verdict(rules, goes, comes) for goes in moments for comes in moments if goes <= comes}


def _verdict(rules: Sequence[Asking], goes: int, comes: int) -> str:
    for number, rule in enumerate(rules):
        assert rule.name in {ALLOWED, GUARDED}
        is_limited = not goes <= number < comes
        if is_limited != rule.is_inverted:
            return rule.verdict
    return "return"
