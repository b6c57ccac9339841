"""What became of every connection: who answered, when, and what failed. Pure bookkeeping.

Times are CLOCK_MONOTONIC in seconds, which all processes of a host share: a client's stamps and the demo's compare.
"""

from collections import Counter
from typing import NamedTuple

from e2e.client import Answer, Timed

# Within one client the outcomes come in the order in which they ended, but for the scheduling of its threads.
_DISORDER_S = 5.0


class Failed(NamedTuple):
    """A connection that nobody answered, and who made it."""

    client: str
    timed: Timed


class Tally:
    """All connections of all clients."""

    def __init__(self) -> None:
        self.total = 0
        self.failures: list[Failed] = []
        self._answered: dict[str, list[Timed]] = {}
        self._last_begun_s: dict[str, float] = {}
        self._begun_in_second: Counter[int] = Counter()

    def add(self, client: str, timed: Timed) -> None:
        """Count one connection."""
        self.total += 1
        self._begun_in_second[int(timed.started_s)] += 1
        if not isinstance(timed.outcome, Answer):
            self.failures.append(Failed(client, timed))
            return
        self._answered.setdefault(client, []).append(timed)
        pod = timed.outcome.name
        self._last_begun_s[pod] = max(timed.started_s, self._last_begun_s.get(pod, 0.0))

    def first_answer_s(self, pod: str, since_s: float) -> float | None:
        """When the first answer from the pod came, at or after `since_s`; None if there is none."""
        ended = [
            ended_s(timed)
            for client in self._answered
            for timed in self._ended_since(client, since_s)
            if answered_by(timed) == pod
        ]
        return min(ended, default=None)

    def last_begun_s(self, pod: str) -> float | None:
        """When the last connection that the pod answered was begun; None if it never answered."""
        return self._last_begun_s.get(pod)

    def answers(self, begin_s: float, end_s: float) -> dict[str, Counter[str]]:
        """For each client, how many answers of each pod came in that time. A client without any is missing."""
        found: dict[str, Counter[str]] = {}
        for client in self._answered:
            pods = Counter(
                answered_by(timed)
                for timed in self._ended_since(client, begin_s)
                if ended_s(timed) <= end_s
            )
            if pods:
                found[client] = pods
        return found

    def pace(self) -> tuple[float, int]:
        """Connections begun per second, on average and the fewest; 0 without a whole second between first and last."""
        begun = self._begun_in_second
        counts = [begun[second] for second in range(min(begun) + 1, max(begun))] if begun else []
        return (sum(counts) / len(counts), min(counts)) if counts else (0.0, 0)

    def _ended_since(self, client: str, since_s: float) -> list[Timed]:
        """The newest answers, so that the cost does not grow with the length of the demo."""
        found = []
        for timed in reversed(self._answered[client]):
            ended = ended_s(timed)
            if ended >= since_s:
                found.append(timed)
            elif ended < since_s - _DISORDER_S:
                break
        return found


def ended_s(timed: Timed) -> float:
    """When the answer was there, or the failure was known."""
    return timed.started_s + timed.took_s


def answered_by(timed: Timed) -> str:
    """The name of the pod; empty for a failure."""
    return timed.outcome.name if isinstance(timed.outcome, Answer) else ""
