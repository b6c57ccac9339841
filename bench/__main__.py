"""`make bench`: measure, print tables with ratios, and write everything as JSON to bench/results/."""

import argparse
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bench import (
    features,
    forwarder,
    iptables,
    ipvs,
    kubeproxy_layout,
    pages,
    starts,
    sustained,
    verification,
)
from bench.processes import Node, node, say
from bench.reference import Reference
from bench.table import figure, median, percentile, render
from e2e.namespace import Namespace

KINDS = ("replace", "add/remove", "0↔1", "crossing 8→9")
ROUNDS = 3
PAUSE_S = 0.002


def main() -> int:
    """Run the sections asked for."""
    args = parse()
    if os.geteuid() != 0:
        print("bench needs root: it works in network namespaces of its own", file=sys.stderr)
        return 1
    # however it is ended, its namespaces and processes go with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes = [100, 1000] if args.quick else [int(size) for size in args.services.split(",")]
    if args.quick:
        args.changes, args.references = 90, 6
    results: dict[str, Any] = {"endpoints": args.endpoints, "load": os.getloadavg()}
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
    only = (args.features, args.verification, args.iptables, args.ipvs, args.forwarder)
    is_whole = not any(only)
    if is_whole:
        results |= measure_basics(sizes, args)
    if is_whole or args.features:
        results["features"] = features.measure(sorted({sizes[0], sizes[-1]}), args)
    if is_whole or args.verification:
        results["verification"] = verification.measure(sizes[-1], args)
    if args.large:
        results["large"] = measure_large()
    if args.iptables or (is_whole and not args.quick):
        results["iptables"] = iptables.measure(sizes, args)
    if args.ipvs or (is_whole and not args.quick):
        results["ipvs"] = ipvs.measure()
    if args.forwarder or (is_whole and not args.quick):
        results["forwarder"] = forwarder.measure()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1))
    print(f"all figures: {args.json}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--services", default="100,1000,10000", help="sizes to measure (default: %(default)s)"
    )
    parser.add_argument(
        "--endpoints",
        type=int,
        default=10,
        help="endpoints of each service (default: %(default)s)",
    )
    parser.add_argument(
        "--changes",
        type=int,
        default=300,
        help="changes of each kind and size (default: %(default)s)",
    )
    parser.add_argument(
        "--references",
        type=int,
        default=24,
        help="changes through nft processes (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="under a minute: 100 and 1,000 services, fewer changes",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="only what session affinity, source ranges and Local policies cost",
    )
    parser.add_argument(
        "--verification",
        action="store_true",
        help="only what a background verification costs the changes that come meanwhile",
    )
    parser.add_argument(
        "--iptables",
        action="store_true",
        help="only mode iptables on both flavours, beside kube-proxy's pattern: some minutes",
    )
    parser.add_argument(
        "--ipvs",
        action="store_true",
        help="only mode ipvs, in a virtual machine where this kernel has none: some minutes",
    )
    parser.add_argument(
        "--forwarder",
        action="store_true",
        help="only mode userspace beside HAProxy: two minutes",
    )
    parser.add_argument(
        "--large", action="store_true", help="also 1,000 services with 1,000 endpoints each"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench/results/latest.json"), help="default: %(default)s"
    )
    return parser.parse_args()


def measure_basics(sizes: list[int], args: argparse.Namespace) -> dict[str, Any]:
    """Measure starts and changes of plain services, and the daemon's pages."""
    results: dict[str, Any] = {}
    streams, changes = [], []
    for size in sizes:
        start, kinds = measure_size(size, args)
        streams.append(start)
        changes += kinds
    results["starts"], results["changes"] = streams, changes
    starts.print_streams(streams)
    results["manifests"] = starts.measure_manifests(sizes[-1], args)
    results["api_server"] = starts.measure_api_servers(sizes[-1], args)
    results["daemon"] = pages.measure(sizes[-1], args)
    print_changes(changes)
    results["wide"] = measure_wide(args)
    results["sustained"] = sustained.measure(sizes[-1], args)
    return results


