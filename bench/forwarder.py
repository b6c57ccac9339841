"""Mode userspace beside HAProxy in TCP mode: `python -m bench --forwarder`.

client ── node ── server, each a network namespace. On the node both forward the same traffic to the same server, HAProxy with
one thread and splicing, ours as the daemon runs it; they are measured in turns, and medians of the runs compared. Beside
them stands what the same clients get without a forwarder, which says how much of it the generators can do at all.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.processes import say
from bench.table import figure, median, percentile, render
from e2e.demo.daemon import Daemon
from e2e.manifests import synced
from e2e.namespace import Namespace
from e2e.topology import Veth
from tests.builders import make_endpoint, make_node, make_service, make_slice

RUNS: Final = 5
SECONDS: Final = 1.0
CLIENTS: Final = 64
QUESTIONS: Final = 2000
TARGETS: Final = {"bulk": 1.0, "cpu": 0.6, "short": 0.3}
"""What is aimed at, in multiples of HAProxy."""

_CLIENT: Final = "192.0.2.2"
_NODE: Final = "192.0.2.1"
_SERVER: Final = "198.51.100.2"
_LINK: Final = "198.51.100.1"
_VIP: Final = "10.96.0.10"
_PORTS: Final = {"bulk": 7001, "short": 7002, "echo": 7003}
_OURS, _THEIRS, _DIRECT = "sliceproxy", "haproxy", "direct"
_ADDRESSES: Final = {_OURS: _VIP, _THEIRS: _NODE, _DIRECT: _SERVER}
_CONFIGURATION: Final = """
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    option splice-auto
    timeout connect 3s
    timeout client 60s
    timeout server 60s
"""


class Runner(NamedTuple):
    """Where clients are, and the process ids of the forwarders."""

    client: Namespace
    pids: dict[str, int]

    def run(self, who: str, what: str, port: str, count: int) -> tuple[dict[str, Any], float]:
        """Have clients ask by one way; return what they say, and the processor time of the forwarder (seconds)."""
        command = [sys.executable, "-m", "bench.forwarder_load", what, _ADDRESSES[who]]
        before_s = self._spent_s(who)
        told = self.client.run([*command, str(_PORTS[port]), str(count), str(SECONDS)])
        return json.loads(told), self._spent_s(who) - before_s

    def _spent_s(self, who: str) -> float:
        pid = self.pids.get(who)
        if pid is None:
            return 0.0
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure() -> dict[str, Any] | None:
    """Measure and print; None, and the reason in words, where HAProxy is not there."""
    if not shutil.which("haproxy"):
        print("forwarder: not measured, as haproxy is not installed\n")
        return None
    with _built() as runner:
        found = {who: _Figures() for who in _ADDRESSES}
        for number in range(RUNS):
            for who in (_DIRECT, _THEIRS, _OURS) if number % 2 else (_OURS, _THEIRS, _DIRECT):
                say(f"forwarder: run {number + 1} of {RUNS}, {who}")
                found[who].take(runner, who)
    results = {who: each.medians() for who, each in found.items()}
    show(results)
    return results


class _Figures:
    """What was measured of one way, run by run."""

    def __init__(self) -> None:
        self._runs: list[dict[str, float]] = []

    def take(self, runner: Runner, who: str) -> None:
        run: dict[str, float] = {}
        for name, count in (("one", 1), ("many", 32)):
            told, spent_s = runner.run(who, "send-bulk", "bulk", count)
            run[f"bulk {name} (Gb/s)"] = told["bytes"] * 8 / told["seconds"] / 1e9
            run[f"bulk {name} (CPU s/GB)"] = spent_s / told["bytes"] * 1e9
        told, spent_s = runner.run(who, "ask-short", "short", CLIENTS)
        run["short (1/s)"] = told["done"] / told["seconds"]
        run["short failed"] = told["failed"]
        run["short (CPU us)"] = spent_s / max(told["done"], 1) * 1e6
        told, _ = runner.run(who, "ask-echo", "echo", QUESTIONS)
        run["latency p50 (us)"] = median(told["took_us"])
        run["latency p99 (us)"] = percentile(told["took_us"], 0.99)
        self._runs.append(run)

    def medians(self) -> dict[str, float]:
        return {name: median([run[name] for run in self._runs]) for name in self._runs[0]}


def show(results: dict[str, dict[str, float]]) -> None:
    """Print the medians, and ours in multiples of HAProxy's."""
    ours, theirs, direct = (results[who] for who in (_OURS, _THEIRS, _DIRECT))
    rows = []
    for name in ours:
        is_added = name.startswith("latency")
        mine, other = (each[name] - direct[name] * is_added for each in (ours, theirs))
        ratio = figure(mine / other) if other > 0 else "-"
        title = name.replace("latency", "added latency")
        rows.append([title, figure(mine), figure(other), ratio, figure(direct[name])])
    header = ["forwarder, medians", _OURS, _THEIRS, "ratio", _DIRECT]
    print(render(f"mode userspace beside HAProxy, {RUNS} runs in turns", header, rows))


