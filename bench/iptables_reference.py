"""The reference of mode iptables at work: kube-proxy's pattern restored in a namespace by `iptables-restore`. Shell."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from backends.kernel.xtables_text import Flavour
from bench import kubeproxy_iptables, spent, workload
from bench.in_force import Generations
from e2e.namespace import Namespace

AT_ONCE: Final = 60
"""So many services at a time are loaded on the nft flavour."""


class Took(NamedTuple):
    """Milliseconds from the start of a program until it had ended, and until its change was in force, None where that
    cannot be told apart; and its processor time.
    """

    returned_ms: float
    in_force_ms: float | None
    cpu_ms: Mapping[str, float]


class Reference:
    """Services in kube-proxy's pattern, in a namespace of their own, which change one at a time."""

    def __init__(
        self, namespace: Namespace, flavour: Flavour, services: int, endpoints: int
    ) -> None:
        self._namespace = namespace
        self._flavour = flavour
        self._pattern = kubeproxy_iptables.Pattern(services, endpoints)
        self._first = {n: workload.endpoints_of(n, endpoints) for n in range(services)}
        self._now: dict[int, Sequence[int]] = {}
        self._gone: list[str] = []
        self._new = 1 << 21

    def load(self) -> float:
        """Write everything; return how long that took (seconds). Raises CalledProcessError with the program's words."""
        texts = [self._pattern.sync(self._first)]
        if self._flavour is Flavour.NFT:
            texts = [*self._pattern.parts(self._first, AT_ONCE), self._pattern.sync({})]
        texts.append(kubeproxy_iptables.hooks())
        return sum([self._run(text).returned_ms for text in texts]) / 1e3

    def replace(self, service: int) -> Took:
        """Replace one endpoint of a service as kube-proxy's partial sync does it."""
        before = self._now.get(service) or self._first[service]
        self._new += 1
        self._now[service] = [self._new, *before[1:]]
        text = self._pattern.sync({service: self._now[service]})
        gone = f"{workload.endpoint_ip(before[0])}:{workload.TARGET_PORT}"
        self._gone.append(kubeproxy_iptables.endpoint_chain(service, gone))
        if self._flavour is Flavour.LEGACY:
            return self._run(text)
        with Generations(self._namespace) as generations:
            begun_s = time.monotonic()
            took = self._run(text)
            in_force_ms = generations.last_ms(begun_s, time.monotonic())
        assert in_force_ms is not None, "the ruleset has not changed"
        return took._replace(in_force_ms=in_force_ms)

    def forget(self) -> None:
        """Delete the chains of removed endpoints, as kube-proxy does somewhat later. Not measured."""
        if self._gone:
            self._run(kubeproxy_iptables.deletion(self._gone))
        self._gone.clear()

    def rules(self) -> int:
        """How many rules there are, those in built-in chains too."""
        text = self._pattern.sync(self._first) + kubeproxy_iptables.hooks()
        return kubeproxy_iptables.rules_in(text)

    def _run(self, text: str) -> Took:
        argv = [f"iptables-{self._flavour}-restore", "--noflush", "--counters", "-w", "5"]
        with self._namespace.entered():
            before = spent.so_far()
            begun_s = time.perf_counter()
            subprocess.run(argv, input=text.encode(), check=True, capture_output=True)
            took_ms = (time.perf_counter() - begun_s) * 1e3
        return Took(took_ms, None, spent.since_ms(before))
