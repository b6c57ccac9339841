"""Metric families from plain numbers."""

import pytest
from prometheus_client.core import Metric

from proxy.histogram import Histogram
from proxy.metrics.families import counter, counters, gauge, gauges, histogram, histograms, info


def samples(metric: Metric) -> list[tuple[str, dict[str, str], float]]:
    return [(sample.name, sample.labels, sample.value) for sample in metric.samples]


def counted() -> Histogram:
    made = Histogram((0.5, 1.0))
    made.observe(0.7)
    return made


@pytest.mark.parametrize(
    ("metric", "kind", "wanted"),
    [
        (gauge("a", "text", True), "gauge", [("a", {}, 1.0)]),
        (counter("a_total", "text", 2), "counter", [("a_total", {}, 2.0)]),
        (info("a_info", "text", {"x": "y"}), "gauge", [("a_info", {"x": "y"}, 1.0)]),
        (gauges("a", "text", "x", {"y": 2}), "gauge", [("a", {"x": "y"}, 2.0)]),
        (counters("a_total", "text", "x", {"y": 2}), "counter", [("a_total", {"x": "y"}, 2.0)]),
        (gauges("a", "text", "", {"": 2}), "gauge", [("a", {}, 2.0)]),
        (counters("a_total", "text", "", {"": 2}), "counter", [("a_total", {}, 2.0)]),
    ],
)
def test_numbers_become_metrics(
    metric: Metric, kind: str, wanted: list[tuple[str, dict[str, str], float]]
) -> None:
    assert (metric.type, metric.documentation, samples(metric)) == (kind, "text", wanted)


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        (histogram("a", "text", counted()), {}),
        (histograms("a", "text", "x", {"y": counted()}), {"x": "y"}),
    ],
)
def test_histograms_have_bounds_as_openmetrics_writes_them(
    metric: Metric, labels: dict[str, str]
) -> None:
    assert samples(metric) == [
        ("a_bucket", {**labels, "le": "0.5"}, 0.0),
        ("a_bucket", {**labels, "le": "1.0"}, 1.0),
        ("a_bucket", {**labels, "le": "+Inf"}, 1.0),
        ("a_count", labels, 1.0),
        ("a_sum", labels, 0.7),
    ]
