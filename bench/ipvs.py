"""One endpoint changes in mode ipvs, at three sizes: `python -m bench --ipvs`.

All sizes are up at once and measured in turns, beside the same change by an `ipvsadm` process on the same virtual servers,
so that noise meets all alike. Where this kernel has no IPVS, all of that happens in a virtual machine (e2e/guest).
Emulated, times mean nothing and ratios little enough: so only ratios of medians are told.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from bench.ipvsadm import Ipvsadm, Kind
from bench.processes import Node, node, say
from bench.table import figure, median, render
from bench.workload import WIDTH
from e2e.capabilities import missing

SIZES: Final = (100, 1000, 5000)
ENDPOINTS: Final = 4
ROUNDS: Final = 8
CHANGES: Final = 6
"""Of each kind and size, in one round."""
REFERENCES: Final = 1
TOGETHER: Final = 20
"""So many changes are made by one process to learn what one takes alone: starting the process takes far longer."""
LOOKS: Final = 5
PAUSE_S: Final = 0.15
LIMIT_S: Final = 480.0
"""How long the guest may take, with its boot."""
ENOUGH_S: Final = 300.0
"""After so long no further round is begun: how fast an emulated machine is depends on what else this one does."""
FLAT: Final = 1.3
"""What a change at the largest size may cost, in those at the smallest."""
_FOUND: Final = "bench.ipvs: "


def main() -> int:
    """Measure on this kernel and print what was found as one line, for `measure` of another process."""
    print(_FOUND + json.dumps(measure_here()), flush=True)
    return 0


def measure() -> dict[str, Any] | None:
    """Measure here, or else in the guest, in less than eight minutes; None, and the reason in words, where neither can be."""
    if not shutil.which("ipvsadm"):
        _skip("ipvsadm is not installed: .ci/setup --guest does it")
        return None
    if not missing("ipvs"):
        found = measure_here()
        show(found)
        return found
    say("booting a kernel with IPVS")
    command = [sys.executable, "-m", "e2e.guest", "--limit-s", f"{LIMIT_S:g}", "--run"]
    inside = [sys.executable, "-m", "bench.ipvs"]
    with subprocess.Popen([*command, *inside], stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdout is not None
        answer = parse(map(_pass_on, guest.stdout))
    if answer is None:
        _skip(f"the guest ended with status {guest.returncode}")
        return None
    show(answer)
    return answer


def parse(lines: Iterable[str]) -> dict[str, Any] | None:
    """Return what the process in the guest has found; None if it did not come so far."""
    found = None
    for line in lines:
        if line.startswith(_FOUND):
            found = json.loads(line.removeprefix(_FOUND))
    return found


def _pass_on(line: str) -> str:
    if not line.startswith(_FOUND):
        print(line, end="", file=sys.stderr, flush=True)
    return line


def _skip(reason: str) -> None:
    print(f"One change in mode ipvs\n  not measured: {reason}\n")


class Side:
    """One size: the measured node, and the stock tool in its namespace, which changes other services."""

    def __init__(self, stack: contextlib.ExitStack, services: int) -> None:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        flags = ["--proxy-mode", "ipvs", "--state-dir", state]
        self.services = services
        self.ours: Node
        self.ours, namespace = stack.enter_context(node(services, ENDPOINTS, more=flags))
        self.ours.ask(do="sync")
        self.reference = Ipvsadm(namespace.name, ENDPOINTS)
        self._turn = 0

    def change(self, kind: Kind, count: int) -> dict[str, Any]:
        """Have endpoints of our services changed; return what the measured process says."""
        self.ours.feed(
            do="change", kind=kind, count=count, pause_s=PAUSE_S,
            services=self.services, endpoints=ENDPOINTS,
        )  # fmt: skip
        answer = self.ours.ask(do="changes", count=count)
        if answer["errors"]:
            raise SystemExit(f"the kernel refused changes: {answer['errors'][:3]}")
        return answer

    def refer(self, kind: Kind) -> tuple[float, float]:
        """Make changes by the stock tool; milliseconds of a process for one, and of one change without the process."""
        self._turn += 1
        service = WIDTH + self._turn % 4
        start_ms = self.reference.run()
        took_ms = self.reference.change(kind, service)
        many_ms = self.reference.change(kind, service, TOGETHER)
        return took_ms, max(0.0, many_ms - start_ms) / TOGETHER

    def check(self) -> None:
        """Raise SystemExit unless the kernel holds what is desired, now that the tool's changes are undone."""
        self.reference.restore()
        state = self.ours.ask(do="state")
        for _ in range(LOOKS):  # what the last changes have left goes when it is looked at
            if not state["left_to_do"]:
                break
            time.sleep(1.0)
            state = self.ours.ask(do="state")
        if state["left_to_do"] or state["drifts"]:
            raise SystemExit(f"kernel and desire differ after the changes: {state}")


