"""The histogram: what falls between which bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from proxy.histogram import Histogram, doubling

BOUNDS = (0.5, 1.0, 4.0)


@given(st.lists(st.floats(0, 10) | st.sampled_from(BOUNDS)))
def test_it_counts_as_the_client_library_does(values: list[float]) -> None:
    registry = CollectorRegistry()
    reference = Reference("it", "text", buckets=BOUNDS, registry=registry)
    counted = Histogram(BOUNDS)
    for value in values:
        reference.observe(value)
        counted.observe(value)

    (metric,) = registry.collect()
    wanted = [sample.value for sample in metric.samples if sample.name == "it_bucket"]
    assert counted.cumulative() == wanted
    assert counted.sum == pytest.approx(sum(values))


def test_a_negative_value_counts_as_the_smallest_and_takes_nothing_from_the_sum() -> None:
    counted = Histogram(BOUNDS)

    counted.observe(2.0)
    counted.observe(-5.0)

    assert (counted.cumulative(), counted.sum) == ([1, 1, 2, 2], 2.0)


def test_bounds_may_double() -> None:
    assert doubling(0.25, 4) == [0.25, 0.5, 1.0, 2.0]
