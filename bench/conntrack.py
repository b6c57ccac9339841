"""What it costs to keep the table of tracked flows free of stale ones: `python -m bench.conntrack`.

A node whose table holds 100,000 flows of others, one in twenty translated, while endpoints of UDP services change ten
times a second. Before each change some clients have flows to the endpoint that goes. The same changes without the sweep
are the reference for what the process takes, in which making flows and changes has its part. How soon a client that keeps its port is answered by the new endpoint is
measured with packets, changes far apart, with an empty table and with a full one.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from backends.nftables.backend import NftablesBackend
from bench.processes import say
from bench.table import figure, median, render
from e2e import topology
from e2e.client import Conversation
from e2e.living import Life, live
from e2e.namespace import Namespace
from e2e.programmed import LAYOUT
from e2e.topology import World
from e2e.tracked import Flow, Tracked, tracked
from proxy.model import EndpointSlice, Service
from tests.model_builders import make_endpoint, make_service, make_service_port, make_slice

FOREIGN, SERVICES, CLIENTS = 100_000, 20, 5
RATE = 10
PORT, SERVER_PORT = 53, 5353
VIP = "10.96.0.250"
APART_S = 1.5
RETRY_S = 0.02


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.conntrack", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long changes go on (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="5 seconds")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("bench needs root: it works in network namespaces of its own", file=sys.stderr)
        return 1
    found = measure(5.0 if args.quick else args.seconds)
    show(found)
    if args.json:
        print(json.dumps(found))
    return 0


def measure(seconds: float) -> dict[str, Any]:
    """Measure all there is, in about twice that time and 20 s."""
    say(f"{RATE} changes a second for {seconds:g} s without a sweep")
    without = _load(seconds, is_sweeping=False)
    say("the same with it")
    with_ = _load(seconds, is_sweeping=True)
    say("clients that keep their port")
    return {
        "seconds": seconds,
        "foreign": FOREIGN,
        "share": with_["walks_s"] / with_["wall_s"],
        "process_share": with_["cpu_s"] / with_["wall_s"],
        "process_share_without": without["cpu_s"] / without["wall_s"],
        "without": without,
        "with": with_,
        "moved_on_ms": {"empty": _moved_on_ms(0), "full": _moved_on_ms(FOREIGN)},
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    with_, moved = found["with"], found["moved_on_ms"]
    rows = [
        ["flows of others", str(FOREIGN), f"{with_['foreign_left']} left"],
        ["stale flows", str(with_["stale"]), f"{with_['stale_left']} left"],
        ["flows to what serves", str(with_["serving"]), f"{with_['serving_left']} left"],
        [
            "sweeps",
            str(with_["sweeps"]),
            f"{figure(with_['changes'] / with_['sweeps'])} changes each",
        ],
        [
            "stale flows stay, p50 / longest ms",
            *(figure(with_[k]) for k in ("p50_ms", "longest_ms")),
        ],
        ["share of a core: sweeps", f"{found['share']:.1%}", ""],
        [
            "share of a core: whole process",
            f"{found['process_share']:.1%}",
            f"{found['process_share_without']:.1%} without",
        ],
        [
            "event loop held at most ms",
            figure(with_["held_ms"]),
            f"{figure(found['without']['held_ms'])} without",
        ],
    ]
    title = f"Stale UDP flows: {RATE} changes a second for {found['seconds']:g} s"
    print(render(title, ["", "", ""], rows))
    rows = [
        [f"{name} table", figure(median(times)), figure(max(times))]
        for name, times in moved.items()
    ]
    print(
        render(
            "From a change to the first answer of the new endpoint, by a client that keeps its port",
            ["", "p50 ms", "longest ms"],
            rows,
        )
    )


# --- many changes


def _service(number: int) -> Service:
    port = make_service_port(protocol="UDP", cluster_ip=f"10.96.0.{number}", port=PORT)
    return make_service(f"default/s{number}", port)


def _listing(number: int, turn: int) -> EndpointSlice:
    listed = [make_endpoint(f"{each}:{SERVER_PORT}") for each in _pods(turn)]
    return make_slice(f"s{number}", *listed, service=f"s{number}", protocol="UDP")


def _pods(turn: int) -> list[str]:
    """Two pods: each turn one goes, for good, and one comes."""
    return [f"10.244.{each >> 8}.{each & 255}" for each in (turn + 1, turn + 2)]


def _foreign(number: int) -> Flow:
    high, low = divmod(number, 50_000)
    endpoint = (f"198.51.100.{number % 200 + 1}", 53) if number % 20 == 0 else None
    return Flow(f"203.0.113.{high + 1}", 1024 + low, f"192.0.2.{number % 100 + 1}", 53, endpoint)


def _load(seconds: float, *, is_sweeping: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def life(node: Life) -> None:
        found.update(await _change(node, table, seconds, is_sweeping=is_sweeping))

    with Namespace("bench") as namespace, tracked(namespace) as table:
        table.add(_foreign(number) for number in range(FOREIGN))
        live(namespace, _nftables, life, is_sweeping=is_sweeping)
        left = table.flows()
    found["foreign_left"] = len({_foreign(number) for number in range(FOREIGN)} & left)
    found["stale_left"] = len(found.pop("stale_flows") & left)
    found["serving_left"] = len(found.pop("serving_flows") & left)
    return found


async def _change(
    node: Life, table: Tracked, seconds: float, *, is_sweeping: bool
) -> dict[str, Any]:
    numbers = range(1, SERVICES + 1)
    node.tell_all(*[_service(n) for n in numbers], *[_listing(n, 0) for n in numbers])
    await node.reconciler.is_synced.wait()
    if is_sweeping:
        await node.until(lambda: node.sweeper.sweeps > 0)
    held = asyncio.create_task(_watch())
    clients = itertools.count(1024)
    flows: dict[tuple[str, str], set[Flow]] = {}
    stale: set[Flow] = set()
    lag: dict[int, float] = {}  # by how many should be gone, when that was so
    begun_s, cpu_s, walks_s = time.monotonic(), time.process_time(), node.sweeper.cpu_s
    waits = asyncio.create_task(_waits(node, lag))
    count = int(seconds * RATE)
    for change in range(count):
        number, turn = change % SERVICES + 1, change // SERVICES
        gone, stays = _pods(turn)
        new = {
            Flow("203.0.113.99", next(clients), f"10.96.0.{number}", PORT, (pod, SERVER_PORT))
            for pod in (gone, stays)
            for _ in range(CLIENTS)
        }
        # in a thread: the kernel lets one in at a time, and a walk takes its time
        await asyncio.to_thread(table.add, new)
        for flow in new:
            assert flow.endpoint is not None
            flows.setdefault((flow.address, flow.endpoint[0]), set()).add(flow)
        stale |= flows.pop((f"10.96.0.{number}", gone), set())
        node.tell(_listing(number, turn + 1))
        lag[len(stale)] = time.monotonic()
        await asyncio.sleep(max(0.0, begun_s + (change + 1) / RATE - time.monotonic()))
    wall_s = time.monotonic() - begun_s
    used_s, walks_s = time.process_time() - cpu_s, node.sweeper.cpu_s - walks_s
    if is_sweeping:
        await node.until(lambda: node.deleted >= len(stale), 60.0)
    waits.cancel()
    held.cancel()
    times = sorted((await asyncio.gather(waits, return_exceptions=False))[0])
    return {
        "changes": count,
        "wall_s": wall_s,
        "cpu_s": used_s,
        "walks_s": walks_s,
        "sweeps": node.sweeper.sweeps,
        "held_ms": (await asyncio.gather(held))[0] * 1e3,
        "p50_ms": times[len(times) // 2] * 1e3 if times else 0.0,
        "longest_ms": times[-1] * 1e3 if times else 0.0,
        "stale": len(stale),
        "serving": sum(map(len, flows.values())),
        "stale_flows": stale,
        "serving_flows": set().union(*flows.values()),
    }


async def _watch() -> float:
    """Return, when cancelled, how long the event loop was held at most."""
    longest_s = 0.0
    try:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.002)
            longest_s = max(longest_s, time.monotonic() - before_s - 0.002)
    except asyncio.CancelledError:
        return longest_s


async def _waits(node: Life, told_s: dict[int, float]) -> list[float]:
    """Return, when cancelled, how long it took from each change until its stale flows were gone."""
    found: list[float] = []
    try:
        while True:
            gone = [goal for goal in told_s if node.deleted >= goal]
            found += [time.monotonic() - told_s.pop(goal) for goal in gone]
            await asyncio.sleep(0.002)
    except asyncio.CancelledError:
        return found


def _nftables() -> NftablesBackend:
    return NftablesBackend(LAYOUT)


# --- one client


def _moved_on_ms(foreign: int, count: int = 8) -> list[float]:
    """How long a client that keeps its port gets answers of the endpoint that has gone."""
    found: list[float] = []
    with topology.world(pods=2) as world, tracked(world.node.namespace) as table:
        topology.serve_on(world.pods, f"udp:{SERVER_PORT}")
        table.add(_foreign(number) for number in range(foreign))
        live(world.node.namespace, _nftables, _client(world, found, count))
    return found


def _client(world: World, found: list[float], count: int) -> Callable[[Life], Any]:
    def listing(turn: int) -> EndpointSlice:
        pod = world.pods[turn % 2]
        endpoint = make_endpoint(f"{pod.addresses.v4}:{SERVER_PORT}", is_local=True)
        return make_slice("dns", endpoint, service="dns", protocol="UDP")

    async def life(node: Life) -> None:
        port = make_service_port(protocol="UDP", cluster_ip=VIP, port=PORT)
        node.tell_all(make_service("default/dns", port), listing(0))
        await node.until(lambda: node.sweeper.sweeps > 0)
        await asyncio.sleep(APART_S)
        with world.client.converse(VIP, PORT, protocol="udp", timeout_s=RETRY_S) as conversation:
            await asyncio.to_thread(conversation.ask)
            for turn in range(1, count + 1):
                begun_s = time.monotonic()
                node.tell(listing(turn))
                name = world.pods[turn % 2].name
                while await asyncio.to_thread(_asked, conversation) != name:
                    pass
                found.append((time.monotonic() - begun_s) * 1e3)
                await asyncio.sleep(APART_S)

    return life


def _asked(conversation: Conversation) -> str:
    """Who answers; nobody does where a flow ends between question and answer."""
    try:
        return conversation.ask().name
    except TimeoutError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
