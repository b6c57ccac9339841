"""Many changes a second for some seconds, over all services, and what a background verification costs."""

import argparse
from typing import Any

from bench.processes import Node, node, say
from bench.table import figure, median, percentile, render

RATE = 1000


def measure(services: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure 1,000 changes a second for 10 s, and what a background verification does meanwhile."""
    say(f"{RATE:,} changes a second at {services} services")
    seconds = 3 if args.quick else 10
    with node(services, args.endpoints) as (ours, _):
        ours.ask(do="sync")
        verified = ours.ask(do="verify")
        found = sustain(ours, services, args.endpoints, seconds)
        state = ours.ask(do="state")
    found |= {
        "services": services,
        "verify_s": verified["wall_s"],
        "verify_stall_ms": verified["longest_stall_ms"],
        "converged": not state["left_to_do"] and not state["drifts"],
    }
    header = [
        "services",
        "changes/s",
        "p50 ms",
        "p99 ms",
        "cpu share",
        "longest stall ms",
        "converged",
    ]
    row = [
        str(services),
        figure(found["rate"]),
        figure(found["p50_ms"]),
        figure(found["p99_ms"]),
        figure(found["cpu_share"]),
        figure(found["longest_stall_ms"]),
        "yes" if found["converged"] else "NO",
    ]
    print(render(f"{RATE:,} changes a second for {seconds} s", header, [row]))
    print(
        f"  a background verification of everything takes {figure(found['verify_s'])} s"
        f" and holds the event loop for {figure(found['verify_stall_ms'])} ms at most\n"
    )
    return found


def sustain(ours: Node, services: int, endpoints: int, seconds: float) -> dict[str, Any]:
    """Have one endpoint of each service in turn replaced, a thousand of them a second."""
    count = int(RATE * seconds)
    ours.feed(
        do="change",
        kind="replace",
        count=count,
        pause_s=1 / RATE,
        services=services,
        endpoints=endpoints,
        width=services,
    )
    answer = ours.ask(do="watched", count=count)
    if answer["errors"]:
        raise SystemExit(f"the kernel refused changes: {answer['errors'][:3]}")
    latencies = answer["latencies_ms"]
    return {
        "rate": count / answer["span_s"],
        "p50_ms": median(latencies),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": max(latencies),
        "cpu_share": answer["cpu_ms"] / 1e3 / answer["span_s"],
        "longest_stall_ms": answer["longest_stall_ms"],
    }