def measure_size(
    services: int, args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the cold start and each kind of change at one size, beside both references."""
    say(f"{services} services × {args.endpoints} endpoints: loading ours")
    with contextlib.ExitStack() as stack:
        ours, _ = stack.enter_context(node(services, args.endpoints))
        start = ours.ask(do="sync") | {"services": services}
        other, other_namespace = stack.enter_context(node(services, args.endpoints))
        other.ask(do="sync")
        other.stop()
        reference = stack.enter_context(Namespace("bench-ref"))
        on_ours = Reference(other_namespace.name, args.endpoints, is_ours=True)
        on_theirs = Reference(reference.name, args.endpoints, is_ours=False)
        say(f"{services} services: loading the reference layout in parts")
        start["reference_s"] = (
            sum(on_theirs.run(part) for part in kubeproxy_layout.load(services, args.endpoints))
            / 1e3
        )
        measured = []
        for kind in KINDS:
            say(f"{services} services: {kind}")
            measured.append(measure_kind(kind, services, args, ours, on_ours, on_theirs))
        state = ours.ask(do="state")
        if state["left_to_do"] or state["drifts"]:
            raise SystemExit(f"kernel and desire differ after the changes: {state}")
        return start, measured


def measure_kind(
    kind: str,
    services: int,
    args: argparse.Namespace,
    ours: Node,
    on_ours: Reference,
    on_theirs: Reference,
) -> dict[str, Any]:
    """Measure one kind of change, ours and the references in turns, so that noise meets all alike."""
    common = {"kind": kind, "services": services, "endpoints": args.endpoints, "pause_s": PAUSE_S}
    warm_up = 60
    ours.feed(do="change", count=warm_up, **common)
    ours.ask(do="changes", count=warm_up)
    for reference in (on_ours, on_theirs):
        reference.change(kind, 0)
    latencies: list[float] = []
    planned: list[float] = []
    cpu_ms = 0.0
    times: dict[str, list[float]] = {"a": [], "b": []}
    overhead_ms = on_ours.overhead_ms()
    for _ in range(ROUNDS):
        count = max(1, args.changes // ROUNDS)
        ours.feed(do="change", count=count, **common)
        answer = ours.ask(do="changes", count=count)
        if answer["errors"]:
            raise SystemExit(f"the kernel refused changes: {answer['errors'][:3]}")
        latencies += answer["latencies_ms"]
        planned += answer["planned_ms"]
        cpu_ms += answer["cpu_ms"]
        for number in range(max(1, args.references // ROUNDS)):
            times["a"].append(max(0.1, on_ours.change(kind, number % 4) - overhead_ms))
            times["b"].append(max(0.1, on_theirs.change(kind, number % 4) - overhead_ms))
    on_theirs.forget()
    ours.feed(do="change", count=50, **(common | {"kind": "restore"}))
    ours.ask(do="changes", count=50)
    return {
        "kind": kind,
        "services": services,
        "latencies_ms": latencies,
        "p50_ms": median(latencies),
        "p99_ms": percentile(latencies, 0.99),
        "planned_ms": median(planned),
        "cpu_ms": cpu_ms / len(latencies),
        "nft_on_ours_ms": median(times["a"]),
        "nft_on_reference_ms": median(times["b"]),
    }


def print_changes(changes: list[dict[str, Any]]) -> None:
    smallest = {c["kind"]: c["p50_ms"] for c in reversed(changes)}
    rows = [
        [
            c["kind"],
            str(c["services"]),
            figure(c["p50_ms"]),
            figure(c["p99_ms"]),
            figure(c["cpu_ms"]),
            figure(c["p50_ms"] / smallest[c["kind"]]) + " ×",
            figure(c["nft_on_ours_ms"]),
            figure(c["nft_on_ours_ms"] / c["p50_ms"]) + " ×",
            figure(c["nft_on_reference_ms"]),
            figure(c["nft_on_reference_ms"] / c["p50_ms"]) + " ×",
        ]
        for kind in KINDS
        for c in changes
        if c["kind"] == kind
    ]
    header = [
        "one change",
        "services",
        "p50 ms",
        "p99 ms",
        "cpu ms",
        "growth",
        "(a) ms",
        "(a)/ours",
        "(b) ms",
        "(b)/ours",
    ]
    print(
        render(
            "One change, from the read of the event to the kernel's acknowledgement", header, rows
        )
    )
    print(
        "  (a) the same change by an `nft -f -` process on our tables, (b) on kube-proxy's layout of the same"
    )
    print(
        "  services; starting a process is taken off. Replace, add/remove and 0↔1 write map elements only, which"
    )
    print(
        "  costs the same at any size. Crossing a power of two changes a verdict, and the kernel then looks at"
    )
    print("  every verdict of the map again: that is the growth in the last lines.\n")


def measure_wide(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one endpoint of a service with 1,000 endpoints in 10 slices."""
    say("one service with 1,000 endpoints in 10 slices")
    common = {"kind": "replace", "services": 20, "endpoints": 1000, "pause_s": 0.005, "width": 20}
    with node(20, 1000) as (ours, _):
        ours.ask(do="sync")
        ours.feed(do="change", count=40, **common)
        ours.ask(do="changes", count=40)
        count = 60 if args.quick else 200
        ours.feed(do="change", count=count, **common)
        answer = ours.ask(do="changes", count=count)
    found = {
        "p50_ms": median(answer["latencies_ms"]),
        "p99_ms": percentile(answer["latencies_ms"], 0.99),
        "cpu_ms": answer["cpu_ms"] / len(answer["latencies_ms"]),
    }
    row = [[figure(found["p50_ms"]), figure(found["p99_ms"]), figure(found["cpu_ms"])]]
    print(
        render(
            "One endpoint of a service with 1,000 endpoints in 10 slices",
            ["p50 ms", "p99 ms", "cpu ms"],
            row,
        )
    )
    return found


def measure_large() -> dict[str, Any]:
    """Load a million endpoints."""
    say("1,000 services × 1,000 endpoints")
    with node(1000, 1000) as (ours, _):
        start = ours.ask(do="sync")
    row = [
        [
            figure(start["wall_s"]),
            figure(start["user_s"] + start["sys_s"]),
            figure(start["peak_mib"]),
        ]
    ]
    print(
        render(
            "1,000 services × 1,000 endpoints", ["to all programmed s", "cpu s", "peak MiB"], row
        )
    )
    return start


if __name__ == "__main__":
    sys.exit(main())
