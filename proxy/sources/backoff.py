"""How long to wait before a request is tried again.

Pure: jitter comes in as a number from 0 to 1. Pauses double from the first to the longest, and each is shortened by up to
half, so that the nodes of a cluster do not come back to a recovering server in step.
"""

from typing import Final

from proxy.model import Value

# A server may ask for more patience than that; a wrong number must not cut off a node for hours.
LONGEST_RETRY_AFTER_S: Final = 30.0
# After so many doublings any sensible limit is reached, and numbers stay small.
_MOST_DOUBLINGS: Final = 30


class Backoff(Value, frozen=True, kw_only=True):
    """The pauses after failures in a row."""

    first_s: float
    max_s: float

    def pause_s(self, failures: int, jitter: float) -> float:
        """Return the pause after the given number of failures, counted from 1."""
        doublings = min(max(failures - 1, 0), _MOST_DOUBLINGS)
        full = min(self.first_s * float(1 << doublings), self.max_s)
        return full * (1.0 - jitter / 2)

    def asked_pause_s(self, retry_after_s: float, jitter: float) -> float:
        """Return the pause that a server asks for: never less, within reason, and not the same for everyone."""
        if retry_after_s <= 0:
            return 0.0
        return min(retry_after_s, LONGEST_RETRY_AFTER_S) + self.first_s * jitter


def parse_retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, 0 where it says none. API servers never send a date there."""
    text = (value or "").strip()
    return float(text) if text.isdecimal() and len(text) <= 9 else 0.0
