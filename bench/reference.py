"""The references: the same change made by an `nft -f -` process, on our tables and on kube-proxy's layout. Shell."""

import subprocess
import time
from collections.abc import Sequence

from bench import kubeproxy_layout, workload


class Reference:
    """Changes services in one namespace through the stock tool, remembering what each has become."""

    def __init__(self, namespace: str, endpoints: int, *, is_ours: bool) -> None:
        self._namespace = namespace
        self._count = endpoints
        self._is_ours = is_ours
        self._endpoints: dict[int, list[int]] = {}
        self._new = 1 << 21
        self._gone: list[str] = []

    def change(self, kind: str, service: int) -> float:
        """Make one change and return how long the process took (milliseconds)."""
        before = self._endpoints.setdefault(service, workload.endpoints_of(service, self._count))
        after = self._after(kind, before)
        write = _our_change if self._is_ours else kubeproxy_layout.change
        took_ms = self.run(write(service, before, after))
        self._endpoints[service] = after
        gone = [endpoint for endpoint in before if endpoint not in after]
        self._gone += [kubeproxy_layout.forget(service, gone)] if not self._is_ours else []
        return took_ms

    def forget(self) -> None:
        """Delete the chains of removed endpoints, as kube-proxy does somewhat later. Not measured."""
        if text := "".join(self._gone):
            self.run(text)
        self._gone.clear()

    def _after(self, kind: str, before: list[int]) -> list[int]:
        self._new += 1
        match kind:
            case "replace":
                return [self._new, *before[1:]]
            case "add/remove":
                return before[:-1] if len(before) > self._count else [*before, self._new]
            case "0↔1":
                return [] if before else [self._new]
            case _:
                return [*before[:8], self._new] if len(before) == 8 else before[:8]

    def run(self, text: str) -> float:
        """Run the stock tool in the namespace. Raises CalledProcessError with its words."""
        argv = ["ip", "netns", "exec", self._namespace, "nft", "-f", "-"]
        started_s = time.perf_counter()
        subprocess.run(argv, input=text.encode(), check=True, capture_output=True)
        return (time.perf_counter() - started_s) * 1e3

    def overhead_ms(self) -> float:
        """Return what entering the namespace and starting a process costs, to be taken off."""
        argv = ["ip", "netns", "exec", self._namespace, "true"]
        times = []
        for _ in range(5):
            started_s = time.perf_counter()
            subprocess.run(argv, check=True)
            times.append((time.perf_counter() - started_s) * 1e3)
        return min(times)


def _our_change(service: int, before: Sequence[int], after: Sequence[int]) -> str:
    """Return the same operations that our planner makes, as text."""
    frontend = f"{workload.cluster_ip(service)} . {workload.PORT}"
    key = f"{workload.cluster_ip(service)} . tcp . {workload.PORT}"
    lines = []
    for slot in range(max(len(before), len(after))):
        old = before[slot] if slot < len(before) else None
        new = after[slot] if slot < len(after) else None
        if old == new:
            continue
        if old is not None:
            lines.append(f"delete element ip sliceproxy endpoints-tcp {{ {frontend} . {slot} }}")
        if new is not None:
            target = f"{workload.endpoint_ip(new)} . {workload.TARGET_PORT}"
            lines.append(
                f"add element ip sliceproxy endpoints-tcp {{ {frontend} . {slot} : {target} }}"
            )
    if before and not after:
        lines.append(f"add element ip sliceproxy refused {{ {key} }}")
    if after and not before:
        lines.append(f"delete element ip sliceproxy refused {{ {key} }}")
    old_chain, new_chain = _capacity(len(before)), _capacity(len(after))
    if before and after and old_chain != new_chain:
        chain = f"pick-tcp-{new_chain}"
        lines += [
            f"add chain ip sliceproxy {chain}",
            f"delete element ip sliceproxy services {{ {key} }}",
            f"add element ip sliceproxy services {{ {key} : goto {chain} }}",
        ]
    return "\n".join(lines) + "\n"


def _capacity(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
