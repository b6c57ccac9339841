"""The whole daemon as it is deployed: start against an API server over HTTPS, and its pages at full size."""

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import workload
from bench.processes import say
from bench.table import figure, median, render
from e2e.namespace import Namespace

PAGES = (
    "/debug/",
    "/debug/?q=10.128.1.1",
    "/debug/services/namespace-7/service-7",
    "/debug/services?limit=100",
    "/debug/changes",
    "/debug/state",
    "/metrics",
)
TIMES = 9
_PORTS = {"health": 10256, "pages": 10249}


def measure(services: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a start from exec to ready, peak memory, and how long pages take and hold the event loop."""
    say(f"{services} services × {args.endpoints} endpoints: the whole daemon over https")
    with (
        tempfile.TemporaryDirectory() as directory,
        Namespace("bench") as namespace,
        _api_server(namespace, Path(directory), services, args.endpoints) as kubeconfig,
    ):
        began_s = time.monotonic()
        flags = ["--kubeconfig", kubeconfig, "--hostname-override", workload.NODE]
        daemon = namespace.popen(
            [
                *(sys.executable, "-m", "proxy", "run", *flags),
                *("--cluster-cidr", workload.CLUSTER_CIDR),
            ],
            stderr=subprocess.DEVNULL,
        )
        with namespace.entered():
            while _status("health", "/readyz") != 200:
                time.sleep(0.02)
            ready_s = time.monotonic() - began_s
            pages = {path: _page(path) for path in PAGES}
            worst_lag_s = _worst_lag_s()
        memory = Path(f"/proc/{daemon.pid}/status").read_text()
        daemon.terminate()
        daemon.wait()
    found: dict[str, Any] = {
        "services": services,
        "ready_s": ready_s,
        "peak_mib": int(re.findall(r"VmHWM:\s+(\d+)", memory)[0]) / 1024,
        "pages": pages,
        "worst_lag_s": worst_lag_s,
    }
    row = [[str(services), figure(ready_s), figure(found["peak_mib"])]]
    print(render("The whole daemon, from https", ["services", "exec to ready s", "peak MiB"], row))
    rows = [[path, figure(p["first_ms"]), figure(p["p50_ms"])] for path, p in pages.items()]
    print(render("Pages at that size", ["page", "first ms", "then p50 ms"], rows))
    print(f"  the event loop was never held for longer than {worst_lag_s * 1e3:g} ms meanwhile\n")
    return found


@contextlib.contextmanager
def _api_server(
    namespace: Namespace, directory: Path, services: int, endpoints: int
) -> Iterator[str]:
    server = namespace.popen([sys.executable, "-m", "bench.apiserver", str(directory), "--tls"])
    assert server.stdin is not None
    assert server.stdout is not None
    command = {"do": "load", "services": services, "endpoints": endpoints, "has_features": False}
    server.stdin.write(json.dumps(command) + "\n")
    server.stdin.flush()
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def _get(where: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", _PORTS[where], timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": "text/html"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def _status(where: str, path: str) -> int:
    try:
        return _get(where, path)[0]
    except OSError:
        return 0


def _page(path: str) -> dict[str, float]:
    took_ms = []
    for _ in range(TIMES):
        began_s = time.monotonic()
        status, _body = _get("pages", path)
        took_ms.append((time.monotonic() - began_s) * 1e3)
        if status != 200:
            raise SystemExit(f"{path} answered with {status}")
    return {"first_ms": took_ms[0], "p50_ms": median(took_ms[1:])}


def _worst_lag_s() -> float:
    """Return the lowest bound of the daemon's own histogram that holds every sample."""
    _, body = _get("pages", "/metrics")
    pattern = rb'sliceproxy_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)'
    buckets = [(float(bound), float(count)) for bound, count in re.findall(pattern, body)]
    return next(bound for bound, count in buckets if count == buckets[-1][1])
