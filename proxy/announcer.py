"""Which states become Events for operators: what begins is told once, until it is over and begins again.

Shell, for it looks every few seconds. What is told here is also in the log, at /readyz and in the metrics; Events are for
those who ask the cluster first (`kubectl describe node`, `kubectl describe service`).
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from proxy import __version__
from proxy.events_recorder import Recorder, Regarding, node_reference
from proxy.health import Condition
from proxy.health_checks import HealthCheck
from proxy.ladder import Refusal, fallback_words
from proxy.model import PortKey, Rejected
from proxy.reconciler import Reconciler
from proxy.sources.events import Problems

LOOK_EVERY_S: Final = 2.0
_MOST_NAMED: Final = 3
_VERSIONS: Final = {"Service": "v1", "EndpointSlice": "discovery.k8s.io/v1"}


class Announcer:
    """Tells a recorder what operators must see."""

    def __init__(self, recorder: Recorder, node_name: str) -> None:
        self._recorder = recorder
        self._node = node_reference(node_name)
        self._node_name = node_name
        self._told: set[str] = set()

    def started(self, mode: str) -> None:
        """Tell that the proxy runs."""
        self._recorder.normal(
            self._node, "Starting", f"sliceproxy {__version__}, mode {mode}", action="StartProxy"
        )

    def fell_back(self, mode: str, passed_over: Sequence[Refusal]) -> None:
        """Tell that the mode is not the one it should be, if so."""
        if words := fallback_words(mode, passed_over):
            self.warn("ProxyModeFallback", words)

    def warn(self, reason: str, words: str) -> None:
        """Tell that something is wrong with this node's proxy, in words."""
        self._recorder.warn(self._node, reason, words)

    def stuck(self, words: str) -> None:
        """Tell that nothing can be programmed, and that no other mode takes over."""
        self.warn("ProxyModeFailed", words)

    def heard(self, event: Problems, known: Iterable[Rejected]) -> None:
        """Tell what of an object cannot be used, once for as long as it stays the same; `known` is what was said of it.

        All nodes see it, so it is one Event of the cluster.
        """
        already = set(known)
        news = [each for each in event.rejected if each not in already and each.kind in _VERSIONS]
        if not news:
            return
        first = news[0]
        namespace, _, name = first.name.rpartition("/")
        if not namespace or not name:  # no object of the cluster
            return
        regarding = Regarding(
            kind=first.kind,
            api_version=_VERSIONS[first.kind],
            namespace=namespace,
            name=name,
            uid=event.uid,
        )
        told = [f"{each.field}: {each.reason}" if each.field else each.reason for each in news]
        more = f" (and {len(told) - _MOST_NAMED} more)" if told[_MOST_NAMED:] else ""
        self._recorder.warn(
            regarding,
            "UnusableField",
            "; ".join(told[:_MOST_NAMED]) + more,
            action="Read",
            is_shared=True,
        )

    def busy(self, check: HealthCheck, words: str) -> None:
        """Tell that a health check node port stays unavailable."""
        regarding = Regarding(
            kind="Service",
            namespace=check.service.namespace,
            name=check.service.name,
            uid=check.uid,
        )
        note = f"node {self._node_name}: {words}"
        self._recorder.warn(regarding, "FailedToStartServiceHealthcheck", note, action="Listen")

    def look(self, condition: Condition, refused: Iterable[PortKey]) -> None:
        """Tell what has begun since the last look."""
        is_unknown = condition.is_synced and not condition.node.is_known
        self._begin(
            "NodeUnknown",
            "the own Node could not be read: neither its zone nor its addresses are known"
            if is_unknown
            else "",
        )
        names = sorted({str(key) for key in refused})
        more = f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else ""
        listed = ", ".join(names[:_MOST_NAMED]) + more
        self._begin("ServicePortsRefused", f"refused by the kernel: {listed}" if names else "")
        self._begin(
            "Contended",
            "somebody keeps changing our objects in the kernel" if condition.is_contended else "",
        )

    async def run(self, reconciler: Reconciler) -> None:
        """Look from time to time, until cancelled."""
        while True:
            condition = reconciler.condition(time.monotonic())
            self.look(condition, tuple(reconciler.quarantine))
            await asyncio.sleep(LOOK_EVERY_S)

    def _begin(self, reason: str, words: str) -> None:
        if not words:
            self._told.discard(reason)
        elif reason not in self._told:
            self._told.add(reason)
            self.warn(reason, words)