class Figures:
    """What was measured of one kind of change at one size."""

    def __init__(self) -> None:
        self._latencies_ms: list[float] = []
        self._cpu_ms: list[float] = []
        self._ipvsadm_ms: list[tuple[float, float]] = []

    def add(self, answer: dict[str, Any], references: Iterable[tuple[float, float]]) -> None:
        """Take in one round: what the measured process says, and what the stock tool took."""
        self._latencies_ms += answer["latencies_ms"]
        self._cpu_ms.append(answer["cpu_ms"] / CHANGES)
        self._ipvsadm_ms += references

    def summary(self) -> dict[str, Any]:
        return {
            "p50_ms": median(self._latencies_ms),
            "cpu_ms": median(self._cpu_ms),
            "ipvsadm_ms": median([whole for whole, _ in self._ipvsadm_ms]),
            "ipvsadm_alone_ms": median([alone for _, alone in self._ipvsadm_ms]),
            "latencies_ms": self._latencies_ms,
        }


def measure_here(sizes: Sequence[int] = SIZES, until_s: float = ENOUGH_S) -> dict[str, Any]:
    """Measure every kind of change at every size on this kernel, in rounds; no further one is begun after `until_s`."""
    begun_s = time.monotonic()
    found = {(kind, size): Figures() for kind in get_args(Kind) for size in sizes}
    rounds = 0
    with contextlib.ExitStack() as stack:
        sides = []
        for size in sizes:
            sides.append(Side(stack, size))
            say(f"mode ipvs: {size} services are programmed, {time.monotonic() - begun_s:.0f} s")
        _round(sides, {place: Figures() for place in found})  # warms up
        while not rounds or (rounds < ROUNDS and time.monotonic() < begun_s + until_s):
            rounds += 1
            say(f"mode ipvs: round {rounds}, {time.monotonic() - begun_s:.0f} s")
            _round(sides, found)
        for side in sides:
            side.check()
    took_s = time.monotonic() - begun_s
    say(f"mode ipvs: done, {took_s:.0f} s")
    changes = [
        {"kind": kind, "services": size, **each.summary()} for (kind, size), each in found.items()
    ]
    return {"took_s": took_s, "rounds": rounds, "endpoints": ENDPOINTS, "changes": changes}


def _round(sides: Sequence[Side], found: Mapping[tuple[Kind, int], Figures]) -> None:
    for kind in get_args(Kind):
        for side in sides:
            answer = side.change(kind, CHANGES)
            found[kind, side.services].add(answer, [side.refer(kind) for _ in range(REFERENCES)])


def show(found: dict[str, Any]) -> None:
    """Print ratios: to the smallest size, and of the stock tool to ours."""
    smallest = {each["kind"]: each for each in reversed(found["changes"])}
    rows = [_row(each, smallest[each["kind"]]) for each in found["changes"]]
    header = [
        "one endpoint", "services", "p50", "cpu", "ipvsadm",
        "ipvsadm/ours", "its work alone",
    ]  # fmt: skip
    title = (
        f"One change in mode ipvs, services with {found['endpoints']} endpoints:"
        f" ratios of medians over {found['rounds']} rounds"
    )
    print(render(title, header, rows))
    print(
        "  p50, cpu and ipvsadm: growth against the smallest size, of the time from the read of the event to the kernel's\n"
        "  acknowledgement, of the processor time of the whole process, and of the same change by an `ipvsadm --restore`\n"
        "  process; then that process against p50, and its work alone (many changes by one process). Nothing here should grow:\n"
        "  the kernel finds a virtual server by hash, and no set or map changes with an endpoint of another node.\n"
    )


def _row(each: dict[str, Any], smallest: dict[str, Any]) -> list[str]:
    growth = each["p50_ms"] / smallest["p50_ms"]
    return [
        each["kind"],
        str(each["services"]),
        figure(growth) + (" ×" if growth <= FLAT else " × (!)"),
        figure(each["cpu_ms"] / smallest["cpu_ms"]) + " ×",
        figure(each["ipvsadm_ms"] / smallest["ipvsadm_ms"]) + " ×",
        figure(each["ipvsadm_ms"] / each["p50_ms"]) + " ×",
        figure(each["ipvsadm_alone_ms"] / each["p50_ms"]) + " ×",
    ]


if __name__ == "__main__":
    sys.exit(main())
