"""Counts work instead of timing it: which keys are looked at, and how many instructions Python executes.

Neither number depends on the machine, so "as much work at 100 services as at 10,000" is an equation. Instructions
catch every loop written in Python; key visits catch loops that run inside C (`sorted(index)`, `list(index)`), which
are one instruction however long they take.
"""

import gc
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Sized
from types import FrameType
from typing import Any, Final, NamedTuple

_FEW: Final = 32
_ONCE: Final = 100


class Visits:
    """How many keys were looked at in all watched dictionaries together."""

    def __init__(self) -> None:
        self.count = 0


class Work(NamedTuple):
    """What a call cost."""

    visits: int
    instructions: int

    def is_as_much_as(self, other: "Work") -> bool:
        """Whether both cost the same, but for the few instructions that the interpreter spends on a first call."""
        return self.visits == other.visits and abs(self.instructions - other.instructions) < _ONCE


class _WatchedDict(UserDict[Any, Any]):
    """A dictionary that counts every key it is asked for and every key an iteration comes to."""

    def __init__(self, content: dict[Any, Any], visits: Visits) -> None:
        self.data = content
        self.visits = visits

    def __getitem__(self, key: object) -> Any:
        self.visits.count += 1
        return self.data[key]

    def __setitem__(self, key: object, value: object) -> None:
        self.visits.count += 1
        self.data[key] = value

    def __delitem__(self, key: object) -> None:
        self.visits.count += 1
        del self.data[key]

    def __contains__(self, key: object) -> bool:
        self.visits.count += 1
        return key in self.data

    def __iter__(self) -> Iterator[Any]:
        for key in self.data:
            self.visits.count += 1
            yield key


def watch(owner: object, visits: Visits) -> None:
    """Count visits to the dictionaries an object holds; those within them are few and their work is their owner's.

    Raises AssertionError for any other container of some size: a loop over it could escape unseen.
    """
    for name, value in vars(owner).items():
        if isinstance(value, dict):
            setattr(owner, name, _WatchedDict(value, visits))
        elif isinstance(value, _WatchedDict):
            value.visits = visits
        elif isinstance(value, Sized) and not isinstance(value, str | bytes):
            assert len(value) < _FEW, f"{type(owner).__name__}.{name} is large and not watched"


def count_work(call: Callable[[], object], visits: Visits) -> Work:
    """Run a call and return what it cost. Only what runs on this thread, and nothing the collector does."""
    instructions = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal instructions
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            instructions += 1
        return trace

    outer, before = sys.gettrace(), visits.count
    was_enabled = gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(outer)
        if was_enabled:
            gc.enable()
    return Work(visits.count - before, instructions)