@contextlib.contextmanager
def _built() -> Iterator[Runner]:
    with (
        Namespace("bench-client") as client,
        Namespace("bench-node") as node,
        Namespace("bench-server") as server,
        Veth(node, "to-client", client, "to-node"),
        Veth(node, "to-server", server, "to-node"),
        tempfile.TemporaryDirectory() as directory,
    ):
        _connect(client, node, server)
        for name, port in _PORTS.items():
            command = [sys.executable, "-m", "bench.forwarder_load", f"serve-{name}"]
            server.popen([*command, "0.0.0.0", str(port)], stdout=subprocess.DEVNULL)
        theirs = _start_haproxy(node, Path(directory))
        daemon = _start_ours(node, Path(directory))
        (ours,) = [pid for pid in node.process_ids() if pid != theirs]
        try:
            yield Runner(client, {_THEIRS: theirs, _OURS: ours})
        finally:
            daemon.terminate()


def _connect(client: Namespace, node: Namespace, server: Namespace) -> None:
    node.write_settings([("ipv4/ip_forward", "1")])
    node.ip(f"address add {_NODE}/24 dev to-client", f"address add {_LINK}/24 dev to-server")
    client.ip(f"address add {_CLIENT}/24 dev to-node", f"route add default via {_NODE}")
    server.ip(f"address add {_SERVER}/24 dev to-node", f"route add default via {_LINK}")


def _start_haproxy(node: Namespace, directory: Path) -> int:
    listening = [
        f"listen {name}\n    bind {_NODE}:{port}\n    server s {_SERVER}:{port}\n"
        for name, port in _PORTS.items()
    ]
    file = directory / "haproxy.cfg"
    file.write_text(_CONFIGURATION + "".join(listening))
    return node.popen(["haproxy", "-db", "-f", str(file)], stdout=subprocess.DEVNULL).pid


def _start_ours(node: Namespace, directory: Path) -> Daemon:
    ports = [{"name": name, "protocol": "TCP", "port": port} for name, port in _PORTS.items()]
    objects = [
        make_node("node", internal_ips=[_NODE]),
        make_service("bench", cluster_ips=[_VIP], ports=ports),
        make_slice(
            "bench-1",
            service="bench",
            address_type="IPv4",
            ports=ports,
            endpoints=[make_endpoint(_SERVER, node="other")],
        ),
    ]
    manifests = directory / "manifests"
    manifests.mkdir()
    (manifests / "objects.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    arguments = ["--manifests", str(manifests), "--proxy-mode", "userspace"]
    arguments += ["--state-dir", str(directory / "state")]
    daemon = Daemon(node, "node", arguments, directory / "log")
    daemon.start()
    synced(daemon)
    return daemon
