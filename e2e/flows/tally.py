"""How many scenarios, flows and connections there were, by backend, for the end of the run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What one backend was asked."""

    scenarios: int = 0
    flows: int = 0
    connections: int = 0
    checks: int = 0
    took_s: float = 0.0
    by_family: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def scenario(self) -> Iterator[None]:
        """Count a scenario and its time, however it ends."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.scenarios += 1
            self.took_s += time.monotonic() - started_s

    def __str__(self) -> str:
        families = ", ".join(
            f"{count} over {name}" for name, count in sorted(self.by_family.items())
        )
        return (
            f"{self.scenarios} scenarios, {self.flows} flows ({families}), {self.connections} connections"
            f" and {self.checks} health checks in {self.took_s:.1f} s"
        )


TALLIES: dict[str, Tally] = {}
"""By backend; only those that were asked."""


FIGURES: list[str] = []
"""What other tests have counted, a line each."""


def of(backend: str) -> Tally:
    """The tally of a backend, begun if need be."""
    return TALLIES.setdefault(backend, Tally())
