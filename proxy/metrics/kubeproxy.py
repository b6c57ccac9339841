"""kube-proxy's metrics: names, labels and bounds of Kubernetes 1.36, so that its dashboards and alerts work. Shell.

Only what means the same here. A name that ends in `_total` without being a counter keeps its name and goes without a
type, since a linter rightly objects to such a gauge.
"""

import time
from collections.abc import Collection, Iterator
from typing import Final

from prometheus_client.core import Metric, UnknownMetricFamily

from proxy.conntrack_sweeper import Sweeper
from proxy.desired import DesiredPort
from proxy.meter import Meter
from proxy.metrics.families import counter, counters, gauge, gauges, histograms
from proxy.model import FAMILIES, Family
from proxy.reconciler import Reconciler

_SYNC: Final = "kubeproxy_sync_proxy_rules"
_FAMILY: Final = "ip_family"
_STATUSES: Final = (200, 503)


def rounds(meter: Meter) -> Iterator[Metric]:
    """What came of rounds."""
    families = meter.families.items()
    yield histograms(
        f"{_SYNC}_duration_seconds",
        "How long rounds took that had something to do for the family.",
        _FAMILY,
        {family: each.rounds for family, each in families},
    )
    yield histograms(
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "How long rounds took that looked at all service ports.",
        _FAMILY,
        {family: each.full_rounds for family, each in families},
    )
    yield histograms(
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "How long rounds took that looked at what had changed.",
        _FAMILY,
        {family: each.partial_rounds for family, each in families},
    )
    yield gauges(
        f"{_SYNC}_last_timestamp_seconds",
        "When a round last ended well (unix seconds); 0 if none has.",
        _FAMILY,
        {family: each.updated_unix_s for family, each in families},
    )
    yield histograms(
        "kubeproxy_network_programming_duration_seconds",
        "From a change in the cluster, as its EndpointSlice states it, until it was programmed.",
        _FAMILY,
        {family: each.programming for family, each in families},
    )


def changes(reconciler: Reconciler, now_s: float) -> Iterator[Metric]:
    """What came from the source. A dual-stack Service counts once, not once for each family as in kube-proxy."""
    cache = reconciler.cache
    unix_ahead_s = time.time() - now_s
    yield gauges(
        f"{_SYNC}_last_queued_timestamp_seconds",
        "When something last had to be programmed, or the loop began (unix seconds).",
        _FAMILY,
        {
            family: unix_ahead_s + cache.changes.latest_s.get(family, each.started_s)
            for family, each in reconciler.progress.families({}).items()
        },
    )
    yield counter(
        f"{_SYNC}_endpoint_changes_total",
        "EndpointSlices that came, changed or went.",
        cache.slice_events,
    )
    yield gauge(
        f"{_SYNC}_endpoint_changes_pending",
        "Changes of EndpointSlices that wait to be programmed.",
        cache.changes.slices,
    )
    yield counter(
        f"{_SYNC}_service_changes_total",
        "Services that came, changed or went.",
        cache.service_events,
    )
    yield gauge(
        f"{_SYNC}_service_changes_pending",
        "Services that wait to be programmed, for a change of their own or of their endpoints.",
        len(cache.changes),
    )


def nftables(meter: Meter, reconciler: Reconciler) -> Iterator[Metric]:
    """What went wrong in mode nftables."""
    yield counters(
        f"{_SYNC}_nftables_sync_failures_total",
        "Rounds in which the kernel refused something, or could not be reached.",
        _FAMILY,
        {family: each.failures for family, each in meter.families.items()},
    )
    yield counters(
        f"{_SYNC}_nftables_cleanup_failures_total",
        "Attempts to remove leftovers, always of both families, that failed.",
        _FAMILY,
        dict.fromkeys(FAMILIES, reconciler.prune_failures),
    )


def conntrack(sweeper: Sweeper) -> Iterator[Metric]:
    """What came of looking for stale UDP flows."""
    families = sweeper.families.items()
    yield histograms(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "How long it took to find and delete tracked UDP flows to what no longer serves.",
        _FAMILY,
        {family: each.durations for family, each in families},
    )
    yield counters(
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "Tracked UDP flows that were deleted.",
        _FAMILY,
        {family: each.deleted for family, each in families},
    )


def answers(meter: Meter) -> Iterator[Metric]:
    """What probes were told."""
    for page in ("healthz", "livez"):
        yield counters(
            f"kubeproxy_proxy_{page}_total",
            f"Answers of /{page}, by status.",
            "code",
            {str(status): meter.answers[page, status] for status in _STATUSES},
        )


def without_local_endpoints(ports: Collection[DesiredPort]) -> Iterator[Metric]:
    """Which ServicePorts drop traffic because of a policy. A walk over all of them."""
    found: dict[tuple[str, Family], int] = {
        (policy, family): 0 for policy in ("internal", "external") for family in FAMILIES
    }
    for port in ports:
        if port.local or not port.is_any_usable:
            continue
        if port.internal_local:
            found["internal", port.key.family] += 1
        if port.external_local and any(each.kind != "ClusterIP" for each in port.frontends):
            found["external", port.key.family] += 1
    metric = UnknownMetricFamily(
        f"{_SYNC}_no_local_endpoints_total",
        "Service ports with a Local policy that drop traffic, since all usable endpoints are on other nodes.",
        labels=["traffic_policy", _FAMILY],
    )
    for labels, count in found.items():
        metric.add_metric(labels, float(count))
    yield metric
