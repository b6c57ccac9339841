"""What a background verification costs the changes that come meanwhile: `python -m bench --verification`.

The same changes, one at a time at a steady pace, with and without one verification after the other, in turns on the
same node. There is nothing to repair. By default the daemon verifies once a minute.
"""

import argparse
import os
from typing import Any, Final

from bench.processes import Node, node, say
from bench.table import figure, median, percentile, render

ROUNDS: Final = 4
CHANGES: Final = 300
PAUSE_S: Final = 0.01
LIMIT_MS: Final = 5.0
"""What a change may take longer because of a verification that finds nothing."""


def measure(services: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure changes with and without verification, in about half a minute."""
    say(f"{services} services: changes with and without verification")
    load = os.getloadavg()
    answers: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    with node(services, args.endpoints) as (ours, _):
        ours.ask(do="sync")
        _change(ours, services, args, is_verifying=False)  # warms up
        for _ in range(ROUNDS):
            for is_verifying, answered in answers.items():
                answered.append(_change(ours, services, args, is_verifying=is_verifying))
        state = ours.ask(do="state")
    if state["left_to_do"] or state["drifts"]:
        raise SystemExit(f"kernel and desire differ after the changes: {state}")
    found = {
        "load": load,
        "without": _summary(answers[False]),
        "with": _summary(answers[True]),
    }
    show(services, found)
    return found


def _change(
    ours: Node, services: int, args: argparse.Namespace, *, is_verifying: bool
) -> dict[str, Any]:
    """Make changes for three seconds, longer than one verification takes."""
    ours.feed(
        do="change",
        kind="replace",
        count=CHANGES,
        pause_s=PAUSE_S,
        services=services,
        endpoints=args.endpoints,
    )
    return ours.ask(do="verified" if is_verifying else "watched", count=CHANGES)


def _summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    latencies = [each for answer in answers for each in answer["latencies_ms"]]
    return {
        "latencies_ms": latencies,
        "p50_ms": median(latencies),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": max(latencies),
        "longest_stall_ms": max(answer["longest_stall_ms"] for answer in answers),
        "verifications": sum(answer.get("verifications", 0) for answer in answers),
        "drifts": sum(answer.get("drifts", 0) for answer in answers),
        "transactions": sum(answer["transactions"] for answer in answers),
        "generations": sum(answer["generations"] for answer in answers),
    }


def show(services: int, found: dict[str, Any]) -> None:
    """Print the figures of both, the difference, and what verification has written."""
    without, with_ = found["without"], found["with"]
    columns = ("p50_ms", "p99_ms", "max_ms", "longest_stall_ms")
    rows = [
        [
            name,
            *[figure(each[column]) for column in columns],
            str(each["verifications"]),
            str(each["transactions"]),
            str(each["generations"]),
        ]
        for name, each in (("without", without), ("all the time", with_))
    ]
    rows.append(["difference", *[figure(with_[c] - without[c]) for c in columns], "", "", ""])
    header = ["verification", "p50 ms", "p99 ms", "longest ms", "stall ms", "verified"]
    title = f"One change every {PAUSE_S * 1e3:g} ms at {services} services, nothing drifted"
    print(render(title, [*header, "transactions", "generations"], rows))
    written = with_["generations"] - with_["transactions"]
    late = sum(each > without["max_ms"] + LIMIT_MS for each in with_["latencies_ms"])
    print(
        f"  verification wrote {written} transactions and found {with_['drifts']} drifts; {late} of"
        f" {len(with_['latencies_ms'])} changes\n  took over {LIMIT_MS:g} ms longer than the longest without it\n"
    )
