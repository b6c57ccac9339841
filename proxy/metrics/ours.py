"""The metrics that only this program has, under `sliceproxy_`. Shell.

No label per service, endpoint or object: every label has a few values that are known beforehand.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy import __version__, rejections
from proxy.backend import Figure
from proxy.cache import Cache
from proxy.config.modes import LADDER
from proxy.events_recorder import RESULTS, Recorder
from proxy.health import CHECKS, Condition, Degraded
from proxy.journal import Journal
from proxy.meter import Meter
from proxy.metrics.families import counter, counters, gauge, gauges, histogram, histograms, info
from proxy.reconciler import Reconciler
from proxy.sources.events import Phase, Trouble, WatchReport
from proxy.verifier import Verifier

_PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
_TROUBLES: Final[tuple[Trouble, ...]] = get_args(Trouble)


def about(mode: str) -> Iterator[Metric]:
    """Which program this is."""
    yield info("sliceproxy_build_info", "Which build this is; always 1.", {"version": __version__})
    yield info("sliceproxy_mode_info", "Which data plane is programmed; always 1.", {"mode": mode})


def ladder(reconciler: Reconciler) -> Iterator[Metric]:
    """Whether another mode had to take over, and which will not do."""
    passed_over = {each.mode for each in reconciler.passed_over}
    yield gauge(
        "sliceproxy_fallback",
        "Whether the mode is not the one asked for, or the best, because that will not do.",
        bool(passed_over),
    )
    yield gauges(
        "sliceproxy_passed_over_mode",
        "Whether a mode was passed over: it cannot run here, or could program nothing any more.",
        "mode",
        {mode: mode in passed_over for mode in LADDER},
    )
    yield counter(
        "sliceproxy_mode_changes_total",
        "How often another mode took over from one that could program nothing any more.",
        reconciler.falls,
    )


def durations(meter: Meter, journal: Journal) -> Iterator[Metric]:
    """How long things take."""
    yield counters(
        "sliceproxy_rounds_total",
        "Rounds, by how they ended; what the kernel refuses of single service ports is no failure.",
        "result",
        {"ok": meter.rounds[True], "failed": meter.rounds[False]},
    )
    yield counter(
        "sliceproxy_changes_total",
        "Changes of service ports that were brought to the kernel, or that it refused.",
        journal.total,
    )
    yield histogram(
        "sliceproxy_change_arrival_duration_seconds",
        "From a change in the cluster, as its EndpointSlice states it, until its first byte came in.",
        meter.reached,
    )
    yield histograms(
        "sliceproxy_change_stage_duration_seconds",
        "How long changes took to reach a stage from the one before; the first begins with the first byte.",
        "stage",
        journal.stages,
    )
    yield histogram(
        "sliceproxy_change_duration_seconds",
        "From the first byte of a change until the kernel had confirmed it.",
        journal.durations,
    )
    yield histogram(
        "sliceproxy_event_loop_lag_seconds",
        "How much later than due the event loop came back.",
        meter.lag,
    )


def objects(cache: Cache) -> Iterator[Metric]:
    """What is known of the cluster. A walk over all slices, a few milliseconds for ten thousand."""
    sizes = list(cache.slice_sizes())
    yield gauge("sliceproxy_services", "Services known, served or not.", len(cache.services))
    yield gauge("sliceproxy_endpoint_slices", "EndpointSlices known.", len(sizes))
    yield gauge(
        "sliceproxy_endpoint_slices_empty",
        "EndpointSlices that state no endpoint.",
        sizes.count(0),
    )
    yield gauge(
        "sliceproxy_endpoint_slices_per_service_max",
        "EndpointSlices of the service that has most.",
        max(cache.slices_per_service(), default=0),
    )
    yield gauge(
        "sliceproxy_endpoints",
        "Endpoints that EndpointSlices state, each once for each port.",
        sum(sizes),
    )
    rejected = GaugeMetricFamily(
        "sliceproxy_rejected_objects",
        "Objects of which a part cannot be used, by kind and what is wrong.",
        labels=["kind", "reason"],
    )
    for labels, count in sorted(rejections.count(cache.problems.values()).items()):
        rejected.add_metric(labels, float(count))
    yield rejected


def kernel(reconciler: Reconciler, verifier: Verifier) -> Iterator[Metric]:
    """What was done to the kernel, and what it made of it."""
    ports = reconciler.desired.ports.values()
    yield gauge("sliceproxy_service_ports", "Service ports to be served.", len(ports))
    yield gauge(
        "sliceproxy_contested_service_ports",
        "Service ports of which an address belongs to an older service.",
        sum([bool(port.lost) for port in ports]),
    )
    yield gauge(
        "sliceproxy_quarantined_service_ports",
        "Service ports the kernel refuses; they are set aside and tried again.",
        len(reconciler.quarantine),
    )
    for name, text, value in (
        ("kernel_operations", "Objects written to the kernel.", reconciler.operations),
        (
            "kernel_transactions",
            "Transactions that wrote objects to the kernel.",
            reconciler.transactions,
        ),
        ("verifications", "Comparisons of all we own with the kernel.", verifier.verifications),
        ("drift_repairs", "Comparisons with the kernel that led to a repair.", verifier.repairs),
        (
            "drifted_objects",
            "Differences between what we wrote and the kernel that were repaired.",
            verifier.drifts,
        ),
    ):
        yield counter(f"sliceproxy_{name}_total", text, value)


def figures(mode: str, found: Iterable[Figure]) -> Iterator[Metric]:
    """What only the data plane in use counts."""
    for figure in found:
        name = f"sliceproxy_{mode}_{figure.name}"
        of = counters if name.endswith("_total") else gauges
        yield of(name, figure.text, figure.label, figure.values)


def state(condition: Condition, found: Sequence[Degraded]) -> Iterator[Metric]:
    """What is as it should be, and what is not."""
    codes = {each.code for each in found}
    yield gauge(
        "sliceproxy_synced", "Whether everything has been programmed once.", condition.is_synced
    )
    yield gauge(
        "sliceproxy_contended",
        "Whether somebody keeps undoing repairs of what we wrote.",
        condition.is_contended,
    )
    yield gauges(
        "sliceproxy_degraded",
        "Whether a check finds something that is not as it should be.",
        "code",
        {check: check in codes for check in CHECKS},
    )


def events(recorder: Recorder) -> Iterator[Metric]:
    """What became of the Events for the API server."""
    yield counters(
        "sliceproxy_events_total",
        "Events for the API server, by what became of them; each update of a series is one more.",
        "result",
        {result: recorder.results[result] for result in RESULTS},
    )


def watches(reports: Sequence[WatchReport], now_s: float) -> Iterator[Metric]:
    """How it stands with the API server; nothing where there is none."""
    if not reports:
        return
    phase = GaugeMetricFamily(
        "sliceproxy_watch_phase",
        "Whether this is what a watch does now.",
        labels=["kind", "phase"],
    )
    errors = CounterMetricFamily(
        "sliceproxy_watch_errors_total",
        "Requests to the API server that came to nothing.",
        labels=["kind", "reason"],
    )
    for each in reports:
        for one in _PHASES:
            phase.add_metric([each.kind, one], float(each.phase == one))
        for reason in _TROUBLES:
            errors.add_metric([each.kind, reason], float(each.errors.get(reason, 0)))
    yield from (phase, errors)

    def of(value: Callable[[WatchReport], float]) -> dict[str, float]:
        return {each.kind: value(each) for each in reports}

    silent: dict[str, float] = {
        each.kind: now_s - each.heard_s for each in reports if each.heard_s
    }
    for name, text, values in (
        ("phase_age_seconds", "For how long a watch has been in its phase.", of(lambda each: now_s - each.since_s)),
        ("silence_seconds", "For how long nothing has come from the API server; absent if nothing ever has.",
         silent),
        ("failures", "Requests to the API server that came to nothing, in a row.", of(lambda each: each.failures)),
        ("objects", "Objects the API server has, as far as was heard.", of(lambda each: each.objects)),
    ):  # fmt: skip
        yield gauges(f"sliceproxy_watch_{name}", text, "kind", values)
    lists, starts = of(lambda each: each.lists), of(lambda each: each.watches)
    yield counters(
        "sliceproxy_watch_lists_total",
        "Lists that were begun, as pages or as a stream.",
        "kind",
        lists,
    )
    yield counters("sliceproxy_watch_starts_total", "Watches that were begun.", "kind", starts)
