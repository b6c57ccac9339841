"""Metrics as prometheus-client wants them, from plain numbers. Pure."""

from collections.abc import Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from proxy.histogram import Histogram


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=float(value))


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels; its name ends in `_total`."""
    return CounterMetricFamily(name, text, value=float(value))


def info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    """Return a gauge that is 1 and says what it has to say in its labels."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge for each value of a label, or without a label one for the empty text."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    for value, number in values.items():
        family.add_metric([value] if label else [], float(number))
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter for each value of a label, or without a label one for the empty text."""
    family = CounterMetricFamily(name, text, labels=[label] if label else [])
    for value, number in values.items():
        family.add_metric([value] if label else [], float(number))
    return family


def histogram(name: str, text: str, counted: Histogram) -> Metric:
    """Return a histogram without labels."""
    return HistogramMetricFamily(name, text, buckets=_buckets(counted), sum_value=counted.sum)


def histograms(name: str, text: str, label: str, counted: Mapping[str, Histogram]) -> Metric:
    """Return a histogram for each value of a label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, each in counted.items():
        family.add_metric([value], _buckets(each), each.sum)
    return family


def _buckets(counted: Histogram) -> Sequence[tuple[str, float]]:
    """Return bounds as OpenMetrics writes them (`1.0`), which is also what Prometheus stores of Go's `1`."""
    bounds = [*map(floatToGoString, counted.bounds), "+Inf"]
    return list(zip(bounds, map(float, counted.cumulative()), strict=True))
