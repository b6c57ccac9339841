"""Metrics in Prometheus' words: `kubeproxy` has kube-proxy's, `ours` the rest. Shell.

Everything is read when somebody asks: what `meter` and `journal` have counted, and the state itself. So a change costs
no more than counting it, and a scrape of ten thousand services a few milliseconds.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.conntrack_sweeper import Sweeper
from proxy.events_recorder import Recorder
from proxy.health import degraded, is_eligible, is_late
from proxy.meter import Meter
from proxy.metrics import kubeproxy, ours
from proxy.reconciler import Reconciler
from proxy.sources.events import WatchReport
from proxy.verifier import Verifier


class Reporting(Protocol):
    """Whoever says how it stands with the API server."""

    def report(self) -> Sequence[WatchReport]: ...


def everything(
    reconciler: Reconciler,
    verifier: Verifier,
    source: Reporting,
    meter: Meter,
    *,
    timeout_s: float,
    sweeper: Sweeper | None = None,
    recorder: Recorder | None = None,
) -> CollectorRegistry:
    """Return all metrics. `timeout_s` is after how long a change that waits makes the proxy unhealthy."""

    def collect() -> Iterator[Metric]:
        now_s, mode = time.monotonic(), reconciler.backend.name
        condition, reports = reconciler.condition(now_s), source.report()
        ports = reconciler.desired.ports.values()
        yield from ours.about(mode)
        yield from ours.ladder(reconciler)
        yield from kubeproxy.rounds(meter)
        yield from kubeproxy.changes(reconciler, now_s)
        yield from kubeproxy.without_local_endpoints(ports)
        yield from kubeproxy.answers(meter)
        if sweeper is not None:
            yield from kubeproxy.conntrack(sweeper)
        if mode == "nftables":
            yield from kubeproxy.nftables(meter, reconciler)
        yield from ours.durations(meter, reconciler.journal)
        yield from ours.objects(reconciler.cache)
        yield from ours.kernel(reconciler, verifier)
        yield from ours.figures(mode, reconciler.backend.figures())
        yield from ours.state(condition, degraded(condition, reports, now_s, timeout_s))
        yield from ours.watches(reports, now_s)
        if recorder is not None:
            yield from ours.events(recorder)

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_When(collect))
    return registry


def indicators(reconciler: Reconciler, timeout_s: float) -> CollectorRegistry:
    """Return what a component's service level is measured by: which of its health checks pass, now.

    Name and labels are those of every Kubernetes component at /metrics/slis (KEP-3466).
    """

    def collect() -> Iterator[Metric]:
        now_s = time.monotonic()
        condition = reconciler.condition(now_s)
        checks = {
            ("ping", "healthz"): True,
            ("node-eligible", "healthz"): is_eligible(condition.node),
            ("first-sync", "readyz"): condition.is_synced,
        }
        for family, each in condition.families.items():
            checks[f"proxier-{family}", "livez"] = not is_late(each, now_s, timeout_s)
        metric = GaugeMetricFamily(
            "kubernetes_healthcheck",
            "The result of a health check; 1 is good.",
            labels=["name", "type"],
        )
        for labels, is_good in checks.items():
            metric.add_metric(labels, float(is_good))
        yield metric

    registry = CollectorRegistry()
    registry.register(_When(collect))
    return registry


class _When(Collector):
    """Collects when asked to, and only then: nobody else registers a name that could be taken."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        return self._collect()
