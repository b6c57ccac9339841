"""How much a test that could go on for ever does, and how long one waits: on a machine that is emulated each step takes thirty times as long.

TEST_EFFORT is the part of the usual number of examples, or of the size of a large world; TEST_PATIENCE is by how much longer
something may take before it counts as lost. Both are 1 where they are not set.
"""

import os
from fractions import Fraction

ATTEMPTS_AT_LEAST = 2


def examples(usual: int) -> int:
    """How many there are to be, where `usual` is their number without haste."""
    return max(ATTEMPTS_AT_LEAST, int(usual * Fraction(os.environ.get("TEST_EFFORT", "1"))))


def patience_s(usual_s: float) -> float:
    """How long to wait for what must come, or to the next look. How long nothing must come is no matter of patience."""
    return usual_s * float(os.environ.get("TEST_PATIENCE", "1"))
