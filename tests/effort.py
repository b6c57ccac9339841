"""How much a test that could go on for ever does: less on a machine that is emulated, where each step takes thirty times as long.

TEST_EFFORT is the part of the usual number of examples, 1 where it is not set.
"""

import os
from fractions import Fraction

ATTEMPTS_AT_LEAST = 2


def examples(usual: int) -> int:
    """The number of random examples, of which there are `usual` ones elsewhere."""
    return max(ATTEMPTS_AT_LEAST, int(usual * Fraction(os.environ.get("TEST_EFFORT", "1"))))
