"""Requests that came to nothing, one after the other: what to say of them, and how long to wait.

Pure. The row of failures ends when a watch has worked for a while, not with a connection: a server that accepts and then
breaks off must not be asked without pause.
"""

from typing import Final

from proxy.sources.backoff import Backoff
from proxy.sources.events import Trouble

_PATIENT: Final = 10.0
# What one further request can heal.
_AT_ONCE: Final[frozenset[Trouble]] = frozenset(
    {"gone", "closed", "silent", "malformed", "unauthorized"}
)
UNREACHABLE: Final[frozenset[Trouble]] = frozenset({"connect", "timeout"})


class Failures:
    """The failures in a row, and counts of all there ever were."""

    def __init__(self, backoff: Backoff, away_backoff: Backoff) -> None:
        self._backoff = backoff
        self._away_backoff = away_backoff
        self._is_news = False
        self._failed_s = 0.0
        self._asked_pause_s = 0.0
        self._needs_pause = False
        self.in_row = 0
        self.last: Trouble | None = None
        """What went wrong last; None once a watch has worked for a while."""
        self.error = ""
        """The same in words."""
        self.counts: dict[Trouble, int] = {}
        self.retry_s = 0.0
        """When the pause is over; 0 for none."""

    def add(
        self, trouble: Trouble, message: str, now_s: float, asked_pause_s: float = 0.0
    ) -> None:
        """Take note of one more; the server may have asked for a pause."""
        # However long the row is: with other credentials it is worth a try.
        self._is_news = trouble == "unauthorized" != self.last
        self.in_row += 1
        self.count(trouble)
        self.error, self.last = message, trouble
        self._failed_s, self._asked_pause_s = now_s, asked_pause_s
        self._needs_pause = True

    def count(self, trouble: Trouble) -> None:
        """Take note of something that went wrong without failing the request."""
        self.counts[trouble] = self.counts.get(trouble, 0) + 1

    def end_row(self) -> None:
        """Take note that a request has worked."""
        self.in_row, self.error, self.last = 0, "", None

    def end_pause(self) -> None:
        """Do not wait any longer."""
        self.retry_s = 0.0

    def rest_until(self, until_s: float) -> None:
        """Make no request before a time, though nothing is wrong."""
        self.end_row()
        self.retry_s = until_s

    def pause_until_s(self, jitter: float, list_took_s: float) -> float:
        """Return when the next request may be made. Lists, if that is what it will be, take so long."""
        if self._needs_pause:
            self._needs_pause = False
            self.retry_s = self._failed_s + self._pause_s(jitter, list_took_s)
        return self.retry_s

    def _pause_s(self, jitter: float, list_took_s: float) -> float:
        backoff = self._away_backoff if self.last in UNREACHABLE else self._backoff
        asked_s = backoff.asked_pause_s(self._asked_pause_s, jitter)
        if self.last in _AT_ONCE and (self.in_row == 1 or self._is_news):
            return asked_s
        pause_s = backoff.pause_s(self.in_row, jitter)
        if self.last in ("forbidden", "throttled"):
            # Somebody has to change a role first, or the server is overloaded, and each node of the cluster is asking.
            patient = Backoff(first_s=backoff.first_s, max_s=backoff.max_s * _PATIENT)
            pause_s = patient.pause_s(self.in_row, jitter)
        elif self.last == "gone":
            # A list after a list: never spend more than a third of the time on them.
            pause_s = max(pause_s, 2 * list_took_s)
        return max(pause_s, asked_s)
