"""The reference of mode ipvs: the same change made by an `ipvsadm --restore` process on the same virtual servers. Shell.

A replaced endpoint is a destination added and one whose weight becomes 0; an added or removed one is one of these. What
has weight 0 is deleted later, which is not measured, here as there.
"""

import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from bench import workload

Kind = Literal["replace", "add/remove"]


class Ipvsadm:
    """Changes services in one namespace through the stock tool, remembering what each has become."""

    def __init__(self, namespace: str, endpoints: int) -> None:
        self._namespace = namespace
        self._count = endpoints
        self._endpoints: dict[int, list[int]] = {}
        self._gone: dict[int, list[int]] = {}
        self._new = 1 << 21

    def change(self, kind: Kind, service: int, count: int = 1) -> float:
        """Make so many changes, one after the other, and return how long the process took (milliseconds)."""
        lines: list[str] = []
        now = self._endpoints.get(service) or workload.endpoints_of(service, self._count)
        for _ in range(count):
            after = self._after(kind, now)
            lines.append(commands(service, now, after))
            self._gone.setdefault(service, []).extend(set(now) - set(after))
            now = after
        self._endpoints[service] = now
        return self.run("".join(lines))

    def restore(self) -> None:
        """Give all services changed here their endpoints back, and delete all others."""
        lines: list[str] = []
        for service, now in self._endpoints.items():
            first = workload.endpoints_of(service, self._count)
            lines.append(deletions(service, [*self._gone[service], *now]))
            lines.append(commands(service, [], first))
        self.run("".join(lines))
        self._endpoints.clear()
        self._gone.clear()

    def _after(self, kind: Kind, before: list[int]) -> list[int]:
        self._new += 1
        if kind == "replace":
            return [self._new, *before[1:]]
        return before[:-1] if len(before) > self._count else [*before, self._new]

    def run(self, text: str = "") -> float:
        """Run the stock tool in the namespace; milliseconds. Without commands: what starting it takes, to be taken off.

        Raises CalledProcessError with its words.
        """
        argv = ["ip", "netns", "exec", self._namespace, "ipvsadm", "--restore"]
        started_s = time.perf_counter()
        subprocess.run(argv, input=text.encode(), check=True, capture_output=True)
        return (time.perf_counter() - started_s) * 1e3


def commands(service: int, before: Sequence[int], after: Sequence[int]) -> str:
    """Return what leads new connections from some endpoints to others."""
    new = [f"-a {_destination(service, each)} -m -w 1\n" for each in after if each not in before]
    old = [f"-e {_destination(service, each)} -m -w 0\n" for each in before if each not in after]
    return "".join([*new, *old])


def deletions(service: int, gone: Iterable[int]) -> str:
    """Return what removes endpoints."""
    return "".join([f"-d {_destination(service, each)}\n" for each in gone])


def _destination(service: int, endpoint: int) -> str:
    virtual = f"{workload.cluster_ip(service)}:{workload.PORT}"
    return f"-t {virtual} -r {workload.endpoint_ip(endpoint)}:{workload.TARGET_PORT}"
