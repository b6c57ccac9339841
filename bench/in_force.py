"""When a change of nftables is in force, whichever program makes it: the kernel counts generations of the ruleset. Shell.

A program that has committed may take long to end: the kernel has it wait until no processor can still be reading what was
replaced. New connections follow the new rules from the commit on.
"""

import threading
import time
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from backends.kernel.nft import Nft
from e2e.namespace import Namespace

LOOK_S: Final = 0.0003


class Generations:
    """Notes when the generation in a namespace changes, as long as its `with` block.

    It is looked at every third of a millisecond or so, and a change counts as made in the middle between two looks: were it
    the later one, short times would be measured as longer than they are.
    """

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
            before = _look(door)
            self._ready.set()
            while not self._stopping.wait(LOOK_S):
                now = _look(door)
                changed_s = between_s(before, now)
                if changed_s is not None:
                    self._seen_s.append(changed_s)
                before = now


class Look(NamedTuple):
    """A generation, and when it was read (monotonic seconds)."""

    generation: int
    at_s: float


def _look(door: Nft) -> Look:
    return Look(door.generation(), time.monotonic())


def between_s(before: Look, now: Look) -> float | None:
    """Return when the generation has changed between two looks; None if it has not. Pure."""
    return None if now.generation == before.generation else (before.at_s + now.at_s) / 2


def last_ms(seen_s: Iterable[float], begun_s: float, ended_s: float) -> float | None:
    """Return how long after the beginning the last of these times was that lies between both. Pure."""
    within = [each_s for each_s in seen_s if begun_s <= each_s <= ended_s]
    return (within[-1] - begun_s) * 1e3 if within else None
