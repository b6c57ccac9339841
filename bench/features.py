"""A cluster in which every tenth service has features beside one without any: `python -m bench --features`.

Features are session affinity, source ranges of a VIP and a Local policy (see `workload`). Both clusters are up at once
and measured in turns, so that noise meets both alike. Figures stand beside the plain cluster's: what the features of
some services cost all the others, and what they cost themselves.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.processes import Node, node, say
from bench.sustained import RATE, sustain
from bench.table import figure, median, percentile, render
from bench.workload import FEATURED_OF, WIDTH

KINDS: Final = ("replace", "add/remove", "crossing 8→9", "0↔1")
CLUSTERS: Final = ("plain", "mixed")
FEATURED: Final = {"plain": "none", "mixed": "a tenth"}
ROUNDS: Final = 3
PAUSE_S: Final = 0.003
CROSSING_PAUSE_S: Final = 0.03
"""Longer than one takes: the kernel looks at all rules again when a verdict changes."""
GROUPS: Final = {
    "plain, none has any": ("plain", "plain"),
    "plain, a tenth has": ("mixed", "plain"),
    "with features": ("mixed", "featured"),
}
"""Whose changes are measured: the cluster, and which of its services. The first is the reference."""


def measure(sizes: Sequence[int], args: argparse.Namespace) -> dict[str, Any]:
    """Measure starts, changes and many changes with and without features, in about a minute."""
    begun_s = time.monotonic()
    load = os.getloadavg()
    starts: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    many: dict[str, dict[str, Any]] = {}
    for size in sizes:
        is_last = size == sizes[-1]
        with contextlib.ExitStack() as stack:
            clusters = _start(stack, size, args, starts)
            for kind in KINDS:
                changes += _changes(kind, size, clusters, args)
            _restore(size, clusters, args)
            if is_last:
                seconds = 2 if args.quick else 5
                say(f"{RATE:,} changes a second, with and without features")
                many = {n: sustain(o, size, args.endpoints, seconds) for n, o in clusters.items()}
            for ours in clusters.values():
                state = ours.ask(do="state")
                if state["left_to_do"] or state["drifts"]:
                    raise SystemExit(f"kernel and desire differ after the changes: {state}")
    found = {
        "load": load,
        "took_s": time.monotonic() - begun_s,
        "starts": starts,
        "changes": changes,
        "sustained": many,
    }
    show(found)
    return found


def _start(
    stack: contextlib.ExitStack,
    size: int,
    args: argparse.Namespace,
    starts: list[dict[str, Any]],
) -> dict[str, Node]:
    """Start with each, one after the other, and note what it took."""
    clusters: dict[str, Node] = {}
    for name in CLUSTERS:
        say(f"{size} services, {name}: a cold start")
        loaded = node(size, args.endpoints, has_features=name == "mixed")
        clusters[name] = stack.enter_context(loaded)[0]
        starts.append({"services": size, "cluster": name} | clusters[name].ask(do="sync"))
    return clusters


def _changes(
    kind: str, size: int, clusters: dict[str, Node], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure one kind of change for each group, in turns."""
    say(f"{size} services: {kind}")
    is_slow = kind.startswith("crossing")
    common = {"kind": kind, "services": size, "endpoints": args.endpoints}
    common["pause_s"] = CROSSING_PAUSE_S if is_slow else PAUSE_S
    latencies: dict[str, list[float]] = {group: [] for group in GROUPS}
    cpu_ms = dict.fromkeys(GROUPS, 0.0)
    for turn in range(ROUNDS + 1):
        count = 60 if not turn else max(1, args.changes // ROUNDS // (2 if is_slow else 1))
        for group, (cluster, of) in GROUPS.items():
            clusters[cluster].feed(do="change", count=count, of=of, **common)
            answer = clusters[cluster].ask(do="changes", count=count)
            if answer["errors"]:
                raise SystemExit(f"the kernel refused changes: {answer['errors'][:3]}")
            if turn:  # the first one warms up
                latencies[group] += answer["latencies_ms"]
                cpu_ms[group] += answer["cpu_ms"]
    return [
        {
            "kind": kind,
            "services": size,
            "group": group,
            "p50_ms": median(found),
            "p99_ms": percentile(found, 0.99),
            "cpu_ms": cpu_ms[group] / len(found),
        }
        for group, found in latencies.items()
    ]


def _restore(size: int, clusters: dict[str, Node], args: argparse.Namespace) -> None:
    """Give all services their endpoints back after the last kind, which leaves them one or none."""
    for cluster, of in GROUPS.values():
        count = min(WIDTH, size // FEATURED_OF if of == "featured" else size - size // FEATURED_OF)
        clusters[cluster].feed(
            do="change",
            kind="restore",
            count=count,
            of=of,
            pause_s=PAUSE_S,
            services=size,
            endpoints=args.endpoints,
        )
        clusters[cluster].ask(do="changes", count=count)


def show(found: dict[str, Any]) -> None:
    """Print the figures, each with its ratio to the one without features."""
    _show_starts(found["starts"])
    _show_changes(found["changes"])
    _show_many(found["sustained"])


def _show_starts(starts: Sequence[dict[str, Any]]) -> None:
    rows = []
    wall_s = {(s["services"], s["cluster"]): s["wall_s"] for s in starts}
    for start in starts:
        size, name = start["services"], start["cluster"]
        row = [str(size), FEATURED[name], figure(start["wall_s"])]
        row += [figure(start["user_s"] + start["sys_s"]), figure(start["peak_mib"])]
        row += [str(start["operations"])]
        row += [figure(start["wall_s"] / wall_s[size, "plain"]) + " ×"]
        rows.append(row)
    header = ["services", "features", "to all programmed s", "cpu s", "peak MiB", "operations", ""]
    print(render("Cold start from a stream", header, rows))


def _show_changes(changes: Sequence[dict[str, Any]]) -> None:
    rows = []
    of = {(c["kind"], c["services"], c["group"]): c for c in changes}
    smallest = min(c["services"] for c in changes)
    for (kind, size, group), each in of.items():
        plain = of[kind, size, next(iter(GROUPS))]
        rows.append(
            [
                f"{kind}: {group}",
                str(size),
                figure(each["p50_ms"]),
                figure(each["p99_ms"]),
                figure(each["cpu_ms"]),
                figure(each["p50_ms"] / of[kind, smallest, group]["p50_ms"]) + " ×",
                figure(each["p50_ms"] / plain["p50_ms"]) + " ×",
                figure(each["p99_ms"] / plain["p99_ms"]) + " ×",
            ]
        )
    header = [
        "one change",
        "services",
        "p50 ms",
        "p99 ms",
        "cpu ms",
        "growth",
        "p50 to plain",
        "p99",
    ]
    print(render("One change, with features on a tenth of the services", header, rows))


def _show_many(many: dict[str, dict[str, Any]]) -> None:
    rows = [
        [
            FEATURED[name],
            figure(each["rate"]),
            figure(each["p50_ms"]),
            figure(each["p99_ms"]),
            figure(each["cpu_share"]),
            figure(each["longest_stall_ms"]),
            figure(each["p99_ms"] / many["plain"]["p99_ms"]) + " ×",
        ]
        for name, each in many.items()
    ]
    header = [
        "features",
        "changes/s",
        "p50 ms",
        "p99 ms",
        "cpu share",
        "longest stall ms",
        "p99 to plain",
    ]
    print(
        render(
            f"{RATE:,} changes a second, with features on a tenth of the services", header, rows
        )
    )
