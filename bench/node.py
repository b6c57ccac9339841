"""The measured process: the daemon's own composition. `python -m bench.node FLAGS` in a namespace.

FLAGS are the daemon's own that say where objects come from.

Commands come as JSON lines on standard input and one JSON line answers each on standard output:

{"do": "sync"}                  wait until everything is programmed; say how long it took and what it cost
{"do": "changes", "count": C}   wait until C more changes are acknowledged; return their latencies
{"do": "watched", "count": C}   the same, and how long the event loop was held at most
{"do": "verified", "count": C}  the same, verifying all the time; say what that found
{"do": "verify"}                run a full background verification; say how long it took
{"do": "state"}                 compare belief, desire and kernel

Latencies come from the journal: from the return of the read that brought the event to the kernel's acknowledgement.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from backends.kernel.nft import Nft
from bench import spent, workload
from proxy import app, heap, threads
from proxy.beside import BesidePlan
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.journal import Journal
from proxy.listeners import Listeners
from proxy.reconciler import Reconciler
from proxy.sources.events import Event

QUIET_S = 5.0
"""After so long without an acknowledgement all are there: where the machine stalls, changes of one service are one."""


def main() -> None:
    """Serve commands until standard input ends."""
    threads.switch_often()
    uvloop.run(serve(sys.argv[1:]))


def settings(source: Sequence[str]) -> Settings:
    """Return the settings of a node that reads from this source."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = [*source, "--hostname-override", workload.NODE]
    args = parser.parse_args([*flags, "--cluster-cidr", workload.CLUSTER_CIDR])
    return load.load(args, hostname="", read_file=_read)[0]


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


async def serve(source: Sequence[str]) -> None:
    configured = settings(source)
    backend, _ = await app.choose_backend(configured, Listeners())
    reconciler = app.build(configured, backend)
    reconciler.journal = Journal(capacity=1 << 20)

    def deliver(events: Sequence[Event], received_s: float) -> None:
        reconciler.cache.apply(events, received_s, time.monotonic())
        reconciler.wake()

    gc.disable()
    node = Node(reconciler)
    tasks = [
        asyncio.create_task(app.source_of(configured).run(deliver)),
        asyncio.create_task(reconciler.run()),
    ]
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        print(json.dumps(await node.do(json.loads(line))), flush=True)
    for task in tasks:
        task.cancel()
    backend.close()


def since_process_start_s() -> float:
    """Return how long this process has existed, from the kernel's own record (in steps of 10 ms)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


class Node:
    """Answers commands about a running reconciler."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._seen = 0

    async def _watched(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Do something and say how long the event loop was held at most meanwhile."""
        longest_s = 0.0

        async def watch() -> None:
            nonlocal longest_s
            while True:
                before_s = time.monotonic()
                await asyncio.sleep(0.001)
                longest_s = max(longest_s, time.monotonic() - before_s - 0.001)

        watcher = asyncio.create_task(watch())
        answer = await work
        watcher.cancel()
        return answer | {"longest_stall_ms": longest_s * 1e3}

    async def do(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "sync":
                return await self._sync()
            case "changes":
                return await self._changes(command["count"])
            case "watched":
                return await self._watched(self._changes(command["count"]))
            case "verified":
                return await self._watched(self._verified(command["count"]))
            case "verify":
                return await self._watched(self._verify())
            case _:
                return await self._state()

    async def _sync(self) -> dict[str, Any]:
        await self._reconciler.is_synced.wait()
        wall_s, usage = since_process_start_s(), resource.getrusage(resource.RUSAGE_SELF)
        heap.freeze()
        self._seen = self._reconciler.journal.total
        return {
            "wall_s": wall_s,
            "user_s": usage.ru_utime,
            "sys_s": usage.ru_stime,
            "peak_mib": usage.ru_maxrss / 1024,
            "ports": len(self._reconciler.desired.ports),
            "operations": self._reconciler.operations,
        }

    async def _changes(self, count: int) -> dict[str, Any]:
        cpu_s, transactions = time.process_time(), self._reconciler.transactions
        generation, programs = _generation(), spent.so_far()
        goal, journal = self._seen + count, self._reconciler.journal
        total, moved_s = journal.total, time.monotonic()
        while journal.total < goal and time.monotonic() < moved_s + QUIET_S:
            await asyncio.sleep(0.02)
            if journal.total > total:
                total, moved_s = journal.total, time.monotonic()
        entries = list(self._reconciler.journal)[-(self._reconciler.journal.total - self._seen) :]
        self._seen = self._reconciler.journal.total
        return {
            "span_s": entries[-1].acknowledged_s - entries[0].received_s if entries else 0.0,
            "spans_s": [(e.received_s, e.acknowledged_s) for e in entries],
            "latencies_ms": [(e.acknowledged_s - e.received_s) * 1e3 for e in entries],
            "planned_ms": [(e.planned_s - e.received_s) * 1e3 for e in entries],
            "errors": [e.error for e in entries if e.error],
            "cpu_ms": (time.process_time() - cpu_s) * 1e3,
            "transactions": self._reconciler.transactions - transactions,
            "generations": _generation() - generation,
            "programs_ms": spent.since_ms(programs),
        }

    async def _verified(self, count: int) -> dict[str, Any]:
        """Wait for changes while one verification follows the other; the last one ends before this does."""
        reconciler = self._reconciler
        changes = asyncio.create_task(self._changes(count))
        verifications = drifts = 0
        while not changes.done():
            drifts += len(await reconciler.backend.verify(reconciler.observed))
            verifications += 1
        return await changes | {"verifications": verifications, "drifts": drifts}

    async def _verify(self) -> dict[str, Any]:
        started_s = time.monotonic()
        drifts = await self._reconciler.backend.verify(self._reconciler.observed)
        return {
            "wall_s": time.monotonic() - started_s,
            "drifts": [drift.what for drift in drifts],
        }

    async def _state(self) -> dict[str, Any]:
        backend, reconciler = self._reconciler.backend, self._reconciler
        fresh = await backend.observe()
        plan = backend.plan(reconciler.desired.whole, fresh, list(reconciler.desired.ports))
        if isinstance(plan, BesidePlan):
            plan = (
                plan.first
            )  # what serves localhost is of this process, and nothing of it outlives it
        drifts = await backend.verify(reconciler.observed)
        return {"left_to_do": len(plan.describe()), "drifts": [drift.what for drift in drifts]}


def _generation() -> int:
    """Return the number of nftables transactions in this namespace, whoever made them."""
    with Nft() as door:
        return door.generation()


if __name__ == "__main__":
    main()
