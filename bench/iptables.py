"""Mode iptables on both flavours, beside kube-proxy's pattern restored in the same run: `python -m bench --iptables`.

All sizes of a flavour are up at once and measured in turns, so that noise meets all alike. Each is in namespaces of its own;
so is the lock that programs of iptables take.
"""

import contextlib
import os
import random
import tempfile
import time
from argparse import Namespace as Arguments
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from backends.iptables.model import SETS
from backends.kernel.xtables_text import Flavour
from bench import connecting, workload
from bench.in_force import Generations
from bench.iptables_reference import Reference
from bench.iptables_tables import Changes, Found, members_in, rules_in, show
from bench.processes import Node, say
from e2e.capabilities import missing
from e2e.flavours import have_kubelet_use
from e2e.namespace import Namespace

ROUNDS: Final = 4
CHANGES: Final = 15
"""Of ours, in one round."""
REFERENCES: Final = 3
CONNECTIONS: Final = 1500
_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0


def measure(sizes: Sequence[int], args: Arguments) -> dict[str, Any]:
    """Measure and show every flavour that this machine has."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, _own_lock(directory):
        for flavour in Flavour:
            if reason := missing(f"iptables-{flavour}") or missing("ipset"):
                print(f"Mode iptables, {flavour}\n  not measured: {reason}\n")
                continue
            found[flavour] = measure_flavour(flavour, sizes, args.endpoints)
            show(flavour, found[flavour])
    return found


@contextlib.contextmanager
def _own_lock(directory: str) -> Iterator[None]:
    """Have all programs started here take a lock that nobody else does: others are not to be waited for."""
    before = dict(os.environ)
    os.environ["XTABLES_LOCKFILE"] = str(Path(directory, "lock"))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure_flavour(
    flavour: Flavour, sizes: Sequence[int], endpoints: int
) -> list[dict[str, Any]]:
    """Measure one flavour at every size; one result for each."""
    with contextlib.ExitStack() as stack:
        sides = [Side(stack, flavour, size, endpoints) for size in sizes]
        found = [Found() for _ in sides]
        for side in sides:
            side.round(Found())  # warms up
        for number in range(ROUNDS):
            say(f"iptables, {flavour}: round {number + 1} of {ROUNDS}")
            for side, each in zip(sides, found, strict=True):
                side.round(each)
        return [side.finish() | each.summary() for side, each in zip(sides, found, strict=True)]


class Side:
    """One size: the measured node, and the same services in kube-proxy's pattern."""

    def __init__(
        self, stack: contextlib.ExitStack, flavour: Flavour, services: int, endpoints: int
    ) -> None:
        self._flavour = flavour
        self._services = services
        self._endpoints = endpoints
        self._rng = random.Random(services)
        self._turn = 0
        say(f"iptables, {flavour}: {services} services × {endpoints} endpoints: loading ours")
        self._namespace = stack.enter_context(Namespace("bench"))
        have_kubelet_use(self._namespace, flavour)
        self._node = _start(stack, self._namespace, services, endpoints)
        self._started = self._node.ask(do="sync")
        say(f"iptables, {flavour}: {services} services: loading the reference")
        other = stack.enter_context(Namespace("bench-ref"))
        have_kubelet_use(other, flavour)
        self._reference = Reference(other, flavour, services, endpoints)
        self._reference_s = self._reference.load()
        self._path = stack.enter_context(connecting.path(self._namespace))
        self._reference_path = stack.enter_context(connecting.path(other))
        self._pause_s = _LONGEST_PAUSE_S
        slowest_ms = max(self._replace(2)["latencies_ms"])
        # one at a time: what comes while another is written goes together with the next
        self._pause_s = _PAUSE_S + 2 * slowest_ms / 1e3

    def round(self, found: Found) -> None:
        """Measure some of everything."""
        self._change(found.ours)
        for _ in range(REFERENCES):
            self._turn += 1
            # as ours: a commit just after another may wait for what that one has left to the kernel
            time.sleep(self._pause_s)
            took = self._reference.replace(self._turn % self._services)
            found.reference.add(took.in_force_ms, took.returned_ms)
            found.reference.add_cpu(took.cpu_ms)
        self._reference.forget()
        self._connect(found.connects_us)

    def finish(self) -> dict[str, Any]:
        """Return what there is. Raises SystemExit unless the kernel holds what is desired."""
        state = self._node.ask(do="state")
        if state["left_to_do"] or state["drifts"]:
            raise SystemExit(f"kernel and desire differ after the changes: {state}")
        rules = rules_in(self._namespace.run([f"iptables-{self._flavour}-save"]))
        members = members_in(self._namespace.run(["ipset", "save"]), SETS["IPv4"])
        count = self._services * self._endpoints
        return {
            "services": self._services,
            "endpoints": self._endpoints,
            "start": self._started,
            "reference_start_s": self._reference_s,
            "rules_per_endpoint": rules / count,
            "reference_rules_per_endpoint": self._reference.rules() / count,
            "members_per_endpoint": members / count,
        }

    def _change(self, changes: Changes) -> None:
        with Generations(self._namespace) as generations:
            answer = self._replace(CHANGES)
            for begun_s, ended_s in answer["spans_s"]:
                in_force_ms = generations.last_ms(begun_s, ended_s)
                changes.add(in_force_ms, (ended_s - begun_s) * 1e3)
        changes.add_cpu(answer["programs_ms"], answer["cpu_ms"])

    def _replace(self, count: int) -> dict[str, Any]:
        """Have endpoints of our services replaced; return what the measured process says."""
        self._node.feed(
            do="change", kind="replace", count=count, pause_s=self._pause_s,
            services=self._services, endpoints=self._endpoints,
        )  # fmt: skip
        answer = self._node.ask(do="changes", count=count)
        if answer["errors"]:
            raise SystemExit(f"the kernel refused changes: {answer['errors'][:3]}")
        return answer

    def _connect(self, connects_us: dict[str, list[float]]) -> None:
        """Connect to random services of both, and to endpoints directly."""
        numbers = [self._rng.randrange(self._services) for _ in range(CONNECTIONS)]
        services = [workload.cluster_ip(number) for number in numbers]
        direct = [workload.endpoint_ip(number) for number in numbers]
        connects_us["ours"] += self._path.connect_us(services, workload.PORT)
        connects_us["reference"] += self._reference_path.connect_us(services, workload.PORT)
        connects_us["without a service"] += self._path.connect_us(direct, workload.TARGET_PORT)


def _start(
    stack: contextlib.ExitStack, namespace: Namespace, services: int, endpoints: int
) -> Node:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    flags = ["--proxy-mode", "iptables", "--state-dir", str(directory)]
    # without it one change a second: what is waited for by intent is not measured
    flags += ["--iptables-min-sync-period", "1ms"]
    measured = Node(namespace, directory, services, endpoints, more=flags)
    stack.callback(measured.stop)
    return measured
