"""The lines that the demo shows, made from what was counted. Pure: where they go is the screen's business."""

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from e2e.client import Failure
from e2e.demo.screen import Line, Piece, bar
from e2e.demo.slices import Pod
from e2e.demo.tally import Failed, Tally

INDENT = "      "
PROMISED_PACE = 200
_LISTED_FAILURES = 10
_MEASURED_WIDTH = 78  # numbers far to the right are hard to read along with the words


class Row(NamedTuple):
    """A pod that runs, what the slices say of it, and how often it answered."""

    pod: Pod
    state: str
    answers: int


def heading(number: int, count: int, text: str, elapsed_s: float, width: int) -> Line:
    """The first line of a step, with the time since the start of the demo at its end."""
    title, elapsed = f"[{number}/{count}] {text}", f"{elapsed_s:.0f} s"
    gap = max(2, width - len(title) - len(elapsed))
    return [Piece(title, "bold"), Piece(" " * gap + elapsed, "dim")]


def bars(rows: Sequence[Row], tally: Tally, width: int, *, has_blocks: bool) -> list[Line]:
    """A bar for each pod: its share of all answers, and their number; then the count of connections."""
    total = max(1, sum(row.answers for row in rows))
    room = max(5, width - len(INDENT) - 34)
    head = f"{'POD':<7} {'ZONE':<7} {'LISTED AS':<11} ANSWERS IN THE LAST SECOND"
    return [
        [Piece(INDENT + head, "dim")],
        *(
            [
                Piece(f"{INDENT}{row.pod.name:<7} {row.pod.zone:<7} {row.state:<11} "),
                Piece(f"{row.answers:3d} "),
                Piece(bar(row.answers / total, room, has_blocks=has_blocks), "green"),
            ]
            for row in rows
        ),
        [Piece(f"{INDENT}so far {tally.total:,} connections, "), _failed(len(tally.failures))],
    ]


def wrapped(text: str, width: int, *, ending: str = "") -> list[str]:
    """A paragraph in lines. Options, addresses and paths stay whole; `ending` stands after each line but the last."""
    lines = textwrap.wrap(
        text, width - len(ending), break_on_hyphens=False, break_long_words=False
    )
    return [line + ending for line in lines[:-1]] + lines[-1:]


def measured(what: str, until: str, seconds: float, width: int) -> Line:
    """What was done, and how long it took until the clients saw it."""
    left, right = f"{INDENT}{what}", f"{seconds * 1000:5.0f} ms"
    gap = max(2, min(width, _MEASURED_WIDTH) - len(left) - len(until) - len(right))
    return [Piece(left + " " * gap + until), Piece(right, "bold")]


def explained(service: str, lines: Iterable[str]) -> list[Line]:
    """The explanation: selected endpoints stand out, the others step back."""
    return [
        [Piece(f"{INDENT}sliceproxy explain {service}", "dim")],
        *([Piece(f"{INDENT}  "), _explained(line)] for line in lines),
    ]


def failures(failed: Sequence[Failed], begun_s: float) -> list[Line]:
    """The first failed connections, with all that is known of each."""
    lines: list[Line] = []
    for client, timed in failed[:_LISTED_FAILURES]:
        how = timed.outcome.value if isinstance(timed.outcome, Failure) else "answered"
        when = f"begun {timed.started_s - begun_s:.3f} s after the start"
        took = f"{how} after {timed.took_s * 1000:.0f} ms"
        lines.append([Piece(f"failed: {client}, {when}: {took}", "red")])
    if len(failed) > _LISTED_FAILURES:
        lines.append([Piece(f"and {len(failed) - _LISTED_FAILURES} more", "red")])
    return lines


def latencies(seconds: Sequence[float]) -> Line:
    """All changes that brought a pod, in one line."""
    middle, longest = statistics.median(seconds) * 1000, max(seconds) * 1000
    return [
        Piece(f"{len(seconds)} changes brought a pod; it first answered "),
        Piece(f"{middle:.0f} ms (median) to {longest:.0f} ms", "bold"),
        Piece(" later"),
    ]


def pace(tally: Tally) -> list[Line]:
    """How many connections were begun in each second; a line more if those are fewer than was promised."""
    average, slowest = tally.pace()
    numbers = f"{average:.0f} on average, {slowest} in the slowest second"
    is_busy = slowest < PROMISED_PACE
    lines: list[Line] = [
        [Piece("New connections per second: "), Piece(numbers, "yellow" if is_busy else "bold")]
    ]
    if is_busy:
        lines.append([Piece(f"That is below {PROMISED_PACE}: this machine is busy", "yellow")])
    return lines


def verdict(tally: Tally) -> Line:
    """The last line."""
    failed = len(tally.failures)
    return [Piece(f"{failed} failed connections of {tally.total}", "red" if failed else "green")]


def answers_by_pod(answers: dict[str, Counter[str]]) -> Counter[str]:
    """All clients together."""
    return sum(answers.values(), Counter())


def _failed(count: int) -> Piece:
    return Piece(f"{count} failed", "red" if count else "green")


def _explained(line: str) -> Piece:
    if "  + " in line:
        return Piece(line, "green")
    return Piece(line, "dim" if "  - " in line or line.startswith("ENDPOINT") else None)
