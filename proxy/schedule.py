"""When the next round may run. Pure: the clock is an argument (monotonic seconds), so tests need no time.

The first change after a quiet time runs at once. While a round is under way further changes collapse into
the next one. A configured minimum interval is measured from the end of a round to the start of the next
(as in kube-proxy), and failures are retried with a growing, capped delay that any success resets.
"""

from typing import Final

from proxy.model import Value

RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 5.0
REPAIRS_BEFORE_CONTENDED: Final = 5
REPAIR_WINDOW_S: Final = 60.0
PAUSE_PER_WORK: Final = 20.0


class Backoff(Value, frozen=True, kw_only=True):
    """A delay that doubles from `first_s` up to `last_s` with each failure in a row."""

    first_s: float = RETRY_FIRST_S
    last_s: float = RETRY_LAST_S

    def delay_s(self, failures: int) -> float:
        """Return the delay before the next try after `failures` (at least one) in a row."""
        return min(self.last_s, self.first_s * 2.0 ** min(failures - 1, 30))


class Schedule:
    """Decides when rounds and verifications are due."""

    def __init__(
        self,
        *,
        now_s: float,
        min_interval_s: float = 0.0,
        verify_period_s: float = 60.0,
        poll_period_s: float = 1.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._min_interval_s = min_interval_s
        self._verify_period_s = verify_period_s
        self._poll_period_s = poll_period_s
        self._backoff = backoff or Backoff()
        self._ended_s: float | None = None
        self._failures = 0
        self._retry_s: float | None = None
        self._verified_s = now_s
        self._polled_s = now_s
        self._repairs: list[float] = []
        self._compare_s = now_s

    @property
    def failures(self) -> int:
        """Failed rounds in a row."""
        return self._failures

    def round_due_s(self, *, has_changes: bool) -> float | None:
        """Return the time from which a round may run, or None when there is nothing to run for."""
        if self._retry_s is not None:
            return self._retry_s
        if not has_changes:
            return None
        return 0.0 if self._ended_s is None else self._ended_s + self._min_interval_s

    def round_ended(self, now_s: float, *, failed: bool) -> None:
        """Note the end of a round. After a failure the next one waits, changes or not."""
        self._ended_s = now_s
        if failed:
            self._failures += 1
            delay_s = max(self._min_interval_s, self._backoff.delay_s(self._failures))
            self._retry_s = now_s + delay_s
        else:
            self._failures = 0
            self._retry_s = None

    def begin_anew(self) -> None:
        """Let the next round run at once: what became of those before says nothing of it."""
        self._failures, self._retry_s, self._ended_s = 0, None, None

    def poll_due_s(self) -> float:
        """Return when to look cheaply for foreign changes."""
        return self._polled_s + self._poll_period_s

    def polled(self, now_s: float) -> None:
        self._polled_s = now_s

    def verify_due_s(self) -> float:
        """Return when the next full verification is due."""
        return self._verified_s + self._verify_period_s

    def verified(self, now_s: float, *, repaired: bool, took_s: float = 0.0) -> None:
        """Note a verification, whether it led to a repair, and how long it took if there was nothing to be seen."""
        self._verified_s = now_s
        self._compare_s = now_s + took_s * PAUSE_PER_WORK
        self._repairs = [at for at in self._repairs if at > now_s - REPAIR_WINDOW_S]
        if repaired:
            self._repairs.append(now_s)

    def may_compare(self, now_s: float) -> bool:
        """Whether a foreign change may lead to a comparison now: not while contended, nor one after the other.

        On a host where somebody else changes the ruleset every second, comparing takes at most a small share of the time.
        """
        return now_s >= self._compare_s and not self.is_contended(now_s)

    def is_contended(self, now_s: float) -> bool:
        """Whether somebody undoes our repairs: then only the periodic verification repairs."""
        recent = [at for at in self._repairs if at > now_s - REPAIR_WINDOW_S]
        return len(recent) >= REPAIRS_BEFORE_CONTENDED
