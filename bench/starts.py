"""Cold starts: from a stream of watch events, from manifests in YAML, and from an API server."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import workload
from bench.processes import Measured, Transport, node, say
from bench.sustained import sustain
from bench.table import figure, median, percentile, render
from e2e.namespace import Namespace


def print_streams(starts: list[dict[str, Any]]) -> None:
    rows = [
        [
            str(s["services"]),
            figure(s["wall_s"]),
            figure(s["user_s"] + s["sys_s"]),
            figure(s["peak_mib"]),
            figure(s["reference_s"]),
            figure(s["reference_s"] / s["wall_s"]) + " ×",
        ]
        for s in starts
    ]
    header = ["services", "to all programmed s", "cpu s", "peak MiB", "(b) by nft s", "(b)/ours"]
    print(render("Cold start, process start to all programmed, from a stream", header, rows))


def measure_manifests(services: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a cold start from YAML, and what its parser alone needs for the same files."""
    say(f"{services} services × {args.endpoints} endpoints: writing YAML")
    with tempfile.TemporaryDirectory() as directory, Namespace("bench") as namespace:
        for number, text in enumerate(workload.manifests(services, args.endpoints)):
            (Path(directory) / f"{number:05}.yaml").write_text(text)
        say("loading it")
        measured = Measured(namespace, "--manifests", directory)
        start = measured.ask(do="sync")
        measured.stop()
        say("parsing it, and nothing else")
        alone = subprocess.run(
            [sys.executable, "-m", "bench.yaml_alone", directory],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = start | {"services": services} | json.loads(alone.stdout)
    found["rest_s"] = found["wall_s"] - found["values_s"]
    row = [
        str(services),
        figure(found["wall_s"]),
        figure(found["values_s"]),
        figure(found["libyaml_s"]),
        figure(found["rest_s"]),
        figure(found["peak_mib"]),
    ]
    header = [
        "services",
        "to all programmed s",
        "YAML to values s",
        "libyaml of it s",
        "rest s",
        "peak MiB",
    ]
    print(render("Cold start from manifests in YAML", header, [row]))
    return found


def measure_api_servers(services: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a cold start and changes over HTTP and HTTPS."""
    found = [measure_api_server(services, args, transport) for transport in ("http", "https")]
    rows = [
        [
            one["transport"],
            str(services),
            figure(one["wall_s"]),
            figure(one["user_s"] + one["sys_s"]),
            figure(one["peak_mib"]),
            figure(one["p50_ms"]),
            figure(one["change_cpu_ms"]),
            figure(one["rate"]),
            figure(one["rate_p99_ms"]),
            figure(one["rate_stall_ms"]),
        ]
        for one in found
    ]
    header = [
        "from",
        "services",
        "to all programmed s",
        "cpu s",
        "peak MiB",
        "change p50 ms",
        "cpu ms",
        "then changes/s",
        "p99 ms",
        "stall ms",
    ]
    print(render("From an API server: cold start, one change, many changes", header, rows))
    return found


def measure_api_server(
    services: int, args: argparse.Namespace, transport: Transport
) -> dict[str, Any]:
    """Measure a cold start and changes over one transport."""
    say(f"{services} services × {args.endpoints} endpoints over {transport}")
    seconds = 3 if args.quick else 10
    common = {"kind": "replace", "services": services, "endpoints": args.endpoints}
    with node(services, args.endpoints, transport=transport) as (ours, _):
        start = ours.ask(do="sync")
        ours.feed(do="change", count=60, pause_s=0.002, **common)
        ours.ask(do="changes", count=60)
        ours.feed(do="change", count=args.changes, pause_s=0.002, **common)
        single = ours.ask(do="changes", count=args.changes)
        many = sustain(ours, services, args.endpoints, seconds)
        state = ours.ask(do="state")
    if state["left_to_do"] or state["drifts"]:
        raise SystemExit(f"kernel and desire differ after the changes: {state}")
    return start | {
        "transport": transport,
        "services": services,
        "p50_ms": median(single["latencies_ms"]),
        "p99_ms": percentile(single["latencies_ms"], 0.99),
        "change_cpu_ms": single["cpu_ms"] / len(single["latencies_ms"]),
        "rate": many["rate"],
        "rate_p50_ms": many["p50_ms"],
        "rate_p99_ms": many["p99_ms"],
        "rate_stall_ms": many["longest_stall_ms"],
        "rate_cpu_share": many["cpu_share"],
    }
