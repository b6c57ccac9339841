"""When a change of nftables is in force, whichever program makes it: the kernel counts generations of the ruleset. Shell.

A program that has committed may take long to end: the kernel has it wait until no processor can still be reading what was
replaced. New connections follow the new rules from the commit on.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

from backends.kernel.nft import Nft
from e2e.namespace import Namespace

LOOK_S: Final = 0.0003


class Generations:
    """Notes when the generation in a namespace changes, as long as its `with` block; to a third of a millisecond or so."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._seen_s: list[float] = []
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._watcher.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._watcher.join()

    def last_ms(self, begun_s: float, ended_s: float) -> float | None:
        """Return how long after the beginning of a time the last change in it was noticed; None if there was none."""
        return last_ms(self._seen_s, begun_s, ended_s)

    def _watch(self) -> None:
        with self._namespace.entered(), Nft() as door:
            before = door.generation()
            self._ready.set()
            while not self._stopping.wait(LOOK_S):
                before = self._note(before, door.generation)

    def _note(self, before: int, generation: Callable[[], int]) -> int:
        now = generation()
        if now != before:
            self._seen_s.append(time.monotonic())
        return now


def last_ms(seen_s: Iterable[float], begun_s: float, ended_s: float) -> float | None:
    """Return how long after the beginning the last of these times was that lies between both. Pure."""
    within = [each_s for each_s in seen_s if begun_s <= each_s <= ended_s]
    return (within[-1] - begun_s) * 1e3 if within else None
