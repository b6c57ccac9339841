"""The other end of HTTP(S): an API server that changes objects when told to. `python -m bench.apiserver DIRECTORY [--tls]`.

The tests' stand-in serves the objects. Commands are those of bench.source; the answer to "load" is the path of a
kubeconfig for the daemon.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from bench import workload
from bench.source import Changer
from tests.apiserver.resources import SLICES
from tests.apiserver.running import running
from tests.apiserver.store import Store


async def serve() -> None:
    """Serve until standard input ends."""
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    load = json.loads(await commands.readline())
    has_features = load["has_features"]
    changer = Changer(has_features=has_features)
    is_tls = "--tls" in sys.argv
    async with running(
        workload.objects(load["services"], load["endpoints"], has_features=has_features),
        is_tls=is_tls,
        credentials="token" if is_tls else "none",
        directory=Path(sys.argv[1]),
    ) as started:
        gc.freeze()
        print(started.kubeconfig, flush=True)
        while line := await commands.readline():
            await change(started.server.store, changer, json.loads(line))
            print("done", flush=True)


async def change(store: Store, changer: Changer, command: dict[str, Any]) -> None:
    """Write changed slices at the pace that was asked for."""
    objects = changer.objects(command)
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for obj in objects:
        store.put(SLICES, obj)
        due_s += command["pause_s"]
        await asyncio.sleep(max(0.0, due_s - loop.time()))


if __name__ == "__main__":
    uvloop.run(serve())
