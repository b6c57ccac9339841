"""The other end of the pipe: a process that writes watch events when told to. `python -m bench.source PIPE`.

Commands come as JSON lines on standard input. The first is "load"; it is answered by a line `ready` when all
objects are made, and they are written as soon as somebody reads. A line `done` follows when all is written.

{"do": "load", "services": N, "endpoints": E, "has_features": false}
{"do": "change", "kind": "replace", "count": C, "pause_s": P, "services": N, "endpoints": E}

Changes go over the first `width` services in turn: with features over all of them, or over those `of` one kind,
"plain" or "featured".
"""

import json
import os
import sys
import time
from typing import Any

from bench import workload


def main() -> None:
    """Write events to the pipe named on the command line until standard input ends."""
    changer = Changer()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "load":
            changer = Changer(has_features=command["has_features"])
            # All made before the measured process is started, which happens when it is told to.
            objects = b"".join(
                workload.initial(
                    command["services"],
                    command["endpoints"],
                    has_features=command["has_features"],
                )
            )
            print("ready", flush=True)
            pipe = os.open(sys.argv[1], os.O_WRONLY)  # waits for a reader
            write(pipe, objects)
            del objects
        else:
            events = [workload.event("MODIFIED", obj) for obj in changer.objects(command)]
            due_s = time.monotonic()
            for data in events:
                write(pipe, data)
                due_s += command["pause_s"]
                time.sleep(max(0.0, due_s - time.monotonic()))
        print("done", flush=True)


def write(pipe: int, data: bytes) -> None:
    """Write all of it, however large."""
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


class Changer:
    """Makes changed slices, remembering what each service has become."""

    def __init__(self, *, has_features: bool = False) -> None:
        self._has_features = has_features
        self._endpoints: dict[int, list[int]] = {}
        self._version = 100_000
        self._new = 1 << 22  # endpoint numbers nothing else uses

    def objects(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one slice for each change, over the first services in turn."""
        of = command.get("of", "all")
        services = [
            number
            for number in range(command["services"])
            if of == "all" or workload.is_featured(number) == (of == "featured")
        ][: command.get("width", workload.WIDTH)]
        return [
            self._slice(command["kind"], services[number % len(services)], command["endpoints"])
            for number in range(command["count"])
        ]

    def _slice(self, kind: str, service: int, endpoints: int) -> dict[str, Any]:
        current = self._endpoints.setdefault(service, workload.endpoints_of(service, endpoints))
        self._version += 1
        self._new += 1
        position = self._version % max(1, len(current))
        match kind:
            case "replace":
                current[position] = self._new
            case "add/remove":
                # one more, one less, and so on; the service goes through both in turn
                if len(current) > endpoints:
                    del current[position]
                else:
                    current.append(self._new)
            case "0↔1":
                current[:] = [] if current else [self._new]
            case "crossing 8→9":
                if len(current) == 8:
                    current.append(self._new)
                else:
                    del current[8:]
            case _:  # restore
                current[:] = workload.endpoints_of(service, endpoints)
        index = position // workload.ENDPOINTS_PER_SLICE if current else 0
        start = index * workload.ENDPOINTS_PER_SLICE
        part = current[start : start + workload.ENDPOINTS_PER_SLICE]
        return workload.endpoint_slice(
            service, index, part, self._version, has_features=self._has_features
        )


if __name__ == "__main__":
    main()
