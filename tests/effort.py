"""How much a test that could go on for ever does: less on a machine that is emulated, where each step takes thirty times as long.

TEST_EFFORT is the part of the usual number of examples, or of the size of a large world, 1 where it is not set.
"""

import os
from fractions import Fraction

ATTEMPTS_AT_LEAST = 2


def examples(usual: int) -> int:
    """How many there are to be, where `usual` is their number without haste."""
    return max(ATTEMPTS_AT_LEAST, int(usual * Fraction(os.environ.get("TEST_EFFORT", "1"))))
